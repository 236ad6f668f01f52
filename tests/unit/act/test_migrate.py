"""Sending a guest to another node: only as it was decided upon, and followed to its end."""

import pytest

from act_fakes import World, perform
from pveha.act import migrate
from pveha.model import cluster, errors, guests, mark, operations

REF = guests.GuestRef(102, guests.GuestKind.VM)


def sent(world: World, *, managed: bool) -> operations.Outcome:
    operation = operations.Migrate("migrate.1", REF, "pve1", "pve3", managed)
    return perform(world, lambda with_: migrate.migrate(operation, with_))


def test_the_crm_is_asked_for_a_guest_of_native_ha() -> None:
    world = World()
    world.resources[REF.sid] = cluster.HAResource(REF.sid)
    assert not sent(world, managed=True).error
    assert world.did("migrate_service") == ["migrate_service qemu/102 pve3"]
    assert not world.did("migrate")


@pytest.mark.parametrize("exit_status", ["OK", "WARNINGS: 1", "migration aborted"])
def test_a_task_is_followed_to_its_end(exit_status: str) -> None:
    world = World()
    world.start_exit = exit_status
    outcome = sent(world, managed=False)
    assert world.did("migrate") == ["migrate qemu/102 pve1 pve3"]
    assert outcome.error == ("" if exit_status != "migration aborted" else outcome.error)
    assert ("migration aborted" in outcome.error) is (exit_status == "migration aborted")


def test_a_task_that_cannot_be_read_is_left_to_itself() -> None:
    world = World()
    world.errors["task"] = errors.Unreachable("pve1 is silent")
    assert "cannot be read: pve1 is silent" in sent(world, managed=False).error


@pytest.mark.parametrize(
    "resource",
    [
        None,
        cluster.HAResource(REF.sid, cluster.HAState.IGNORED),
        cluster.HAResource(
            REF.sid,
            cluster.HAState.IGNORED,
            str(mark.Comment().with_mark(mark.Mark(cluster.HAState.STARTED, op="t1.0", epoch=1))),
        ),
    ],
    ids=["removed", "ignored by somebody", "disowned"],
)
def test_what_has_changed_meanwhile_is_left(resource: cluster.HAResource | None) -> None:
    world = World()
    if resource is not None:
        world.resources[REF.sid] = resource
    with pytest.raises(errors.Refused):
        sent(world, managed=True)
    assert not world.did("migrate_service")
