"""`pveha simulate FILE --fail NODE,...`: play the loss of nodes of a cluster that `snapshot` has saved."""

import json
import pathlib
import sys

from pveha.control import saved
from pveha.model import errors
from pveha.sim import rehearsal


def run(path: pathlib.Path, fail: str, *, as_json: bool) -> int:
    """Exit status 0 if every guest that ran there runs again, 1 if not every one, 3 if nothing was played."""
    try:
        seen, wanted = saved.read(path)
        lost = tuple(sorted({name.strip() for name in fail.split(",") if name.strip()}))
        there = sorted(seen.inventory.nodes) if seen.inventory is not None else []
        if not lost or set(lost) - set(there):
            unknown = ", ".join(sorted(set(lost) - set(there))) or "no node"
            raise errors.NotFound(f"--fail: {unknown}; the cluster has {', '.join(there)}")
        result = rehearsal.play(seen, wanted, lost)
    except errors.PvehaError as error:
        print(f"pveha: {error}", file=sys.stderr)
        return 3
    print(json.dumps(result.as_json()) if as_json else _text(result))
    complete = all(seconds is not None for seconds in result.back.values())
    return 0 if complete and not result.double_runs and not result.problems else 1


def _text(result: rehearsal.Result) -> str:
    rows = [("GUEST", "VMID", "AT THE END", "BACK AFTER")]
    for vmid, seconds in sorted(result.back.items(), key=lambda each: (each[1] is None, each[1] or 0.0)):
        state = result.guests[vmid]
        when = f"{seconds:.1f} s" if seconds is not None else "did not come back"
        rows.append((result.names[vmid], str(vmid), f"{state['state']} on {state['node']}", when))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    table = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    back = sum(seconds is not None for seconds in result.back.values())
    names = " and ".join(result.lost)
    verdict = f"{back} of {len(result.back)} guests that ran on {names} run again."
    problems = [f"BUG: {each}" for each in result.problems]
    if result.double_runs:
        problems.append(f"BUG: {result.double_runs} guests had two writers")
    assumed = [f"  {each}" for each in result.assumed]
    return "\n".join([*result.log, "", *table, "", "Assumed:", *assumed, "", *problems, verdict])
