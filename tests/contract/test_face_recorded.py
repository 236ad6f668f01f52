"""The simulated API answers what the real one was recorded to answer: status, reason, shape, and how soon.

Each recorded call is made to a world that is brought into the situation of the recording: its guests and HA
resources are put where the recorded answer has them, and what had happened to the cluster happens
(`SITUATIONS`).
"""

import asyncio
import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib import parse

import pytest

from contract import recorded
from pveha.model import cluster, guests
from pveha.sim import api, api_access, api_schema, clock, config, faults, tasks, world

pytestmark = recorded.needed

OPERATOR = {
    "/": frozenset({"Datastore.Audit", "Pool.Audit", "Sys.Audit", "VM.Audit", "VM.Migrate", "VM.PowerMgmt"})
}
CALLERS = {
    "tok_full": api_access.Caller("op@pve", "full", OPERATOR),
    "tok_roottoken": api_access.Caller("root@pam", "t0", {"/": api_access.PRIVILEGES}),
    "tok_sep": api_access.Caller("op@pve", "sep"),
}
"""By the beginning of a recording's name; all others were made by root's own login."""
REFUSED = {"invalid_ticket", "tok_garbage", "tok_unknown_token", "tok_unknown_user", "tok_wrong_secret"}

SITUATIONS: dict[str, tuple[str | float, ...]] = {
    "dead0": ("power off pve2", 30.4),
    "dead": ("power off pve2", 116.8),
    "dead5min": ("power off pve2", 345.9),
    "masterdead": ("power off pve1", 0.4),
    "noquorum": ("power off pve2", 400.0, "power off pve3", 8.0),
    "isolated": ("cut network pve2", 18.4),
    "pmxcfs_down": ("stop pmxcfs pve2", 3.0),
    "corosync_down": ("stop corosync pve2", 3.0),
    "gray_pvedaemon_down": ("power off pve2", 20.0, "stop pvedaemon pve3", 1.0),
    "gray_pveproxy_down": ("power off pve2", 20.0, "stop pveproxy pve3", 1.0),
    "gray_pveproxy_hung": ("power off pve2", 20.0, "hang api pve3", 1.0),
    "maint": ("crm enable-node-maintenance pve2", 40.0),
    "ha_disarmed": ("crm disarm-ha freeze", 40.0),
    "ha_arm": ("crm disarm-ha freeze", 40.0),
    "tok_full": ("power off pve2", 100.0),
    "tok_roottoken": ("power off pve2", 100.0),
    "tok_sep": ("power off pve2", 100.0),
    "ha_rearmed": ("crm disarm-ha freeze", 40.0, "crm arm-ha", 11.0),
    # Made with others of the same prefix, at another time.
    "dead0_node_status_proxied_immediately": ("power off pve2", 0.4),
    "dead_proxied_node_status_link_down": ("power off pve2", 72.8),
    "masterdead_ha_current2": ("power off pve1", 50.4),
    "masterdead_ha_migrate": ("power off pve1", 50.4),
    "masterdead_ha_resource_create": ("power off pve1", 50.4),
    "isolated_cluster_status_0": ("cut network pve2", 0.4),
    "isolated_ha_status_0": ("cut network pve2", 0.4),
    "isolated_resources_0": ("cut network pve2", 0.4),
    "isolated_cluster_status_2": ("cut network pve2", 36.4),
    "isolated_ha_status_2": ("cut network pve2", 36.4),
    "isolated_resources_2": ("cut network pve2", 36.4),
    "isolated_qemu_current": ("cut network pve2", 54.4),
    "isolated_qemu_stop": ("cut network pve2", 54.4),
    # A first call to the dead node has been made and waited for.
    "dead_migrate_away_from_dead_link_down": ("power off pve2", 70.0, "call pve1 pve2", 20.0),
    "dead_proxied_qemu_current_link_down": ("power off pve2", 70.0, "call pve1 pve2", 20.0),
    "dead_proxied_qemu_start_link_down": ("power off pve2", 70.0, "call pve1 pve2", 20.0),
    "masterdead_proxied_second_call": ("power off pve1", 0.4, "call pve3 pve1", 1.0),
    "noquorum_proxied_dead": ("power off pve2", 60.0, "power off pve3", 8.0, "call pve1 pve3", 1.0),
}
"""What had happened, and how many seconds before: by a recording's name, else by the longest prefix of it."""

HOMES = {100: "pve1", 101: "pve1", 102: "pve3", 103: "pve3", 110: "pve3"}
LOCAL = 110
"""The guest whose disk is on local storage."""


def situation(name: str) -> tuple[str | float, ...]:
    fitting = [prefix for prefix in SITUATIONS if name == prefix or name.startswith(f"{prefix}_")]
    return SITUATIONS[max(fitting, key=len)] if fitting else ()


# The world of a recording


@dataclasses.dataclass
class Lab:
    """The recorded lab's guests, put where an answer has them."""

    homes: dict[int, str]
    running: set[int]
    managed: dict[int, cluster.HAResource]
    extra: dict[int, dict[str, Any]]

    def config(self, nodes: int) -> config.Config:
        guests = []
        for vmid, node in self.homes.items():
            more = self.extra.get(vmid, {})
            guests.append(
                config.Guest(
                    vmid,
                    node,
                    name=more.get("name", f"vm{vmid}"),
                    memory=128 << 20,
                    cores=1,
                    storages=("local" if vmid == LOCAL else "shared",),
                    running=vmid in self.running,
                    ha=self.managed.get(vmid),
                    tags=tuple(filter(None, more.get("tags", "").split(";"))),
                    pool=more.get("pool", ""),
                    lock=more.get("lock", ""),
                    agent=False,
                )
            )
        return config.Config(
            tuple(config.Node(f"pve{n}") for n in range(1, nodes + 1)), guests=tuple(guests), master="pve1"
        )


def lab(answer: recorded.Answer) -> Lab:
    made = Lab(dict(HOMES), {100, 101, 102}, {}, {})
    data = answer.data if answer.status == 200 else None
    entries = [each for each in data if isinstance(each, dict)] if isinstance(data, list) else []
    kind = answer.path.split("/")[1:]
    by_node = kind[0] == "nodes" and len(kind) > 2
    if (
        by_node
        and kind[2] == "qemu"
        and len(kind) > 3
        and kind[3].isdigit()
        and "does not exist" not in answer.reason
    ):
        vmid = int(kind[3])
        if vmid in made.homes:
            made.homes[vmid] = kind[1]
        if vmid in STOPPED and answer.method == "POST" and kind[-1] == "migrate":
            made.running.discard(vmid)
        if isinstance(data, dict):
            made.extra[vmid] = data
            if "status" in data:
                (made.running.add if data["status"] == "running" else made.running.discard)(vmid)
        if "VM is locked" in answer.reason:
            made.extra[vmid] = {"lock": "migrate"}
    elif by_node and kind[2] == "qemu" and len(kind) == 3 and data is not None:
        made.homes = dict.fromkeys(made.homes, "pve3" if kind[1] != "pve3" else "pve1")
        entries = [{**entry, "node": kind[1], "type": "qemu"} for entry in entries]
    for entry in entries:
        if entry.get("vmid") and entry.get("type") == "qemu":
            made.homes[entry["vmid"]] = entry["node"]
            made.extra[entry["vmid"]] = entry
            (made.running.add if entry["status"] == "running" else made.running.discard)(entry["vmid"])
    made.managed = _managed(answer, data, entries)
    for vmid in made.managed:
        made.homes.setdefault(vmid, "pve3")
    if answer.name in WRONG_NODE:
        made.homes[100] = "pve2"
    if answer.name == "cluster1_status":
        made.homes = dict.fromkeys(made.homes, "pve1")
    return made


def _managed(
    answer: recorded.Answer, data: Any, entries: list[dict[str, Any]]
) -> dict[int, cluster.HAResource]:
    """HA resources as the answer shows them; the lab's two where it says nothing."""
    found = {}
    path = answer.path
    if answer.method == "GET" and isinstance(data, dict) and "sid" in data:
        entries = [data]
    for entry in entries:
        if sid := entry.get("sid"):
            found[sid] = entry
        elif entry.get("hastate") and entry.get("vmid"):
            found[f"vm:{entry['vmid']}"] = {"state": entry["hastate"]}
    if "manager_status" in path and data:
        services = data["manager_status"].get("service_status", {})
        found = dict.fromkeys(services, NOTHING)
    if re.match(r"/nodes/\w+/qemu/\d", path):
        vmid = path.split("/")[4]
        if re.search(r":ha(start|stop|migrate):", answer.body) or '"managed":1' in answer.body:
            found[f"vm:{vmid}"] = {}
    elif path.startswith("/cluster/ha/") and not found and answer.name not in UNMANAGED:
        found = {"vm:100": {}, "vm:102": {}} | MANAGED_TOO.get(answer.name, {})
    states = {"started", "stopped", "disabled", "ignored"}
    return {
        int(sid.partition(":")[2]): cluster.HAResource(
            sid,
            cluster.HAState(entry["state"] if entry.get("state") in states else "started"),
            entry.get("comment", ""),
            max_restart=entry.get("max_restart", 1),
            max_relocate=entry.get("max_relocate", 1),
        )
        for sid, entry in found.items()
    }


NOTHING: dict[str, Any] = {}
WRONG_NODE = {"qemu_start_wrong_node", "qemu_config_wrong_node"}
"""Recordings about guest 100 where it is not."""
STOPPED = {101, 110}
"""Guests that were stopped when somebody moved them without `online`."""
UNMANAGED = {
    "ha_manager_status_empty",
    "ha_resource_create",
    "ha_resource_create_bare_vmid",
    "ha_resources_empty",
    "ha_status_current_empty",
    "recover4_readd_ha",
}
MANAGED_TOO: dict[str, dict[str, dict[str, Any]]] = {
    "ha_error_delete": {"vm:110": {}},
    "ha_error_migrate": {"vm:110": {}},
    "ha_error_set_disabled": {"vm:110": {}},
    "tok_roottoken_ha_resource_delete": {"vm:101": {}},
}

NEAR = cluster.HARule("prefer-pve2", "node-affinity", frozenset({"vm:100", "vm:102"}), {"pve2": 2, "pve3": 1})
NEAR_EQUAL = dataclasses.replace(NEAR, nodes={"pve1": 0, "pve3": 0}, strict=True)
APART = cluster.HARule("keep-apart", "resource-affinity", frozenset({"vm:100", "vm:102"}), positive=False)
RULES = {
    "ha_rules_empty": (),
    "ha_rule_node_affinity_create": (),
    "ha_rule_resource_affinity_negative": (NEAR_EQUAL,),
    "ha_rule_contradiction_positive": (NEAR_EQUAL, APART),
    "ha_rules_list_both": (NEAR_EQUAL, APART),
    "ha_rule_delete": (NEAR_EQUAL, APART),
    "ha_rule_update_bad_digest": (NEAR_EQUAL, APART),
    "ha_rule_update_wrong_type": (NEAR_EQUAL, APART),
    "ha_rule_update_disable": (NEAR_EQUAL, APART),
    "ha_rule_update_delete_prop": (NEAR_EQUAL, dataclasses.replace(APART, disabled=True)),
    "ha_rules_list_disabled": (NEAR_EQUAL, dataclasses.replace(APART, disabled=True)),
    "ha_migrate_negative_affinity_conflict": (APART,),
}
"""Rules that were there; NEAR in all other recordings about rules."""


async def bring_about(simulated: world.World, front: api.Api, steps: tuple[str | float, ...]) -> None:
    for step in steps:
        match step:
            case float():
                await asyncio.sleep(step)
            case str() if step.startswith("crm "):
                simulated.crm_command(*step.split()[1:])
            case str() if step.startswith("call "):
                _, at, to = step.split()
                told = await front.handle(at, "GET", f"/nodes/{to}/status", {}, api_access.ROOT)
                await asyncio.sleep(told.delay)
            case str():
                faults.apply(simulated, step)


def known_task(simulated: world.World, answer: recorded.Answer) -> None:
    """Make the recorded task known, if the call is about one."""
    path = parse.unquote(answer.path)
    if answer.status != 200 or "/tasks" not in path:
        return
    data = answer.data
    lines: list[str] = []
    if match := re.search(r"/tasks/(UPID:[^/]+)/log", path):
        lines = [line["t"] for line in data]
        entries = [{"upid": match[1], "exitstatus": "OK"}]
    else:
        entries = data if isinstance(data, list) else [data]
    for entry in entries:
        _, node, pid, pstart, start, kind, id_, user, _ = entry["upid"].split(":")
        running = entry.get("status") in ("running", "RUNNING", None) and "exitstatus" not in entry
        ended = None if running else str(entry.get("exitstatus") or entry["status"])
        numbers = int(pid, 16), int(pstart, 16), int(start, 16)
        simulated.tasks.by_upid[entry["upid"]] = tasks.Task(
            entry["upid"], node, kind, id_, user, *numbers, ended, None if running else 1, lines
        )


def replay(answer: recorded.Answer) -> tuple[api.Response, float]:
    """The simulated answer, and the seconds it took."""

    async def run() -> tuple[api.Response, float]:
        about = lab(answer).config(1 if answer.name == "cluster1_status" else 3)
        rules = RULES.get(answer.name, (NEAR,) if "/rules" in answer.path else ())
        covered = {guest.ha.sid for guest in about.guests if guest.ha}
        rules = tuple(rule for rule in rules if rule.sids <= covered)
        simulated = world.World(dataclasses.replace(about, rules=rules))
        front = api.Api(simulated, api_access.Tokens(), dict.fromkeys(simulated.machines, "AA:BB"))
        simulated.start()
        await asyncio.sleep(0.01)
        known_task(simulated, answer)
        await bring_about(simulated, front, situation(answer.name))
        loop = asyncio.get_running_loop()
        before = loop.time()
        caller = next((c for name, c in CALLERS.items() if answer.name.startswith(name)), api_access.ROOT)
        refused = answer.name in REFUSED or answer.name == "version_no_auth"
        response = await front.handle(
            answer.via,
            answer.method,
            parse.unquote(answer.path),
            {name: str(value) for name, value in answer.params.items()},
            None if refused else caller,
            anonymous=answer.name == "version_no_auth",
        )
        return response, loop.time() - before + response.delay

    return clock.run(run())


# Comparing


def kinds(value: Any) -> str:
    if value is None:
        return "null"
    return (
        "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__
    )


def entries_of(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects in an answer and their places: entries of a list by `type`, objects by key."""
    match value:
        case list():
            for each in value:
                if isinstance(each, dict):
                    place = str(each.get("type", ""))
                    place = "task" if "upid" in each else place
                    yield place, each
                    yield from ((f"{place}.{inner}", entry) for inner, entry in inside(each))
        case dict():
            yield "", value
            yield from inside(value)


def inside(value: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects within an object. Names of guests, nodes and commands are data, not structure."""
    for key, each in value.items():
        name = "*" if re.fullmatch(r"pve\d|(vm|ct):\d+|[\w+/]{22}|[0-9a-f]{32}|/.*|tap\d+i\d", key) else key
        if isinstance(each, dict):
            yield name, each
            yield from ((f"{name}.{inner}", entry) for inner, entry in inside(each))


def shape(value: Any) -> dict[str, dict[str, str]]:
    """By place: the keys seen there, with the type of their values."""
    found: dict[str, dict[str, str]] = {}
    for place, entry in entries_of(value):
        found.setdefault(place, {}).update(
            {
                (
                    "*"
                    if re.fullmatch(r"pve\d|(vm|ct):\d+|[\w+/]{22}|[0-9a-f]{32}|/.*|tap\d+i\d", key)
                    else key
                ): kinds(each)
                for key, each in entry.items()
            }
        )
    return found


def known_shape(answer: recorded.Answer) -> dict[str, dict[str, str]]:
    """What any recording of the same call shows, and what the schema says."""
    about: dict[str, dict[str, str]] = {}
    route = api_schema.find(answer.method, parse.unquote(answer.path))
    for other in recorded.answers():
        same = api_schema.find(other.method, parse.unquote(other.path))
        if other.status == 200 and route and same and same[0] is route[0]:
            for place, keys in shape(other.data).items():
                about.setdefault(place, {}).update(keys)
    return about


MAY_LACK = {
    *("*", "agent", "args", "boot", "clipboard", "comment", "cpu", "dependent-ha-resources", "description"),
    *("disable", "endtime", "failed_nodes", "hastate", "is_cloudinit", "is_tpmstate", "is_unused"),
    *("is_vmstate", "kvm", "lock", "maintenance_node", "max_relocate", "max_restart", "meta", "net0", "nics"),
    *(
        "node_request",
        "order",
        "ostype",
        "pid",
        "pool",
        "pstart",
        "replicate",
        "results",
        "running",
        "scsihw",
    ),
    *(
        "secureboot",
        "serial",
        "serial0",
        "size",
        "state",
        "strict",
        "tags",
        "tokenid",
        "total",
        "vga",
        "vmgenid",
    ),
}
"""Keys that depend on how a guest is configured or on what happened before: as in the lab or not."""

SPOKEN = {"online", "quorate", "local", "armed-state", "nodes"}
"""Values that must be the recorded ones."""


def compare(answer: recorded.Answer, response: api.Response, seconds: float) -> None:
    assert (response.status, response.reason) == (answer.status, answer.reason)
    if not answer.body:
        assert response.body == b""
    else:
        ours, theirs = json.loads(response.body), json.loads(answer.body)
        assert ours.get("message") == theirs.get("message")
        assert ours.get("errors") == theirs.get("errors")
        assert set(ours) == set(theirs)
        if answer.status == 200:
            compare_data(answer, ours["data"], theirs["data"])
    recorded_seconds = json.loads((recorded.folder() / "recorded" / f"{answer.name}.json").read_text())[
        "elapsed"
    ]
    assert delay_class(seconds, response.reason) == delay_class(recorded_seconds, answer.reason)


def compare_data(answer: recorded.Answer, ours: Any, theirs: Any) -> None:
    assert kinds(ours) == kinds(theirs)
    known, mine, wanted = known_shape(answer), shape(ours), shape(theirs)
    for place, keys in mine.items():
        if place in wanted or place in known:
            unknown = {key for key in keys if key not in known.get(place, {})}
            documented = recorded_return_keys(answer)
            assert not unknown - documented, f"{place}: keys the real API does not have"
            for key, kind in keys.items():
                allowed = {known[place].get(key), wanted.get(place, {}).get(key)} - {None}
                assert not allowed or kind in allowed, f"{place}.{key} is a {kind}"
    for place, keys in wanted.items():
        if place in mine:
            lacking = keys.keys() - mine[place].keys() - MAY_LACK
            assert not lacking, f"{place}: keys that the real answer has"
    if isinstance(theirs, list):
        by_id = {
            each["id"]: each
            for each in ours
            if isinstance(each, dict) and "id" in each and "upid" not in each
        }
        for entry in theirs:
            if isinstance(entry, dict) and entry.get("id") in by_id:
                same = by_id[entry["id"]]
                spoken = SPOKEN | (
                    {"status"} if entry["type"] in ("node", "storage", "quorum", "fencing") else set()
                )
                assert {k: same.get(k) for k in spoken & entry.keys()} == {
                    k: entry[k] for k in spoken & entry.keys()
                }
                assert not set(entry) - set(same) - MAY_LACK
                assert entry["type"] != "node" or not set(same) - set(entry) - MAY_LACK


def recorded_return_keys(answer: recorded.Answer) -> set[str]:
    """Keys the schema gives for what the call returns."""
    returns = recorded.schema()[recorded.template(parse.unquote(answer.path))][answer.method].get(
        "returns", {}
    )
    found: set[str] = set()

    def collect(part: Any) -> None:
        if isinstance(part, dict):
            found.update(part.get("properties", {}))
            for each in part.values():
                collect(each)

    collect(returns)
    return found


def delay_class(seconds: float, reason: str) -> str:
    """How long a caller has to be ready to wait."""
    if reason == "No route to host":
        return "seconds" if seconds > 1.5 else "at once"
    for name, limit in (("at once", 1.6), ("about 3 s", 5.0), ("about 10 s", 15.0)):
        if seconds < limit:
            return name
    return "30 s"


# What is covered, and what is not

COVERED = """
    access_permissions_root agent_ping_no_agent cluster1_status cluster_ceph_status cluster_replication
    cluster_resources_healthy
    cluster_resources_steady cluster_resources_type_bad cluster_resources_type_node
    cluster_resources_type_storage cluster_resources_type_vm cluster_resources_with_ha
    cluster_status_healthy cluster_status_steady cluster_tasks cluster_tasks_with_running
    corosync_down_nodes corosync_down_proxied_node_status corosync_down_proxied_qemu_list
    dead0_cluster_status dead0_ha_status dead0_migrate_to_dead dead0_node_status_proxied_immediately
    dead0_nodes dead0_resources dead5min_cluster_resources dead5min_cluster_tasks dead5min_ha_status
    dead5min_nodes dead_cluster_resources dead_cluster_status dead_ha_manager_status
    dead_ha_migrate_request_to_dead dead_ha_status_current dead_migrate_away_from_dead_link_down
    dead_migrate_precondition_to_dead dead_migrate_to_dead dead_migrate_to_dead_task_log dead_nodes
    dead_proxied_node_status_link_down dead_proxied_qemu_current_link_down
    dead_proxied_qemu_start_link_down gray_pvedaemon_down_direct_vm_start
    gray_pvedaemon_down_node_status gray_pvedaemon_down_nodes gray_pvedaemon_down_qemu_list
    gray_pvedaemon_down_tasks gray_pvedaemon_down_vm_current gray_pvedaemon_down_vm_start
    gray_pveproxy_down_node_status gray_pveproxy_down_nodes gray_pveproxy_hung_node_status
    gray_pveproxy_hung_nodes ha_arm ha_disarm_freeze ha_disarm_missing_param ha_disarmed_manager_status
    ha_disarmed_migrate_request ha_disarmed_qemu_stop ha_disarmed_resources ha_disarmed_status_current
    ha_error_after_disabled ha_error_cluster_resources ha_error_delete ha_error_manager_status
    ha_error_migrate ha_error_qemu_current ha_error_resource_create ha_error_set_disabled ha_error_start
    ha_error_status_current ha_manager_status_empty ha_manager_status_healthy ha_manager_status_steady
    ha_migrate_missing_node_param ha_migrate_negative_affinity_conflict ha_migrate_strict_outside
    ha_migrate_unknown_node ha_migrate_unmanaged ha_qemu_migrate_online ha_qemu_migrate_online_task_log
    ha_qemu_migrate_online_task_status ha_qemu_migrate_result_config ha_qemu_shutdown
    ha_qemu_shutdown_task_log ha_qemu_shutdown_task_status ha_qemu_start ha_qemu_start_task_log
    ha_qemu_start_task_status ha_qemu_stop ha_qemu_stop_task_log ha_qemu_stop_task_status
    ha_rearmed_status_current ha_relocate ha_resource_after_shutdown ha_resource_after_start
    ha_resource_after_stop ha_resource_create ha_resource_create_bad_sid ha_resource_create_bad_state
    ha_resource_create_bare_vmid ha_resource_create_duplicate ha_resource_create_missing_vm
    ha_resource_create_with_group ha_resource_delete_missing ha_resource_delete_purge0 ha_resource_get
    ha_resource_get_missing ha_resource_set_ignored ha_resource_set_started ha_resource_state_started
    ha_resource_update ha_resource_update_bad_digest ha_resource_update_missing ha_resources_empty
    ha_resources_list ha_rule_contradiction_positive ha_rule_create_bad_type
    ha_rule_create_conflict_second_node_affinity ha_rule_create_duplicate ha_rule_create_missing_nodes
    ha_rule_create_unmanaged_resource ha_rule_delete ha_rule_delete_missing ha_rule_get
    ha_rule_get_missing ha_rule_node_affinity_create ha_rule_resource_affinity_contradiction
    ha_rule_resource_affinity_create ha_rule_resource_affinity_negative
    ha_rule_resource_affinity_single_resource ha_rule_update ha_rule_update_bad_digest
    ha_rule_update_nodes ha_rule_update_single_prio ha_rule_update_without_type
    ha_rule_update_wrong_type ha_rule_vm101_create ha_rules_after_delete_purge0 ha_rules_empty
    ha_rules_list ha_rules_list_both ha_rules_list_disabled ha_rules_list_node_affinity
    ha_rules_list_resource ha_rule_update_disable ha_rule_update_delete_prop
    ha_status_after_negative_affinity ha_status_after_shutdown ha_status_current_empty
    ha_status_current_healthy ha_status_current_steady invalid_ticket isolated_cluster_status_0
    isolated_cluster_status_1 isolated_cluster_status_2 isolated_ha_status_0 isolated_ha_status_1
    isolated_ha_status_2 isolated_qemu_current isolated_qemu_stop isolated_resources_0
    isolated_resources_1 isolated_resources_2 lxc_missing maint_cluster_resources maint_cluster_status
    maint_ha_manager_status maint_ha_migrate_into maint_ha_status maint_nodes
    maint_qemu_migrate_into_precondition maint_requested_ha_status masterdead_ha_current
    masterdead_ha_current2 masterdead_ha_migrate masterdead_ha_resource_create masterdead_manager_status
    masterdead_proxied_first_call masterdead_proxied_second_call method_not_implemented
    method_put_on_get moved_config_resources moved_config_start_local_disk_missing
    moved_config_start_local_disk_missing_log node_lxc_list_empty node_qemu_list node_qemu_list_full
    node_shutdown node_status_pve1 node_status_pve2 node_status_pve3 node_unknown node_version
    nodes_healthy nodes_steady nodes_tasks nodes_tasks_active noquorum_cluster_resources
    noquorum_cluster_status noquorum_cluster_tasks noquorum_ha_manager_status noquorum_ha_migrate
    noquorum_ha_resource_create noquorum_ha_resources noquorum_ha_rule_delete noquorum_ha_status
    noquorum_migrate noquorum_node_status noquorum_nodes noquorum_proxied_dead noquorum_qemu_start
    noquorum_tasks noquorum_version path_unknown pmxcfs_down_cluster_status
    pmxcfs_down_direct_cluster_status pmxcfs_down_direct_node_status pmxcfs_down_direct_nodes
    pmxcfs_down_direct_qemu pmxcfs_down_direct_resources pmxcfs_down_nodes
    pmxcfs_down_proxied_node_status proxied_after_restart qemu_bad_vmid qemu_config qemu_config_current
    qemu_config_get qemu_config_missing_vm qemu_config_wrong_node qemu_create_with_ha_managed_resource
    qemu_delete_purge_ha_after qemu_low_vmid qemu_migrate_bad_param qemu_migrate_missing_target
    qemu_migrate_offline_local_disk qemu_migrate_offline_local_disk_log qemu_migrate_online
    qemu_migrate_online_task_log qemu_migrate_online_task_status qemu_migrate_precondition_local_disk
    qemu_migrate_precondition_negative_affinity qemu_migrate_precondition_shared
    qemu_migrate_precondition_target qemu_migrate_running_without_online qemu_migrate_to_self
    qemu_migrate_unknown_target qemu_shutdown_when_stopped qemu_start qemu_start_already_running
    qemu_start_missing_vm qemu_start_then_task_failed qemu_start_wrong_node qemu_status_current
    qemu_status_current_ha_managed qemu_status_current_ha_steady qemu_status_current_running
    qemu_status_current_stopped qemu_status_missing_vm qemu_stop qemu_stop_task_log
    qemu_stop_when_stopped recover1_delete_ha recover2_stop_postmigrate recover2b_stop_skiplock
    recover4_readd_ha recover5_rules recover5_status replication_list single_cluster_resources
    single_cluster_status single_node_status single_nodes single_version stuck_migrate_lock_ha_status
    stuck_migrate_lock_resources task_status_malformed task_status_missing task_status_running
    tok_full_cluster_resources tok_full_cluster_status tok_full_cluster_tasks tok_full_disarm_ha
    tok_full_ha_manager_status tok_full_ha_resource_create tok_full_ha_resource_delete
    tok_full_ha_resource_migrate tok_full_ha_resources tok_full_ha_status
    tok_full_node_reboot_cmd_badvalue tok_full_node_shutdown tok_full_node_status tok_full_nodes
    tok_full_permissions tok_full_qemu_config tok_full_qemu_current tok_full_qemu_list
    tok_full_qemu_migrate tok_full_qemu_migrate_back tok_full_qemu_start tok_full_qemu_start_skiplock
    tok_full_qemu_stop_force_overrule tok_full_qemu_stop_skiplock tok_full_tasks tok_full_version
    tok_garbage tok_root_ha_rule_create tok_root_ha_rule_delete tok_roottoken_cluster_resources
    tok_roottoken_cluster_status tok_roottoken_cluster_tasks tok_roottoken_ha_manager_status
    tok_roottoken_ha_resource_create tok_roottoken_ha_resource_delete tok_roottoken_ha_resource_migrate
    tok_roottoken_ha_resources tok_roottoken_ha_status tok_roottoken_node_reboot_cmd_badvalue
    tok_roottoken_node_status tok_roottoken_nodes tok_roottoken_permissions tok_roottoken_qemu_config
    tok_roottoken_qemu_current tok_roottoken_qemu_list tok_roottoken_qemu_migrate
    tok_roottoken_qemu_migrate_back tok_roottoken_qemu_start tok_roottoken_qemu_start_skiplock
    tok_roottoken_qemu_stop_force_overrule tok_roottoken_qemu_stop_skiplock tok_roottoken_tasks
    tok_roottoken_version tok_sep_cluster_resources tok_sep_cluster_status tok_sep_cluster_tasks
    tok_sep_ha_manager_status tok_sep_ha_resource_create tok_sep_ha_resource_delete
    tok_sep_ha_resource_migrate tok_sep_ha_resources tok_sep_ha_status tok_sep_node_reboot_cmd_badvalue
    tok_sep_node_status tok_sep_nodes tok_sep_permissions tok_sep_qemu_config tok_sep_qemu_current
    tok_sep_qemu_list tok_sep_qemu_migrate tok_sep_qemu_migrate_back tok_sep_qemu_start
    tok_sep_qemu_start_skiplock tok_sep_qemu_stop_force_overrule tok_sep_qemu_stop_skiplock
    tok_sep_tasks tok_sep_version tok_unknown_token tok_unknown_user tok_wrong_secret version
    version_no_auth vm_current_after_shutdown vm_current_running vm_locked_config vm_locked_current
    vm_migrate_locked vm_shutdown_acpi vm_shutdown_acpi_task_log vm_shutdown_acpi_task_status
    vm_shutdown_running_task vm_shutdown_timeout_task_log vm_shutdown_timeout_task_status vm_start
    vm_start_locked vm_start_locked_skiplock vm_start_locked_task_log vm_start_locked_task_status
    vm_start_task_log vm_start_task_status vm_start_timeout_short vm_start_while_shutdown_running
    vm_stop_during_shutdown vm_stop_locked vm_stop_locked_skiplock vm_stop_locked_task_log
    vm_stop_locked_task_status vm_stop_overrule_shutdown vm_unlocked_config
""".split()  # noqa: SIM905  one name a line would take 400 lines
"""Those without an entry in `SITUATIONS` are replayed in a healthy cluster."""

OUT_OF_SCOPE = {
    "the login with a password, users, roles and tokens: pveha has a token": r".* /access/(?!permissions).*",
    "making a cluster: the simulated one exists": r".* /cluster/config.*",
    "HA groups are gone in 9; pveha does not ask for them": r".* /cluster/ha/groups",
    "indexes of paths": r"GET (/|/cluster|/cluster/ha|/nodes/\w+|.*/qemu/\d+(/status)?)",
    "pools, storages, datacenter options, backup and other inventories that pveha does not read": (
        r".* (/pools.*|/storage.*|/cluster/(options|backup|nextid|log|jobs|metrics|ceph(?!/status)).*)"
    ),
    "details of a node that pveha does not read": (
        r".* /nodes/\w+/(capabilities|ceph|config|disks|hardware|netstat|network|replication|rrddata)\b.*"
        r"|.* /nodes/\w+/(services|storage|subscription|syslog|time|wakeonlan)\b.*"
    ),
    "changing, creating and removing guests, their agent and monitor: pveha does none of it": (
        r"(DELETE|PUT|POST) /nodes/\w+/qemu(/\d+(/(config|agent(?!/ping)|monitor)\b.*)?)?"
        r"|GET .*/qemu/\d+/(pending|snapshot|rrddata)"
    ),
    "replication jobs are part of the world's configuration": r"POST /cluster/replication",
}
"""Why calls are not served, by a pattern of method and path."""

NOT_REPLAYED = {
    "in the lab somebody still answered for the dead machine, with a reset; without power nobody does": (
        "dead0_config_get_proxied dead0_migrate_away_from_dead dead0_qemu_start_proxied "
        "dead0_qemu_status_proxied dead0_tasks_proxied"
    ),
    "no HTTP answer at all: see test_face_sockets": (
        "dead0_direct_connection dead_direct_connection_link_down gray_pveproxy_hung_direct "
        "qemu_migrate_online_not_specified_running"
    ),
    "a node in the middle of its shutdown, after a cold start without a CRM master": (
        "node_shutting_down_0_ha_status node_shutting_down_0_node_status"
    ),
    "the real node still shows its last members as online; the world's shows what corosync says: none": (
        "corosync_down_direct_cluster_status"
    ),
    "the first call took 10 s, all others 3 s": "pmxcfs_down_direct_version",
}
"""Why recordings of served calls are not replayed."""


def unserved(answer: recorded.Answer) -> list[str]:
    call = f"{answer.method} {answer.path}"
    return [reason for reason, pattern in OUT_OF_SCOPE.items() if re.fullmatch(pattern, call)]


def test_every_recording_is_either_replayed_or_out_of_scope_for_one_reason() -> None:
    assert len(COVERED) == len(set(COVERED))
    left_out = [name for names in NOT_REPLAYED.values() for name in names.split()]
    for answer in recorded.answers():
        reasons = len(unserved(answer)) + left_out.count(answer.name) + (answer.name in COVERED)
        assert reasons == 1, answer.name
    assert {*COVERED, *left_out} <= {answer.name for answer in recorded.answers()}


@pytest.mark.parametrize("name", COVERED)
def test_replayed(name: str) -> None:
    answer = recorded.answer(name)
    compare(answer, *replay(answer))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("cluster_status_steady", lambda data: data[0].update(quorate="1")),
        ("cluster_resources_steady", lambda data: data[4].pop("maxmem")),
        ("ha_resources_list", lambda data: data[0].update(invented=1)),
        ("nodes_steady", lambda data: data[0].update(status="offline")),
    ],
)
def test_the_comparison_notices(name: str, change: Any) -> None:
    answer = recorded.answer(name)
    response, seconds = replay(answer)
    body = json.loads(response.body)
    change(body["data"])
    with pytest.raises(AssertionError):
        compare(answer, dataclasses.replace(response, body=json.dumps(body).encode()), seconds)


# The table of calls

RULE_PARAMETERS = ("comment", "digest", "delete", "rule", "type")


LISTED = [route for route in api_schema.ROUTES if route is not api_schema.CEPH]


@pytest.mark.parametrize("route", LISTED, ids=lambda route: route.key)
def test_every_call_served_is_in_the_schema(route: api_schema.Route) -> None:
    about = recorded.schema()[route.path][route.method]
    assert route.protected == bool(about.get("protected"))
    assert route.proxied == ("proxyto" in about)
    privileges = about["permissions"].get("check", [None, "/", []])
    assert (route.on, list(route.privileges)) == (privileges[1], privileges[2])
    if route.path.startswith("/cluster/ha/rules") and route.method in ("POST", "PUT"):
        assert about["parameters"] == {}, "the schema's structure does not show a rule's parameters"
        return
    for name, parameter in route.parameters.items():
        real = about["parameters"][name]
        assert parameter.optional == bool(real.get("optional")), name
        assert parameter.type == real["type"] or (name, real["type"]) == ("timeout", "number"), name
        assert list(parameter.choices) == real.get("enum", []), name
        if parameter.max_length is not None:
            assert parameter.max_length == real["maxLength"], name
        if parameter.minimum is not None:
            assert parameter.minimum == int(real.get("minimum", 0)), name


# What was not recorded: containers and replication jobs are held to the schema alone

UNRECORDED = {
    "/nodes/{node}/lxc": "/nodes/pve1/lxc",
    "/nodes/{node}/lxc/{vmid}/config": "/nodes/pve1/lxc/200/config",
    "/nodes/{node}/lxc/{vmid}/status/current": "/nodes/pve1/lxc/200/status/current",
    "/nodes/{node}/lxc/{vmid}/migrate": "/nodes/pve1/lxc/200/migrate",
    "/cluster/replication": "/cluster/replication",
    "/cluster/replication/{id}": "/cluster/replication/200-0",
}
JSON_TYPES = {
    "number": {"integer", "number", "boolean"},
    "str": {"string"},
    "dict": {"object"},
    "list": {"array"},
}


@pytest.mark.parametrize("template", UNRECORDED)
def test_unrecorded_answers_have_the_documented_keys(template: str) -> None:
    async def run() -> api.Response:
        kind = guests.GuestKind.CONTAINER
        guest = config.Guest(
            200, "pve1", kind, tags=("a", "b"), lock="backup", replicas=(config.Replica("pve2"),)
        )
        simulated = world.World(config.three_nodes([guest]))
        simulated.start()
        front = api.Api(simulated, api_access.Tokens())
        return await front.handle("pve1", "GET", UNRECORDED[template], {}, api_access.ROOT)

    response = clock.run(run())
    assert response.status == 200
    data = json.loads(response.body)["data"]
    returns = recorded.schema()[template]["GET"]["returns"]
    documented = returns["items"] if isinstance(data, list) else returns
    for entry in data if isinstance(data, list) else [data]:
        assert entry
        for key, value in entry.items():
            about = documented["properties"].get(re.sub(r"\d+$", "[n]", key), {})
            about = documented["properties"].get(key, about)
            assert about, key
            assert about["type"] in JSON_TYPES[kinds(value)], key
        required = {key for key, about in documented["properties"].items() if not about.get("optional")}
        assert required <= entry.keys()
