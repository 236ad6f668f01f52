"""The plan that is shown is the plan that is executed."""

import dataclasses
import json
import pathlib

import pytest

from pveha.api import hacluster
from pveha.cli import __main__ as command
from pveha.control import saved
from pveha.decide import explain, recall, rounds
from pveha.model import snapshot, specs
from pveha.sim import simulation
from simulation import observed, stories


def before(
    story: str, monkeypatch: pytest.MonkeyPatch
) -> tuple[snapshot.Snapshot, specs.Specs, simulation.Result]:
    """What the operator saw last before the story's fault, and what came of it."""
    found: list[tuple[snapshot.Snapshot, specs.Specs]] = []
    decide = rounds.decide

    def note(seen: snapshot.Snapshot, wanted: specs.Specs, memo: object) -> rounds.Decision:
        if seen.now < 60.0:
            found.append((seen, wanted))
        return decide(seen, wanted, memo)  # type: ignore[arg-type]

    monkeypatch.setattr(rounds, "decide", note)
    result = stories.play(story)
    monkeypatch.undo()
    return *found[-1], result


@pytest.mark.parametrize(
    ("story", "node"),
    [("power", "pve2"), ("crm-master", "pve1"), ("network", "pve2"), ("replicas", "pve2")],
)
def test_guests_go_where_explain_said(story: str, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, wanted, result = before(story, monkeypatch)
    now = rounds.understand(seen, wanted, recall.first(wanted.cluster.status))
    answer = explain.explain(now, frozenset({node}))
    told = {str(row.vmid): row.target for row in answer.rows if row.recovered}
    assert len(told) >= 2
    assert told == {vmid: result.guests[int(vmid)]["node"] for vmid in told}
    for row in answer.rows:
        shown = wanted.guests[row.name].status.failover_plan
        assert shown is not None
        assert (shown.target_node, shown.expected_downtime_seconds) == (row.target, row.downtime_seconds)


def test_the_command_answers_from_a_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, wanted, _ = before("power", monkeypatch)
    file = tmp_path / "dc1.json"
    saved.write(file, seen, wanted)
    assert command.main(["explain", "pve2", "--file", str(file)]) == 0
    text = capsys.readouterr().out
    assert "If pve2 died now, 1 of 1 guests would run again." in text
    assert "stays stopped" in text
    assert command.main(["explain", "102", "--file", str(file), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["guests"]
    assert (row["vmid"], row["from"], row["recovered"]) == (102, "pve2", True)
    assert command.main(["explain", "--fail", "pve1,pve2", "--file", str(file)]) == 1
    assert "no quorum" in capsys.readouterr().out
    assert command.main(["explain", "--fail", "pve9", "--file", str(file)]) == 3
    assert "pve1, pve2, pve3" in capsys.readouterr().err
    assert command.main(["explain", "nobody", "--file", str(file)]) == 3
    with pytest.raises(SystemExit):
        command.main(["explain", "--file", str(file)])


def test_what_a_replica_lacks_is_told_by_plan_and_command(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen, wanted, _ = before("replicas", monkeypatch)
    file = tmp_path / "dc1.json"
    saved.write(file, seen, wanted)
    assert command.main(["explain", "pve2", "--file", str(file), "--json"]) == 0
    rows = {row["vmid"]: row for row in json.loads(capsys.readouterr().out)["guests"]}
    told = wanted.guests["vm105"].status
    assert told.failover_plan is not None
    assert told.failover_plan.recovery_point_time is not None
    assert f"{told.failover_plan.recovery_point_time:%Y-%m-%dT%H:%M:%SZ}" == rows[105]["recoveryPointTime"]
    assert 0 < rows[105]["dataLossSeconds"] < 120
    assert command.main(["explain", "105", "--file", str(file)]) == 0
    assert f"{rows[105]['dataLossSeconds']} s" in capsys.readouterr().out


def test_guests_that_nobody_protects_are_native_has_or_stay_down() -> None:
    story = {
        "about": "one guest is pveha's, one is registered in Proxmox HA by a person, one runs",
        "world": {
            "guests": [
                {"vmid": 101, "node": "pve2"},
                {"vmid": 102, "node": "pve2", "protect": False, "ha": "started"},
                {"vmid": 103, "node": "pve2", "protect": False},
            ]
        },
        "timeline": [{"at": 0, "do": "power off pve2"}],
        "end": 240,
        "expect": {"guests": {}},
    }
    moments, result = observed.played(story)
    answer = observed.asked(*observed.calm(moments), "pve2")
    assert [(row.vmid, row.reason, row.recovered) for row in answer.rows] == [
        (101, "OK", True),
        (102, "Native", True),
        (103, "NotProtected", False),
    ]
    assert [row.vmid for row in answer.rows if result.guests[row.vmid]["node"] != "pve2"] == [101, 102]


def test_what_keeps_pveha_from_acting_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    seen, wanted, _ = before("power", monkeypatch)

    def asked(seen: snapshot.Snapshot = seen, **spec: object) -> explain.Explanation:
        cluster = wanted.cluster.model_copy(update={"spec": wanted.cluster.spec.model_copy(update=spec)})
        wants = dataclasses.replace(wanted, cluster=cluster)
        saved.write(tmp_path / "dc1.json", seen, wants)
        now = rounds.understand(seen, wants, recall.first(cluster.status))
        return explain.explain(now, frozenset({"pve2"}))

    assert (asked().obstacles, asked().notes) == ((), ())
    paused = asked(pause_requests=("backup-job",))
    assert paused.obstacles == ("paused by backup-job (spec.pauseRequests)",)
    assert not any(row.recovered for row in paused.rows)
    observing = asked(mode=hacluster.Mode.OBSERVE)
    assert observing.obstacles == ()
    assert "mode is Observe" in observing.notes[0]
    assert command.main(["explain", "pve2", "--file", str(tmp_path / "dc1.json")]) == 0
    assert "Note: mode is Observe" in capsys.readouterr().out
    assert seen.ha_status is not None
    disarmed = asked(dataclasses.replace(seen, ha_status=dataclasses.replace(seen.ha_status, armed=False)))
    assert "arm-ha" in disarmed.obstacles[0]
    trouble = snapshot.Problem("Unauthorized", "the key is refused", seen.now - 60)
    denied = asked(dataclasses.replace(seen, problems={"shell/pve1": trouble}))
    assert "the key is refused" in denied.obstacles[0]
    native = asked(
        dataclasses.replace(seen, problems={"shell/pve1": trouble}),
        recovery=wanted.cluster.spec.recovery.model_copy(update={"engine": hacluster.Engine.NATIVE}),
        pause_requests=("backup-job",),
    )
    assert native.obstacles == ()
