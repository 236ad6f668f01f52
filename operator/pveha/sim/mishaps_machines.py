"""What befalls machines: power, networks, the QDevice, BMCs and outlets, storage, and the services of
Proxmox."""

from pveha.sim import config
from pveha.sim.dice import Dice, Kind, Lines, for_a_while, nobody, service


def _power_loss(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    lines: Lines = [(0.0, f"power off {node}")]
    if dice.sometimes(0.7):
        lines.append((dice.seconds(30, 600), f"power on {node}"))
    return lines


def _double_failure(dice: Dice, about: config.Config) -> Lines:
    one, other = dice.two()
    return [
        (0.0, f"power off {one}"),
        (dice.seconds(0.1, 60), f"power off {other}"),
        (dice.seconds(60, 300), f"power on {other}"),
    ]


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


def _qdevice_cut(dice: Dice, about: config.Config) -> Lines:
    """A node loses the QDevice, often about when something happens to a node."""
    node, other = dice.node(), dice.node()
    lines = [(0.0, f"cut qdevice {node}"), (dice.seconds(2, 200), f"heal qdevice {node}")]
    if dice.sometimes(0.4):
        how = dice.rng.choice(["power off", "cut network", "hang node"])
        lines.append((dice.seconds(0, 20), f"{how} {other}"))
        lines.append((dice.seconds(60, 200), f"heal {other}"))
    return lines


def _bmc_slow(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    return [
        (0.0, f"bmc slow {node} {dice.rng.choice(['0.5', '2', '4', '6'])}"),
        (dice.seconds(30, 300), f"bmc slow {node} 0"),
    ]


def _bmc_dies_with_node(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    return [(0.0, f"bmc dies with {node}"), (dice.seconds(0.1, 30), f"power off {node}")]


def _bmc_busy(dice: Dice, about: config.Config) -> Lines:
    node = dice.node()
    return [(0.0, f"hang node {node}"), (dice.seconds(0, 12), f"bmc busy {node} {dice.rng.randint(1, 20)}")]


def _cables(dice: Dice, about: config.Config) -> Lines:
    """Two cables change places after the drill, of machines with a single power supply: with two, nothing but
    a BMC would tell, and with none of both pveha cannot know (docs/fencing.md)."""
    one, other = dice.two()
    return [
        (0.0, f"swap outlets a {one} {other}"),
        (dice.seconds(20, 200), f"swap outlets a {one} {other}"),
    ]


def _clock(dice: Dice, about: config.Config) -> Lines:
    """A node's clock is wrong for a while, by seconds or by an hour."""
    node, wrong = dice.node(), dice.rng.choice([4, 25, 90, 3600]) * dice.rng.choice([1, -1])
    return [(0.0, f"set clock {node} {wrong}"), (dice.seconds(20, 400), f"set clock {node} 0")]


def _slow_api(dice: Dice, about: config.Config) -> Lines:
    """A node answers with what was true a while ago."""
    node, late = dice.node(), dice.rng.choice([0.2, 0.5, 0.9, 3.0])
    return [(0.0, f"slow api {node} {late}"), (dice.seconds(10, 200), f"slow api {node} 0")]


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


KINDS: dict[str, Kind] = {
    "power-loss": _power_loss,
    "power-blip": for_a_while("power off {}", "power on {}", 0.1, 40),
    "mains": for_a_while("mains lost", "mains back", 5, 120, nobody),
    "double-failure": _double_failure,
    "chassis-lost": _chassis_lost,
    "hang": for_a_while("hang node {}", "resume node {}", 2, 200),
    "network-cut": for_a_while("cut network {}", "heal {}", 20, 300),
    "network-flap": for_a_while("cut network {}", "heal {}", 1, 90),
    "link-cut": _link,
    "partition": _partition,
    "quorum-loss": _quorum_loss,
    "history-forked": _history_forked,
    "qdevice-cut": _qdevice_cut,
    "qdevice-gone": for_a_while("cut qdevice all", "heal qdevice all", 2, 300, nobody),
    "bmc-dead": for_a_while("kill bmc {}", "revive bmc {}", 20, 400),
    "bmc-slow": _bmc_slow,
    "bmc-refuses": for_a_while("bmc refuses {}", "bmc accepts {}", 20, 300),
    "bmc-lies": for_a_while("bmc lies {}", "bmc obeys {}", 20, 300),
    "bmc-swapped": for_a_while("swap bmcs {}", "swap bmcs {}", 20, 200, lambda dice: " ".join(dice.two())),
    "bmc-dies-with-node": _bmc_dies_with_node,
    "bmc-busy": _bmc_busy,
    "bmc-cycled": lambda dice, about: [(0.0, f"bmc cycle {dice.node()}")],
    "outlet-stuck": for_a_while("outlet stuck a {}", "outlet free a {}", 20, 300),
    "pdu-dead": for_a_while("kill pdu a", "revive pdu a", 20, 300),
    "cables-swapped": _cables,
    "storage-path": for_a_while("cut storage {} shared", "heal storage {} shared", 10, 200),
    "api-hang": service(["pveproxy", "pvedaemon"], 2, 120, "hang", "stop"),
    "api-slow": _slow_api,
    "answers-lost": for_a_while("lose answers {}", "deliver answers {}", 1, 90),
    "crm-stopped": service(["pve-ha-crm"], 5, 200, "stop", "hang"),
    "lrm-stopped": service(["pve-ha-lrm"], 5, 100, "stop", "hang"),
    "crm-slow": _slow_crm,
    "pmxcfs-stopped": service(["pmxcfs"], 2, 60, "stop"),
    "corosync-stopped": service(["corosync"], 2, 60, "stop"),
    "corosync-frozen": for_a_while("freeze corosync {}", "start corosync {}", 2, 120),
    "statd-stopped": service(["pvestatd"], 10, 300, "stop"),
    "node-shell-stopped": service(["sshd"], 2, 120, "stop", "hang"),
    "node-shell-halts": for_a_while("halt node shell {}", "install node shell {}", 5, 120),
    "clock-wrong": _clock,
}
