"""`pveha demo`: a node dies and its guests run elsewhere, on this machine, with nothing but this repository.

A real Kubernetes API server, the real operator as a process of its own, and a simulated Proxmox data centre
as another: `stage.py` puts them up, `scenarios.py` says what happens on it and what must come of it.
"""

import argparse
import asyncio
import json
import sys
from typing import Any


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the verb."""
    from pveha.cli.demo import scenarios

    parser = subparsers.add_parser(
        "demo",
        help="watch a dead node's guests run elsewhere",
        description="A real Kubernetes API server, the real operator and a simulated Proxmox cluster.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="scenarios:\n"
        + "\n".join(
            f"  {name:16} {(each.__doc__ or '').splitlines()[0]}" for name, each in scenarios.ALL.items()
        ),
    )
    parser.add_argument(
        "--scenario", choices=sorted(scenarios.ALL), default="node-loss", help="default: node-loss"
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--guests", type=int, default=36, help="guests over three nodes; default: 36")
    parser.add_argument("--logs", metavar="FOLDER", help="keep the logs of all processes there")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Play one scenario; 0 if everything came as it must."""
    from pveha.cli.demo import scenarios, stage
    from pveha.model import errors

    async def play() -> scenarios.Result:
        async with stage.Stage(args.guests, args.logs) as on:
            return await scenarios.ALL[args.scenario](on)

    try:
        result = asyncio.run(play())
    except errors.PvehaError as error:
        print(f"pveha demo: {error}", file=sys.stderr)
        return 1
    for complaint in result.complaints:
        print(f"pveha demo: {complaint}", file=sys.stderr)
    if args.json:
        print(
            json.dumps({"scenario": args.scenario, "ok": not result.complaints, **result.figures}), flush=True
        )
    return 1 if result.complaints else 0
