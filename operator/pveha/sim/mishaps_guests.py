"""What befalls guests: their owners, locks, crashes, and migrations that break off."""

from pveha.sim import config
from pveha.sim.dice import Dice, Kind, Lines, for_a_while


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


def _guest_crash(dice: Dice, about: config.Config) -> Lines:
    vmid = dice.guest()
    return [(0.0, f"crash guest {vmid} {name}") for name in dice.names]


def _lock(dice: Dice, about: config.Config) -> Lines:
    vmid = dice.guest()
    lock = dice.rng.choice(["backup", "snapshot", "suspending"])
    return [(0.0, f"lock guest {vmid} {lock}"), (dice.seconds(5, 200), f"unlock guest {vmid}")]


def _starts_fail(dice: Dice, about: config.Config) -> Lines:
    """Start tasks of one node fail, or of all, and some fail and yet act; often about when a node is lost."""
    how = dice.rng.choice(["starts fail", "starts fail though acting"])
    names = dice.names if dice.sometimes(0.3) else [dice.node()]
    lines = [(0.0, f"{how} {name}") for name in names]
    if dice.sometimes(0.6):
        lost = dice.node()
        lines += [(dice.seconds(0, 5), f"power off {lost}"), (dice.seconds(60, 300), f"power on {lost}")]
    end = dice.seconds(8, 120)
    return [*lines, *((end, f"starts work {name}") for name in names)]


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


KINDS: dict[str, Kind] = {
    "user-migrates": _user_moves,
    "user-moves-config": _user_moves_config,
    "user-sets-state": _user_sets,
    "user-starts-or-stops": _user_starts_and_stops,
    "user-unprotects": for_a_while("unprotect {}", "protect {}", 1, 200, Dice.guest),
    "guest-crash": _guest_crash,
    "guest-locked": _lock,
    "starts-fail": _starts_fail,
    "migration-broken": _broken_migration,
    "migration-halfway": _migration_halfway,
    "migrations-fail": for_a_while("migrations fail {}", "migrations work {}", 5, 200),
    "moved-then-lost": _moved_then_lost,
    "drain-broken": _broken_drain,
}
