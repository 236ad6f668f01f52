"""Ask live survivors whether a node is really gone (S6), and what runs where (S17)."""

import asyncio
import functools
from collections.abc import Iterable, Mapping

from pveha.act import context
from pveha.model import errors, node, ports

SCAN_SECONDS = 2.0
"""How long a survivor has to answer."""


async def scan(
    shell: ports.NodeShell, survivors: Iterable[str]
) -> tuple[Mapping[str, node.NodeProcesses], Mapping[str, str]]:
    """Processes of every survivor that answers, and what went wrong with the others."""
    names = tuple(survivors)
    asked = (context.within(SCAN_SECONDS, functools.partial(shell.processes, name)) for name in names)
    answers = await asyncio.gather(*asked, return_exceptions=True)
    told: dict[str, node.NodeProcesses] = {}
    silent: dict[str, str] = {}
    for name, answer in zip(names, answers, strict=True):
        if isinstance(answer, node.NodeProcesses):
            told[name] = answer
        elif isinstance(answer, errors.OutsideError):
            silent[name] = str(answer)
        else:
            raise answer
    return told, silent


class TooFewWitnesses(errors.Refused):
    """Not enough survivors confirm, but none contradicts: they may be about to."""


async def check_votes(shell: ports.NodeShell, survivors: Iterable[str]) -> None:
    """Raise Refused if a survivor tells votes that let two partitions be quorate (S6)."""
    asked = (context.within(SCAN_SECONDS, functools.partial(shell.status, name)) for name in survivors)
    for answer in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(answer, node.NodeStatus):
            if not answer.votes.trustworthy:
                raise errors.Refused(f"the votes of corosync that {answer.node} tells are not safe (S6)")
        elif not isinstance(answer, errors.OutsideError):
            raise answer


def confirm_gone(
    lost: str,
    epoch: int,
    told: Mapping[str, node.NodeProcesses],
    survivors: int,
    alive_by_api: frozenset[str],
) -> None:
    """Raise Refused unless live, quorate witnesses of this very epoch agree that `lost` is no member.

    A witness that shows `epoch` has taken part in a pmxcfs write made after the failure, so it is not frozen.
    So has one of `alive_by_api`, which wrote its LRM's state a while ago: it may stand in for a second one,
    not for all. Two are needed, or all survivors if only one is left.
    """
    for name, answer in told.items():
        if answer.quorate and answer.members.get(lost, False):
            raise errors.Refused(f"{name} is quorate and sees {lost} as a member")
        if answer.newest_epoch > epoch:
            raise errors.StaleEpoch(f"{name} shows epoch {answer.newest_epoch}, ours is {epoch}")
    alive = {name for name, answer in told.items() if answer.quorate and answer.newest_epoch == epoch}
    if alive:
        alive |= alive_by_api - told.keys()
    if len(alive) < min(2, survivors):
        raise TooFewWitnesses(
            f"only {len(alive)} of {survivors} survivors confirm as live quorate witnesses that "
            f"{lost} is gone"
        )
