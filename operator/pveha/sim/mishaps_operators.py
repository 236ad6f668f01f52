"""What befalls pveha itself and its Kubernetes, and what happens in the middle of what it does."""

from pveha.sim import config
from pveha.sim.dice import Dice, Kind, Lines, for_a_while, nobody


def _operator_path(dice: Dice, about: config.Config) -> Lines:
    node = "all" if dice.sometimes(0.2) else dice.node()
    path = dice.rng.choice(["", " api", " ssh", " bmc"])
    return [
        (0.0, f"cut operator {node}{path}"),
        (dice.seconds(1, 120), f"heal operator {node}{path}"),
    ]


def _trip_operator(dice: Dice, about: config.Config) -> Lines:
    name, node = dice.operator(), dice.node()
    effects, again = dice.rng.randint(1, 14), dice.rng.choice([0, 0, 5, 30, 90])
    return [
        (0.0, f"kill operator {name} after {effects} effects restart after {again}"),
        (dice.seconds(0, 5), f"power off {node}"),
    ]


def _freeze_operator(dice: Dice, about: config.Config) -> Lines:
    return [(0.0, f"freeze operator {dice.operator()} {dice.seconds(0.2, 40)}")]


MENDED = ("heal", "start sshd", "starts work", "deliver answers", "start pve-ha-lrm", "start pve-ha-crm")


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
            "disarm ignore",
            "disarm freeze",
            "recreate cluster",
            f"start guest {dice.guest()}",
            f"migrate guest {dice.guest()} {dice.node()}",
            f"stop pve-ha-crm {dice.node()}",
            f"starts fail {dice.node()}",
            f"starts fail though acting {dice.node()}",
        ]
    )
    how = dice.rng.choice(["power off", "cut network", "hang node"])
    mended = dice.seconds(60, 200)
    return [
        (0.0, f"after {dice.rng.randint(1, 12)} effects and {dice.seconds(0.0, 0.3)} s {line}"),
        (dice.seconds(0, 3), f"{how} {node}"),
        (mended, "arm"),
        *((mended, f"{mend} {name}") for name in dice.names for mend in MENDED),
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


def _lease(dice: Dice, about: config.Config) -> Lines:
    return [(0.0, dice.rng.choice(["take lease", "delete lease"]))]


def _another_owner(dice: Dice, about: config.Config) -> Lines:
    """The pveha of another Kubernetes cluster takes the Proxmox cluster over, and ours takes it back; often
    about when a node is lost."""
    lines: Lines = [(0.0, "another owner begins"), (dice.seconds(5, 200), "take over another")]
    if dice.sometimes(0.5):
        node = dice.node()
        lines += [(dice.seconds(0, 15), f"power off {node}"), (dice.seconds(60, 300), f"power on {node}")]
    return lines


KINDS: dict[str, Kind] = {
    "operator-path": _operator_path,
    "operator-killed": for_a_while("kill operator {}", "start operator {}", 0, 90, Dice.operator),
    "operator-killed-at-effect": _trip_operator,
    "operator-frozen": _freeze_operator,
    "meddling-at-effect": _at_effect,
    "owner-at-effect": _owner_at_effect,
    "leader-stopped": _leader_stopped,
    "leader-stopped-sending": _leader_stopped_sending,
    "idle-target": _idle_target,
    "last-views": _last_views,
    "kubernetes-gone": for_a_while("cut kubernetes all", "heal kubernetes all", 5, 200, nobody),
    "kubernetes-cut": for_a_while("cut kubernetes {}", "heal kubernetes {}", 2, 120, Dice.operator),
    "kubernetes-answers-lost": for_a_while(
        "lose kubernetes answers {}", "deliver kubernetes answers {}", 2, 60, Dice.operator
    ),
    "watch-deaf": for_a_while("deafen watch {}", "deafen watch {}", 1, 60, Dice.operator),
    "lease-lost": _lease,
    "another-owner": _another_owner,
    "status-lost": lambda dice, about: [(0.0, "lose status")],
    "cluster-recreated": lambda dice, about: [(0.0, "recreate cluster")],
}
