"""Faults and people's actions as lines of text, for scenario files and the demo: `apply(world, "power off
pve2")`."""

import dataclasses
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from pveha.model import cluster
from pveha.sim import machine, membership

if TYPE_CHECKING:
    from pveha.sim import world as worlds

_NODE = r"(\S+)"
_VMID = r"(\d+)"
_VMIDS = r"(\d+)(?:-(\d+))?"
_SERVICE = f"({'|'.join(machine.SERVICES)})"
_SID = r"((?:vm|ct):\d+)"


class UnknownFaultError(ValueError):
    """A line that says nothing known, or names something that does not exist."""


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """A form of line (`usage`), and what it does with the words that vary."""

    usage: str
    pattern: str
    act: "Callable[..., object]"


def _bmc(field: str, value: object) -> "Callable[..., object]":
    def act(world: "worlds.World", name: str) -> None:
        setattr(world.bmcs.by_name[name], field, value)
        world.say(f"bmc {name}", f"{field.replace('_', ' ')}: {value}")

    return act


def _slow(world: "worlds.World", name: str, seconds: str) -> None:
    world.bmcs.by_name[name].delay = float(seconds)


def _busy(world: "worlds.World", name: str, seconds: str) -> None:
    world.bmcs.by_name[name].busy_until = world.now() + float(seconds)


def _stuck(*, stuck: bool) -> "Callable[..., object]":
    def act(world: "worlds.World", pdu: str, name: str) -> None:
        world.pdus.outlets[pdu, name].stuck = stuck
        world.say(f"pdu {pdu}", f"outlet {name} is {'stuck' if stuck else 'free'}")

    return act


def _partition(world: "worlds.World", groups: str) -> None:
    world.partition(*(tuple(group.split()) for group in groups.split("|")))


def _machine(field: str, value: object) -> "Callable[..., object]":
    def act(world: "worlds.World", name: str) -> None:
        setattr(world.machines[name], field, value)
        world.say(name, f"{field.replace('_', ' ')}: {value}")

    return act


def _lag(world: "worlds.World", name: str, seconds: str) -> None:
    world.lagging = {**world.lagging, name: float(seconds)} if float(seconds) else _without(world, name)
    world.say(name, f"answers of its API come {seconds} s late")


def _without(world: "worlds.World", name: str) -> dict[str, float]:
    return {other: lag for other, lag in world.lagging.items() if other != name}


def _starts(acts: bool | None) -> "Callable[..., object]":
    """Start tasks of a node end as failed, whether or not the guest runs then; None: no longer."""

    def act(world: "worlds.World", name: str) -> None:
        failing = {other: how for other, how in world.guests.failing.items() if other != name}
        world.guests.failing = failing if acts is None else {**failing, name: acts}

    return act


def _version(world: "worlds.World", name: str, version: str) -> None:
    world.machines[name].version = version


def _clock(world: "worlds.World", name: str, seconds: str) -> None:
    world.machines[name].clock_skew = float(seconds)


def _each(act: "Callable[[worlds.World, int, list[str]], object]") -> "Callable[..., object]":
    """The same for every guest of a range, with a list of words that may be `none`."""

    def every(world: "worlds.World", first: str, last: str | None, words: str) -> None:
        for vmid in range(int(first), int(last or first) + 1):
            act(world, vmid, [] if words == "none" else words.split(","))

    return every


def _add_rule(world: "worlds.World", name: str, affinity: str, sids: str) -> None:
    together = affinity == "together"
    world.set_rule(
        cluster.HARule(name, cluster.RESOURCE_AFFINITY, frozenset(sids.split(",")), positive=together)
    )


def _add_node_rule(world: "worlds.World", name: str, nodes: str, sids: str) -> None:
    found = dict.fromkeys(nodes.split(","), 0)
    world.set_rule(cluster.HARule(name, cluster.NODE_AFFINITY, frozenset(sids.split(",")), found))


def _limit(world: "worlds.World", sid: str, field: str, number: str) -> None:
    value = bool(int(number)) if field == "failback" else int(number)
    world.set_ha(dataclasses.replace(world.newest.resources[sid], **{field: value}))  # type: ignore[arg-type]


FAULTS = (
    Fault("power off NODE", rf"power off {_NODE}", lambda w, n: w.power_off(n)),
    Fault("power on NODE", rf"power on {_NODE}", lambda w, n: w.power_on(n)),
    Fault("mains lost", "mains lost", lambda w: w.mains_lost()),
    Fault("mains back", "mains back", lambda w: w.mains_back()),
    Fault("shutdown NODE", rf"shutdown {_NODE}", lambda w, n: w.shutdown(n)),
    Fault("reboot NODE", rf"reboot {_NODE}", lambda w, n: w.reboot(n)),
    Fault("hang node NODE", rf"hang node {_NODE}", lambda w, n: w.hang_node(n)),
    Fault("resume node NODE", rf"resume node {_NODE}", lambda w, n: w.unhang_node(n)),
    Fault("cut network NODE", rf"cut network {_NODE}", lambda w, n: w.cut_network(n)),
    Fault("cut link NODE NODE", rf"cut link {_NODE} {_NODE}", lambda w, a, b: w.cut_link(a, b)),
    Fault("partition NODE... | NODE...", r"partition (.+\|.+)", _partition),
    Fault("cut operator NODE|all [api|ssh|bmc]", rf"cut operator {_NODE}", lambda w, n: w.cut_operator(n)),
    Fault("", rf"cut operator {_NODE} (api|ssh|bmc)", lambda w, n, p: w.cut_operator(n, p)),
    Fault("heal operator NODE|all [api|ssh|bmc]", rf"heal operator {_NODE}", lambda w, n: w.heal_operator(n)),
    Fault("", rf"heal operator {_NODE} (api|ssh|bmc)", lambda w, n, p: w.heal_operator(n, p)),
    Fault("cut qdevice NODE|all", rf"cut qdevice {_NODE}", lambda w, n: w.cut_qdevice(n)),
    Fault("heal qdevice NODE|all", rf"heal qdevice {_NODE}", lambda w, n: w.heal_qdevice(n)),
    Fault("cut storage NODE STORAGE", rf"cut storage {_NODE} (\S+)", lambda w, n, s: w.cut_storage(n, s)),
    Fault(
        "heal storage NODE STORAGE",
        rf"heal storage {_NODE} (\S+)",
        lambda w, n, s: w.storage.set_path(n, s, up=True),
    ),
    Fault("heal [NODE]", "heal", lambda w: w.heal()),
    Fault("", rf"heal {_NODE}", lambda w, n: w.heal(n)),
    Fault("hang api NODE", rf"hang api {_NODE}", lambda w, n: w.hang_api(n)),
    Fault("slow api NODE SECONDS", rf"slow api {_NODE} ([\d.]+)", _lag),
    Fault("starts fail NODE", rf"starts fail {_NODE}", _starts(acts=False)),
    Fault("starts fail though acting NODE", rf"starts fail though acting {_NODE}", _starts(acts=True)),
    Fault("starts work NODE", rf"starts work {_NODE}", _starts(acts=None)),
    Fault("freeze corosync NODE", rf"freeze corosync {_NODE}", lambda w, n: w.freeze_corosync(n)),
    Fault("stop SERVICE NODE", rf"stop {_SERVICE} {_NODE}", lambda w, s, n: w.set_service(n, s, "stopped")),
    Fault("hang SERVICE NODE", rf"hang {_SERVICE} {_NODE}", lambda w, s, n: w.set_service(n, s, "hung")),
    Fault("start SERVICE NODE", rf"start {_SERVICE} {_NODE}", lambda w, s, n: w.set_service(n, s, "running")),
    Fault("slow crm SECONDS", r"slow crm ([\d.]+)", lambda w, s: w.slow_crm(float(s))),
    Fault("lose answers NODE", rf"lose answers {_NODE}", lambda w, n: w.lose_answers(n)),
    Fault("deliver answers NODE", rf"deliver answers {_NODE}", lambda w, n: w.lose_answers(n, lost=False)),
    Fault("kill bmc NODE", rf"kill bmc {_NODE}", lambda w, n: w.kill_bmc(n)),
    Fault("revive bmc NODE", rf"revive bmc {_NODE}", _bmc("alive", value=True)),
    Fault("bmc lies NODE", rf"bmc lies {_NODE}", lambda w, n: w.bmc_lies(n)),
    Fault("bmc obeys NODE", rf"bmc obeys {_NODE}", _bmc("lies", value=False)),
    Fault("bmc refuses NODE", rf"bmc refuses {_NODE}", _bmc("refuses", value=True)),
    Fault("bmc accepts NODE", rf"bmc accepts {_NODE}", _bmc("refuses", value=False)),
    Fault("bmc reads off NODE", rf"bmc reads off {_NODE}", _bmc("reads_off", value=True)),
    Fault("bmc reads true NODE", rf"bmc reads true {_NODE}", _bmc("reads_off", value=False)),
    Fault("bmc dies with NODE", rf"bmc dies with {_NODE}", _bmc("dies_with_node", value=True)),
    Fault("bmc lives without NODE", rf"bmc lives without {_NODE}", _bmc("dies_with_node", value=False)),
    Fault("straighten bmcs", "straighten bmcs", lambda w: w.straighten_bmcs()),
    Fault("bmc slow NODE SECONDS", rf"bmc slow {_NODE} ([\d.]+)", _slow),
    Fault("bmc busy NODE SECONDS", rf"bmc busy {_NODE} ([\d.]+)", _busy),
    Fault(
        "outlet on|off PDU NODE",
        rf"outlet (on|off) (\S+) {_NODE}",
        lambda w, c, p, n: w.pdus.set(p, n, on=c == "on"),
    ),
    Fault("outlet stuck PDU NODE", rf"outlet stuck (\S+) {_NODE}", _stuck(stuck=True)),
    Fault("outlet free PDU NODE", rf"outlet free (\S+) {_NODE}", _stuck(stuck=False)),
    Fault(
        "swap outlets PDU NODE NODE",
        rf"swap outlets (\S+) {_NODE} {_NODE}",
        lambda w, p, a, b: w.pdus.swap(p, a, b),
    ),
    Fault("kill pdu PDU", r"kill pdu (\S+)", lambda w, p: w.pdus.dead.add(p)),
    Fault("revive pdu PDU", r"revive pdu (\S+)", lambda w, p: w.pdus.dead.discard(p)),
    Fault("straighten pdus", "straighten pdus", lambda w: w.pdus.straighten()),
    Fault("swap bmcs NODE NODE", rf"swap bmcs {_NODE} {_NODE}", lambda w, a, b: w.swap_bmcs(a, b)),
    Fault("bmc COMMAND NODE", rf"bmc (off|on|cycle|shutdown) {_NODE}", lambda w, c, n: w.bmcs.command(n, c)),
    Fault(
        "set SID STATE",
        rf"set {_SID} (started|stopped|disabled|ignored)",
        lambda w, s, t: w.set_ha_state(s, t),
    ),
    Fault(
        "set SID failback|max_restart|max_relocate N",
        rf"set {_SID} (failback|max_restart|max_relocate) (\d+)",
        _limit,
    ),
    Fault("add rule NAME apart|together SID,...", r"add rule (\S+) (apart|together) (\S+)", _add_rule),
    Fault("add rule NAME on NODE,... SID,...", r"add rule (\S+) on (\S+) (\S+)", _add_node_rule),
    Fault(
        "edit rule NAME SID,...",
        r"edit rule (\S+) (\S+)",
        lambda w, n, s: w.edit_rules(n, sids=frozenset(s.split(","))),
    ),
    Fault("syncs fail NODE", rf"syncs fail {_NODE}", lambda w, n: w.replicas.refusing.add(n)),
    Fault("syncs work NODE", rf"syncs work {_NODE}", lambda w, n: w.replicas.refusing.discard(n)),
    Fault("remove replication JOB", r"remove replication (\S+)", lambda w, j: w.remove_replication(j)),
    Fault(
        "disable|enable replication JOB",
        r"(disable|enable) replication (\S+)",
        lambda w, how, j: w.set_replication(j, disabled=how == "disable"),
    ),
    Fault("disable rule NAME", r"disable rule (\S+)", lambda w, n: w.edit_rules(n, disabled=True)),
    Fault("remove rule NAME", r"remove rule (\S+)", lambda w, n: w.edit_rules(n)),
    Fault("register SID", rf"register {_SID}", lambda w, s: w.set_ha(cluster.HAResource(s))),
    Fault("remove SID", rf"remove {_SID}", lambda w, s: w.set_ha(None, s)),
    Fault("migrate SID NODE", rf"migrate {_SID} {_NODE}", lambda w, s, n: w.crm_command("migrate", s, n)),
    Fault("relocate SID NODE", rf"relocate {_SID} {_NODE}", lambda w, s, n: w.crm_command("relocate", s, n)),
    Fault("stop SID", rf"stop {_SID}", lambda w, s: w.crm_command("stop", s)),
    Fault(
        "migrate guest VMID NODE",
        rf"migrate guest {_VMID} {_NODE}",
        lambda w, v, n: w.migrate_guest(int(v), n),
    ),
    Fault("migrations fail NODE", rf"migrations fail {_NODE}", lambda w, n: w.guests.refusing.add(n)),
    Fault("migrations work NODE", rf"migrations work {_NODE}", lambda w, n: w.guests.refusing.discard(n)),
    Fault(
        "create guest VMID NODE",
        rf"create guest {_VMID} {_NODE}",
        lambda w, v, n: w.create_guest(int(v), n),
    ),
    Fault("destroy guest VMID", rf"destroy guest {_VMID}", lambda w, v: w.destroy_guest(int(v))),
    Fault(
        "tag guest VMID[-VMID] TAG,...|none",
        rf"tag guest {_VMIDS} (\S+)",
        _each(lambda w, v, t: w.set_tags(v, *t)),
    ),
    Fault(
        "pool guest VMID[-VMID] POOL|none",
        rf"pool guest {_VMIDS} (\S+)",
        _each(lambda w, v, p: w.set_pool(v, "".join(p))),
    ),
    Fault(
        "rename guest VMID NAME", rf"rename guest {_VMID} (\S+)", lambda w, v, n: w.rename_guest(int(v), n)
    ),
    Fault("start guest VMID", rf"start guest {_VMID}", lambda w, v: w.start_guest(int(v))),
    Fault("stop guest VMID", rf"stop guest {_VMID}", lambda w, v: w.stop_guest(int(v))),
    Fault("crash guest VMID NODE", rf"crash guest {_VMID} {_NODE}", lambda w, v, n: w.kill_guest(int(v), n)),
    Fault(
        "move config VMID NODE by NODE",
        rf"move config {_VMID} {_NODE} by {_NODE}",
        lambda w, v, n, b: w.move_config(int(v), n, b),
    ),
    Fault(
        "config guest VMID KEY VALUE|none",
        rf"config guest {_VMID} ([a-z]+\d*) (\S+)",
        lambda w, v, key, value: w.set_config(int(v), key, "" if value == "none" else value),
    ),
    Fault(
        "add bridge NODE BRIDGE",
        rf"add bridge {_NODE} (\S+)",
        lambda w, n, b: w.equipment.set_bridge(n, b, there=True),
    ),
    Fault(
        "remove bridge NODE BRIDGE",
        rf"remove bridge {_NODE} (\S+)",
        lambda w, n, b: w.equipment.set_bridge(n, b, there=False),
    ),
    Fault(
        "map pci|usb|dir/NAME NODE",
        rf"map ((?:pci|usb|dir)/\S+) {_NODE}",
        lambda w, m, n: w.equipment.set_mapping(m, n, there=True),
    ),
    Fault(
        "unmap pci|usb|dir/NAME NODE",
        rf"unmap ((?:pci|usb|dir)/\S+) {_NODE}",
        lambda w, m, n: w.equipment.set_mapping(m, n, there=False),
    ),
    Fault("cpu NODE LEVEL", rf"cpu {_NODE} (\S+)", lambda w, n, level: w.equipment.set_cpu(n, level)),
    Fault("qemu NODE VERSION", rf"qemu {_NODE} (\d+\.\d+)", lambda w, n, v: w.equipment.set_qemu(n, v)),
    Fault(
        "add iso NODE NAME",
        rf"add iso {_NODE} (\S+)",
        lambda w, n, name: w.equipment.set_iso(n, name, there=True),
    ),
    Fault(
        "remove iso NODE NAME",
        rf"remove iso {_NODE} (\S+)",
        lambda w, n, name: w.equipment.set_iso(n, name, there=False),
    ),
    Fault(
        "lock guest VMID LOCK", rf"lock guest {_VMID} ([a-z-]+)", lambda w, v, lock: w.set_lock(int(v), lock)
    ),
    Fault("unlock guest VMID", rf"unlock guest {_VMID}", lambda w, v: w.set_lock(int(v), "")),
    Fault(
        "maintenance on NODE",
        rf"maintenance on {_NODE}",
        lambda w, n: w.crm_command("enable-node-maintenance", n),
    ),
    Fault(
        "maintenance off NODE",
        rf"maintenance off {_NODE}",
        lambda w, n: w.crm_command("disable-node-maintenance", n),
    ),
    Fault(
        "disarm freeze|ignore", r"disarm (freeze|ignore)", lambda w, mode: w.crm_command("disarm-ha", mode)
    ),
    Fault("arm", "arm", lambda w: w.crm_command("arm-ha")),
    Fault("remove node shell NODE", rf"remove node shell {_NODE}", _machine("node_shell", "absent")),
    Fault("downgrade node shell NODE", rf"downgrade node shell {_NODE}", _machine("node_shell", "older")),
    Fault("upgrade node shell NODE", rf"upgrade node shell {_NODE}", _machine("node_shell", "newer")),
    Fault("halt node shell NODE", rf"halt node shell {_NODE}", _machine("node_shell", "halting")),
    Fault("unbind node shell NODE", rf"unbind node shell {_NODE}", _machine("node_shell", "open")),
    Fault("install node shell NODE", rf"install node shell {_NODE}", _machine("node_shell", "installed")),
    Fault("remove timer NODE", rf"remove timer {_NODE}", _machine("timer", value=False)),
    Fault("install timer NODE", rf"install timer {_NODE}", _machine("timer", value=True)),
    Fault("set version NODE VERSION", rf"set version {_NODE} ([\d.]+)", _version),
    Fault("set clock NODE SECONDS", rf"set clock {_NODE} (-?[\d.]+)", _clock),
    Fault(
        "corosync OPTION VALUE",
        rf"corosync ({'|'.join(membership.SETTINGS)}) (\d+)",
        lambda w, option, value: w.membership.configure(option, int(value)),
    ),
    Fault("expected votes N", r"expected votes (\d+)", lambda w, votes: w.expect_votes(int(votes))),
)
"""The first form that matches counts."""
_FORMS = tuple((re.compile(fault.pattern), fault.act) for fault in FAULTS)


def apply(world: "worlds.World", line: str) -> None:
    """Do what a line says. `UnknownFaultError` tells what could have been said; `NoQuorum` if it needs a
    quorate node."""
    words = " ".join(line.split())
    for pattern, act in _FORMS:
        if match := pattern.fullmatch(words):
            try:
                act(world, *match.groups())
            except KeyError as error:
                message = f"{line!r}: there is no {error}"
                raise UnknownFaultError(message) from error
            return
    known = "; ".join(fault.usage for fault in FAULTS if fault.usage)
    message = f"{line!r} is none of: {known}"
    raise UnknownFaultError(message)
