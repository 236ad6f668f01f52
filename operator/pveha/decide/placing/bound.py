"""Proves, where that is cheap, that no arrangement leaves fewer guests down."""

from pveha.decide.placing.state import State


def reached(arrangement: State) -> bool:
    """Whether the memory free in all shows that nothing better exists.

    Guests that no node would take even if nobody else were placed do not count. Of each priority at most so
    many can run as the smallest of them fit into what the fewest and smallest of higher priorities leave.
    """
    left = [g for g in arrangement.left() if arrangement.hopeful(g)]
    if not left:
        return True
    index = arrangement.index
    nodes = 0
    for g in arrangement.guests:
        nodes |= arrangement.open(g)
    free = sum(max(room, 0) for n, room in enumerate(arrangement.bare) if nodes >> n & 1)
    by_level: dict[int, list[int]] = {}
    for g in sorted([*arrangement.node, *left]):
        by_level.setdefault(index.level[g], []).append(g)
    left_at = {index.level[g] for g in left}
    for level, guests in by_level.items():
        running = sum(g in arrangement.node for g in guests)
        sizes = sorted(index.memory[g] for g in guests)
        if level in left_at and sum(sizes[: running + 1]) <= free:
            return False
        free -= sum(sizes[:running])
    return True
