"""`pveha-node begin`: the register of epochs and its owner (S13, S14)."""

import pytest
from typing_extensions import override

from pveha.nodeshell import pveha_node
from unit.nodeshell.tree import Tree

OWNER = "4f1c.prod.dc1"
BEGIN = f"begin --owner {OWNER}"


def epochs(tree: Tree) -> list[str]:
    folder = tree.path("/etc/pve/priv/pveha")
    return sorted((each.name for each in folder.iterdir() if each.is_dir()), key=lambda name: int(name[1:]))


def owner(tree: Tree) -> str:
    return tree.path("/etc/pve/priv/pveha/owner").read_text()


def test_the_first_epoch_is_1_and_each_begin_opens_the_next(tree: Tree) -> None:
    assert [tree.result(BEGIN)["epoch"] for _ in range(3)] == [1, 2, 3]
    assert owner(tree) == f"{OWNER}\n"


def test_only_the_newest_16_epochs_are_kept(tree: Tree) -> None:
    tree.epochs(*range(1, 21))
    assert tree.result(BEGIN)["epoch"] == 21
    assert epochs(tree) == [f"e{number}" for number in range(6, 22)]


def test_an_epoch_that_another_node_made_first_is_not_ours(tree: Tree) -> None:
    class Beaten(pveha_node.System):
        """Another node wins e1 between our look at the register and our mkdir."""

        @override
        def make_dir(self, path: str) -> None:
            if path.endswith("/e1"):
                super().make_dir(path)
            super().make_dir(path)

    assert tree.result(BEGIN, Beaten(str(tree.root)))["epoch"] == 2


def test_without_quorum_nothing_is_written(tree: Tree) -> None:
    tree.members(quorate=0, pve1=1, pve2=0, pve3=0)
    assert tree.error(BEGIN) == "NotQuorate"
    assert not tree.path("/etc/pve/priv/pveha").exists()


def test_quorum_lost_since_the_check(tree: Tree) -> None:
    class ReadOnly(pveha_node.System):
        @override
        def make_dir(self, path: str) -> None:
            raise PermissionError(path)

    assert tree.error(BEGIN, ReadOnly(str(tree.root))) == "NotQuorate"


def test_another_owner_is_named_and_nothing_changes(tree: Tree) -> None:
    tree.result(BEGIN)
    answer = tree.ask("pveha-node/1 begin --owner other.prod.dc1")
    assert answer["error"]["kind"] == "AnotherOwner"
    assert answer["error"]["owner"] == OWNER
    assert (epochs(tree), owner(tree)) == (["e1"], f"{OWNER}\n")


@pytest.mark.parametrize(("named", "epoch"), [(OWNER, 2), ("somebody.else.dc1", None)])
def test_taking_over_needs_the_present_owner_named(tree: Tree, named: str, epoch: int | None) -> None:
    tree.result(BEGIN)
    answer = tree.ask(f"pveha-node/1 begin --owner new.prod.dc1 --take-over {named}")
    assert answer.get("result") == (None if epoch is None else {"epoch": epoch})
    assert owner(tree) == (f"{OWNER}\n" if epoch is None else "new.prod.dc1\n")


def test_of_two_owners_at_once_the_one_that_lost_is_told(tree: Tree) -> None:
    class Overtaken(pveha_node.System):
        """Another operator writes its name right after we made our epoch."""

        @override
        def make_dir(self, path: str) -> None:
            super().make_dir(path)
            if path.endswith("/e1"):
                tree.write("/etc/pve/priv/pveha/owner", "other.prod.dc1\n")

    assert tree.error(BEGIN, Overtaken(str(tree.root))) == "AnotherOwner"
    assert tree.result("begin --owner other.prod.dc1")["epoch"] == 2
