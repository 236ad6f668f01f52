"""What people do to the cluster: maintenance, upgrades, settings, rules, and the word that a node is off."""

from pveha.sim import config
from pveha.sim.dice import Dice, Kind, Lines, for_a_while

AUTO_TAG = "auto"
"""Of guests that spec.autoProtect protects in random runs."""
OLD_VERSION, NEW_VERSION = "8.4.14", "9.2.11"
"""Of Proxmox VE, before and after an upgrade."""


def _silenced(about: config.Config, node: str) -> tuple[list[str], list[str]]:
    """What makes all devices of a node silent, and what mends them."""
    found = next(each for each in about.nodes if each.name == node)
    bmc = [node] if found.has_bmc else []
    return (
        [*(f"kill bmc {name}" for name in bmc), *(f"kill pdu {pdu}" for pdu in found.pdus)],
        [*(f"revive bmc {name}" for name in bmc), *(f"revive pdu {pdu}" for pdu in found.pdus)],
    )


def _person_cycles(dice: Dice, about: config.Config) -> Lines:
    """Somebody presses the button of a node that may be off because it was fenced."""
    node = dice.node()
    return [(0.0, f"power on {node}")]


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


def _unsafe_option(dice: Dice, about: config.Config) -> Lines:
    """Somebody sets an option of corosync.conf with which quorum does not exclude a second one."""
    option = dice.rng.choice(["two_node", "last_man_standing", "auto_tie_breaker", "allow_downscale"])
    return [(0.0, f"corosync {option} 1"), (dice.seconds(30, 300), f"corosync {option} 0")]


def _user_pauses(dice: Dice, about: config.Config) -> Lines:
    begin, end = dice.rng.choice([("pause", "unpause"), ("mode Observe", "mode Enforce")])
    return [(0.0, begin), (dice.seconds(5, 200), end)]


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


KINDS: dict[str, Kind] = {
    "power-button": _person_cycles,
    "planned": _planned,
    "drain": for_a_while("availability {} Drain", "availability {} Active", 5, 300),
    "pause-node": for_a_while("availability {} Pause", "availability {} Active", 20, 400),
    "disarm": _disarm,
    "votes-lowered": _votes,
    "votes-unsafe": _unsafe_option,
    "user-pauses": _user_pauses,
    "tags-edited": _tags_edited,
    "autoprotect-edited": _auto_protect_edited,
    "user-edits-our-rule": _user_edits_our_rule,
    "user-adds-a-rule": _user_adds_a_rule,
    "confirmed-off": _confirmed,
    "confirmed-wrongly": _confirmed_wrongly,
    "confirmed-before": _confirmed_before,
    "node-shell-replaced": _node_shell_replaced,
    "node-shells-upgraded": _node_shells_upgraded,
    "proxmox-upgraded": _proxmox_upgraded,
}
