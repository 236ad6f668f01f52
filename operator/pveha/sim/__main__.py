"""A simulated data centre as a process of its own, for demo and tests: `python -m pveha.sim --guests 12`.

With `--scenario FILE` the data centre, and what is protected in it, are those of a scenario file; its
timeline is left to whoever started this. It is played in virtual time first, and `virtual` tells the outcome.

Writes one line of JSON with the connection data and the manifests, then answers each line of stdin with one
line of JSON, `{"ok": true, "result": ...}` or `{"ok": false, "error": "..."}`:

    state              CRM master, nodes, guests and HA resources as they are
    log [SECONDS]      the world's log, from that time on
    lines [NUMBER]     the same as `SUBJECT: TEXT`, from that line on
    now                the world's time: seconds since it began
    double_runs        how often a guest came to have two processes able to write
    downtimes SECONDS  by vmid: seconds since that time in which the guest ran nowhere
    bmc_log            commands the BMCs were given
    calls              API calls by method and path so far
    shell_calls        node shell calls by verb so far
    quit               stop; so does the end of stdin
    anything else      a fault, as `faults.apply` reads it, for instance `power off pve2`
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import pathlib
import signal
import sys
from collections.abc import Callable
from typing import Any

from pveha.model import cluster, errors, guests
from pveha.sim import config, datacenter, faults


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m pveha.sim", description="A simulated data centre.")
    option = parser.add_argument
    option("--nodes", type=int, default=3, help="number of nodes (default: 3)")
    option("--pdus", default="", metavar="NAME,...", help="PDUs that feed every node, instead of BMCs")
    option("--qdevice", action="store_true", help="with a QDevice, for an even number of nodes")
    option("--guests", type=int, default=12, help="number of guests, spread over the nodes (default: 12)")
    option("--on", default="", metavar="NODE", help="put all guests on this node instead")
    option("--containers", type=int, default=0, help="how many of the guests are containers (default: 0)")
    option("--guest-mib", type=int, default=1024, help="memory of each guest in MiB (default: 1024)")
    option("--managed", action="store_true", help="register the guests with Proxmox's HA beforehand")
    option("--boot-seconds", type=float, default=30.0, help="how long a node takes to boot (default: 30)")
    option("--namespace", default="default", help="namespace of the manifests (default: default)")
    option("--mode", default="Enforce", choices=("Enforce", "Observe"), help="mode of the HACluster")
    option("--seed", type=int, default=0, help="of the world's random delays (default: 0)")
    option("--scenario", type=pathlib.Path, metavar="FILE", help="the world of this scenario file instead")
    option("--identity", default="", metavar="UID", help="with --scenario: that of the Kubernetes cluster")
    arguments = parser.parse_args()
    try:
        asyncio.run(_serve(_of_scenario(arguments) if arguments.scenario else _of_options(arguments)))
    except datacenter.NoLoopbackError as error:
        sys.exit(f"pveha.sim: {error}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Service:
    """What to serve: a world, its manifests, what else is told first, and what is done when it has begun."""

    about: config.Config
    manifests: Callable[[datacenter.DataCenter], list[dict[str, Any]]]
    told: dict[str, Any] = dataclasses.field(default_factory=dict)
    began: Callable[[datacenter.DataCenter], object] = lambda running: None


def data_centre(
    nodes: int = 3,
    guest_count: int = 12,
    *,
    on: str = "",
    qdevice: bool = False,
    pdus: tuple[str, ...] = (),
    containers: int = 0,
    guest_mib: int = 1024,
    managed: bool = False,
    boot_seconds: float = 30.0,
    seed: int = 0,
) -> config.Config:
    """Nodes pve1, pve2, ... and guests 100, 101, ...; the last `containers` of them are containers."""
    names = [f"pve{number}" for number in range(1, nodes + 1)]
    listed = []
    for number in range(guest_count):
        kind = guests.GuestKind.CONTAINER if number >= guest_count - containers else guests.GuestKind.VM
        guest = config.Guest(100 + number, on or names[number % nodes], kind, memory=guest_mib << 20)
        if managed:
            guest = dataclasses.replace(guest, ha=cluster.HAResource(guest.ref.sid))
        listed.append(guest)
    machines = tuple(
        config.Node(name, boot_seconds=boot_seconds, pdus=pdus, has_bmc=not pdus) for name in names
    )
    device = config.Qdevice() if qdevice else None
    return config.Config(machines, guests=tuple(listed), qdevice=device, seed=seed)


def _of_options(arguments: argparse.Namespace) -> _Service:
    about = data_centre(
        arguments.nodes,
        arguments.guests,
        on=arguments.on,
        qdevice=arguments.qdevice,
        pdus=tuple(pdu for pdu in arguments.pdus.split(",") if pdu),
        containers=arguments.containers,
        guest_mib=arguments.guest_mib,
        managed=arguments.managed,
        boot_seconds=arguments.boot_seconds,
        seed=arguments.seed,
    )
    return _Service(about, lambda running: running.manifests(arguments.namespace, mode=arguments.mode))


def _of_scenario(arguments: argparse.Namespace) -> _Service:
    from pveha.sim import resource_log, rig, scenario, scenario_live, scenario_run

    owner = f"{arguments.identity}/{arguments.namespace}/{rig.CLUSTER}"
    played = scenario.load(arguments.scenario)
    return _Service(
        scenario_live.world(played, owner),
        lambda running: scenario_live.manifests(played, running, arguments.namespace),
        {"virtual": scenario_run.play(played).as_json()},
        lambda running: resource_log.ResourceLog(running.world),
    )


async def _serve(service: _Service) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, reader.feed_eof)
    async with datacenter.DataCenter(service.about) as running:
        service.began(running)
        manifests = service.manifests(running)
        _print({**dataclasses.asdict(running.connection), "manifests": manifests, **service.told})
        while line := (await reader.readline()).decode().strip():
            if line == "quit":
                break
            _print(answer(running, line))


def answer(running: datacenter.DataCenter, line: str) -> dict[str, Any]:
    """What one line is answered."""
    verb, *words = line.split()
    try:
        if verb in _QUESTIONS:
            return {"ok": True, "result": _QUESTIONS[verb](running, words)}
        faults.apply(running.world, line)
    except (errors.PvehaError, ValueError, LookupError, TypeError) as error:
        return {"ok": False, "error": f"{line}: {error}"}
    return {"ok": True, "result": running.world.now()}


def _state(running: datacenter.DataCenter) -> dict[str, Any]:
    simulated = running.world
    tree = max(simulated.fs.trees.values(), key=lambda tree: tree.version)
    return {
        "master": tree.manager.master,
        "nodes": {
            name: {
                "powered": machine.powered,
                "up": machine.up,
                "quorate": simulated.membership.quorate(name),
            }
            for name, machine in simulated.machines.items()
        },
        "guests": simulated.state_of_guests(),
        "ha": {
            sid: {
                "state": str(resource.state),
                "comment": resource.comment,
                "crm_state": service.state if (service := tree.manager.services.get(sid)) else None,
            }
            for sid, resource in tree.resources.items()
        },
    }


def _log(running: datacenter.DataCenter, words: list[str]) -> list[str]:
    since = float(words[0]) if words else 0.0
    return [str(event) for event in running.world.log if event.at >= since]


def _lines(running: datacenter.DataCenter, words: list[str]) -> list[str]:
    first = int(words[0]) if words else 0
    return [f"{event.subject}: {event.text}" for event in running.world.log[first:]]


def _downtimes(running: datacenter.DataCenter, words: list[str]) -> dict[int, float]:
    simulated = running.world
    since = float(words[0])
    return {guest.vmid: simulated.downtime(guest.vmid, since) for guest in simulated.config.guests}


_QUESTIONS: dict[str, Callable[[datacenter.DataCenter, list[str]], Any]] = {
    "state": lambda running, _: _state(running),
    "log": _log,
    "lines": _lines,
    "now": lambda running, _: running.world.now(),
    "double_runs": lambda running, _: running.world.double_runs,
    "downtimes": _downtimes,
    "bmc_log": lambda running, _: [dataclasses.asdict(command) for command in running.world.bmc_log],
    "calls": lambda running, _: dict(running.api.calls),
    "shell_calls": lambda running, _: running.shell_calls,
}


def _print(value: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(value), flush=True)


if __name__ == "__main__":
    main()
