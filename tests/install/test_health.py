"""Argo CD's health checks over objects whose conditions pveha's own code wrote."""

import copy
from typing import Any

import pytest
import yaml
from lupa import lua51

from install import argocd, render, states
from pveha import api

RECORDS = states.recorded()
BY_CHOICE = {"Observed", "NativeOnly"}
"""What is not protected, or not fast, because somebody wrote so."""

Object = dict[str, Any]


def conditions(obj: Object) -> dict[str, Object]:
    return {each["type"]: each for each in obj.get("status", {}).get("conditions", ())}


def sound(obj: Object) -> str:
    """The health of an object, after what has to hold for any."""
    status, message = argocd.health(obj)
    told = conditions(obj)
    assert status in ("Healthy", "Progressing", "Degraded", "Suspended")
    assert message
    ready = told.get("Ready", {})
    if status == "Healthy" and ready.get("status") not in ("True", None):
        assert ready["reason"] in BY_CHOICE
    if not states.seen_last_change(obj):
        assert status != "Healthy"
    if status in ("Degraded", "Suspended"):
        assert any(
            message.startswith(each["reason"]) and each["message"] in message for each in told.values()
        )
    return status


def test_applications_leave_to_others_what_is_theirs() -> None:
    file = argocd.FILE.with_name("applications.yaml")
    applications = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
    assert len(applications) == 2
    for each in applications:
        options = each["metadata"]["annotations"]["argocd.argoproj.io/compare-options"]
        assert options == "ServerSideDiff=true"
        assert "ServerSideApply=true" in each["spec"]["syncPolicy"]["syncOptions"]
    chart, _ = (each["spec"]["source"] for each in applications)
    assert (render.ROOT / chart["path"]).samefile(render.CHART)
    assert chart["helm"]["valuesObject"].keys() == render.IMAGE.keys()


def test_there_is_a_check_for_each_kind() -> None:
    assert set(argocd.checks()) == {each.kind_name for each in api.RESOURCES}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["state"])
def test_every_recorded_state(record: Object) -> None:
    assert ": ".join(argocd.health(record["object"])) == record["health"]
    sound(record["object"])


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["state"])
def test_records_are_complete(record: Object) -> None:
    """An object that pveha has looked at has every condition of its kind; its state is read from them."""
    obj = record["object"]
    wanted = {str(type_) for type_ in api.conditions.BY_RESOURCE[obj["kind"]]}
    assert set(conditions(obj)) in (set(), wanted)
    assert states.state(obj) == record["state"]


NOT_PLAYED = {
    "HACluster Ready": "Invalid NotOwned",
    "HACluster Connected": "SecretMissing SecretInvalid Unauthorized PrivilegesMissing CertificateMismatch "
    "BadAnswer",
    "HACluster Owned": "AnotherOperator",
    "HACluster FencingReady": "NotConfigured SecretMissing SecretInvalid Unauthorized CertificateMismatch",
    "HACluster FastReady": "NotConfigured SecretMissing SecretInvalid NodeShellDenied NodeShellFailed",
    "HACluster HAHealthy": "NodeStuckInFence",
    "HACluster Degraded": "NodeUntrusted",
    "HACluster Acting": "NotLeader NotOwned",
    "HACluster Drained": "PrivilegesMissing",
    "HACluster Sound": "RecordStale CertificateExpiring AgentForbidden",
    "FailoverPolicy Ready": "Invalid",
    "ProtectedVM Ready": "Observed Invalid ClusterNotFound IsTemplate DependencyIgnored",
    "ProtectedVM PlacementReady": "RuleRefused Observed NotExpressible",
    "ProtectedVM FailoverReady": "FencingManual VlanMissing CommentTooLong DuplicateSuspected Busy "
    "DependencyNotReady ReplicationNotHeld",
}
"""Reasons that no scenario brings about: they need real sockets, Secrets or privileges, or are over before a
status is written. Health is held to them in `test_every_documented_reason_is_understood`."""


def test_every_reason_is_recorded_or_known_not_to_be_played() -> None:
    recorded = {
        f"{record['object']['kind']} {type_}/{told['reason']}"
        for record in RECORDS
        for type_, told in conditions(record["object"]).items()
    }
    documented = {
        f"{kind} {type_}/{reason}"
        for kind, types in api.conditions.BY_RESOURCE.items()
        for type_, reasons in types.items()
        for reason in reasons
    }
    unplayed = {f"{of}/{reason}" for of, reasons in NOT_PLAYED.items() for reason in reasons.split()}
    assert documented - recorded == unplayed


@pytest.mark.parametrize(
    ("state", "health"),
    [
        ("HACluster", "Progressing"),
        ("HACluster Acting=True/OK Degraded=False/None Ready=True/OK", "Healthy"),
        ("HACluster Acting=True/OK Degraded=True/NodeDown Ready=True/OK", "Healthy"),
        ("HACluster Acting=False/Paused Degraded=False/None Ready=True/OK", "Suspended"),
        ("HACluster Acting=False/Observe Degraded=False/None Ready=True/OK", "Healthy"),
        (
            (
                "HACluster Acting=False/NotQuorate Degraded=Unknown/Unknown Ready=False/NotQuorate "
                "Sound=Unknown/Unknown"
            ),
            "Degraded",
        ),
        (
            (
                "HACluster Acting=False/NotConnected Degraded=Unknown/Unknown Ready=Unknown/Starting "
                "Sound=Unknown/Unknown UnprotectHeld=Unknown/Unknown"
            ),
            "Progressing",
        ),
        (
            "HACluster Acting=True/OK Degraded=False/None Ready=True/OK UnprotectHeld=True/MassRemoval",
            "Suspended",
        ),
        (
            "HACluster Acting=True/OK Degraded=False/None Drained=False/Draining Ready=True/OK",
            "Progressing",
        ),
        ("HACluster Acting=True/OK Degraded=False/None Drained=False/GuestsStay Ready=True/OK", "Degraded"),
        ("HACluster Acting=True/OK Degraded=False/None Drained=True/OK Ready=True/OK", "Healthy"),
        ("HACluster Acting=True/OK Degraded=False/None Ready=True/OK Sound=False/TimerSilent", "Degraded"),
        ("HACluster Acting=True/OK Degraded=True/Recovering Ready=True/OK", "Healthy"),
        ("HACluster Acting=True/OK Degraded=True/NodeUnprovable Ready=True/OK", "Degraded"),
        ("HACluster Acting=False/BlastRadius Degraded=True/NodeDown Ready=True/OK", "Degraded"),
        ("FailoverPolicy", "Healthy"),
        ("FailoverPolicy Ready=True/OK", "Healthy"),
        ("ProtectedVM", "Progressing"),
        ("ProtectedVM FailoverReady=True/OK Ready=True/Protected", "Healthy"),
        ("ProtectedVM FailoverReady=True/OK Ready=False/Pending", "Progressing"),
        ("ProtectedVM FailoverReady=False/NativeOnly Ready=True/Protected", "Healthy"),
        ("ProtectedVM FailoverReady=Unknown/DisksUnknown Ready=True/Protected", "Healthy"),
        ("ProtectedVM FailoverReady=False/LocalDiskOnly Ready=True/Protected", "Degraded"),
        ("ProtectedVM FailoverReady=False/NotReady Ready=False/GuestReplaced", "Degraded"),
        ("ProtectedVM FailoverReady=False/NotReady Ready=False/DuplicateClaim", "Degraded"),
    ],
)
def test_states_that_users_meet_were_recorded(state: str, health: str) -> None:
    (found,) = (each for each in RECORDS if each["state"] == state)
    assert found["health"].startswith(f"{health}: ")


@pytest.mark.parametrize("name", ["node-loss-power", "paused", "mode-observe", "no-quorum"])
def test_what_pveha_writes_today(name: str) -> None:
    found = states.play([name])
    assert len(found) >= 4
    healths = {states.shortened(obj)["kind"]: set[str]() for obj in found.values()}
    for obj in found.values():
        healths[obj["kind"]].add(sound(states.shortened(obj)))
    assert all(each & {"Healthy", "Suspended"} for each in healths.values())


def synthetic() -> list[Object]:
    """Every reason of the conditions looked at, with every status, in an object that is otherwise well."""
    return [
        healthy(kind, {type_: (status, reason)})
        for kind, types in api.conditions.BY_RESOURCE.items()
        for type_, reasons in types.items()
        for reason in reasons
        for status in ("True", "False", "Unknown")
    ]


def healthy(kind: str, told: dict[Any, tuple[str, str]]) -> Object:
    """An object in good order, but for what is `told`: type → (status, reason)."""
    good = {
        "HACluster": {
            **{str(type_): ("True", "OK") for type_ in api.conditions.ClusterCondition},
            **dict.fromkeys(("Degraded", "UnprotectHeld"), ("False", "None")),
            "Drained": ("Unknown", "NotRequested"),
        },
        "FailoverPolicy": {"Ready": ("True", "OK")},
        "ProtectedVM": {"Ready": ("True", "Protected"), "FailoverReady": ("True", "OK")},
    }[kind]
    listed = [
        {"type": str(type_), "status": status, "reason": str(reason), "message": f"about {reason}"}
        for type_, (status, reason) in {**good, **told}.items()
    ]
    return {
        "apiVersion": api.API_VERSION,
        "kind": kind,
        "metadata": {"name": "it", "namespace": "dc1", "generation": 3},
        "status": {"observedGeneration": 3, "conditions": listed},
    }


@pytest.mark.parametrize(
    "obj",
    synthetic(),
    ids=lambda obj: f"{obj['kind']}-" + "-".join(each["reason"] for each in obj["status"]["conditions"]),
)
def test_every_documented_reason_is_understood(obj: Object) -> None:
    sound(obj)


@pytest.mark.parametrize("type_", list(api.conditions.ClusterCondition))
def test_every_condition_of_a_cluster_is_read(type_: str) -> None:
    """One that is bad, with all others in order, is no good health."""
    bad = "True" if type_ in ("Degraded", "UnprotectHeld") else "False"
    obj = healthy("HACluster", {type_: (bad, "Whatever")})
    status, message = argocd.health(obj)
    assert message.endswith("Whatever: about Whatever")
    assert status == {"Degraded": "Healthy", "UnprotectHeld": "Suspended"}.get(type_, "Degraded")


@pytest.mark.parametrize("kind", ["HACluster", "ProtectedVM"])
def test_what_is_being_deleted_or_was_changed_is_not_called_healthy(kind: str) -> None:
    obj = healthy(kind, {})
    assert sound(obj) == "Healthy"
    changed = copy.deepcopy(obj)
    changed["metadata"]["generation"] = 4
    assert sound(changed) == "Progressing"
    deleted = copy.deepcopy(obj)
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert sound(deleted) == "Progressing"


def test_argo_cds_lua_has_no_library_of_strings() -> None:
    """The environment of these tests is as poor as the real one."""
    with pytest.raises(lua51.LuaError, match="string"):
        argocd.run("return {status = string.upper('x'), message = ''}", healthy("HACluster", {}))
