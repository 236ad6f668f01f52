"""What the doctor finds and the operator sees as well: the condition Sound, and its neighbours."""

import dataclasses

import pytest

from decide_scene import WALL, Scene, condition
from pveha.decide import report_sound, rounds
from pveha.model import cluster, node, snapshot

VOTES = node.Votes({"pve1": 1, "pve2": 1, "pve3": 1}, 0, 3, 3, frozenset())


def told(scene: Scene, type_: str = "Sound") -> tuple[str, str, str]:
    """Status, reason and message."""
    found = scene.step(1.0).report.cluster
    return (*condition(found, type_), next(each.message for each in found.conditions if each.type == type_))


def test_nothing_is_found_where_all_is_well() -> None:
    assert told(Scene().settle())[:2] == ("True", "OK")


def test_it_does_not_make_a_cluster_unready() -> None:
    scene = Scene().settle()
    scene.nodes["pve2"].timer = None
    status = scene.step(1.0).report.cluster
    assert condition(status, "Sound") == ("False", "TimerSilent")
    assert condition(status, "Ready") == ("True", "OK")
    assert condition(status, "Acting") == ("True", "OK")


@pytest.mark.parametrize(
    ("timer", "words"),
    [
        (node.Timer(False, None), "pve2 has no timer"),
        (node.Timer(True, None), "the timer of pve2 does not look"),
        (node.Timer(True, 200.0), "the timer of pve2 does not look"),
        (None, "pveha-node on pve2 does not tell of its timer"),
    ],
)
def test_a_timer_that_does_not_look(timer: node.Timer | None, words: str) -> None:
    scene = Scene().settle()
    scene.nodes["pve2"].timer = timer
    status, reason, message = told(scene)
    assert (status, reason) == ("False", "TimerSilent")
    assert message.startswith(words)


def test_a_timer_may_be_late_without_ha_resources_and_right_after_boot() -> None:
    scene = Scene().settle()
    scene.nodes["pve2"].timer = node.Timer(True, None)
    scene.resources.clear()
    assert told(scene)[0] == "True"
    scene = Scene()
    scene.nodes["pve2"].timer = node.Timer(True, None)
    scene.nodes["pve2"].booted_at = scene.now - 30
    assert told(scene.settle())[0] == "True"


@pytest.mark.parametrize(
    ("votes", "lost"),
    [
        (node.Votes({"pve1": 3, "pve2": 1, "pve3": 1}, 0, 5, 5, frozenset()), "pve1"),
        (node.Votes({"pve1": 1, "pve2": 1}, 0, 2, 2, frozenset()), "pve1 or pve2"),
    ],
)
def test_the_loss_of_one_node_would_cost_quorum(votes: node.Votes, lost: str) -> None:
    scene = Scene()
    for each in scene.nodes.values():
        each.votes = votes
    status, reason, message = told(scene.settle())
    assert (status, reason) == ("False", "QuorumFragile")
    assert message == (
        f"without {lost} the rest has no quorum: add a node or a QDevice ('pvecm qdevice setup')"
    )


def test_two_nodes_and_a_qdevice_may_lose_one() -> None:
    assert node.Votes({"pve1": 1, "pve2": 1}, 1, 3, 3, frozenset()).indispensable == ()


def test_a_clock_that_is_off() -> None:
    scene = Scene().settle()
    scene.nodes["pve3"].clock = -12.0
    assert told(scene) == ("False", "ClockSkewed", "the clock of pve3 is more than 5 s behind")
    scene.nodes["pve3"].clock = 45.0
    assert told(scene)[2] == "the clock of pve3 is more than 30 s ahead"
    scene.nodes["pve3"].clock = 3.0
    assert told(scene)[0] == "True"


def test_our_own_clock_is_off() -> None:
    scene = Scene().settle()
    for each in scene.nodes.values():
        each.clock = 20.0
    assert told(scene) == (
        "False", "ClockSkewed", "the nodes' clocks are more than 5 s off from that of pveha"
    )  # fmt: skip


def test_a_record_that_stays_elsewhere() -> None:
    scene = Scene().settle()
    scene.services["vm:101"] = cluster.ServiceStatus("started", "pve2")
    assert told(scene)[0] == "True"
    scene.step(report_sound.STALE_RECORD_SECONDS)
    status, reason, message = told(scene)
    assert (status, reason) == ("False", "RecordStale")
    assert message == "the CRM has vm:101 on pve2, its configuration is on pve1"
    scene.services["vm:101"] = cluster.ServiceStatus("migrate", "pve2")
    assert told(scene)[0] == "True"


def test_a_storage_that_is_offline_where_it_is_configured() -> None:
    scene = Scene().settle()
    scene.storages_offline = {("pve2", "shared"), ("pve3", "shared"), ("pve1", "local")}
    status, reason, message = told(scene)
    assert (status, reason) == ("False", "StorageOffline")
    assert message == "storage shared is offline on pve2, pve3: no protected guest of it can go there"
    for vmid in scene.configs:
        scene.set_config(vmid, storages=frozenset())
    assert told(scene)[0] == "True"


def test_a_certificate_that_expires_soon() -> None:
    scene = Scene().settle()
    scene.certificates = {"pve1:8006": WALL + 86400 * 15, "pve2:8006": WALL + 86400 * 9}
    status, reason, message = told(scene)
    assert (status, reason) == ("False", "CertificateExpiring")
    assert message.startswith("the certificate at pve2:8006 expires on 2026-11-27: 'pvecm updatecerts")
    scene.spec["tls"] = {"fingerprints": ["AB" + ":AB" * 31]}
    assert "add the new fingerprint to spec.tls.fingerprints" in told(scene)[2]


def test_everything_is_told_under_the_gravest_reason() -> None:
    scene = Scene().settle()
    scene.certificates = {"pve2:8006": WALL}
    scene.nodes["pve2"].timer = None
    status, reason, message = told(scene)
    assert (status, reason) == ("False", "TimerSilent")
    assert [each.split()[0] for each in message.split("; ")] == ["pveha-node", "the"]


def test_what_was_not_seen_is_not_called_sound() -> None:
    scene = Scene().settle()
    scene.certificates = None
    assert told(scene)[:2] == ("Unknown", "Unknown")
    scene = Scene()
    for each in scene.nodes.values():
        each.shell = False
    assert told(scene)[:2] == ("Unknown", "Unknown")


def test_without_node_shell_it_says_what_nobody_looks_at() -> None:
    scene = Scene({"recovery": {"engine": "Native"}})
    for each in scene.nodes.values():
        each.shell = False
    scene.step(6)
    status, reason, message = told(scene)
    assert (status, reason) == ("True", "OK")
    assert "without node shell nobody looks at votes, timers, clocks and storages" in message


def test_how_soon_corosync_notices_is_told_where_fast_is() -> None:
    scene = Scene().settle()
    for each in scene.nodes.values():
        each.totem = node.Totem(10000, 125, 0)
    assert told(scene, "FastReady")[2].endswith(
        "corosync notices the loss of a node after 22.0 s, and no takeover begins earlier"
    )


@pytest.mark.parametrize("bmc", [True, False])
def test_a_node_that_shows_another_certificate(bmc: bool) -> None:
    """With power to be read it is a broken path after 30 s; without, the node stays Suspect."""
    scene = Scene().settle()
    scene.set_answers("pve2", False)
    if not bmc:
        scene.nodes["pve2"].bmc = None

    def distrust() -> snapshot.Snapshot:
        seen = Scene.snapshot(scene)
        probe = dataclasses.replace(seen.probes["pve2"], kind="Untrusted", problem="GET /cluster/status: no")
        return dataclasses.replace(seen, probes={**seen.probes, "pve2": probe})

    scene.snapshot = distrust  # type: ignore[method-assign]
    scene.step(35.0)
    assert told(scene, "Degraded") == ("True", "NodeUntrusted", "pve2: GET /cluster/status: no")


def test_a_member_that_the_crm_holds_for_lost_without_a_service_to_fence_is_told() -> None:
    scene = Scene().settle()
    scene.step(200)
    scene.node_status = {"pve2": "fence"}
    assert condition(scene.step(1).report.cluster, "HAHealthy") == ("False", "NodeStuckInFence")
    scene.services["vm:102"] = dataclasses.replace(scene.services["vm:102"], state="fence")
    assert condition(scene.step(1).report.cluster, "HAHealthy")[1] != "NodeStuckInFence"


def test_a_token_that_may_not_ask_agents_is_told_where_somebody_would_wait_for_one() -> None:
    scene = Scene().settle()
    scene.set_config(101, agent=True)
    all_but = frozenset({"VM.Audit", "VM.PowerMgmt"})
    lacking = cluster.Privileges(frozenset({"Sys.Console"}), all_but, frozenset(), {"": "9.2"})
    with_it = dataclasses.replace(lacking, vms=all_but | {"VM.GuestAgent.Audit"})

    def sound(held: cluster.Privileges) -> tuple[bool | None, str, str]:
        now = rounds.understand(
            dataclasses.replace(scene.snapshot(), privileges=held), scene.specs(), scene.memory
        )
        status, reason, message = report_sound.sound(now)
        return status, str(reason), message

    assert sound(lacking)[:2] == (True, "OK")
    scene.protected[102]["dependsOn"] = [{"name": "vm101"}]
    status, reason, message = sound(lacking)
    assert (status, reason) == (False, "AgentForbidden")
    assert "VM.GuestAgent.Audit on /vms" in message
    assert "vm102 would wait" in message
    assert sound(with_it)[:2] == (True, "OK")
    scene.set_config(101, agent=False)
    assert sound(lacking)[:2] == (True, "OK")
