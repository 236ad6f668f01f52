"""What random faults have found, told again in as few lines as it takes (`pveha simulate --seeds` finds
more)."""

from pveha.sim import chaos, config, simulation
from simulation import crashes, stories

MENDED = 600.0


def story(*lines: tuple[float, str], **world: object) -> list[str]:
    """Violations of invariants when these lines are played against two replicas, three nodes and six
    guests."""
    guests = [config.managed(101 + number, f"pve{1 + number % 3}") for number in range(6)]
    about = config.three_nodes(guests, **world)
    protect = tuple(guest.vmid for guest in guests)
    calm = chaos.mended(about)
    plan = chaos.Plan(0, about, ("a", "b"), protect, (chaos.Fault("story", lines),), MENDED, calm)
    return [str(violation) for violation in simulation.play(plan).violations]


def test_power_returns_between_the_forced_off_and_its_effect() -> None:
    """Seed 214: the node is off again, and its guests were neither taken over nor given back for ten
    minutes."""
    assert (
        story(
            (60.0, "power off pve2"),
            (68.3, "power on pve2"),
            (500.0, "power on pve2"),
        )
        == []
    )


def test_the_owner_sets_a_state_before_the_crm_has_dropped_the_guest() -> None:
    """Story `owner-meddles`: the CRM kept a record on the dead node and died of it in every round."""
    for state in ("started", "stopped"):
        assert story((60.0, "power off pve2"), (69.5, f"set vm:102 {state}")) == []


def test_a_new_leader_finishes_while_the_dead_node_stays_off() -> None:
    """Seed 724: what runs at its new place needs no word from the dead node; what does not run needs its
    proof."""
    result = crashes.Crash("crm-master", effect=24, delay=0).play()
    assert not result.violations, stories.told(result)
