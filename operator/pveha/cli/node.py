"""`pveha node`: the program, the timer and the key that pveha needs on the nodes, over SSH."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pveha.nodeshell import rollout


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add the verb and what it does to nodes."""
    parser = subparsers.add_parser(
        "node",
        help="install, check and remove what pveha needs on the Proxmox VE nodes",
        description="What pveha needs on the Proxmox VE nodes, over SSH; see docs/node-shell.md.",
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    key = verbs.add_parser("key", help="make a key pair for the operator")
    key.add_argument("file", type=Path, metavar="FILE", help="the private half; the public one is FILE.pub")
    key.set_defaults(run=make_key)

    install = verbs.add_parser(
        "install",
        help="install or upgrade pveha-node, its timer and the operator's key, and check them",
        description="Name all nodes of the cluster. What is as it must be stays as it is: repeat it at will.",
    )
    _add_access(install)
    _add_operator_key(install)
    install.add_argument(
        "--force",
        action="store_true",
        help="replace a pveha-node that is newer, or a file of its name that is something else",
    )
    secret = install.add_argument_group("Secret for spec.recovery.nodeShell.credentialsSecretRef")
    secret.add_argument(
        "--secret-file",
        type=Path,
        metavar="FILE",
        help="write its manifest there, - for standard output (the private key!)",
    )
    secret.add_argument("--secret-name", default="pveha-node", metavar="NAME", help="default: %(default)s")
    secret.add_argument("--namespace", metavar="NAME", help="its namespace; default: none in the manifest")
    install.set_defaults(run=run_install)

    check = verbs.add_parser("check", help="look whether all is as the operator needs it; writes nothing")
    _add_access(check)
    _add_operator_key(check)
    check.set_defaults(run=run_check)

    remove = verbs.add_parser("remove", help="remove what install wrote")
    _add_access(remove)
    remove.add_argument(
        "--force", action="store_true", help="although an operation is open, whose net the timer is"
    )
    remove.set_defaults(run=run_remove)

    remove_key = verbs.add_parser("remove-key", help="remove one key: the old one, or one that was stolen")
    _add_access(remove_key)
    remove_key.add_argument(
        "--key",
        required=True,
        metavar="FILE",
        help="the key, private or public, or its fingerprint SHA256:...",
    )
    remove_key.set_defaults(run=run_remove_key)


def _add_access(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("hosts", nargs="+", metavar="HOST", help="name or address of a node")
    login = parser.add_argument_group("your own login on the nodes")
    login.add_argument("--user", default="root", help="who must be root; default: %(default)s")
    login.add_argument("--port", type=int, default=22, help="default: %(default)s")
    login.add_argument(
        "--identity",
        type=Path,
        metavar="FILE",
        help="your private key; default: those of your ssh-agent and in ~/.ssh",
    )
    login.add_argument(
        "--known-hosts",
        type=Path,
        default=Path("~/.ssh/known_hosts"),
        metavar="FILE",
        help="host keys of the nodes; a host that is not in it is refused; default: %(default)s",
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _add_operator_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key",
        type=Path,
        required=True,
        metavar="FILE",
        help="the operator's private key, without a passphrase (make one with `pveha node key FILE`)",
    )


def make_key(args: argparse.Namespace) -> int:
    """Write a key pair and print its fingerprint; a file that is there is never replaced."""
    from pveha.nodeshell import operator_key

    print(operator_key.make(args.file))
    return 0


def run_install(args: argparse.Namespace) -> int:
    """Install and check; then the Secret's manifest, if wanted. The report makes room for it on stdout."""
    from pveha.cli import node_report
    from pveha.nodeshell import admin, operator_key, rollout

    key = admin.read_private_key(args.key)
    reports = asyncio.run(rollout.install(args.hosts, site(args), key, force=args.force))
    on_stdout = args.secret_file == Path("-")
    status = node_report.show(reports, as_json=args.json, to=sys.stderr if on_stdout else sys.stdout)
    host_keys = node_report.host_keys(reports)
    if args.secret_file is None or not host_keys:
        return status
    rollout.refuse_twins(reports)
    manifest = operator_key.secret(args.secret_name, args.namespace, args.key.read_bytes(), host_keys)
    if on_stdout:
        print(manifest, end="")
    else:
        operator_key.write_secret(args.secret_file, manifest)
    if lacking := node_report.lacking(reports):
        nodes = ", ".join(lacking)
        print(f"pveha: the Secret has no host key of {nodes}: name all nodes of the cluster", file=sys.stderr)
        return 1
    return status


def run_check(args: argparse.Namespace) -> int:
    """Check; nothing is written."""
    from pveha.cli import node_report
    from pveha.nodeshell import admin, rollout

    key = admin.read_private_key(args.key)
    reports = asyncio.run(rollout.check(args.hosts, site(args), key))
    return node_report.show(reports, as_json=args.json, to=sys.stdout)


def run_remove(args: argparse.Namespace) -> int:
    """Remove program, timer and key."""
    from pveha.cli import node_report
    from pveha.nodeshell import rollout

    reports = asyncio.run(rollout.remove(args.hosts, site(args), force=args.force))
    return node_report.show(reports, as_json=args.json, to=sys.stdout)


def run_remove_key(args: argparse.Namespace) -> int:
    """Remove one key."""
    from pveha.cli import node_report
    from pveha.nodeshell import operator_key, rollout

    fingerprint = operator_key.fingerprint(args.key)
    reports = asyncio.run(rollout.remove_key(args.hosts, site(args), fingerprint))
    return node_report.show(reports, as_json=args.json, to=sys.stdout)


def site(args: argparse.Namespace) -> "rollout.Site":
    """How to log in."""
    from pveha.nodeshell import admin, rollout

    access = admin.Access(args.user, args.port, args.known_hosts.expanduser(), args.identity)
    return rollout.Site(access)
