"""Marks, identities, votes and names: values with a meaning of their own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pveha.model import cluster, guests, mark, node, power

UUID = "00112233-4455-6677-8899-aabbccddeeff"
words = st.text("abcABC019.-/_", min_size=1, max_size=20)
marks = st.builds(
    mark.Mark, st.sampled_from(list(cluster.HAState)), op=words, epoch=st.integers(0, 10**6)
) | st.builds(mark.Mark, st.sampled_from(list(cluster.HAState)), hold=words)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=60).filter(
    lambda text: text == text.strip() and "[pveha" not in text
)


@given(texts, st.just("") | words, st.none() | marks, st.just("") | words)
def test_a_comment_taken_apart_and_put_together_is_the_same(
    text: str, owner: str, found: mark.Mark | None, preempted: str
) -> None:
    comment = mark.Comment(text, owner, found, preempted)
    assert mark.parse(str(comment)) == comment
    assert mark.parse(str(comment.with_mark(None))).text == text
    assert "\n" not in str(comment)


@pytest.mark.parametrize(
    "text",
    [
        "[pveha]",
        "[pveha op=1 was=started]",
        "[pveha op=1 epoch=x was=started]",
        "[pveha op=1 epoch=2 was=running]",
        "[pveha hold=pve1 was=started extra=1]",
        "[other op=1 epoch=2 was=started]",
    ],
)
def test_brackets_that_are_not_ours_stay_part_of_the_text(text: str) -> None:
    assert mark.parse(f"before {text} after") == mark.Comment(f"before {text} after")


def test_only_the_first_mark_counts() -> None:
    first, second = mark.Mark(cluster.HAState.STARTED, "a", 1), mark.Mark(cluster.HAState.STOPPED, "b", 2)
    assert mark.parse(f"{first} {second}").mark == first


@pytest.mark.parametrize(
    ("bmc", "same"),
    [
        (UUID, True),
        ("33221100-5544-7766-8899-aabbccddeeff", True),
        ("33221100-4455-6677-8899-aabbccddeeff", False),
        ("serial-1", True),
        ("serial-2", False),
        ("", False),
    ],
)
def test_machines_are_told_apart_by_uuid_in_either_byte_order_or_serial(bmc: str, same: bool) -> None:
    assert power.same_machine(frozenset({bmc}), frozenset({UUID, "serial-1"})) is same


def test_no_identity_is_no_match() -> None:
    assert not power.same_machine(frozenset(), frozenset())


@pytest.mark.parametrize(
    ("qdevice", "expected", "options", "safe"),
    [(0, 3, [], True), (1, 4, [], True), (1, 3, [], False), (0, 1, [], False), (0, 3, ["two_node"], False)],
)
def test_votes_are_safe_when_only_one_side_can_be_quorate(
    qdevice: int, expected: int, options: list[str], safe: bool
) -> None:
    configured = {"pve1": 1, "pve2": 1, "pve3": 1}
    assert node.Votes(configured, qdevice, expected, 3, frozenset(options)).trustworthy is safe


def test_names_of_guests() -> None:
    vm = guests.GuestRef(100, guests.GuestKind.VM)
    assert (vm.sid, vm.path) == ("vm:100", "qemu/100")
    assert guests.parse_sid("ct:101") == guests.GuestRef(101, guests.GuestKind.CONTAINER)
    assert guests.parse_path("lxc/101") == guests.GuestRef(101, guests.GuestKind.CONTAINER)
    assert [guests.parse_sid(text) for text in ("vm:", "vm:x", "qemu:1", "100")] == [None] * 4
