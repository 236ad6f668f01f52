"""One arrangement of the guests that are being placed, which can be changed and undone."""

from collections.abc import Iterable, Iterator

from pveha.decide.placing import problem
from pveha.decide.placing.index import Index


class State:
    """What is free and forbidden on the nodes that are up, given who stays there and who was put there.

    Guests and nodes are numbers of the index. Only guests put by `put` are ever moved.
    """

    __slots__ = (
        "anchored", "anchors", "bare", "ceiling", "cpu", "down", "guests", "index", "lists", "lodgers", "log",
        "memory", "node", "price", "stopped", "taken", "up", "wished",
    )  # fmt: skip

    def __init__(self, index: Index, down: int, stopped: frozenset[int] = frozenset()):
        """`down`: nodes thought away; `stopped`: running guests thought stopped, which make room."""
        self.index = index
        self.down = down
        self.stopped = stopped
        self.up = index.accepting & ~down
        self.memory = list(index.free_memory)
        """Bytes free, by node."""
        self.cpu = list(index.free_cpu)
        for g in stopped:
            self.memory[index.home[g]] += index.memory[g]
            self.cpu[index.home[g]] += index.cpu[g]
        self.bare = tuple(self.memory)
        """Bytes free by node while nobody was placed."""
        up = [n for n in range(len(self.cpu)) if self.up >> n & 1]
        cores = sum(max(0, self.cpu[n]) for n in up if index.cpu_share[n])
        limited = all(index.cpu_share[n] for n in up)
        self.price = (
            1 / max(1, sum(max(0, self.memory[n]) for n in up)),
            1 / max(1, cores) if limited else 0.0,
        )
        """What a byte and a thousandth of a core are of all that is free."""
        self.ceiling = [0.0 for _ in self.cpu]
        """By node: the share of it that is free, of memory or of CPU if that is less, plus its standing."""
        for n in range(len(self.cpu)):
            self._measure(n)
        self.guests = sorted([g for n in bits(down) for g in index.on[n]] + index.elsewhere)
        """Those to be placed, in the order of placing."""
        self.node: dict[int, int] = {}
        """Where the placed ones are."""
        self.lodgers: dict[int, list[int]] = {}
        """Placed guests by node."""
        self.log: list[tuple[int, int]] = []
        """What was done, for `undo`: a guest and the node that it was put on, or the complement of the node
        that it was taken from."""
        self.taken: dict[int, int] = {}
        """Where a group that keeps apart has a guest already."""
        self.anchors: dict[int, int] = {}
        """Where a group that keeps together has to be; 0: it has no guest yet."""
        self.anchored: dict[int, int] = {}
        """How many guests anchor it there."""
        self.wished: dict[int, list[int]] = {}
        """Guests per node of a soft group."""
        self.lists: dict[int, list[int]] = {}
        for g in self.guests:
            if g in index.separate or g in index.together or g in index.soft:
                self._meet(g)

    def _measure(self, n: int) -> None:
        index = self.index
        share = self.memory[n] * index.memory_share[n]
        if index.cpu_share[n]:
            share = min(share, self.cpu[n] * index.cpu_share[n])
        self.ceiling[n] = share + index.standing[n]

    def _meet(self, g: int) -> None:
        """Note where those are that belong to a group of `g`, and stay."""
        index = self.index
        for group in index.separate.get(g, ()):
            if group not in self.taken:
                self.taken[group] = self._staying(group)
        for group in index.together.get(g, ()):
            if group not in self.anchors:
                self.anchors[group] = self._staying(group)
                self.anchored[group] = int(self.anchors[group] != 0)
        for group in index.soft.get(g, ()):
            if group not in self.wished:
                counts = self.wished[group] = [0] * len(index.nodes)
                for member in self.stayers(group):
                    counts[index.home[member]] += 1

    def stayers(self, group: int) -> Iterator[int]:
        """Guests of a group that run on a node that is not down."""
        home = self.index.home
        for g in self.index.members[group]:
            if home[g] >= 0 and not self.down >> home[g] & 1 and g not in self.stopped:
                yield g

    def _staying(self, group: int) -> int:
        reach = self.index.reach[self.index.groups[group].topology]
        where = 0
        for g in self.stayers(group):
            where |= reach[self.index.home[g]]
        return where

    def open(self, g: int) -> int:
        """Nodes that are up and that `g` can run on at all."""
        return self.index.mask[g] & self.up

    def forbidden(self, g: int) -> int:
        """Nodes that hard groups of `g` forbid as things are."""
        mask = 0
        for group in self.index.separate.get(g, ()):
            mask |= self.taken[group]
        for group in self.index.together.get(g, ()):
            if self.anchors[group]:
                mask |= ~self.anchors[group]
        return mask

    def companions(self, g: int) -> list[int]:
        """Guests still to be placed that hard groups will tie to the node of `g`, which is free to choose
        yet."""
        index = self.index
        found: list[int] = []
        for group in index.together.get(g, ()):
            if not self.anchors[group] and index.groups[group].topology is problem.Topology.NODE:
                found += [
                    each
                    for each in index.members[group]
                    if each != g and each not in self.node and each not in found and self.is_to_place(each)
                ]
        return found

    def is_to_place(self, g: int) -> bool:
        home = self.index.home[g]
        return not self.index.guests[g].stays and (home < 0 or bool(self.down >> home & 1))

    def fits(self, g: int, n: int) -> bool:
        return self.index.memory[g] <= self.memory[n] and self.index.cpu[g] <= self.cpu[n]

    def candidates(self, g: int) -> list[int]:
        """The nodes in `open`, by number."""
        mask = self.index.mask[g] & self.up
        found = self.lists.get(mask)
        if found is None:
            found = self.lists[mask] = list(bits(mask))
        return found

    def put(self, g: int, n: int) -> None:
        """Place `g` on `n`, which the caller knows to be allowed and to have room."""
        index = self.index
        self.memory[n] -= index.memory[g]
        self.cpu[n] -= index.cpu[g]
        self._measure(n)
        self.node[g] = n
        self.lodgers.setdefault(n, []).append(g)
        self.log.append((g, n))
        for group in index.separate.get(g, ()):
            self.taken[group] |= index.reach[index.groups[group].topology][n]
        for group in index.together.get(g, ()):
            if not self.anchored[group]:
                self.anchors[group] = index.reach[index.groups[group].topology][n]
            self.anchored[group] += 1
        for group in index.soft.get(g, ()):
            self.wished[group][n] += 1

    def take(self, g: int) -> int:
        """Take a placed guest off its node, which is returned."""
        index = self.index
        n = self.node.pop(g)
        self.memory[n] += index.memory[g]
        self.cpu[n] += index.cpu[g]
        self._measure(n)
        self.lodgers[n].remove(g)
        self.log.append((g, ~n))
        for group in index.separate.get(g, ()):
            self.taken[group] &= ~index.reach[index.groups[group].topology][n]
        for group in index.together.get(g, ()):
            self.anchored[group] -= 1
            if not self.anchored[group]:
                self.anchors[group] = 0
        for group in index.soft.get(g, ()):
            self.wished[group][n] -= 1
        return n

    def undo(self, mark: int) -> None:
        """Back to when the log had `mark` entries."""
        log = self.log
        while len(log) > mark:
            g, n = log.pop()
            if n >= 0:
                self.take(g)
            else:
                self.put(g, ~n)
            log.pop()

    def size(self, g: int) -> float:
        """How much of all that was free `g` takes, memory and CPU added."""
        return self.index.memory[g] * self.price[0] + self.index.cpu[g] * self.price[1]

    def slack(self, n: int) -> float:
        """What is free on `n`, on the scale of `size`."""
        return self.memory[n] * self.price[0] + self.cpu[n] * self.price[1]

    def hopeful(self, g: int) -> bool:
        """Whether some node would have the memory for `g`, and be allowed, if nobody else were placed."""
        index = self.index
        forbidden = 0
        for group in index.separate.get(g, ()):
            forbidden |= self._staying(group)
        for group in index.together.get(g, ()):
            forbidden |= ~(self._staying(group) or index.anywhere)
        need = index.memory[g]
        return any(need <= self.bare[n] and not forbidden >> n & 1 for n in self.candidates(g))

    def left(self) -> list[int]:
        """Guests to be placed that are not, in the order of placing."""
        return [g for g in self.guests if g not in self.node]

    def harm(self) -> tuple[int, ...]:
        """Who is left, as a value to compare: greater is worse."""
        return harm(self.index, self.left())

    def copy(self) -> "State":
        """The same arrangement, changed independently."""
        twin = State(self.index, self.down, self.stopped)
        for g, n in self.node.items():
            twin.put(g, n)
        return twin


def harm(index: Index, left: Iterable[int]) -> tuple[int, ...]:
    """Comparable harm of leaving guests down (in order of placing): one more of the highest priority
    outweighs all of lower ones, and of two that are alike so far the longer is worse."""
    return tuple(-index.level[g] for g in left)


def bits(mask: int) -> Iterator[int]:
    """Numbers of the bits that are set, ascending."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def same_place(index: Index, topology: problem.Topology, one: int, other: int) -> bool:
    return bool(index.reach[topology][one] >> other & 1)
