"""What befalls guests on replicated local disks: syncs that fail, jobs that people change, and their word
that what a lost node holds newer may go."""

from pveha.sim import config
from pveha.sim.dice import Dice, Kind, Lines, for_a_while


def _guest(dice: Dice, about: config.Config) -> config.Guest:
    """One with replicas; another one where there is none, about which nothing comes of it."""
    return dice.rng.choice([guest for guest in about.guests if guest.replicas] or list(about.guests))


def _job(dice: Dice, about: config.Config) -> str:
    guest = _guest(dice, about)
    return f"{guest.vmid}-{dice.rng.randrange(max(1, len(guest.replicas)))}"


def _taken(dice: Dice, about: config.Config) -> Lines:
    """The node of a guest is lost and comes back, and somebody accepts what that costs, sooner or later."""
    guest = _guest(dice, about)
    how, back = dice.rng.choice(
        [("power off", "power on"), ("cut network", "heal"), ("hang node", "power on")]
    )
    lines: Lines = [(0.0, f"{how} {guest.node}"), (dice.seconds(20, 300), f"{back} {guest.node}")]
    if dice.sometimes(0.7):
        lines.append((dice.seconds(10, 400), f"accept data loss {guest.vmid}"))
    return lines


def _accepted(dice: Dice, about: config.Config) -> Lines:
    return [(0.0, f"accept data loss {_guest(dice, about).vmid}")]


def _removed(dice: Dice, about: config.Config) -> Lines:
    return [(0.0, f"remove replication {_job(dice, about)}")]


def _toggled(dice: Dice, about: config.Config) -> Lines:
    job = _job(dice, about)
    return [(0.0, f"disable replication {job}"), (dice.seconds(5, 300), f"enable replication {job}")]


KINDS: dict[str, Kind] = {
    "replica-taken": _taken,
    "loss-accepted": _accepted,
    "syncs-fail": for_a_while("syncs fail {}", "syncs work {}", 30, 400),
    "replication-removed": _removed,
    "replication-toggled": _toggled,
}
