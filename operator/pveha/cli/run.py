"""`pveha run`: the operator."""

import argparse
import asyncio
import functools
import socket
from pathlib import Path
from typing import Any

from pveha.cli import kubeconfig, logs

LEAST_LEASE_SECONDS = 15
"""A change of Proxmox's HA is sent only with 10 s of the Lease left, and a fifth of the Lease has gone
by when it is renewed: a leader with a shorter one would hardly ever act."""


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "run",
        help="run the operator",
        description="Run the operator until SIGTERM. Any number of replicas may run; one leads each cluster.",
    )
    kubeconfig.add_arguments(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "--namespace",
        action="append",
        dest="namespaces",
        metavar="NAME",
        help="namespace whose resources are served; may be repeated",
    )
    where.add_argument("--all-namespaces", action="store_true", help="serve the resources of all namespaces")
    parser.add_argument(
        "--health-host",
        default="0.0.0.0",
        metavar="ADDRESS",
        help="address of /healthz, /readyz and /metrics; default: %(default)s",
    )
    parser.add_argument(
        "--health-port",
        type=int,
        default=8080,
        metavar="PORT",
        help="their port; 0 takes a free one and logs it; default: %(default)s",
    )
    parser.add_argument(
        "--identity",
        default=socket.gethostname(),
        metavar="NAME",
        help="name of this replica in Leases and Events; default: the host name",
    )
    parser.add_argument(
        "--lease-seconds",
        type=_lease_seconds,
        default=LEAST_LEASE_SECONDS,
        metavar="SECONDS",
        help="how long a leader that is gone keeps the others waiting; default, and least: %(default)s",
    )
    parser.add_argument(
        "--fence-agents",
        type=Path,
        default=Path("/usr/sbin"),
        metavar="FOLDER",
        help="where the executables of fencing methods of kind agent are; default: %(default)s",
    )
    parser.add_argument("--log-format", choices=logs.FORMATS, default="text", help="default: %(default)s")
    parser.add_argument("--log-level", choices=logs.LEVELS, default="info", help="default: %(default)s")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM (0) or until a part fails that cannot go on (1)."""
    from pveha.control import loop, operator
    from pveha.kube import config

    logs.configure(args.log_format, args.log_level)
    options = operator.Options(
        access=config.Access(args.kubeconfig, args.context),
        namespaces=None if args.all_namespaces else tuple(args.namespaces),
        identity=args.identity,
        lease_seconds=args.lease_seconds,
        health_host=args.health_host,
        health_port=args.health_port,
    )
    run_cluster = functools.partial(loop.run_cluster, agents=args.fence_agents)
    return asyncio.run(operator.run(options, run_cluster))


def _lease_seconds(text: str) -> int:
    seconds = int(text)
    if seconds < LEAST_LEASE_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{seconds} is less than {LEAST_LEASE_SECONDS}, with which a leader could hardly ever act"
        )
    return seconds
