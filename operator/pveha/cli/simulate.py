"""`pveha simulate`: play a scenario on a simulated data centre, in virtual time."""

import argparse
import pathlib
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "simulate",
        help="play a scenario on a simulated data centre, in virtual time (docs/simulation.md)",
    )
    parser.add_argument("file", metavar="FILE", type=pathlib.Path, help="a scenario.yaml, or its folder")
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    parser.add_argument("--log", action="store_true", help="write the log to expected.log beside FILE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pveha.cli import simulate_file

    return simulate_file.run(args.file, as_json=args.json, write_log=args.log)
