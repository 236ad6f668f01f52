"""What keeps pveha from acting."""

import dataclasses

from decide_scene import Scene, condition, edits, kinds
from pveha import api
from pveha.decide import evidence, guards
from pveha.model import cluster, operations, snapshot
from pveha.sim import config, rig


def spec(nodes: int) -> api.HACluster:
    about = config.Config(tuple(config.Node(f"pve{number + 1}") for number in range(nodes)))
    parsed = api.parse(rig.hacluster(about, {}))
    assert isinstance(parsed, api.HACluster)
    return parsed


def test_a_node_in_doubt_counts_towards_the_blast_radius() -> None:
    states = [evidence.State.DOWN, evidence.State.UNCONFIRMED, *[evidence.State.ONLINE] * 3]
    verdicts = {f"pve{n + 1}": evidence.Verdict(f"pve{n + 1}", state, "") for n, state in enumerate(states)}
    assert guards.blast_radius(spec(5).spec, {**verdicts, "pve2": verdicts["pve3"]}) == ""
    assert "pve1, pve2" in guards.blast_radius(spec(5).spec, verdicts)


def acting(scene: Scene) -> str:
    """What the condition says."""
    found = next(each for each in scene.decide().report.cluster.conditions if each.type == "Acting")
    return f"{found.reason}: {found.message}"


def test_any_reason_to_pause_pauses_and_each_is_told() -> None:
    scene = Scene({"pauseRequests": ["network-works", "storage-works"]}).settle()
    scene.lose("pve2")
    scene.step(5)
    assert acting(scene) == "Paused: paused by network-works, storage-works (spec.pauseRequests)"
    scene.spec["pauseRequests"] = ["storage-works"]
    assert scene.step(5).start == ()
    assert acting(scene) == "Paused: paused by storage-works (spec.pauseRequests)"
    scene.spec["pauseRequests"] = []
    assert kinds(scene.step(0.5)) == ["Fence"]


def test_what_was_begun_is_finished_in_a_pause() -> None:
    scene = Scene().settle()
    scene.lose("pve2")
    scene.step(0.5)
    scene.step(0.5)
    scene.prove("pve2")
    taken = next(each for each in scene.step(0.5).start if isinstance(each, operations.Takeover))
    scene.spec["pauseRequests"] = ["works"]
    scene.move(102, taken.target)
    mark = f"[pveha op={taken.id} epoch={taken.epoch} was=started]"
    scene.set_resource("vm:102", state=cluster.HAState.IGNORED, comment=mark)
    assert scene.step(0.5).cancel == ()
    scene.end(operations.Takeover, guests=(operations.GuestResult(scene.guests[102].ref, "Running"),))
    scene.drop_at_flush = {"vm:102"}
    found: dict[str, operations.Edit] = {}
    for _ in range(80):
        found |= edits(scene.step(0.5))
    desired = found["vm:102"].desired
    assert desired is not None
    assert desired.state is cluster.HAState.STARTED
    assert condition(scene.decide().report.cluster, "Acting")[1] == "Paused"


def test_a_first_view_is_looked_at_for_some_seconds_before_anything_is_done() -> None:
    """The operator starts, with a Lease, an epoch at once and a node that is gone."""
    scene = Scene().settle()
    scene.lose("pve2")
    scene.restart()
    scene.step(0.5)
    scene.end(operations.Begin, epoch=2)
    while scene.now - scene.started_at < guards.SETTLE_SECONDS - 0.5:
        assert scene.step(0.4).start == ()
        assert acting(scene).startswith("Starting: ")
    assert [kind for _ in range(2) for kind in kinds(scene.step(0.5))] == ["Fence"]


def test_what_an_earlier_leader_left_open_delays_further() -> None:
    """Its requests may still land (S15): what is acted on was read after them."""
    scene = Scene().settle()
    comment = "[pveha op=t1.0 epoch=1 was=started]"
    scene.set_resource("vm:103", state=cluster.HAState.IGNORED, comment=comment)
    scene.lose("pve2")
    scene.restart()
    scene.step(4.0)
    scene.end(operations.Begin, epoch=2)
    scene.step(0.1)
    assert all(scene.step(0.5).start == () for _ in range(int(guards.INHERITED_WAIT_SECONDS / 0.5) - 1))
    assert acting(scene).startswith("Starting: waiting for what an earlier leader")
    started = [kind for _ in range(6) for kind in kinds(scene.step(0.5))]
    assert "Fence" in started


def versions(**found: str) -> snapshot.Snapshot:
    held = frozenset({"Sys.Audit"})
    privileges = cluster.Privileges(held, held, held, found)
    return dataclasses.replace(Scene().snapshot(), privileges=privileges, version=privileges.version)


def test_versions_from_nine_on_are_served() -> None:
    assert guards.unsupported(versions(pve1="9.0.3", pve2="9.2.11", pve3="10.0.1")) == ""
    assert versions(pve1="9.2.11", pve2="9.10.1").version == "9.2.11"


def test_all_nodes_of_an_old_cluster() -> None:
    told = guards.unsupported(versions(pve1="8.4.1", pve2="8.4.1"))
    assert told.startswith("Proxmox VE 8.4.1 has HA groups")


def test_one_old_node_is_enough() -> None:
    """HA goes by groups as long as any node does not know rules, whichever node is asked."""
    told = guards.unsupported(versions(pve1="9.2.11", pve2="9.0.3", pve3="8.4.1"))
    assert told.startswith("the cluster is being upgraded to Proxmox VE 9 (pve3 runs 8.4.1)")
    assert versions(pve1="9.2.11", pve3="8.4.1").version == "8.4.1"
