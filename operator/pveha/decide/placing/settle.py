"""The last word: nobody is down for a guest of a lower priority that took its place."""

from pveha.decide.placing import greedy
from pveha.decide.placing.state import State


def outrank(arrangement: State) -> None:
    """Place every guest left that has room once all of lower priority are taken off; those are placed again
    afterwards, as far as they find room."""
    level = arrangement.index.level
    while any(_outrank(arrangement, each) for each in sorted({level[g] for g in arrangement.left()})):
        pass


def _outrank(arrangement: State, level: int) -> bool:
    """Place one guest of `level` in the place of lower ones; whether there was one."""
    index = arrangement.index
    mark = len(arrangement.log)
    lower = take_lower(arrangement, level)
    for g in arrangement.left():
        if index.level[g] != level:
            continue
        n = greedy.balanced(arrangement, g)
        if n >= 0:
            arrangement.put(g, n)
            put_back(arrangement, lower)
            return True
    arrangement.undo(mark)
    return False


def take_lower(arrangement: State, level: int) -> dict[int, int]:
    """Take off all placed guests of a lower priority; where they were is returned."""
    lower = [g for g in arrangement.guests if g in arrangement.node and arrangement.index.level[g] > level]
    return {g: arrangement.take(g) for g in lower}


def put_back(arrangement: State, were: dict[int, int]) -> None:
    """Place guests where they were, if that is still possible, or elsewhere; then whoever else finds room."""
    for g in arrangement.left():
        n = were.get(g, -1)
        if n >= 0 and not arrangement.forbidden(g) >> n & 1 and arrangement.fits(g, n):
            arrangement.put(g, n)
    greedy.fill(arrangement, arrangement.left())
