"""A vmid that has got another guest: nothing is done to it, until a new ProtectedVM means the new guest."""

import dataclasses

from pveha.api import protectedvm
from pveha.api.conditions import GuestCondition, GuestReady
from pveha.decide import rounds
from pveha.model import operations
from unit.decide import moment


def replaced(now: moment.Moment, *, read_at: float) -> moment.Moment:
    """Guest 101 was destroyed, with its HA resource, and made anew; configurations were read at a time."""
    seen = now.seen
    assert seen.configs is not None
    assert seen.ha_config is not None
    config = seen.configs.guests[101]
    config = dataclasses.replace(config, read_at=read_at)
    if read_at > seen.now:
        config = dataclasses.replace(config, identity="another")
    others = {sid: entry for sid, entry in seen.ha_config.resources.items() if sid != "vm:101"}
    later = dataclasses.replace(
        seen,
        now=seen.now + 0.5,
        configs=dataclasses.replace(
            seen.configs, guests={**seen.configs.guests, 101: config}, answered_at=read_at
        ),
        ha_config=dataclasses.replace(seen.ha_config, resources=others, answered_at=seen.now + 0.2),
        inventory=seen.inventory and dataclasses.replace(seen.inventory, answered_at=seen.now + 0.2),
        operations=(),
    )
    return dataclasses.replace(now, seen=later)


def created(decision: rounds.Decision) -> set[str]:
    return {
        edit.sid
        for operation in decision.start
        if isinstance(operation, operations.EditHA)
        for edit in operation.edits
        if edit.expected is None
    }


def ready(decision: rounds.Decision, name: str) -> str:
    condition = decision.report.guests[name].condition(GuestCondition.READY)
    assert condition is not None
    return condition.reason


def name_of(now: moment.Moment) -> str:
    return next(name for name, pvm in now.wanted.guests.items() if pvm.spec.vmid == 101)


def test_a_guest_is_not_registered_again_before_it_is_known_to_be_the_same() -> None:
    now = moment.moment(until=60.0)
    before = replaced(now, read_at=now.seen.now)
    decision = before.decide()
    assert created(decision) == set()
    again = replaced(now, read_at=now.seen.now + 0.3)
    decision = dataclasses.replace(again, memo=decision.memory).decide()
    assert created(decision) == set()
    assert ready(decision, name_of(now)) == GuestReady.GUEST_REPLACED


def test_the_same_guest_is_registered_again_once_that_is_known() -> None:
    now = moment.moment(until=60.0)
    later = replaced(now, read_at=now.seen.now)
    assert later.seen.configs is not None
    same = dataclasses.replace(later.seen.configs.guests[101], read_at=now.seen.now + 0.3)
    known = {**later.seen.configs.guests, 101: same}
    seen = dataclasses.replace(later.seen, configs=dataclasses.replace(later.seen.configs, guests=known))
    assert created(dataclasses.replace(later, seen=seen).decide()) == {"vm:101"}


def test_a_new_protectedvm_means_the_new_guest() -> None:
    now = moment.moment(until=60.0)
    again = replaced(now, read_at=now.seen.now + 0.3)
    name = name_of(now)
    assert ready(again.decide(), name) == GuestReady.GUEST_REPLACED
    pvm = now.wanted.guests[name]
    anew = pvm.model_copy(
        update={
            "metadata": pvm.metadata.model_copy(update={"uid": "anew"}),
            "status": protectedvm.ProtectedVMStatus(),
        }
    )
    wanted = dataclasses.replace(now.wanted, guests={**now.wanted.guests, name: anew})
    decision = dataclasses.replace(again, wanted=wanted).decide()
    assert ready(decision, name) != GuestReady.GUEST_REPLACED
    assert decision.memory.identities["anew"] == "another"
