"""`pveha doctor`: looks whether everything that protection rests on is in order."""

import argparse
import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from pveha.cli import kubeconfig
from pveha.model import errors

if TYPE_CHECKING:
    from pveha.doctor import examination

IMPOSSIBLE = 3
"""Exit status if no cluster could be examined."""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "doctor",
        help="look whether everything that protection rests on is in order",
        description="Examine HAClusters: API, token, votes, BMCs, node shell, storages, Proxmox HA, where "
        "Kubernetes runs. Nothing is changed. Exit status: 0 all OK; 1 warnings, or something could not be "
        "looked at; 2 failures; 3 nothing could be examined.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="HAClusters; default: all of the namespace")
    kubeconfig.add_arguments(parser)
    parser.add_argument("-n", "--namespace", metavar="NAME", help="default: all namespaces")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON, see docs/doctor.md")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Examine and print."""
    from pveha.doctor import report
    from pveha.kube import config

    try:
        reports = asyncio.run(_examine(config.Access(args.kubeconfig, args.context), args))
    except errors.PvehaError as error:
        print(f"pveha: {error}", file=sys.stderr)
        return IMPOSSIBLE
    print(json.dumps(report.as_json(reports), indent=2) if args.json else report.as_text(reports))
    return report.exit_status(reports)


async def _examine(access: Any, args: argparse.Namespace) -> "list[examination.Report]":
    from pveha.doctor import examination
    from pveha.kube import client

    async with client.ApiServer(access) as kube:
        return await examination.examine(kube, args.namespace, args.names)
