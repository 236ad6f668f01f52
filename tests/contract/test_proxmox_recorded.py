"""What a real Proxmox VE 9.2 cluster answered: every error gets a class, every answer has its shape."""

import dataclasses
import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import web

from contract import recorded
from pveha.model import cluster, errors, guests, ports, replication
from pveha.proxmox import client, shapes
from pveha.proxmox import errors as failures
from unit.proxmox import server

pytestmark = recorded.needed

VM = guests.GuestRef(100, guests.GuestKind.VM)
CONTAINER = guests.GuestRef(101, guests.GuestKind.CONTAINER)
UPID = "UPID:pve1:00000645:00040550:6B032295:qmstart:101:op@pve!full:"

REFUSED = {
    "access_ticket_missing_password",
    "agent_ping_no_agent",
    "cluster_ceph_status",
    "cluster_resources_type_bad",
    "ha_disarm_missing_param",
    "ha_group_create",
    "ha_groups_list",
    "ha_migrate_missing_node_param",
    "ha_resource_create_bad_sid",
    "ha_resource_create_bad_state",
    "ha_resource_create_with_group",
    "ha_rule_contradiction_positive",
    "ha_rule_create_bad_type",
    "ha_rule_create_conflict_second_node_affinity",
    "ha_rule_create_missing_nodes",
    "ha_rule_create_unmanaged_resource",
    "ha_rule_resource_affinity_contradiction",
    "ha_rule_resource_affinity_create",
    "ha_rule_resource_affinity_single_resource",
    "ha_rule_update_without_type",
    "ha_rule_update_wrong_type",
    "method_not_implemented",
    "method_put_on_get",
    "node_ceph_status",
    "node_wakeonlan_no_mac",
    "node_wakeonlan_self",
    "path_unknown",
    "qemu_bad_vmid",
    "qemu_create_bad_param",
    "qemu_delete_ha_managed",
    "qemu_low_vmid",
    "qemu_migrate_bad_param",
    "qemu_migrate_missing_target",
    "qemu_migrate_running_without_online",
    "qemu_migrate_to_self",
    "replication_create_110",
    "replication_create_unsupported_storage",
    "role_create_bad_priv",
    "task_status_malformed",
    "tok_root_ha_rule_create",
    "tok_root_ha_rule_delete",
    "tok_roottoken_node_reboot_cmd_badvalue",
    "vm_delete_protected",
    "vm_delete_running",
}
"""Recorded errors in which Proxmox VE just says no: all others have a class of their own."""


def mapped(each: recorded.Answer) -> errors.OutsideError:
    assert each.status is not None
    node = re.match(r"/nodes/([^/]+)", each.path)
    call = failures.Call(each.method, each.path, each.via, node[1] if node else None)
    return failures.from_answer(call, each.status, each.reason, each.body)


def failed() -> list[recorded.Answer]:
    """Those without a status never reached the API: `NotSent` and `NoAnswer` of the transport."""
    return [each for each in recorded.answers() if each.status not in (200, None)]


class TestErrors:
    @pytest.mark.parametrize("each", failed(), ids=str)
    def test_no_recorded_error_is_without_a_class(self, each: recorded.Answer) -> None:
        error = mapped(each)
        assert type(error) is not errors.OutsideError
        assert (type(error) is errors.Refused) == (each.name in REFUSED), error
        assert each.reason.strip() in str(error)
        assert f"{each.method} {each.path}" in str(error)

    def test_the_list_of_refusals_is_of_recorded_errors(self) -> None:
        assert set(REFUSED) <= {each.name for each in failed()}

    @pytest.mark.parametrize(
        ("names", "kind"),
        [
            (
                r"(dead|gray|masterdead|noquorum_proxied|proxied|node_shutting)_?.*|pmxcfs_down.*",
                errors.Unreachable,
            ),
            (r"noquorum_(?!proxied).*", errors.NoQuorum),
            (r"tok_(wrong|unknown|garbage).*|invalid_ticket|.*noauth|version_no_auth", errors.Unauthorized),
            (r"tok_sep_.*", errors.Forbidden),
            (r".*bad_digest", errors.Conflict),
            (r"vm_.*locked|vm_unlock_.*without.*|node_storage_content", errors.Locked),
            (r".*duplicate|.*taken.*", errors.AlreadyExists),
            (
                r".*_missing(_vm)?|.*_unmanaged(?<!rule_create_unmanaged)|node_unknown|.*wrong_node",
                errors.NotFound,
            ),
            (r".*(?<!without)_skiplock|tok_root.*config_put_(lock|args)", errors.Forbidden),
        ],
    )
    def test_families(self, names: str, kind: type[errors.OutsideError]) -> None:
        family = [each for each in failed() if re.fullmatch(names, each.name)]
        assert family
        assert {each.name: isinstance(mapped(each), kind) for each in family} == {
            each.name: True for each in family
        }

    def test_an_unreachable_node_is_named(self) -> None:
        assert "node pve2 did not answer" in str(
            mapped(recorded.answer("dead0_node_status_proxied_immediately"))
        )

    def test_a_bad_field_is_named(self) -> None:
        error = mapped(recorded.answer("qemu_migrate_missing_target"))
        assert "target: property is missing and it is not optional" in str(error)

    def test_a_missing_privilege_is_named_with_its_path(self) -> None:
        assert "(/vms/101, VM.PowerMgmt)" in str(mapped(recorded.answer("tok_sep_qemu_start")))


RULE_PARAMETERS = {
    name
    for each in recorded.answers()
    if each.method in ("POST", "PUT") and each.path.startswith("/cluster/ha/rules") and each.status != 400
    for name in each.params
}
"""What a rule was given in the lab: it depends on the type, and the schema does not show it."""

READERS: dict[str, Callable[[Any], Any]] = {
    r"/cluster/status": lambda data: shapes.membership(data, 0),
    r"/cluster/resources": lambda data: shapes.inventory(data, 0),
    r"/cluster/ha/resources": lambda data: shapes.ha_config(data, 0),
    r"/cluster/ha/rules": lambda data: shapes.ha_rules(data, 0),
    r"/cluster/ha/status/manager_status": lambda data: shapes.ha_status(data, 0),
    r"/cluster/replication": shapes.replication_jobs,
    r"/access/permissions": shapes.permissions,
    r"/version": shapes.version,
    r"/nodes/[^/]+/qemu/\d+/status/current": lambda data: shapes.guest_runtime(data, VM),
    r"/nodes/[^/]+/qemu/\d+/config": lambda data: shapes.guest_config(data, VM),
    r"/nodes/[^/]+/status": lambda data: shapes.equipment(data, "pve1", 0),
}


class TestShapes:
    @pytest.mark.parametrize(
        ("path", "each"),
        [pytest.param(path, each, id=each.name) for path in READERS for each in recorded.asking(path)],
    )
    def test_every_recorded_answer_has_its_shape(self, path: str, each: recorded.Answer) -> None:
        assert READERS[path](each.data) is not None

    def test_every_reader_has_been_held_to_an_answer(self) -> None:
        assert [path for path in READERS if not recorded.asking(path)] == []

    @pytest.mark.parametrize("each", recorded.asking(r"/nodes/[^/]+/tasks/UPID.*/status"), ids=str)
    def test_tasks(self, each: recorded.Answer) -> None:
        task = shapes.task(each.data, each.data["upid"])
        assert task.running == (each.data["status"] == "running")
        assert task.succeeded == (each.data.get("exitstatus") == "OK")

    def test_a_survivor_without_quorum_says_so(self) -> None:
        view = shapes.membership(recorded.answer("noquorum_cluster_status").data, 7)
        assert view == cluster.MembershipView(
            witness="pve1",
            quorate=False,
            online={"pve1": True, "pve2": False, "pve3": False},
            addresses={"pve1": "172.31.77.11", "pve2": "172.31.77.12", "pve3": "172.31.77.13"},
            answered_at=7,
        )

    def test_a_node_in_no_cluster_is_its_own_only_member(self) -> None:
        view = shapes.membership(recorded.answer("single_cluster_status").data, 0)
        assert view.quorate
        assert view.members == {"pve1"}

    def test_a_dead_nodes_guests_keep_a_stale_status_beside_a_node_that_is_not_online(self) -> None:
        found = shapes.inventory(recorded.answer("dead_cluster_resources").data, 0)
        assert not found.nodes["pve2"].online
        assert found.guests[100].node == "pve2"
        assert found.guests[100].status == "running"
        assert found.guests[100].tags == {"ha", "k8s"}

    def test_nodes_and_guests_have_cpus(self) -> None:
        found = shapes.inventory(recorded.answer("cluster_resources_steady").data, 0)
        assert {name: each.max_cpu for name, each in found.nodes.items()} == dict.fromkeys(
            ("pve1", "pve2", "pve3"), 2
        )
        assert {each.max_cpu for each in found.guests.values()} == {1}

    def test_after_five_minutes_they_have_lost_names_and_sizes(self) -> None:
        found = shapes.inventory(recorded.answer("dead5min_cluster_resources").data, 0)
        assert (found.nodes["pve2"].max_memory, found.nodes["pve2"].max_cpu) == (None, None)
        lost = found.guests[110]
        assert (lost.status, lost.name, lost.template) == ("unknown", "", False)
        assert (lost.max_memory, lost.max_cpu) == (0, 0)
        assert {each.node for each in found.storages if not each.available} == {"pve2"}
        assert {each.type for each in found.storages} == {"dir"}

    def test_what_an_ha_resource_does_not_say_has_proxmoxs_default(self) -> None:
        config = shapes.ha_config(recorded.answer("ha_resources_list").data, 0)
        assert config.resources == {
            "vm:100": cluster.HAResource("vm:100", comment="lab"),
            "vm:102": cluster.HAResource("vm:102"),
        }
        assert config.digest == "199dcc6855e708c1c94eb117019e3a33e9927661"

    def test_no_ha_resources_have_no_digest(self) -> None:
        assert shapes.ha_config(recorded.answer("ha_resources_empty").data, 0) == cluster.HAConfig({}, "", 0)

    def test_disabled_rules_do_not_count(self) -> None:
        config = shapes.ha_rules(recorded.answer("ha_rules_list_disabled").data, 0)
        assert config.digest == "369d9e62c198f08e66ff3055d11463aa76d1d67d"
        assert config.rules["keep-apart"].disabled
        (rule,) = config.enabled
        assert rule == cluster.HARule(
            "prefer-pve2",
            "node-affinity",
            frozenset({"vm:100", "vm:102"}),
            {"pve1": 0, "pve3": 0},
            strict=True,
            comment="changed",
        )

    def test_no_rules_have_no_digest(self) -> None:
        assert shapes.ha_rules(recorded.answer("ha_rules_empty").data, 0) == cluster.HARuleConfig({}, "", 0)

    def test_priorities_and_negative_affinity(self) -> None:
        (preferred,) = shapes.ha_rules(recorded.answer("ha_rules_list_resource").data, 0).enabled
        assert preferred.nodes == {"pve2": 2, "pve3": 1}
        assert not preferred.strict
        rules = shapes.ha_rules(recorded.answer("ha_rules_list_both").data, 0).enabled
        assert [rule.positive for rule in rules if rule.type == "resource-affinity"] == [False]

    def test_ha_before_its_first_resource(self) -> None:
        status = shapes.ha_status(recorded.answer("ha_manager_status_empty").data, 0)
        assert status == cluster.HAStatus(None, 0, {}, {}, {}, armed=True, answered_at=0)

    def test_a_configuration_is_as_in_its_file(self) -> None:
        found = shapes.guest_config(recorded.answer("qemu_config_get").data, VM)
        assert found["net0"] == "virtio=BC:24:11:D6:00:7C,bridge=vmbr0"
        assert found["cores"] == "1"
        raw = {"hostname": "db", "lxc": [["lxc.mount.entry", "/x y none bind"]]}
        assert shapes.guest_config(raw, CONTAINER)["lxc.mount.entry"] == "/x y none bind"

    def test_what_a_nodes_status_tells_of_its_cpus(self) -> None:
        found = shapes.equipment(recorded.answer("single_node_status").data, "pve1", 0)
        assert found.cpus == 2
        assert found.cpu_flags is not None
        assert found.cpu_flags >= {"aes", "avx2", "sse4_2"}
        assert found.bridges is None

    def test_disarmed_ha(self) -> None:
        status = shapes.ha_status(recorded.answer("ha_disarmed_manager_status").data, 0)
        assert not status.armed
        assert status.services["vm:100"].state == "freeze"
        assert status.lrms["pve1"].mode == "disarm"
        assert shapes.ha_status(recorded.answer("maint_ha_manager_status").data, 0).armed


JOB = replication.Job("110-0", 110, "pve2")


CEPH = "/cluster/ceph/status"
"""Recorded, and not in the part of the API's schema that we have."""


def canned(method: str, path: str) -> web.Response:
    """The recorded answer to a call of the client."""
    names = {
        "/cluster/status": "cluster_status_healthy",
        "/cluster/resources": "cluster_resources_steady",
        "/cluster/ha/resources": "ha_resources_list",
        "/cluster/ha/rules": "ha_rules_list_both",
        "/cluster/ha/status/manager_status": "ha_manager_status_steady",
        "/cluster/replication": "replication_list",
        "/nodes/pve1/replication": "node_replication",
        "/access/permissions": "tok_roottoken_permissions",
        "/version": "version",
        "/nodes/pve1/qemu/100/status/current": "qemu_status_current_running",
        "/nodes/pve1/qemu/100/config": "qemu_config_get",
        "/nodes/pve1/status": "single_node_status",
    }
    if method == "GET" and path in names:
        return server.data(recorded.answer(names[path]).data)
    if path == CEPH:
        said = recorded.answer("cluster_ceph_status")
        return server.problem(said.status or 0, said.reason)
    if method == "GET" and path == "/cluster/replication/110-0":
        return server.data({"id": "110-0", "guest": 110, "target": "pve2", "type": "local", "digest": "d1"})
    if path.startswith("/cluster/ha/resources/") and path.endswith(("/migrate", "/relocate")):
        return server.data(recorded.answer("ha_relocate").data)
    if path.endswith(("/status/start", "/100/migrate", "/101/migrate")):
        return server.data(UPID)
    if path.endswith(f"/tasks/{UPID}/status"):
        return server.data({"upid": UPID, "status": "stopped", "exitstatus": "OK"})
    if path.endswith("/lxc/101/status/current"):
        return server.data({"status": "running", "uptime": 3, "vmid": 101, "ha": {}})
    if path.endswith("/lxc/101/config"):
        return server.data({"hostname": "db", "cores": 2, "lxc": [["lxc.mount.entry", "/x y none bind"]]})
    assert method != "GET", path
    return server.data(None)


class TestCalls:
    async def test_every_call_is_in_the_schema_with_its_parameters_and_the_privileges_of_our_table(
        self,
    ) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            return canned(request.method, request.path.removeprefix("/api2/json"))

        resource = cluster.HAResource("vm:100", comment="lab")
        near = cluster.HARule(
            "near", cluster.NODE_AFFINITY, frozenset({"vm:100"}), {"pve1": 2}, comment="lab"
        )
        apart = cluster.HARule("apart", cluster.RESOURCE_AFFINITY, frozenset({"vm:100", "ct:101"}))
        async with server.Server(handler) as node:
            hypervisor = node.client()
            calls: dict[str, list[Any]] = {
                "membership": [hypervisor.membership("pve1")],
                "inventory": [hypervisor.inventory()],
                "ha_config": [hypervisor.ha_config()],
                "ha_rules": [hypervisor.ha_rules()],
                "ha_status": [hypervisor.ha_status()],
                "replication_jobs": [hypervisor.replication_jobs()],
                "replication_job": [hypervisor.replication_job("110-0")],
                "replication_syncs": [hypervisor.replication_syncs("pve1")],
                "update_replication_job": [
                    hypervisor.update_replication_job(JOB.held(replication.Hold("pve1-1")), "d1"),
                    hypervisor.update_replication_job(JOB, "d1"),
                ],
                "privileges": [hypervisor.privileges()],
                "ceph_monitors": [hypervisor.ceph_monitors()],
                "certificates": [hypervisor.certificates()],
                "create_ha_resource": [hypervisor.create_ha_resource(resource)],
                "update_ha_resource": [
                    hypervisor.update_ha_resource(resource, "d1"),
                    hypervisor.update_ha_resource(cluster.HAResource("ct:101"), "d1"),
                ],
                "delete_ha_resource": [hypervisor.delete_ha_resource("vm:100")],
                "create_ha_rule": [hypervisor.create_ha_rule(near), hypervisor.create_ha_rule(apart)],
                "update_ha_rule": [
                    hypervisor.update_ha_rule(near, "d1"),
                    hypervisor.update_ha_rule(dataclasses.replace(apart, disabled=True), "d1"),
                ],
                "delete_ha_rule": [hypervisor.delete_ha_rule("near")],
                "start": [hypervisor.start(VM, "pve1"), hypervisor.start(CONTAINER, "pve1")],
                "migrate": [
                    hypervisor.migrate(VM, "pve1", "pve2"),
                    hypervisor.migrate(CONTAINER, "pve1", "pve2"),
                ],
                "migrate_service": [
                    hypervisor.migrate_service(VM, "pve2"),
                    hypervisor.migrate_service(CONTAINER, "pve2"),
                ],
                "task": [hypervisor.task(UPID)],
                "guest_runtime": [
                    hypervisor.guest_runtime(VM, "pve1"),
                    hypervisor.guest_runtime(CONTAINER, "pve1"),
                ],
                "guest_config": [
                    hypervisor.guest_config(VM, "pve1"),
                    hypervisor.guest_config(CONTAINER, "pve1"),
                ],
                "equipment": [hypervisor.equipment("pve1")],
                "ping_agent": [hypervisor.ping_agent(VM, "pve1")],
            }
            port = {
                name for name, _ in inspect.getmembers(ports.Hypervisor, inspect.isfunction) if name[0] != "_"
            }
            assert set(calls) == port, "a method of the port is not held to the schema"
            for each in (call for group in calls.values() for call in group):
                await each
            await hypervisor.close()

        for method, path, fields in node.seen:
            if path == CEPH:
                assert (method, fields) == ("GET", {})
                continue
            template = recorded.template(path)
            known = recorded.schema()[template].get(method)
            assert known, f"{method} {template} is not in the API's schema"
            in_path = set(re.findall(r"{(\w+)}", template))
            allowed = set(known["parameters"]) - in_path
            if template.startswith("/cluster/ha/rules"):
                allowed |= RULE_PARAMETERS
            assert set(fields) <= allowed, f"{method} {template} takes no {set(fields) - allowed}"
            required = {name for name, about in known["parameters"].items() if not about.get("optional")}
            assert required - in_path <= set(fields), f"{method} {template}"
            for name in fields.keys() & known["parameters"].keys():
                value = fields[name]
                choices = known["parameters"][name].get("enum")
                assert not choices or value in choices, f"{name}={value}"
        assert len({(method, recorded.template(path)) for method, path, _ in node.seen if path != CEPH}) >= 15

    async def test_a_move_that_ha_rules_forbid_is_refused(self) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            return server.data(recorded.answer("ha_migrate_negative_affinity_conflict").data)

        async with server.Server(handler) as node:
            hypervisor = node.client()
            with pytest.raises(errors.Refused, match="apart from vm:100"):
                await hypervisor.migrate_service(guests.GuestRef(102, guests.GuestKind.VM), "pve1")
            await hypervisor.close()

    @pytest.mark.parametrize(
        ("token", "missing"),
        [
            (
                "tok_sep_permissions",
                ["Sys.Audit on /nodes", "Datastore.Audit on /storage", "VM.Audit on /vms"],
            ),
            ("tok_full_permissions", []),
            ("tok_roottoken_permissions", []),
        ],
    )
    async def test_a_token_that_sees_nothing_gets_no_empty_inventory(
        self, token: str, missing: list[str]
    ) -> None:
        async def handler(request: web.Request) -> web.StreamResponse:
            path = request.path.removeprefix("/api2/json")
            return server.data(recorded.answer(token).data) if "permissions" in path else canned("GET", path)

        async with server.Server(handler) as node:
            hypervisor: client.ProxmoxClient = node.client()
            if not missing:
                assert (await hypervisor.inventory()).guests
            else:
                with pytest.raises(errors.Forbidden, match=f"it lacks {', '.join(missing)}") as info:
                    await hypervisor.inventory()
                assert "pveum acl modify / --users 'pveha@pve' --tokens 'pveha@pve!operator'" in str(
                    info.value
                )
            await hypervisor.close()
