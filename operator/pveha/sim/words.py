"""What people confirm of nodes (`pveha.dev/confirm-off`), and whether their word should count: it names this
very failure, is not too old, and neither the node itself nor a BMC that shows its identity speaks against it
(docs/fencing.md). Who lies where nothing could be seen to contradict him makes the second copy himself.
"""

import dataclasses
from typing import TYPE_CHECKING

from pveha.api import meta
from pveha.model import kubernetes
from pveha.sim import rig

if TYPE_CHECKING:
    from pveha.sim import invariants

ANSWERS_SECONDS = 1.5
"""A node that can be asked for longer is asked right before each claim."""
READS_SECONDS = 12.0
"""A BMC that can be read for longer has been."""
VOID_SECONDS = 15.0
"""What has spoken against a word for so long has been seen, and the word is void for good."""
TOLD_SECONDS = 20.0
"""A word that was withdrawn, or is too old, may move guests for so long: what is being done is ended."""
DEAF_SECONDS = 70.0
"""The same while a watch is broken: until the next listing."""
SAME_SECONDS = 10.0
"""By so much a failure may begin later than the id of it says: clocks, and a membership too short to be
seen."""


@dataclasses.dataclass(slots=True)
class Word:
    """A confirmation, as it stands in the annotation."""

    node: str
    stamp: float
    """When the failure that it names began, in seconds of the world."""
    since: float
    until: float = float("inf")
    """When it was withdrawn."""
    against_since: float | None = None
    """Since when something speaks against it, ..."""
    against: str = ""
    """... and what."""
    void: bool = False


class Words:
    """Follows confirmations."""

    def __init__(self, watched: rig.Rig, truth: "invariants.Invariants") -> None:
        self._rig = watched
        self._world = watched.world
        self._truth = truth
        self._words: dict[str, Word] = {}
        """By the id of the failure."""
        watched.kubernetes.watchers.append(self._told)

    def count(self, name: str) -> bool:
        """Whether guests of the node may be moved because somebody says that it is off."""
        self.look()
        now = self._world.now()
        absent = self._truth.absent_since(name)
        return any(
            word.node == name
            and absent is not None
            and word.stamp >= absent - SAME_SECONDS
            and now - min(word.until, word.since + self._lasts()) <= self._patience()
            and not word.void
            and not self._is_refuted(word, now)
            for word in self._words.values()
        )

    def look(self) -> None:
        """Something happened: see what speaks against whom."""
        now = self._world.now()
        for word in self._words.values():
            against = self._against(word.node)
            if against != word.against:
                if word.against_since is not None and now - word.against_since > VOID_SECONDS:
                    word.void = word.void or self._is_led()
                word.against, word.against_since = against, now if against else None

    def _is_refuted(self, word: Word, now: float) -> bool:
        if word.against_since is None:
            return False
        return now - word.against_since > (ANSWERS_SECONDS if word.against == "answers" else READS_SECONDS)

    def _against(self, name: str) -> str:
        """What an operator can see that speaks against the node's being off: `answers`, `reads on`, or
        nothing."""
        world, on = self._world, self._world.machines[name]
        awake = on.up and not on.hung
        shell = awake and world.reachable(name, "ssh") and on.services["sshd"] == "running"
        api = awake and world.reachable(name, "api") and name not in world.deaf
        if shell or (api and on.runs("pveproxy") and on.runs("pmxcfs")):
            return "answers"
        bmc = world.bmcs.by_name.get(name)
        if bmc is None or bmc.machine != name or bmc.delay or not world.reachable(name, "bmc"):
            return ""
        reads_on = world.bmcs.answers(name) and on.powered and not bmc.reads_off
        return "reads on" if reads_on else ""

    def _is_led(self) -> bool:
        leader = self._rig.leader()
        return leader is not None and leader.wire.stands_still_until < self._world.now()

    def _lasts(self) -> float:
        spec = self._rig.cluster_status().spec
        found = (each.manual.effective_confirmed_seconds for each in spec.fencing.methods if each.manual)
        return float(min(found, default=0))

    def _patience(self) -> float:
        return DEAF_SECONDS if self._truth.deaf() else TOLD_SECONDS

    def _told(self, event: str, obj: kubernetes.Manifest) -> None:
        if obj["kind"] != "HACluster":
            return
        now, config = self._world.now(), self._world.config
        text = str(obj["metadata"].get("annotations", {}).get(meta.CONFIRM_OFF_ANNOTATION, ""))
        said = {each for each in text.split(",") if each}
        for each in said:
            name, _, stamp = each.rpartition("-")
            old = self._words.get(each)
            if name in self._world.machines and stamp.isdecimal() and (old is None or old.until <= now):
                self._words[each] = Word(name, float(stamp) - config.start_timestamp, now)
        for each, word in self._words.items():
            if each not in said:
                word.until = min(word.until, now)
