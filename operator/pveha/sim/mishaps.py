"""The kinds of random faults: each draws what goes wrong, where, and when it is mended.

A kind is a function of dice and data centre to lines of a timeline (docs/simulation.md), at offsets from the
fault's beginning.
"""

import random
from collections.abc import Callable, Sequence

from pveha.sim import config

AUTO_TAG = "auto"
"""Of guests that spec.autoProtect protects in random runs."""
OLD_VERSION, NEW_VERSION = "8.4.14", "9.2.11"
"""Of Proxmox VE, before and after an upgrade."""


class Dice:
    """What a fault is drawn from."""

    def __init__(self, rng: random.Random, names: Sequence[str], vmids: Sequence[int]) -> None:
        self.rng = rng
        self.names = list(names)
        self.vmids = list(vmids)

    def node(self) -> str:
        return self.rng.choice(self.names)

    def two(self) -> tuple[str, str]:
        one, other = self.rng.sample(self.names, 2)
        return one, other

    def guest(self) -> int:
        return self.rng.choice(self.vmids)

    def sid(self, about: config.Config) -> str:
        vmid = self.guest()
        return next(guest.ref.sid for guest in about.guests if guest.vmid == vmid)

    def operator(self) -> str:
        return self.rng.choice("ab")

    def seconds(self, low: float, high: float) -> float:
        """More often short than long."""
        return round(low + (high - low) * self.rng.random() ** 2, 2)

    def sometimes(self, chance: float) -> bool:
        return self.rng.random() < chance


Lines = list[tuple[float, str]]
"""Offsets from the fault's beginning."""
Kind = Callable[[Dice, config.Config], Lines]


def _for_a_while(begin: str, end: str, low: float, high: float) -> Kind:
    """A fault of one node that is mended after a while. NODE stands for it."""

    def draw(dice: Dice, about: config.Config) -> Lines:
        node = dice.node()
        return [(0.0, begin.replace("NODE", node)), (dice.seconds(low, high), end.replace("NODE", node))]

    return draw


def _operator(begin: str, end: str, low: float, high: float) -> Kind:
    """The same for an operator."""

    def draw(dice: Dice, about: config.Config) -> Lines:
        name = "all" if "all" in begin else dice.operator()
        return [
            (0.0, begin.replace("OPERATOR", name)),
            (dice.seconds(low, high), end.replace("OPERATOR", name)),
        ]

    return draw


def _power_loss(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    lines: Lines = [(0.0, f"power off {node}")]
    if dice.sometimes(0.7):
        lines.append((dice.seconds(30, 600), f"power on {node}"))
    return lines


def _power_blip(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    return [(0.0, f"power off {node}"), (dice.seconds(0.1, 40), f"power on {node}")]


def _mains(dice: Dice, about: config.Config) -> Lines:
    return [(0.0, "mains lost"), (dice.seconds(5, 120), "mains back")]


def _link(dice: Dice, about: config.Config) -> Lines:
    one, other = dice.two()
    return [(0.0, f"cut link {one} {other}"), (dice.seconds(1, 200), f"heal {one}")]


def _partition(dice: Dice, about: config.Config) -> Lines:
    names = dice.rng.sample(dice.names, len(dice.names))
    cut = dice.rng.randint(1, len(names) - 1)
    groups = f"{' '.join(sorted(names[:cut]))} | {' '.join(sorted(names[cut:]))}"
    heals = [(end := dice.seconds(1, 200), f"heal {name}") for name in names]
    return [(0.0, f"partition {groups}"), *((end, line) for _, line in heals)]


def _quorum_loss(dice: Dice, about: config.Config) -> Lines:
    lost = dice.rng.sample(dice.names, (len(dice.names) + 1) // 2)
    end = dice.seconds(5, 200)
    return [
        *((round(dice.rng.random() * 5, 2), f"cut network {name}") for name in lost),
        *((end + 5, f"heal {name}") for name in lost),
    ]


def _qdevice_cut(dice: Dice, about: config.Config) -> Lines:
    """A node loses the QDevice, often about when something happens to a node."""
    node, other = dice.node(), dice.node()
    lines = [(0.0, f"cut qdevice {node}"), (dice.seconds(2, 200), f"heal qdevice {node}")]
    if dice.sometimes(0.4):
        how = dice.rng.choice(["power off", "cut network", "hang node"])
        lines.append((dice.seconds(0, 20), f"{how} {other}"))
        lines.append((dice.seconds(60, 200), f"heal {other}"))
    return lines


def _qdevice_gone(dice: Dice, about: config.Config) -> Lines:
    return [(0.0, "cut qdevice all"), (dice.seconds(2, 300), "heal qdevice all")]


def _history_forked(dice: Dice, about: config.Config) -> Lines:
    """Half of the nodes go, then the others; the first ones come back alone, and some time later the rest."""
    names = dice.rng.sample(dice.names, len(dice.names))
    first, last = names[: len(names) // 2], names[len(names) // 2 :]
    gone = dice.seconds(20, 200)
    back = gone + dice.seconds(1, 60)
    joined = back + dice.seconds(40, 400)
    return [
        *((0.0, f"power off {name}") for name in first),
        *((gone, f"power off {name}") for name in last),
        *((back, f"power on {name}") for name in first),
        *((joined, f"power on {name}") for name in last),
    ]


def _operator_path(dice: Dice, about: config.Config) -> Lines:
    node = "all" if dice.sometimes(0.2) else dice.node()
    path = dice.rng.choice(["", " api", " ssh", " bmc"])
    return [
        (0.0, f"cut operator {node}{path}"),
        (dice.seconds(1, 120), f"heal operator {node}{path}"),
    ]


def _service(names: Sequence[str], low: float, high: float, *how: str) -> Kind:
    def draw(dice: Dice, about: config.Config) -> Lines:
        node, service = dice.node(), dice.rng.choice(list(names))
        verb = dice.rng.choice(list(how))
        return [(0.0, f"{verb} {service} {node}"), (dice.seconds(low, high), f"start {service} {node}")]

    return draw


def _bmc_slow(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    return [
        (0.0, f"bmc slow {node} {dice.rng.choice(['0.5', '2', '4', '6'])}"),
        (dice.seconds(30, 300), f"bmc slow {node} 0"),
    ]


def _bmc_swap(dice: Dice, about: config.Config) -> Lines:
    one, other = dice.two()
    return [(0.0, f"swap bmcs {one} {other}"), (dice.seconds(20, 200), f"swap bmcs {one} {other}")]


def _bmc_busy(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    return [(0.0, f"hang node {node}"), (dice.seconds(0, 12), f"bmc busy {node} {dice.rng.randint(1, 20)}")]


def _cables(dice: Dice, about: config.Config) -> Lines:
    """Two cables change places after the drill, of machines with a single power supply: with two, nothing but
    a BMC would tell, and with none of both pveha cannot know (docs/fencing.md)."""
    one, other = dice.two()
    if any(len(node.pdus) > 1 or not node.has_bmc for node in about.nodes):
        return []
    return [
        (0.0, f"swap outlets a {one} {other}"),
        (dice.seconds(20, 200), f"swap outlets a {one} {other}"),
    ]


def _bmc_dies_with_node(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    return [(0.0, f"bmc dies with {node}"), (dice.seconds(0.1, 30), f"power off {node}")]


def _hang(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    return [(0.0, f"hang node {node}"), (dice.seconds(2, 200), f"resume node {node}")]


def _kill_operator(dice: Dice, about: config.Config) -> Lines:
    name = dice.operator()
    return [(0.0, f"kill operator {name}"), (dice.seconds(0, 90), f"start operator {name}")]


def _trip_operator(dice: Dice, about: config.Config) -> Lines:
    name, node = dice.operator(), dice.node()
    effects, again = dice.rng.randint(1, 14), dice.rng.choice([0, 0, 5, 30, 90])
    return [
        (0.0, f"kill operator {name} after {effects} effects restart after {again}"),
        (dice.seconds(0, 5), f"power off {node}"),
    ]


def _at_effect(dice: Dice, about: config.Config) -> Lines:
    """A node is lost, and in the middle of what the operator does about it something else happens."""
    node = dice.node()
    line = dice.rng.choice(
        [
            f"power on {node}",
            f"set {dice.sid(about)} started",
            f"set {dice.sid(about)} stopped",
            f"freeze operator a {dice.seconds(5, 40)}",
            f"freeze operator b {dice.seconds(5, 40)}",
            f"power off {dice.node()}",
            f"cut network {dice.node()}",
            f"hang sshd {dice.node()}",
            f"lose answers {dice.node()}",
            f"stop pve-ha-lrm {dice.node()}",
            "take lease",
        ]
    )
    how = dice.rng.choice(["power off", "cut network", "hang node"])
    mended = dice.seconds(60, 200)
    return [
        (0.0, f"after {dice.rng.randint(1, 12)} effects and {dice.seconds(0.0, 0.3)} s {line}"),
        (dice.seconds(0, 3), f"{how} {node}"),
        *((mended, f"{mend} {name}") for name in dice.names for mend in ("heal", "start sshd")),
        *(
            (mended, f"{mend} {name}")
            for name in dice.names
            for mend in ("deliver answers", "start pve-ha-lrm")
        ),
    ]


def _owner_at_effect(dice: Dice, about: config.Config) -> Lines:
    """The owner of a guest of a lost node sets its state in the middle of the takeover."""
    node = dice.node()
    there = [guest.ref.sid for guest in about.guests if guest.node == node] or [dice.sid(about)]
    lines: Lines = []
    for sid in there:
        state = dice.rng.choice(["started", "stopped", "disabled"])
        moment = f"after {dice.rng.randint(2, 7)} effects and {round(dice.rng.uniform(0.0, 0.15), 3)} s"
        lines.append((0.0, f"{moment} set {sid} {state}"))
    return [*lines, (0.1, f"power off {node}"), (dice.seconds(60, 200), f"power on {node}")]


def _leader_stopped(dice: Dice, about: config.Config) -> Lines:
    """A leader stands still with a side effect on its way, and another one takes over."""
    node, effects = dice.node(), dice.rng.randint(2, 7)
    pause = round(dice.rng.uniform(20.0, 40.0), 1)
    delay = round(dice.rng.uniform(0.0, 0.05), 3)
    return [
        (0.0, f"after {effects} effects and {delay} s freeze leader {pause}"),
        (0.1, f"power off {node}"),
    ]


def _leader_stopped_sending(dice: Dice, about: config.Config) -> Lines:
    """A leader stands still between its last check and a write, which lands when another one has begun.

    Not before a forced off, which has no token (S15).
    """
    verb = dice.rng.choice(["claim", "claim", "claim", "start", "update_ha", "create_ha", "begin", "kill"])
    node = dice.node()
    return [
        (0.0, f"freeze leader {round(dice.rng.uniform(14.0, 32.0), 1)} at {verb}"),
        (0.1, f"power off {node}"),
        (dice.seconds(60, 300), f"power on {node}"),
    ]


def _idle_target(dice: Dice, about: config.Config) -> Lines:
    """A guest is taken over to a node whose LRM is not there, and that node is cut off with its BMC dead
    while the others have quorum.

    A node that has had no guests for a while is best: no watchdog resets it.
    """
    one, target = dice.two()
    how = dice.rng.choice(["stop", "hang", "hang"])
    empty = [name for name in dice.names if name != one and not any(g.node == name for g in about.guests)]
    target = empty[0] if empty else target
    return [
        (0.0, f"{how} pve-ha-lrm {target}"),
        (dice.seconds(0, 5), f"power off {one}"),
        (dice.seconds(20, 60), f"power on {one}"),
        (dice.seconds(10, 90), f"kill bmc {target}"),
        (dice.seconds(100, 140), f"cut network {target}"),
        (400.0, f"heal {target}"),
        (430.0, f"revive bmc {target}"),
        (430.0, f"start pve-ha-lrm {target}"),
    ]


def _freeze_operator(dice: Dice, about: config.Config) -> Lines:
    return [(0.0, f"freeze operator {dice.operator()} {dice.seconds(0.2, 40)}")]


def _lease(dice: Dice, about: config.Config) -> Lines:
    return [(0.0, dice.rng.choice(["take lease", "delete lease"]))]


def _lost_status(dice: Dice, about: config.Config) -> Lines:
    return [(0.0, "lose status")]


def _user_moves(dice: Dice, about: config.Config) -> Lines:
    return [(0.0, f"migrate guest {dice.guest()} {dice.node()}")]


def _user_moves_config(dice: Dice, about: config.Config) -> Lines:
    """Somebody moves a configuration by hand, as instructions on the web say."""
    target = dice.node()
    return [(0.0, f"move config {dice.guest()} {target} by {dice.rng.choice([target, dice.node()])}")]


def _user_sets(dice: Dice, about: config.Config) -> Lines:
    sid = dice.sid(about)
    state = dice.rng.choice(["stopped", "disabled", "started"])
    lines: Lines = [(0.0, f"set {sid} {state}")]
    if dice.sometimes(0.5):
        lines.append((dice.seconds(1, 120), f"set {sid} started"))
    return lines


def _user_starts_and_stops(dice: Dice, about: config.Config) -> Lines:
    return [(0.0, f"{dice.rng.choice(['start', 'stop'])} guest {dice.guest()}")]


def _user_unprotects(dice: Dice, about: config.Config) -> Lines:
    vmid = dice.guest()
    return [(0.0, f"unprotect {vmid}"), (dice.seconds(1, 200), f"protect {vmid}")]


def _tags_edited(dice: Dice, about: config.Config) -> Lines:
    """Somebody gives a guest the tag that AUTO_PROTECT selects, or takes it away, mostly for a while."""
    vmid, words = dice.guest(), dice.rng.choice([("none", AUTO_TAG), (AUTO_TAG, "none")])
    lines: Lines = [(0.0, f"tag guest {vmid} {words[0]}")]
    if dice.sometimes(0.7):
        lines.append((dice.seconds(1, 200), f"tag guest {vmid} {words[1]}"))
    return lines


def _auto_protect_edited(dice: Dice, about: config.Config) -> Lines:
    return [
        (0.0, f"auto protect {dice.rng.choice(['none', 'another', f'another,{AUTO_TAG}'])}"),
        (dice.seconds(1, 200), f"auto protect {AUTO_TAG}"),
    ]


def _user_pauses(dice: Dice, about: config.Config) -> Lines:
    begin, end = dice.rng.choice([("pause", "unpause"), ("mode Observe", "mode Enforce")])
    return [(0.0, begin), (dice.seconds(5, 200), end)]


def _guest_crash(dice: Dice, about: config.Config) -> Lines:
    vmid = dice.guest()
    return [(0.0, f"crash guest {vmid} {name}") for name in dice.names]


def _lock(dice: Dice, about: config.Config) -> Lines:
    vmid = dice.guest()
    lock = dice.rng.choice(["backup", "snapshot", "suspending"])
    return [(0.0, f"lock guest {vmid} {lock}"), (dice.seconds(5, 200), f"unlock guest {vmid}")]


def _planned(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    if dice.sometimes(0.6):
        return [(0.0, f"reboot {node}")]
    return [(0.0, f"shutdown {node}"), (dice.seconds(60, 500), f"power on {node}")]


def _disarm(dice: Dice, about: config.Config) -> Lines:
    return [(0.0, f"disarm {dice.rng.choice(['freeze', 'ignore'])}"), (dice.seconds(10, 200), "arm")]


def _votes(dice: Dice, about: config.Config) -> Lines:
    return [
        (0.0, f"expected votes {dice.rng.randint(1, len(about.nodes))}"),
        (dice.seconds(30, 300), "expected votes 0"),
    ]


def _broken_migration(dice: Dice, about: config.Config) -> Lines:
    """A migration whose source or target dies in one of its phases."""
    source, target = dice.two()
    vmid = dice.guest()
    dies = dice.rng.choice([source, target])
    how = dice.rng.choice(["power off", "hang node", "cut network"])
    lines = [
        (0.0, f"migrate guest {vmid} {target}"),
        (round(dice.rng.uniform(0.2, 18.0), 2), f"{how} {dies}"),
    ]
    if how == "cut network":
        lines.append((dice.seconds(20, 200), f"heal {dies}"))
    return lines


def _drain(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    return [(0.0, f"availability {node} Drain"), (dice.seconds(5, 300), f"availability {node} Active")]


def _pause(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    return [(0.0, f"availability {node} Pause"), (dice.seconds(20, 400), f"availability {node} Active")]


def _broken_drain(dice: Dice, about: config.Config) -> Lines:
    """A node is drained, and in the middle of it something breaks."""
    source, target = dice.two()
    at = round(dice.rng.uniform(0.2, 40.0), 2)
    dies = dice.rng.choice([source, target])
    begin, end = dice.rng.choice(
        [
            (f"power off {dies}", f"power on {dies}"),
            (f"hang node {dies}", f"resume node {dies}"),
            (f"cut network {dies}", f"heal {dies}"),
            (f"cut storage {target} shared", f"heal storage {target} shared"),
            (f"cut link {source} {target}", f"heal {source}"),
            ("kill operator a", "start operator a"),
            (f"stop pve-ha-lrm {dies}", f"start pve-ha-lrm {dies}"),
            (f"stop pve-ha-crm {dies}", f"start pve-ha-crm {dies}"),
            (f"availability {target} Drain", f"availability {target} Active"),
        ]
    )
    mended = at + dice.seconds(20, 200)
    return [
        (0.0, f"availability {source} Drain"),
        (at, begin),
        (mended, end),
        (mended + dice.seconds(1, 200), f"availability {source} Active"),
    ]


def _migration_halfway(dice: Dice, about: config.Config) -> Lines:
    """The source or the target of a migration dies right after the configuration has moved: a process stays
    behind on the other one."""
    vmid, target = dice.guest(), dice.node()
    begun_on = next(guest.node for guest in about.guests if guest.vmid == vmid)
    dies = dice.rng.choice([begun_on, target])
    how = dice.rng.choice(["power off", "power off", "hang node", "cut network"])
    lines = [
        (0.0, f"when guest {vmid} moves and {round(dice.rng.uniform(0.0, 0.28), 2)} s {how} {dies}"),
        (0.1, f"migrate guest {vmid} {target}"),
    ]
    if how == "cut network":
        lines.append((dice.seconds(60, 200), f"heal {dies}"))
    return lines


def _moved_then_lost(dice: Dice, about: config.Config) -> Lines:
    """Somebody moves the configuration of a guest that runs, and the node to which he moved it is lost before
    the CRM has noticed."""
    guest = dice.rng.choice(about.guests)
    master = about.master if dice.sometimes(0.7) else dice.node()
    lost = master or dice.node()
    return [
        (0.0, f"move config {guest.vmid} {lost} by {lost}"),
        (dice.seconds(0.0, 4.0), f"power off {lost}"),
        (dice.seconds(120, 300), f"power on {lost}"),
    ]


def _slow_crm(dice: Dice, about: config.Config) -> Lines:
    """The CRM's rounds take long: what it flushes is old. Then a node is lost, or only cut off from the
    others."""
    node = dice.node()
    others = " ".join(name for name in dice.names if name != node)
    how = dice.rng.choice([f"partition {node} | {others}", f"power off {node}"])
    return [
        (0.0, f"slow crm {round(dice.rng.uniform(3.0, 9.0), 1)}"),
        (dice.seconds(0.0, 20.0), how),
        (dice.seconds(60, 300), f"heal {node}"),
        (dice.seconds(100, 300), "slow crm 0"),
    ]


def _last_views(dice: Dice, about: config.Config) -> Lines:
    """A node is lost while pveha is paused, and comes back; pveha loses its way to every API just before it
    could see that, and is let go on."""
    node, back = dice.node(), round(dice.rng.uniform(36.0, 50.0), 2)
    deaf = round(back + 5.0 - dice.rng.uniform(-0.2, 0.5), 2)
    return [
        (0.0, "pause"),
        (1.0, f"cut network {node}"),
        (back, f"heal {node}"),
        (back, f"cut operator {node} api"),
        (deaf, "cut operator all api"),
        (round(deaf + dice.rng.uniform(1.4, 1.95), 2), "unpause"),
        (round(deaf + dice.rng.uniform(10.0, 40.0), 2), "heal operator all api"),
    ]


def _double_failure(dice: Dice, about: config.Config) -> Lines:
    one, other = dice.two()
    return [
        (0.0, f"power off {one}"),
        (dice.seconds(0.1, 60), f"power off {other}"),
        (dice.seconds(60, 300), f"power on {other}"),
    ]


def _storage(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    return [(0.0, f"cut storage {node} shared"), (dice.seconds(10, 200), f"heal storage {node} shared")]


def _user_edits_our_rule(dice: Dice, about: config.Config) -> Lines:
    """Somebody changes HA rules that pveha has made: it brings them back."""
    sids = ",".join(sorted({dice.sid(about), dice.sid(about)}))
    how = dice.rng.choice(["disable rule pveha-*", "remove rule pveha-*", f"edit rule pveha-* {sids}"])
    return [(0.0, how)]


def _user_adds_a_rule(dice: Dice, about: config.Config) -> Lines:
    """Somebody adds an HA rule of his own, which often stands against ours, and takes it away again."""
    sids = ",".join(sorted({dice.sid(about), dice.sid(about)}))
    how = dice.rng.choice(["apart", "together", f"on {dice.node()}"])
    return [(0.0, f"add rule user-1 {how} {sids}"), (dice.seconds(20, 300), "remove rule user-1")]


def _silenced(about: config.Config, node: str) -> tuple[list[str], list[str]]:
    """What makes all devices of a node silent, and what mends them."""
    found = next(each for each in about.nodes if each.name == node)
    bmc = [node] if found.has_bmc else []
    return (
        [*(f"kill bmc {name}" for name in bmc), *(f"kill pdu {pdu}" for pdu in found.pdus)],
        [*(f"revive bmc {name}" for name in bmc), *(f"revive pdu {pdu}" for pdu in found.pdus)],
    )


def _confirmed(dice: Dice, about: config.Config) -> Lines:
    """A node whose devices are silent loses its power, and a person says so, sooner or later; then the power
    comes back, sometimes while his word still stands."""
    node = dice.node()
    silence, mend = _silenced(about, node)
    off = dice.seconds(0, 20)
    said = round(off + dice.seconds(8, 90), 2)
    in_peace = 45.0 if dice.sometimes(0.6) else 0.0
    lines: Lines = [(0.0, line) for line in silence]
    lines += [(off, f"power off {node}"), (said, f"confirm off {node}")]
    if dice.sometimes(0.3):
        lines.append((said + 15.0, f"confirm off {node}"))
    if dice.sometimes(0.3):
        lines.append((said + dice.seconds(0.1, 30), "confirm failure none"))
    if dice.sometimes(0.7):
        lines.append((said + in_peace + dice.seconds(0.1, 200), f"power on {node}"))
    mended = said + in_peace + dice.seconds(0.5, 300)
    return [*lines, *((mended, line) for line in mend)]


def _confirmed_wrongly(dice: Dice, about: config.Config) -> Lines:
    """A person says that a node is off which only is cut off, or hangs; or he names another failure, or
    another node that is lost."""
    node, other = dice.two()
    silence, mend = _silenced(about, node)
    others = " ".join(name for name in dice.names if name != node)
    cut = dice.seconds(0, 20)
    said = cut + round(dice.rng.uniform(4.0, 60.0), 2)
    how = dice.rng.choice([f"cut network {node}", f"partition {node} | {others}", f"hang node {node}"])
    word = dice.rng.choice(
        [
            *[f"confirm off {node}"] * 4,
            f"confirm off {other}",
            f"confirm failure {node}-{int(about.start_timestamp)}",
            f"confirm failure {other}-{int(about.start_timestamp)},{node}",
        ]
    )
    lines: Lines = [(0.0, line) for line in silence if dice.sometimes(0.9)]
    lines += [(cut, how), (said, word), (said + 15.0, word)]
    if dice.sometimes(0.5):
        lines.append((dice.seconds(0, cut + 20), f"cut operator {node}"))
    if dice.sometimes(0.3):
        lines.append((said + dice.seconds(0, 30), f"power off {node}"))
    mended, healed = said + dice.seconds(0, 100), said + dice.seconds(0, 200)
    lines += [(mended, line) for line in mend]
    return [*lines, (healed, f"heal {node}"), (healed, f"resume node {node}")]


def _confirmed_before(dice: Dice, about: config.Config) -> Lines:
    """A right word is left standing until the node is lost again, and then is only cut off."""
    node = dice.node()
    silence, mend = _silenced(about, node)
    back = round(dice.rng.uniform(20.0, 60.0), 2)
    again = back + round(dice.rng.uniform(60.0, 150.0), 2)
    lines: Lines = [(0.0, line) for line in silence]
    lines += [(1.0, f"power off {node}"), (round(dice.rng.uniform(8.0, 15.0), 2), f"confirm off {node}")]
    lines += [(back, f"power on {node}"), (again, f"cut network {node}")]
    healed = again + dice.seconds(20, 150)
    return [*lines, *((healed, line) for line in mend), (healed, f"heal {node}")]


def _chassis_lost(dice: Dice, about: config.Config) -> Lines:
    """One of two nodes in a chassis is lost, or both are, sooner or later."""
    twins = [node.name for node in about.nodes if node.chassis]
    dice.rng.shuffle(twins)
    lines: Lines = []
    at = 0.0
    for name in twins[: dice.rng.choice([1, 2, 2])]:
        how, back = dice.rng.choice(
            [("power off", "power on"), ("hang node", "resume node"), ("cut network", "heal")]
        )
        lines += [(at, f"{how} {name}"), (at + dice.seconds(40, 300), f"{back} {name}")]
        at += dice.seconds(0, 40)
    return lines


def _node_shell_replaced(dice: Dice, about: config.Config) -> Lines:
    """One node has another version of pveha-node for a while: an older one, or one of the next protocol."""
    node, how = dice.node(), dice.rng.choice(["downgrade", "upgrade"])
    return [
        (0.0, f"{how} node shell {node}"),
        (dice.seconds(5, 300), f"install node shell {node}"),
    ]


def _node_shells_upgraded(dice: Dice, about: config.Config) -> Lines:
    """All nodes have an older pveha-node, and get this one in turn, some by way of the next protocol's."""
    at = 0.0
    lines: Lines = [(0.0, f"downgrade node shell {name}") for name in dice.names]
    for name in dice.rng.sample(dice.names, len(dice.names)):
        at += dice.seconds(1, 150)
        if dice.sometimes(0.3):
            lines.append((at, f"upgrade node shell {name}"))
            at += dice.seconds(1, 60)
        lines.append((at, f"install node shell {name}"))
    return lines


def _proxmox_upgraded(dice: Dice, about: config.Config) -> Lines:
    """The nodes that still run the old version get the new one in turn, and boot it."""
    at = 0.0
    lines: Lines = []
    for node in [each.name for each in about.nodes if each.version == OLD_VERSION]:
        at += dice.seconds(60, 500)
        lines += [(at, f"set version {node} {NEW_VERSION}"), (at + 5.0, f"reboot {node}")]
    return lines


def _person_cycles(dice: Dice, about: config.Config) -> Lines:
    """Somebody presses the button of a node that may be off because it was fenced."""
    node = dice.node()
    return [(0.0, f"power on {node}")]


KINDS: dict[str, Kind] = {
    "power-loss": _power_loss,
    "power-blip": _power_blip,
    "mains": _mains,
    "double-failure": _double_failure,
    "power-button": _person_cycles,
    "network-cut": _for_a_while("cut network NODE", "heal NODE", 20, 300),
    "network-flap": _for_a_while("cut network NODE", "heal NODE", 1, 90),
    "link-cut": _link,
    "partition": _partition,
    "quorum-loss": _quorum_loss,
    "qdevice-cut": _qdevice_cut,
    "qdevice-gone": _qdevice_gone,
    "history-forked": _history_forked,
    "operator-path": _operator_path,
    "api-hang": _service(["pveproxy", "pvedaemon"], 2, 120, "hang", "stop"),
    "answers-lost": _for_a_while("lose answers NODE", "deliver answers NODE", 1, 90),
    "bmc-dead": _for_a_while("kill bmc NODE", "revive bmc NODE", 20, 400),
    "bmc-slow": _bmc_slow,
    "bmc-refuses": _for_a_while("bmc refuses NODE", "bmc accepts NODE", 20, 300),
    "bmc-lies": _for_a_while("bmc lies NODE", "bmc obeys NODE", 20, 300),
    "bmc-swapped": _bmc_swap,
    "bmc-dies-with-node": _bmc_dies_with_node,
    "bmc-busy": _bmc_busy,
    "outlet-stuck": _for_a_while("outlet stuck a NODE", "outlet free a NODE", 20, 300),
    "pdu-dead": _for_a_while("kill pdu a", "revive pdu a", 20, 300),
    "cables-swapped": _cables,
    "hang": _hang,
    "crm-stopped": _service(["pve-ha-crm"], 5, 200, "stop", "hang"),
    "lrm-stopped": _service(["pve-ha-lrm"], 5, 100, "stop", "hang"),
    "pmxcfs-stopped": _service(["pmxcfs"], 2, 60, "stop"),
    "corosync-stopped": _service(["corosync"], 2, 60, "stop"),
    "corosync-frozen": _for_a_while("freeze corosync NODE", "start corosync NODE", 2, 120),
    "statd-stopped": _service(["pvestatd"], 10, 300, "stop"),
    "node-shell-stopped": _service(["sshd"], 2, 120, "stop", "hang"),
    "storage-path": _storage,
    "operator-killed": _kill_operator,
    "operator-killed-at-effect": _trip_operator,
    "operator-frozen": _freeze_operator,
    "meddling-at-effect": _at_effect,
    "owner-at-effect": _owner_at_effect,
    "leader-stopped": _leader_stopped,
    "leader-stopped-sending": _leader_stopped_sending,
    "idle-target": _idle_target,
    "kubernetes-gone": _operator("cut kubernetes all", "heal kubernetes all", 5, 200),
    "kubernetes-cut": _operator("cut kubernetes OPERATOR", "heal kubernetes OPERATOR", 2, 120),
    "kubernetes-answers-lost": _operator(
        "lose kubernetes answers OPERATOR", "deliver kubernetes answers OPERATOR", 2, 60
    ),
    "watch-deaf": _operator("deafen watch OPERATOR", "deafen watch OPERATOR", 1, 60),
    "lease-lost": _lease,
    "status-lost": _lost_status,
    "user-migrates": _user_moves,
    "user-moves-config": _user_moves_config,
    "user-sets-state": _user_sets,
    "user-starts-or-stops": _user_starts_and_stops,
    "user-unprotects": _user_unprotects,
    "user-pauses": _user_pauses,
    "tags-edited": _tags_edited,
    "autoprotect-edited": _auto_protect_edited,
    "guest-crash": _guest_crash,
    "guest-locked": _lock,
    "planned": _planned,
    "disarm": _disarm,
    "votes-lowered": _votes,
    "migration-broken": _broken_migration,
    "drain": _drain,
    "drain-broken": _broken_drain,
    "pause-node": _pause,
    "migrations-fail": _for_a_while("migrations fail NODE", "migrations work NODE", 5, 200),
    "migration-halfway": _migration_halfway,
    "moved-then-lost": _moved_then_lost,
    "crm-slow": _slow_crm,
    "last-views": _last_views,
    "user-edits-our-rule": _user_edits_our_rule,
    "user-adds-a-rule": _user_adds_a_rule,
    "confirmed-off": _confirmed,
    "confirmed-wrongly": _confirmed_wrongly,
    "confirmed-before": _confirmed_before,
    "chassis-lost": _chassis_lost,
    "node-shell-replaced": _node_shell_replaced,
    "node-shells-upgraded": _node_shells_upgraded,
    "proxmox-upgraded": _proxmox_upgraded,
}
"""Every kind of fault by name."""
OF_QDEVICES = frozenset({"qdevice-cut", "qdevice-gone", "history-forked"})
"""Kinds that are drawn only where there is a QDevice."""
OF_WISHES = frozenset({"user-edits-our-rule", "user-adds-a-rule"})
"""Kinds that are drawn only where guests wish something."""
OF_WORDS = frozenset({"confirmed-off", "confirmed-wrongly", "confirmed-before"})
"""Kinds that are drawn, often, only where a person may confirm that a node is off."""
OF_SHELLS = frozenset({"node-shell-replaced", "node-shells-upgraded"})
"""Kinds that are drawn, often, only in the middle of an upgrade of pveha-node."""
OF_UPGRADES = frozenset({"proxmox-upgraded"})
"""The kind that begins a run in the middle of an upgrade of Proxmox VE."""
OF_CHASSIS = frozenset({"chassis-lost"})
"""The kind that is drawn, often, only where two nodes share a chassis."""
SPECIAL = OF_QDEVICES | OF_WISHES | OF_WORDS | OF_SHELLS | OF_UPGRADES | OF_CHASSIS
OFTEN = (
    "power-loss",
    "power-loss",
    "power-loss",
    "power-blip",
    "network-cut",
    "network-flap",
    "hang",
    "operator-killed-at-effect",
    "meddling-at-effect",
    "owner-at-effect",
    "leader-stopped",
    "power-button",
)
"""Kinds drawn more often than the rest: without a loss there is no failover to disturb."""
