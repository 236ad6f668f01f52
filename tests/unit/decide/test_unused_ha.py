"""A cluster whose Proxmox HA was never used: it tells of no master and no LRM."""

from decide_scene import Scene, condition, kinds


def unused(**spec: object) -> Scene:
    scene = Scene(dict(spec))
    scene.ha_in_use = False
    scene.resources.clear()
    scene.services.clear()
    for vmid in scene.guests:
        scene.set_guest(vmid, ha_state=None)
    return scene


def test_in_observe_it_is_told_where_guests_would_go() -> None:
    scene = unused(mode="Observe")
    report = scene.step(10).report
    assert condition(report.cluster, "HAHealthy") == ("Unknown", "NotInUse")
    for guest in report.guests.values():
        assert condition(guest, "Ready")[1] == "Observed"
        assert condition(guest, "FailoverReady") == ("True", "OK")
        assert guest.failover_plan is not None


def test_nothing_is_taken_over_before_lrms_are_known() -> None:
    """S11: the plan takes them for alive, the takeover does not."""
    scene = unused().settle()
    scene.lose("pve2")
    seen = [kind for _ in range(20) for kind in kinds(scene.step(0.5))]
    assert "Takeover" not in seen


def test_without_answer_about_ha_nothing_is_assumed() -> None:
    """Resources are there, and nobody tells of LRMs: a CRM that does not work."""
    scene = Scene()
    scene.ha_in_use = False
    report = scene.step(10).report
    assert {condition(guest, "FailoverReady")[1] for guest in report.guests.values()} == {"NoTarget"}
