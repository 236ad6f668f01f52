"""`pveha simulate`: play a scenario, the loss of nodes of a saved cluster, or random faults."""

import argparse
import pathlib
import secrets
from typing import Any

FIRST_SEED = 1
"""Without a word the same runs are played each time, so that who reads a figure can have it again."""


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "simulate",
        help="play a scenario, the loss of nodes of a saved cluster, or random faults (docs/simulation.md)",
    )
    parser.add_argument(
        "file",
        metavar="FILE",
        type=pathlib.Path,
        nargs="?",
        help="a scenario.yaml, or its folder; with --fail a file of `pveha snapshot`",
    )
    parser.add_argument(
        "--fail", metavar="NODE,...", help="play the loss of these nodes on the cluster that FILE has saved"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one line of JSON")
    parser.add_argument("--log", action="store_true", help="write the log to expected.log beside FILE")
    parser.add_argument(
        "--seeds", type=int, metavar="N", help="play N runs with random faults instead of FILE"
    )
    parser.add_argument(
        "--first-seed",
        type=_seed,
        default=FIRST_SEED,
        metavar="S",
        help=f"first of the seeds, or 'fresh' for seeds that nobody has played yet (default: {FIRST_SEED})",
    )
    parser.add_argument(
        "--faults",
        default="all",
        metavar="KIND,...",
        help="kinds of random faults, as docs/simulation.md lists",
    )
    parser.add_argument(
        "--nodes",
        type=int,
        metavar="N",
        help="nodes of each random cluster; an even number has a QDevice (default: 3 to 5, now and then 2)",
    )
    parser.add_argument("--guests", type=int, metavar="N", help="guests of each (default: 2 to 6)")
    parser.add_argument(
        "--keep",
        type=pathlib.Path,
        metavar="FOLDER",
        help="write a scenario with the shortened run of each broken seed here",
    )
    parser.add_argument(
        "--processes", type=int, metavar="N", help="runs side by side (default: one a processor)"
    )
    parser.set_defaults(run=run, usage=parser.error)


def run(args: argparse.Namespace) -> int:
    if (args.file is None) == (args.seeds is None):
        args.usage("name either FILE or --seeds N")
    if args.fail is not None:
        if args.file is None or args.log:
            args.usage("--fail goes with a FILE of `pveha snapshot`, and without --log")
        from pveha.cli import simulate_snapshot

        return simulate_snapshot.run(args.file, args.fail, as_json=args.json)
    if args.seeds is not None:
        if args.seeds < 1:
            args.usage("--seeds wants at least 1")
        from pveha.cli import simulate_seeds

        return simulate_seeds.run(args)
    from pveha.cli import simulate_file

    return simulate_file.run(args.file, as_json=args.json, write_log=args.log)


def _seed(word: str) -> int:
    """A seed, or one of a thousand million at random."""
    if word == "fresh":
        return secrets.randbelow(1_000_000_000)
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"{word!r} is neither a number nor 'fresh'")
    return int(word)
