"""The mark in the comment of an HA resource: the journal of record of a takeover (S7).

A comment is one line of at most 4096 characters. The owner's text is kept; ours is appended in brackets:
`owner text [pveha owner=K8SUID.NAMESPACE.NAME] [pveha op=ID epoch=N was=STATE]`. A guest that was
stopped to make room for another carries `[pveha preempted=SID]` until it is started again.
"""

import dataclasses
import functools
import re

from pveha.model import cluster

COMMENT_LIMIT = 4096
_MARK = re.compile(r" ?\[pveha ([^\[\]]*)\]")


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """Says that an HA resource was set to `ignored` by pveha, for which operation, and what to restore."""

    was: cluster.HAState
    op: str = ""
    epoch: int = 0
    hold: str = ""
    """Node that native HA is held back from recovering (S11); excludes `op`."""

    def __str__(self) -> str:
        if self.hold:
            return f"[pveha hold={self.hold} was={self.was}]"
        return f"[pveha op={self.op} epoch={self.epoch} was={self.was}]"


@dataclasses.dataclass(frozen=True, slots=True)
class Comment:
    """A comment taken apart; `str()` puts it together again."""

    text: str = ""
    owner: str = ""
    mark: Mark | None = None
    preempted: str = ""
    """Service id of the guest for which this one was stopped."""

    def __str__(self) -> str:
        parts = [self.text] if self.text else []
        if self.owner:
            parts.append(f"[pveha owner={self.owner}]")
        if self.preempted:
            parts.append(f"[pveha preempted={self.preempted}]")
        if self.mark:
            parts.append(str(self.mark))
        return " ".join(parts)

    def with_mark(self, mark: Mark | None) -> "Comment":
        return dataclasses.replace(self, mark=mark)


@functools.lru_cache(maxsize=16384)
def parse(comment: str) -> Comment:
    """Take a comment apart. Brackets of ours that cannot be read stay part of the text."""
    owner = preempted = ""
    mark: Mark | None = None

    def take(match: re.Match[str]) -> str:
        nonlocal owner, mark, preempted
        fields = dict(part.partition("=")[::2] for part in match[1].split())
        if set(fields) == {"owner"} and not owner:
            owner = fields["owner"]
        elif set(fields) == {"preempted"} and not preempted:
            preempted = fields["preempted"]
        elif (found := _read_mark(fields)) and mark is None:
            mark = found
        else:
            return match[0]
        return ""

    text = _MARK.sub(take, comment)
    return Comment(text, owner, mark, preempted)


def _read_mark(fields: dict[str, str]) -> Mark | None:
    try:
        was = cluster.HAState(fields["was"])
        if set(fields) == {"hold", "was"}:
            return Mark(was, hold=fields["hold"])
        if set(fields) == {"op", "epoch", "was"}:
            return Mark(was, op=fields["op"], epoch=int(fields["epoch"]))
    except (KeyError, ValueError):
        pass
    return None
