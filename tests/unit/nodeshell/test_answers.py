"""What the operator makes of an answer of `pveha-node`."""

import json

import pytest

from pveha.model import errors, guests
from pveha.nodeshell import answers
from unit.nodeshell.tree import Tree

REFS = (guests.GuestRef(101, guests.GuestKind.VM), guests.GuestRef(102, guests.GuestKind.CONTAINER))


def said(**fields: object) -> str:
    return json.dumps({"version": "0.1.0", "protocol": 1, **fields})


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("StaleEpoch", errors.StaleEpoch),
        ("NotQuorate", errors.NoQuorum),
        ("AnotherOwner", errors.AnotherOwner),
        ("WrongProtocol", errors.BadAnswer),
        ("BadRequest", errors.Refused),
        ("Failed", errors.OutsideError),
        ("SomethingNew", errors.Refused),
    ],
)
def test_errors_by_kind(kind: str, expected: type[Exception]) -> None:
    with pytest.raises(errors.OutsideError, match=r"why|install") as raised:
        answers.read(said(ok=False, error={"kind": kind, "message": "why"}), "pve1")
    assert type(raised.value) is expected


def test_another_owner_is_named() -> None:
    error = {"kind": "AnotherOwner", "message": "no", "owner": "a.b.c"}
    with pytest.raises(errors.AnotherOwner) as raised:
        answers.read(said(ok=False, error=error), "pve1")
    assert raised.value.owner == "a.b.c"


def test_another_protocol_says_what_to_install() -> None:
    text = json.dumps({"version": "9.0.0", "protocol": 2, "whatever": 1})
    with pytest.raises(errors.BadAnswer, match=r"pveha-node 9\.0\.0 on pve1 speaks protocol 2.*install"):
        answers.read(text, "pve1")


@pytest.mark.parametrize("text", ["", "Last login: today", "[]", "{}", said(), said(ok=True), said(ok=False)])
def test_answers_of_another_form(text: str) -> None:
    with pytest.raises(errors.BadAnswer):
        answers.read(text, "pve1")


def test_results_of_another_form_name_the_field(tree: Tree) -> None:
    result = tree.result("status")
    result["votes"]["expected"] = "3"
    with pytest.raises(errors.BadAnswer, match=r"votes\.expected"):
        answers.status(result, "pve1", 1.0)


def test_an_address_that_leads_to_another_node(tree: Tree) -> None:
    with pytest.raises(errors.BadAnswer, match="leads to pve1"):
        answers.processes(tree.result("processes"), "pve2", 1.0)


@pytest.mark.parametrize("named", [[], ["qemu/101"], ["lxc/102", "qemu/101"], ["qemu/101", "qemu/102"]])
def test_claims_of_other_guests_than_asked(named: list[str]) -> None:
    results = [{"guest": each, "claimed": True, "reason": "Claimed", "cleared_lock": None} for each in named]
    with pytest.raises(errors.BadAnswer):
        answers.claim({"results": results}, "pve1", REFS)


@pytest.mark.parametrize("guest", ["101", "vm:101", "qemu/", "qemu/x"])
def test_a_process_of_no_guest(tree: Tree, guest: str) -> None:
    result = tree.result("processes")
    result["processes"] = [{"guest": guest, "pid": 1, "start_time": 1, "state": "running"}]
    with pytest.raises(errors.BadAnswer):
        answers.processes(result, "pve1", 1.0)
