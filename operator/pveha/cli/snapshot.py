"""`pveha snapshot`: save what is seen of a cluster, for a look later or elsewhere."""

import argparse
import asyncio
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from pveha.cli import kubeconfig

if TYPE_CHECKING:
    from pveha.model import snapshot, specs


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "snapshot",
        help="save a cluster's observed state (no secrets) to a file",
        description="Read once what the operator reads of an HACluster, and save it with its manifests. "
        "`pveha explain --file` and `pveha simulate FILE --fail` answer from it offline. Nothing is changed; "
        "no secrets are saved, but names, addresses and configurations are.",
    )
    add_cluster(parser)
    parser.add_argument("file", type=pathlib.Path, metavar="FILE", help="where to write (JSON)")
    parser.set_defaults(run=run)


def add_cluster(parser: argparse.ArgumentParser) -> None:
    """The arguments that name an HACluster and its API server."""
    kubeconfig.add_arguments(parser)
    parser.add_argument("-n", "--namespace", default="default", metavar="NAME", help="default: default")
    parser.add_argument(
        "-c", "--cluster", metavar="NAME", help="the HACluster; default: the only one of the namespace"
    )


def run(args: argparse.Namespace) -> int:
    from pveha.control import saved

    seen, wanted = asyncio.run(observe(args))
    try:
        saved.write(args.file, seen, wanted)
    except OSError as error:
        print(f"pveha: {args.file} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    guests = len(seen.inventory.guests) if seen.inventory is not None else 0
    print(f"{args.file}: {len(seen.views)} nodes, {guests} guests, {len(wanted.guests)} ProtectedVMs")
    for source, problem in sorted(seen.problems.items()):
        print(f"  missing: {source}: {problem.message}")
    return 0


async def observe(args: argparse.Namespace) -> "tuple[snapshot.Snapshot, specs.Specs]":
    """What is seen of the named cluster, and what is wanted of it. Raises PvehaError."""
    from pveha import api
    from pveha.control import glance
    from pveha.kube import client, config
    from pveha.model import errors

    async with client.ApiServer(config.Access(args.kubeconfig, args.context)) as kube:
        name = args.cluster
        if name is None:
            there = (await kube.list_objects(api.HACluster.kind_name, args.namespace)).objects
            names = sorted(each["metadata"]["name"] for each in there)
            if len(names) != 1:
                found = ", ".join(names) or "none"
                raise errors.NotFound(f"name one with --cluster: namespace {args.namespace} has {found}")
            name = names[0]
        wanted = await glance.wanted(kube, args.namespace, name)
        return await glance.look(kube, wanted), wanted
