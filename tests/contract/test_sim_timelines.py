"""The simulated cluster beside a real one: when what happens after a failure.

The bounds restate measurements on a three-node Proxmox VE 9.2 cluster with default corosync. Each story runs
at several seeds, that is at several phases of the rounds of CRM and LRM.
"""

import asyncio
import dataclasses

import pytest

import sim_worlds
from pveha.model import cluster
from pveha.sim import config, guestfile, world
from sim_worlds import IGNORED, when

SEEDS = range(8)
CUT = 20.0


@pytest.mark.parametrize("seed", SEEDS)
def test_node_killed_while_another_is_master(seed: int) -> None:
    built = sim_worlds.build(sim_worlds.guests_on("pve2", 100, 102), master="pve1", seed=seed)
    ran = sim_worlds.after(built, CUT + 170, (CUT, "power off pve2"))
    assert when(ran, "membership pve1 pve3", since=CUT) - CUT == pytest.approx(6.6, abs=0.3)
    assert 6.3 <= when(ran, "node pve2: online => unknown") - CUT <= 17
    assert 50 <= when(ran, "vm:100: started => fence") - CUT <= 67
    assert 126 <= when(ran, "acknowledged - got agent lock") - CUT <= 137
    for vmid in (100, 102):
        assert 127 <= when(ran, f"qemu/{vmid}: runs on", since=CUT) - CUT <= 145
        assert ran.state_of_guests()[vmid]["node"] != "pve2"
    assert ran.double_runs == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_node_killed_that_was_master(seed: int) -> None:
    built = sim_worlds.build(sim_worlds.guests_on("pve1", 100, 102), master="pve1", seed=seed)
    ran = sim_worlds.after(built, CUT + 220, (CUT, "power off pve1"))
    new_master = when(ran, ": master", since=CUT)
    assert 109 <= new_master - CUT <= 131
    fenced, recovered = when(ran, "started => fence"), when(ran, "fence => recovery")
    assert fenced == recovered, "the fence delay starts anew, the agent lock has expired by then: one round"
    assert fenced - new_master == pytest.approx(60, abs=10.5)
    for vmid in (100, 102):
        assert 170 <= when(ran, f"qemu/{vmid}: runs on", since=CUT) - CUT <= 200
    assert ran.double_runs == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_isolated_node_with_an_active_lrm_resets_itself_before_its_guests_are_recovered(seed: int) -> None:
    built = sim_worlds.build(sim_worlds.guests_on("pve2", 100, 102), master="pve1", seed=seed)
    ran = sim_worlds.after(built, CUT + 200, (CUT, "cut network pve2"))
    assert 60 <= when(ran, "reset by its watchdog") - CUT <= 70
    assert when(ran, "qemu/100: runs on pve", since=CUT) > when(ran, "reset by its watchdog")
    assert ran.state_of_guests()[100]["node"] != "pve2"
    assert ran.double_runs == 0


def test_isolated_node_with_an_idle_lrm_lives_on_and_keeps_its_guests() -> None:
    built = sim_worlds.build([config.Guest(101, "pve2"), *sim_worlds.guests_on("pve1", 100)], master="pve1")
    ran = sim_worlds.after(built, CUT + 300, (CUT, "cut network pve2"))
    assert ran.first("reset by its watchdog") is None
    assert ran.state_of_guests()[101] == {"node": "pve2", "state": "running"}
    assert ran.downtime(101, CUT) == 0


def test_master_that_loses_quorum_does_not_reset_itself() -> None:
    built = sim_worlds.build(sim_worlds.guests_on("pve3", 100), master="pve1")
    ran = sim_worlds.after(built, CUT + 300, (CUT, "cut network pve1"))
    assert 6 <= when(ran, "crm pve1: no longer master") - CUT <= 17
    assert ran.first("reset by its watchdog") is None
    assert 109 <= when(ran, ": master", since=CUT) - CUT <= 131


def test_a_flap_shorter_than_the_token_loss_changes_nothing() -> None:
    built = sim_worlds.build(sim_worlds.guests_on("pve2", 100), master="pve1")
    ran = sim_worlds.after(built, 200, (CUT, "cut network pve2"), (CUT + 5, "heal pve2"))
    assert ran.lines("corosync: membership") == []
    assert ran.lines("crm ") == []


def test_a_flap_of_half_a_minute_is_survived_without_a_reset() -> None:
    built = sim_worlds.build(sim_worlds.guests_on("pve2", 100), master="pve1")
    ran = sim_worlds.after(built, 300, (CUT, "cut network pve2"), (CUT + 30, "heal pve2"))
    assert ran.first("reset by its watchdog") is None
    assert ran.downtime(100, CUT) == 0
    assert 3 <= when(ran, "unknown => online") - CUT - 30 <= 19


def test_rejoin_after_quorum_was_lost() -> None:
    """Links return: quorum after 5 s, then a manager and the guest's LRM as soon as old locks allow it."""
    built = sim_worlds.build(sim_worlds.guests_on("pve3", 100), master="pve1")
    lines = [(CUT, "power off pve2"), (CUT + 40, "cut network pve3"), (CUT + 60, "heal pve3")]
    ran = sim_worlds.after(built, 200, *lines)
    back = CUT + 60
    assert when(ran, "membership pve1 pve3 (quorate)", since=back) - back == pytest.approx(5, abs=0.5)
    assert 5 <= when(ran, "lrm pve3: active", since=back) - back <= 13
    assert 5 <= when(ran, "crm pve1: master", since=back) - back <= 19
    assert ran.downtime(100, CUT) == 0


@pytest.mark.parametrize("how", ["reboot", "shutdown"])
def test_planned_departure_is_not_fenced_where_the_policy_freezes(how: str) -> None:
    built = sim_worlds.build([*sim_worlds.guests_on("pve2", 100), config.Guest(101, "pve2")], master="pve1")
    ran = sim_worlds.after(built, 400, (CUT, f"{how} pve2"))
    if how == "reboot":
        assert when(ran, "vm:100: started => freeze") < when(ran, "reboot: powered down")
        assert ran.lines("=> fence") == []
        assert ran.state_of_guests()[100] == {"node": "pve2", "state": "running"}
    else:
        gone = when(ran, "shutdown: powered down")
        assert 45 <= when(ran, "acknowledged - got agent lock") - gone <= 75, "its lock was given back"
        assert ran.state_of_guests()[100]["node"] != "pve2"
        assert ran.state_of_guests()[101] == {"node": "pve2", "state": "stopped"}
    assert ran.double_runs == 0


@pytest.mark.parametrize("policy", ["failover", "migrate", "freeze"])
def test_reboot_by_shutdown_policy(policy: str) -> None:
    built = sim_worlds.build(sim_worlds.guests_on("pve2", 100), master="pve1", shutdown_policy=policy)
    ran = sim_worlds.after(built, 500, (CUT, "reboot pve2"))
    departed = when(ran, "reboot: powered down")
    if policy == "migrate":
        assert when(ran, "vm:100: started => migrate") < departed
        assert ran.downtime(100, CUT) < 2
    elif policy == "freeze":
        assert when(ran, "vm:100: started => freeze") < departed
        assert when(ran, "qemu/100: process on pve2 shut down with its node") <= departed
    else:
        assert when(ran, "qemu/100: process on pve2 stopped") < departed
    assert ran.lines("reset by its watchdog") == []
    assert ran.state_of_guests()[100]["state"] == "running"
    assert ran.double_runs == 0


def test_stopped_lrm_frees_its_lock_and_freezes_its_guests_and_a_hung_one_is_reset() -> None:
    guests = [*sim_worlds.guests_on("pve2", 100), *sim_worlds.guests_on("pve3", 103)]
    lines = [
        (CUT, "stop pve-ha-lrm pve2"),
        (CUT, "hang pve-ha-lrm pve3"),
        (CUT + 200, "start pve-ha-lrm pve2"),
    ]
    ran = sim_worlds.after(sim_worlds.build(guests, master="pve1"), CUT + 260, *lines)
    assert when(ran, "vm:100: started => freeze") - CUT <= 11
    assert when(ran, "vm:100: freeze => started", since=CUT + 200)
    assert ran.downtime(100, CUT) == 0
    assert 60 <= when(ran, "pve3: reset by its watchdog") - CUT <= 70
    assert ran.double_runs == 0


def test_cold_boot_of_everything() -> None:
    """Old locks must expire: no manager flush and no active LRM for about two minutes."""
    built = sim_worlds.build(sim_worlds.guests_on("pve2", 100), master="pve1")
    lines = [(CUT, "mains lost"), *((CUT + 10, f"power on pve{n}") for n in (1, 2, 3))]
    ran = sim_worlds.after(built, 300, *lines)
    booted = when(ran, "booted")
    assert when(ran, "(quorate)", since=booted) - booted <= 9
    assert 110 <= when(ran, ": master", since=booted) - booted <= 135
    assert 110 <= when(ran, "qemu/100: runs on pve2", since=booted) - booted <= 140


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("master", ["pve2", "pve1"])
def test_fast_takeover_by_hand(master: str, seed: int) -> None:
    """Disown, rename, start, adopt beside native HA; pve2 dies, being CRM master (run A) or not (run B)."""
    built = sim_worlds.build(sim_worlds.guests_on("pve2", 100, 102), master=master, seed=seed)

    async def by_hand(running: world.World) -> None:
        await asyncio.sleep(CUT)
        running.power_off("pve2")
        await sim_worlds.until(running, lambda: not running.membership.sees("pve3", "pve2"), 8)
        for vmid in (100, 102):
            async with running.config_write("pve3") as tree:
                tree.resources[f"vm:{vmid}"] = dataclasses.replace(
                    tree.resources[f"vm:{vmid}"], state=IGNORED
                )
            running.move_config(vmid, "pve3", by="pve3")
            running.guests.start("pve3", running.ref(vmid))
        tree = running.fs.tree("pve3")
        dropped = await sim_worlds.until(running, lambda: not tree.manager.services, 140)
        assert (100 <= dropped - CUT <= 131) if master == "pve2" else (dropped - CUT <= 17)
        for vmid in (100, 102):
            running.set_ha_state(f"vm:{vmid}", "started")
        adopted = await sim_worlds.until(running, lambda: len(tree.manager.services) == 2, 21)
        assert adopted - dropped <= 20
        await asyncio.sleep(200)

    ran = sim_worlds.play(built, by_hand)
    for vmid in (100, 102):
        assert when(ran, f"qemu/{vmid}: runs on pve3", since=CUT) - CUT <= 9.5
        assert ran.state_of_guests()[vmid] == {"node": "pve3", "state": "running"}
        assert [interval.node for interval in ran.uptime(vmid)] == ["pve2", "pve3"]
    assert ran.double_runs == 0


def test_a_stale_record_stops_ha_for_the_whole_cluster() -> None:
    """S8: moved by hand without disowning, recovery of that service dies, and with it every round."""
    built = sim_worlds.build(
        [*sim_worlds.guests_on("pve2", 100), *sim_worlds.guests_on("pve3", 103)], master="pve1"
    )

    async def careless(running: world.World) -> None:
        await asyncio.sleep(CUT)
        running.power_off("pve2")
        await asyncio.sleep(30)
        running.move_config(100, "pve3", by="pve3")
        await asyncio.sleep(200)
        before = running.fs.tree("pve1").manager.timestamp
        await asyncio.sleep(100)
        assert running.fs.tree("pve1").manager.timestamp == before

    ran = sim_worlds.play(built, careless)
    assert when(ran, "unable to steal config")


def test_recovery_clears_the_locks_that_manager_pm_clears() -> None:
    built = sim_worlds.build(sim_worlds.guests_on("pve2", 100, 102), master="pve1")
    lines = [(CUT - 2, "lock guest 100 backup"), (CUT - 1, "lock guest 102 import"), (CUT, "power off pve2")]
    ran = sim_worlds.after(built, 250, *lines)
    assert ran.state_of_guests()[100]["state"] == "running"
    assert ran.state_of_guests()[102]["state"] == "stopped"
    assert ran.guest_file(102).lock == "import"


def test_status_of_a_dead_nodes_guest_is_stale_then_unknown() -> None:
    built = sim_worlds.build([config.Guest(101, "pve2")])
    seen: dict[float, str] = {}

    async def watch(running: world.World) -> None:
        await asyncio.sleep(CUT)
        running.power_off("pve2")
        for at in (1, 100, 280, 330):
            await asyncio.sleep(CUT + at - running.now())
            seen[at] = running.reported_status("pve1", running.fs.tree("pve1").guests[101])

    sim_worlds.play(built, watch)
    assert seen == {1: "running", 100: "running", 280: "running", 330: "unknown"}


def test_status_right_after_a_rename_is_the_old_nodes_word() -> None:
    built = sim_worlds.build([config.Guest(101, "pve2")])

    async def move(running: world.World) -> None:
        await asyncio.sleep(CUT)
        running.power_off("pve2")
        await asyncio.sleep(10)
        running.move_config(101, "pve3", by="pve3")
        file = running.fs.tree("pve1").guests[101]
        assert running.reported_status("pve1", file) == "running"
        await asyncio.sleep(11)
        assert running.reported_status("pve1", file) == "stopped"

    sim_worlds.play(built, move)


def test_failback_by_node_affinity_moves_the_guest_home_unless_told_not_to() -> None:
    rule = cluster.HARule(
        "home", "node-affinity", frozenset({"vm:100", "vm:102"}), {"pve2": 2, "pve1": 1, "pve3": 1}
    )
    stay = config.managed(102, "pve2")
    assert stay.ha is not None
    stay = dataclasses.replace(stay, ha=dataclasses.replace(stay.ha, failback=False))
    built = sim_worlds.build([*sim_worlds.guests_on("pve2", 100), stay], master="pve1", rules=(rule,))
    ran = sim_worlds.after(built, 600, (CUT, "power off pve2"), (200, "power on pve2"))
    assert ran.state_of_guests()[100] == {"node": "pve2", "state": "running"}
    assert ran.state_of_guests()[102]["node"] != "pve2"
    assert 5 <= when(ran, "vm:100: started => migrate") - when(ran, "pve2: booted") <= 30
    assert ran.double_runs == 0


def test_maintenance_empties_a_node_and_brings_its_guests_back() -> None:
    built = sim_worlds.build(sim_worlds.guests_on("pve2", 100), master="pve1")
    ran = sim_worlds.after(built, 200, (CUT, "maintenance on pve2"), (CUT + 63, "maintenance off pve2"))
    assert 5 <= when(ran, "vm:100: started => migrate") - CUT <= 35
    assert [interval.node for interval in ran.uptime(100)][-1] == "pve2"
    assert len(ran.uptime(100)) == 3
    assert ran.double_runs == 0


def test_disarmed_ha_recovers_nothing() -> None:
    built = sim_worlds.build(sim_worlds.guests_on("pve2", 100), master="pve1")
    lines = [
        (CUT, "disarm freeze"),
        (CUT + 60, "power off pve2"),
        (CUT + 300, "power on pve2"),
        (CUT + 400, "arm"),
    ]
    ran = sim_worlds.after(built, CUT + 460, *lines)
    assert ran.lines("=> fence") == []
    assert when(ran, "ha: disarmed") - CUT <= 30
    assert ran.state_of_guests()[100] == {"node": "pve2", "state": "running"}
    assert ran.double_runs == 0


def test_start_that_fails_is_retried_then_relocated_then_an_error() -> None:
    guest = dataclasses.replace(config.managed(100, "pve2"), storages=("here",))
    storages = (config.Storage("here", nodes=("pve2",)), config.Storage("shared"))
    built = sim_worlds.build([guest], master="pve1", storages=storages)
    ran = sim_worlds.after(built, 300, (CUT, "cut storage pve2 here"), (CUT + 1, "crash guest 100 pve2"))
    assert len(ran.lines("qmstart 100: failed on pve2", "is not online")) == 4, "max_restart 1, twice"
    assert len(ran.lines("vm:100: started => relocate")) == 1, "max_relocate 1"
    assert ran.fs.tree("pve1").manager.services["vm:100"].state == "error"
    assert ran.double_runs == 0


def test_two_writers_are_noticed() -> None:
    """The check of the checker: a configuration pulled away from a live guest, and a second copy started."""
    built = sim_worlds.build([config.Guest(101, "pve2")])

    async def careless(running: world.World) -> None:
        await asyncio.sleep(CUT)
        running.cut_network("pve2")
        await asyncio.sleep(10)
        running.move_config(101, "pve3", by="pve3")
        running.guests.start("pve3", running.ref(101))
        await asyncio.sleep(10)

    ran = sim_worlds.play(built, careless)
    assert ran.double_runs == 1
    [found] = ran.storage.double_run_log
    assert (found.vmid, found.nodes) == (101, ("pve2", "pve3"))
    assert guestfile.value(ran.guest_file(101).text, "name") == "vm101"
