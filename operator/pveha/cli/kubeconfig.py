"""The arguments of every verb that talks to the API server."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`--kubeconfig` and `--context`, as `pveha.kube.config.Access` takes them."""
    parser.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="how to reach the API server; default: $KUBECONFIG, the pod's service account, ~/.kube/config",
    )
    parser.add_argument(
        "--context", metavar="NAME", help="context of the kubeconfig; default: its current one"
    )
