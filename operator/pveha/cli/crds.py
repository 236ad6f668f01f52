"""`pveha crds`: the CustomResourceDefinitions, and the reference page, on standard output or as files."""

import argparse
import pathlib
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "crds",
        help="print the CustomResourceDefinitions, for `pveha crds | kubectl apply --server-side -f -`",
    )
    parser.add_argument(
        "--write",
        metavar="FOLDER",
        type=pathlib.Path,
        help="do not print: write crds/*.yaml, the chart's copies of them and docs/reference.md below "
        "FOLDER, the repository's root",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from pveha.api import schema

    if args.write is None:
        print("---\n".join(schema.definitions().values()), end="")
        return 0
    for path, text in schema.generated().items():
        file = args.write / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return 0
