"""Entry point of the command `pveha`."""

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

from pveha import api
from pveha.model import errors

VERBS = ("run", "doctor", "node", "explain", "snapshot", "demo", "simulate", "crds")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status (2 for a command line that cannot be understood)."""
    parser = argparse.ArgumentParser(
        prog="pveha",
        description="High availability for the guests of Proxmox VE clusters, driven from Kubernetes.",
    )
    subparsers = parser.add_subparsers(required=True, metavar="VERB")
    for verb in VERBS:
        importlib.import_module(f"pveha.cli.{verb}").add_parser(subparsers)
    args = parser.parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except (errors.PvehaError, api.ManifestError) as error:
        print(f"pveha: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
