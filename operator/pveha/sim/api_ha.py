"""Calls about Proxmox's own HA: resources, rules, status, commands to the CRM."""

import dataclasses
import re
import time
from typing import Any

from pveha.model import cluster, guests
from pveha.sim import api_call, api_schema, ha_rules, pmxcfs

OLD_SECONDS = 30
"""A timestamp older than this is shown as `old timestamp - dead?`."""

_MODIFIED = "detected modified configuration - file changed by other user? Try again."
_NO_GROUPS = "invalid parameter 'group': ha groups have been migrated to rules"


# Resources


async def list_resources(call: api_call.Call) -> object:
    tree = call.world.fs.tree(call.node)
    kind, digest = call.text("type"), tree.digest
    return [
        resource_entry(resource, digest)
        for resource in tree.resources.values()
        if not kind or resource.sid.startswith(f"{kind}:")
    ]


async def get_resource(call: api_call.Call) -> object:
    tree = call.world.fs.tree(call.node)
    sid = _sid(call)
    if sid not in tree.resources:
        raise api_call.failed(f"no such resource '{sid}'")
    return resource_entry(tree.resources[sid], tree.digest)


async def create_resource(call: api_call.Call) -> object:
    if "group" in call.values:
        raise api_call.failed(_NO_GROUPS)
    sid = _sid(call)
    api_call.needs_quorum(call)
    number = int(sid.partition(":")[2])
    tree = call.world.fs.tree(call.node)
    if number not in tree.guests or tree.guests[number].ref.sid != sid:
        raise api_call.failed(f"resource '{sid}' does not exist in cluster")

    def create(tree: pmxcfs.Tree) -> None:
        if sid in tree.resources:
            raise api_call.failed(f"create resource failed: resource ID '{sid}' already defined")
        tree.resources[sid] = _changed(call, cluster.HAResource(sid))

    await api_call.write(call, create, "create resource failed: ")
    return None


async def update_resource(call: api_call.Call) -> object:
    if "group" in call.values:
        raise api_call.failed(_NO_GROUPS)
    sid = _sid(call)
    what = "update resources config failed: "

    def update(tree: pmxcfs.Tree) -> None:
        if call.text("digest") not in ("", tree.digest):
            raise api_call.failed(what + _MODIFIED)
        if sid not in tree.resources:
            raise api_call.failed(f"{what}no such resource '{sid}'")
        tree.resources[sid] = _changed(call, tree.resources[sid])

    if "\n" in call.text("comment"):
        raise api_call.failed(f"{what}property contains a line feed")
    await api_call.write(call, update, what)
    return None


async def delete_resource(call: api_call.Call) -> object:
    """Also takes the resource out of its rules, unless `purge` is 0."""
    sid = _sid(call)
    if sid not in call.world.fs.tree(call.node).resources:
        raise api_call.failed(f"cannot delete service '{sid}', not HA managed!")

    def delete(tree: pmxcfs.Tree) -> None:
        tree.resources.pop(sid, None)
        if "purge" in call.values and not call.flag("purge"):
            return
        for name, rule in list(tree.rules.items()):
            left = rule.sids - {sid}
            if not left:
                del tree.rules[name]
            elif left != rule.sids:
                tree.rules[name] = dataclasses.replace(rule, sids=left)

    await api_call.write(call, delete, "delete resource failed: ")
    return None


async def migrate_resource(call: api_call.Call) -> object:
    return await _command(call, "migrate")


async def relocate_resource(call: api_call.Call) -> object:
    return await _command(call, "relocate")


async def _command(call: api_call.Call, verb: str) -> object:
    """Queue a command for the CRM; it is not checked whether the target exists."""
    sid, target = _sid(call), call.text("node")
    tree = call.world.fs.tree(call.node)
    if sid not in tree.resources:
        raise api_call.failed(f"resource '{sid}' is not HA managed")
    await api_call.write(call, lambda tree: tree.commands.append((verb, sid, target)), "")
    answer: dict[str, Any] = {"sid": sid, "requested-node": target}
    blocking = [
        {"sid": other, "cause": "resource-affinity"}
        for rule in tree.rules.values()
        if rule.type == "resource-affinity" and not rule.positive and sid in rule.sids
        for other in sorted(rule.sids - {sid})
        if (service := tree.manager.services.get(other)) and service.node == target
    ]
    return answer | ({"blocking-resources": blocking} if blocking else {})


def resource_entry(resource: cluster.HAResource, digest: str) -> dict[str, Any]:
    """A resource as the configuration holds it: defaults are not written, and so not shown."""
    entry: dict[str, Any] = {
        "sid": resource.sid,
        "type": resource.sid.partition(":")[0],
        "state": str(resource.state),
        "digest": digest,
    }
    if resource.comment:
        entry["comment"] = resource.comment
    if not resource.failback:
        entry["failback"] = 0
    if resource.max_restart != 1:
        entry["max_restart"] = resource.max_restart
    if resource.max_relocate != 1:
        entry["max_relocate"] = resource.max_relocate
    return entry


def _sid(call: api_call.Call) -> str:
    """The service id of a call; a bare vmid is taken too."""
    text = call.text("sid")
    if text.isdigit():
        file = call.world.fs.tree(call.node).guests.get(int(text))
        return file.ref.sid if file else f"vm:{text}"
    if guests.parse_sid(text) is None:
        raise api_call.failed(f"unknown section type '{text.partition(':')[0]}'")
    return text


def _changed(call: api_call.Call, resource: cluster.HAResource) -> cluster.HAResource:
    """The resource with the call's properties set, and those named in `delete` back at their defaults."""
    default = cluster.HAResource(resource.sid)
    fields: dict[str, Any] = {
        name: getattr(default, name)
        for name in re.split(r"[,; ]+", call.text("delete"))
        if name in ("comment", "failback", "max_restart", "max_relocate", "state")
    }
    fields |= {
        name: call.values[name]
        for name in ("comment", "failback", "max_restart", "max_relocate")
        if name in call.values
    }
    if state := call.text("state"):
        fields["state"] = cluster.HAState("started" if state == "enabled" else state)
    return dataclasses.replace(resource, **fields)


# Rules


async def list_rules(call: api_call.Call) -> object:
    tree = call.world.fs.tree(call.node)
    return [
        entry
        for entry in _rule_entries(tree)
        if call.text("type") in ("", entry["type"])
        and (not call.text("resource") or call.text("resource") in entry["resources"].split(","))
    ]


async def get_rule(call: api_call.Call) -> object:
    name = call.text("rule")
    for entry in _rule_entries(call.world.fs.tree(call.node)):
        if entry["rule"] == name:
            return entry
    raise api_call.failed(f"no such ha rule '{name}'")


async def create_rule(call: api_call.Call) -> object:
    what, name = "create ha rule failed: ", call.text("rule")

    def create(tree: pmxcfs.Tree) -> None:
        if name in tree.rules:
            raise api_call.failed(f"{what}HA rule '{name}' already defined")
        _put_rule(call, tree, _rule_of(call, cluster.HARule(name, call.text("type"), frozenset())), what)

    await api_call.write(call, create, what)
    return None


async def update_rule(call: api_call.Call) -> object:
    what, name = "update HA rules failed: ", call.text("rule")

    def update(tree: pmxcfs.Tree) -> None:
        if call.text("digest") not in ("", ha_rules.digest(tree)):
            raise api_call.failed(what + _MODIFIED)
        if name not in tree.rules:
            raise api_call.failed(f"{what}HA rule '{name}' does not exist")
        rule = tree.rules[name]
        allowed = api_schema.RULE_TYPES[rule.type]
        for parameter in call.values:
            if parameter not in allowed and parameter not in ("digest", "delete"):
                raise api_call.failed(f"{what}unexpected property '{parameter}'")
        _put_rule(call, tree, _rule_of(call, rule), what)

    await api_call.write(call, update, what)
    return None


async def delete_rule(call: api_call.Call) -> object:
    await api_call.write(
        call, lambda tree: tree.rules.pop(call.text("rule"), None), "delete ha rule failed: "
    )
    return None


def _rule_entries(tree: pmxcfs.Tree) -> list[dict[str, Any]]:
    digest = ha_rules.digest(tree)
    entries = []
    for order, rule in enumerate(tree.rules.values(), 1):
        entry: dict[str, Any] = {
            "rule": rule.name,
            "type": rule.type,
            "resources": ",".join(sorted(rule.sids)),
            "order": order,
            "digest": digest,
        }
        if rule.type == "node-affinity":
            entry["nodes"] = ",".join(f"{n}:{p}" if p else n for n, p in sorted(rule.nodes.items()))
            entry["strict"] = int(rule.strict)
        else:
            entry["affinity"] = "positive" if rule.positive else "negative"
        if rule.comment:
            entry["comment"] = rule.comment
        if rule.disabled:
            entry["disable"] = 1
        entries.append(entry)
    return entries


def _rule_of(call: api_call.Call, rule: cluster.HARule) -> cluster.HARule:
    """The rule with the call's properties set, and those named in `delete` back at their defaults."""
    optional = {"comment": ("comment", ""), "disable": ("disabled", False), "strict": ("strict", False)}
    fields: dict[str, Any] = dict(
        optional[name] for name in re.split(r"[,; ]+", call.text("delete")) if name in optional
    )
    if "comment" in call.values:
        fields["comment"] = call.text("comment")
    if "disable" in call.values:
        # Any value disables it: what counts is that the property is there.
        fields["disabled"] = True
    if "resources" in call.values:
        fields["sids"] = frozenset(filter(None, call.text("resources").split(",")))
    if "nodes" in call.values:
        pairs = [entry.partition(":") for entry in call.text("nodes").split(",")]
        fields["nodes"] = {name: int(priority or 0) for name, _, priority in pairs}
    if "strict" in call.values:
        fields["strict"] = call.flag("strict")
    if "affinity" in call.values:
        fields["positive"] = call.text("affinity") == "positive"
    return dataclasses.replace(rule, **fields)


def _put_rule(call: api_call.Call, tree: pmxcfs.Tree, rule: cluster.HARule, what: str) -> None:
    """Store a rule that contradicts no other, as far as Proxmox checks."""
    if refusal := ha_rules.refusal(tree, rule, frozenset(call.world.machines)):
        raise api_call.failed(what + refusal)
    tree.rules[rule.name] = rule


# Status


async def manager_status(call: api_call.Call) -> object:
    tree = call.world.fs.tree(call.node)
    quorate = call.world.membership.quorate(call.node)
    answer: dict[str, Any] = {
        "manager_status": pmxcfs.manager_json(tree.manager) or {"node_status": {}},
        "quorum": {"node": call.node, "quorate": "1" if quorate else ""},
    }
    lrms = {name: pmxcfs.lrm_json(lrm) for name, lrm in tree.lrms.items() if name in tree.manager.node_status}
    return answer | ({"lrm_status": lrms} if lrms else {})


async def current_status(call: api_call.Call) -> object:
    tree = call.world.fs.tree(call.node)
    quorate = call.world.membership.quorate(call.node)
    manager = tree.manager
    now = call.world.wall_now(call.node)
    entries: list[dict[str, Any]] = [
        {
            "id": "quorum",
            "type": "quorum",
            "node": call.node,
            "status": "OK" if quorate else f"No quorum on node '{call.node}'!",
            "quorate": int(quorate),
        }
    ]
    suffix = ""
    if manager.disarm_state == "disarmed":
        suffix = f" - disarmed, resource mode: {manager.disarm_mode}"
    if manager.master:
        age = _age(now, manager.timestamp)
        entries.append(
            {
                "id": "master",
                "type": "master",
                "node": manager.master,
                "timestamp": manager.timestamp,
                "status": f"{manager.master} ({age}, {_clock(manager.timestamp)}){suffix}",
            }
        )
    entries.append(_fencing_entry(call.node, manager, now))
    entries += [_lrm_entry(name, tree, now) for name in sorted(manager.node_status)]
    entries += [_service_entry(tree, resource) for resource in tree.resources.values()]
    return entries


async def arm(call: api_call.Call) -> object:
    await api_call.write(call, lambda tree: tree.commands.append(("arm-ha",)), "")
    return None


async def disarm(call: api_call.Call) -> object:
    mode = call.text("resource-mode")
    await api_call.write(call, lambda tree: tree.commands.append(("disarm-ha", mode)), "")
    return None


def _fencing_entry(node: str, manager: pmxcfs.Manager, now: float) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": "fencing", "type": "fencing", "node": manager.master or node}
    if manager.disarm_state == "disarmed":
        shown = f"disarmed, resource mode: {manager.disarm_mode} (CRM watchdog released)"
        return entry | {"armed-state": "disarmed", "resource_mode": manager.disarm_mode, "status": shown}
    if manager.master and now - manager.timestamp <= OLD_SECONDS:
        return entry | {"armed-state": "armed", "status": "armed (CRM watchdog active)"}
    return entry | {"armed-state": "standby", "status": "standby (CRM watchdog standby)"}


def _lrm_entry(name: str, tree: pmxcfs.Tree, now: float) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": f"lrm:{name}", "type": "lrm", "node": name}
    lrm = tree.lrms.get(name)
    if lrm is None or not lrm.timestamp:
        return entry | {"status": f"{name} (unable to read lrm status)"}
    state, watchdog = _age(now, lrm.timestamp), "standby"
    if state == "active":
        busy = any(service.node == name for service in tree.manager.services.values())
        if lrm.mode != "active":
            state = f"{lrm.mode} mode"
        elif lrm.state == "wait_for_agent_lock" and not busy:
            state = "idle"
        else:
            state = lrm.state
        if lrm.state == "active":
            watchdog = "active"
        elif lrm.mode == "disarm":
            watchdog = "released"
    shown = f"{name} ({state}, watchdog {watchdog}, {_clock(lrm.timestamp)})"
    return entry | {"timestamp": lrm.timestamp, "status": shown}


def _service_entry(tree: pmxcfs.Tree, resource: cluster.HAResource) -> dict[str, Any]:
    service = tree.manager.services.get(resource.sid)
    file = tree.guests.get(int(resource.sid.partition(":")[2]))
    node = service.node if service else file.node if file else ""
    state = verbose_state(service, resource)
    entry: dict[str, Any] = {
        "id": f"service:{resource.sid}",
        "type": "service",
        "sid": resource.sid,
        "node": node,
        "state": state,
        "status": f"{resource.sid} ({node}, {state})",
        "request_state": str(resource.state),
        "max_restart": resource.max_restart,
        "max_relocate": resource.max_relocate,
        "failback": int(resource.failback),
    }
    if service:
        entry["crm_state"] = service.state
    if resource.comment:
        entry["comment"] = resource.comment
    return entry


def verbose_state(service: pmxcfs.Service | None, resource: cluster.HAResource) -> str:
    """The state shown to people: what the CRM says, more telling where it is ambiguous."""
    if service is None:
        return "ignored" if resource.state is cluster.HAState.IGNORED else "queued"
    if service.state == "started" and not service.running:
        return "starting"
    if service.state == "stopped" and resource.state is cluster.HAState.DISABLED:
        return "disabled"
    return service.state


def _age(now: float, timestamp: int) -> str:
    if now - timestamp > OLD_SECONDS:
        return "old timestamp - dead?"
    return "detected time drift!" if now - timestamp < -2 else "active"


def _clock(timestamp: int) -> str:
    return time.strftime("%a %b %e %H:%M:%S %Y", time.gmtime(timestamp))
