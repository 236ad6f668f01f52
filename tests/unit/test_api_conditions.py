"""Condition types and reasons: words that Kubernetes accepts, sentences that help."""

import re

import pytest

from pveha import api
from pveha.api import conditions

REASONS = [
    pytest.param(reason, id=f"{kind}-{condition}-{reason}")
    for kind, types in conditions.BY_RESOURCE.items()
    for condition, reasons in types.items()
    for reason in reasons
]

NEED_NO_REMEDY = {
    *("OK", "None", "Starting", "Pending", "Protected", "TakingOver", "Recovering", "NodePlannedDown"),
    *("NativeAhead", "Native", "NotUsed", "Busy", "NotClaimed", "NotInUse", "Unknown", "NotRequested"),
    *("Draining", "NothingWished"),
}


@pytest.mark.parametrize("reason", REASONS)
def test_reasons_are_words_with_a_meaning_and_a_remedy(reason: conditions.Documented) -> None:
    assert re.fullmatch(r"[A-Za-z]+", reason)
    assert reason.meaning.endswith(".")
    if reason not in NEED_NO_REMEDY:
        assert len(reason.remedy) > 10
        assert reason.remedy.endswith(".")


def test_every_kind_and_every_condition_type_is_listed() -> None:
    assert set(conditions.BY_RESOURCE) == {resource.kind_name for resource in api.RESOURCES}
    assert tuple(conditions.BY_RESOURCE["HACluster"]) == tuple(conditions.ClusterCondition)
    assert tuple(conditions.BY_RESOURCE["FailoverPolicy"]) == tuple(conditions.PolicyCondition)
    assert tuple(conditions.BY_RESOURCE["ProtectedVM"]) == tuple(conditions.GuestCondition)


def test_a_reason_is_its_word() -> None:
    assert f"{conditions.Connected.SECRET_MISSING}" == "SecretMissing"
    condition = api.Condition(
        type=conditions.ClusterCondition.CONNECTED,
        status="False",
        reason=conditions.Connected.UNREACHABLE,
        message="x",
    )
    assert condition.manifest()["reason"] == "Unreachable"
