"""`pveha doctor` with a simulated data centre behind HTTPS, SSH and Redfish, and a real API server.

It is clean where all is well, and finds every fault that is seeded, by the right check and with its remedy.
"""

import asyncio
import contextlib
import dataclasses
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pveha import api
from pveha.cli import __main__ as cli
from pveha.devkube import access
from pveha.devkube.target import Target
from pveha.doctor import examination
from pveha.model import cluster, guests
from pveha.sim import api_access, config, datacenter, faults

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]
NAME = "dc1"
CONTAINER = guests.GuestKind.CONTAINER
ABOUT = config.Config(
    tuple(config.Node(f"pve{number}", power_restore="last") for number in (1, 2, 3)),
    guests=(
        config.Guest(100, "pve1", name="web", ha=cluster.HAResource("vm:100")),
        config.Guest(101, "pve2", name="db", ha=cluster.HAResource("vm:101")),
        config.Guest(102, "pve3", CONTAINER, name="proxy", ha=cluster.HAResource("ct:102")),
        config.Guest(103, "pve1", name="scratch", storages=("local",)),
    ),
    corosync=config.Corosync(token=100, token_coefficient=0),
    timings=config.Timings(rejoin=0.1, pvestatd_round=0.2, status_lifetime=0.5, bmc_call=(0.0, 0.01)),
)
ELSEWHERE = {f"kube-{number}": f"4c4c4544-0000-0000-0000-{number:012}" for number in (1, 2, 3)}
"""systemUUIDs of the Kubernetes nodes: kube-1 is the control plane, pveha's pods are on the others."""

ATTEMPTS = 4
"""A fault may take a second to show, and a busy machine may let one of many deadlines pass."""

Finding = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Clinic:
    """A data centre, its HACluster, and a Kubernetes cluster of three nodes that is elsewhere."""

    center: datacenter.DataCenter
    admin: access.Access
    namespace: str

    async def doctor(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output of `pveha doctor`."""
        return await self.pveha("doctor", *arguments)

    async def pveha(self, *arguments: str) -> tuple[int, str]:
        """Exit status and output of a verb."""
        return await offline(*arguments, "--kubeconfig", str(self.admin.kubeconfig), "-n", self.namespace)

    async def findings(self) -> tuple[int, list[Finding]]:
        """Exit status and all findings."""
        status, text = await self.doctor("--json")
        (only,) = json.loads(text)["clusters"]
        return status, only["findings"]

    async def found(
        self, wanted: Callable[[list[Finding]], bool] = lambda _: True
    ) -> tuple[int, list[Finding]]:
        """Exit status and the findings that are not OK, as soon as they are as wanted."""
        for attempt in range(1, ATTEMPTS + 1):
            status, findings = await self.findings()
            bad = [each for each in findings if each["severity"] != "OK"]
            if wanted(bad) or attempt == ATTEMPTS:
                return status, bad
            await asyncio.sleep(0.5)
        raise AssertionError

    async def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return await asyncio.to_thread(self.admin.kubectl, *arguments, stdin=stdin)

    async def move(self, machine: str, identity: str) -> None:
        """Let a Kubernetes node be the machine with this UUID."""
        body = json.dumps({"status": {"nodeInfo": node_info(identity)}})
        await self.kubectl("patch", "node", machine, "--subresource=status", "--type=merge", "-p", body)

    async def secret(self, name: str, **data: str) -> None:
        body = json.dumps({"stringData": data})
        await self.kubectl("patch", "secret", name, "-n", self.namespace, "--type=merge", "-p", body)

    def uuid(self, vmid: int) -> str:
        return next(each.uuid for each in self.center.world.config.guests if each.vmid == vmid)

    def say(self, *lines: str) -> None:
        for line in lines:
            faults.apply(self.center.world, line)


def node_info(identity: str) -> dict[str, str]:
    unset = (
        *("machineID", "bootID", "kernelVersion", "osImage", "containerRuntimeVersion", "kubeletVersion"),
        *("kubeProxyVersion", "operatingSystem", "architecture"),
    )
    info = dict.fromkeys(unset, "")
    info["systemUUID"] = identity
    return info


def kubernetes_cluster(namespace: str) -> list[dict[str, Any]]:
    role = {"node-role.kubernetes.io/control-plane": ""}
    machines: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": role if name == "kube-1" else {}},
            "status": {"nodeInfo": node_info(identity)},
        }
        for name, identity in ELSEWHERE.items()
    ]
    account: dict[str, Any] = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    pods: list[dict[str, Any]] = [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"pveha-{name}", "labels": {"app.kubernetes.io/name": "pveha"}},
            "spec": {"nodeName": name, "containers": [{"name": "operator", "image": "pveha"}]},
        }
        for name in ("kube-2", "kube-3")
    ]
    namespaced = [
        {**each, "metadata": {**each["metadata"], "namespace": namespace}} for each in (account, *pods)
    ]
    return [*machines, *namespaced]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def clinic(kube: Target) -> AsyncIterator[Clinic]:
    admin = kube.admin
    admin.kubectl("apply", "--server-side", "-k", str(ROOT / "crds"))
    names = [f"crd/{resource.plural}.{api.GROUP}" for resource in api.RESOURCES]
    admin.kubectl("wait", "--for=condition=Established", "--timeout=30s", *names)
    with kube.namespace("pveha-doctor") as namespace:
        async with datacenter.DataCenter(ABOUT) as center:
            there = Clinic(center, admin, namespace)
            wanted = [
                each for each in center.manifests(namespace, NAME) if each["metadata"]["name"] != "scratch"
            ]
            objects = [*wanted, *kubernetes_cluster(namespace)]
            items = {"apiVersion": "v1", "kind": "List", "items": objects}
            await there.kubectl("create", "-f", "-", stdin=json.dumps(items))
            yield there
            machines = [f"node/{name}" for name in ELSEWHERE]
            await there.kubectl("delete", *machines)
            kinds = "pods,haclusters,failoverpolicies,protectedvms"
            await there.kubectl("delete", kinds, "--all", "-n", namespace, "--grace-period=0", "--force")


@dataclasses.dataclass(frozen=True)
class Fault:
    """How it is made and healed, the check that must find it, and words of its finding and its remedy.

    `others` are the checks that cannot look, or find something too, because of it: none beside them may.
    """

    make: Callable[[Clinic], Awaitable[object] | None]
    heal: Callable[[Clinic], Awaitable[object] | None]
    check: str
    words: str
    remedy: str
    subject: str = ""
    severity: str = "Failure"
    others: frozenset[str] = frozenset()


def said(
    make: str,
    heal: str,
    check: str,
    words: str,
    remedy: str,
    subject: str = "",
    severity: str = "Failure",
    others: frozenset[str] = frozenset(),
) -> Fault:
    """A fault in the words of `sim.faults`."""
    return Fault(
        lambda at: at.say(make), lambda at: at.say(heal), check, words, remedy, subject, severity, others
    )


def grant(*privileges: str) -> Callable[[Clinic], None]:
    def act(at: Clinic) -> None:
        at.center.api.tokens.grant(at.center.connection.token.id, {"/": frozenset(privileges)})

    return act


def certify(**how: Any) -> Callable[[Clinic], None]:
    return lambda at: at.center.certify("pve2", **how)


def password(text: str) -> Callable[[Clinic], Awaitable[None]]:
    def act(at: Clinic) -> Awaitable[None]:
        bmc = at.center.connection.node("pve2").bmc
        assert bmc is not None
        return at.secret(f"{NAME}-bmc-pve2", password=text or bmc.password)

    return act


def move(**machines: int | str) -> Callable[[Clinic], Awaitable[object]]:
    """Kubernetes nodes that are a guest, or on a Proxmox node; none: back to elsewhere."""

    async def act(at: Clinic) -> None:
        for machine, to in (
            {name.replace("_", "-"): to for name, to in machines.items()} or ELSEWHERE
        ).items():
            if isinstance(to, int):
                to = at.uuid(to)
            elif to.startswith("pve"):
                to = at.center.world.machines[to].about.uuid
            await at.move(machine, to)

    return act


def manager(act: Callable[[Any], object]) -> Callable[[Clinic], None]:
    """Change what the CRM has written, with the CRM standing still."""

    def stopped(at: Clinic) -> None:
        at.say(*(f"hang pve-ha-crm {name}" for name in at.center.world.machines))
        act(at.center.world.newest.manager)

    return stopped


def awake(at: Clinic) -> None:
    written = at.center.world.newest.manager
    written.timestamp = int(at.center.world.wall_now())
    written.disarm_mode = written.disarm_state = ""
    for sid, node in (("vm:100", "pve1"), ("vm:101", "pve2"), ("ct:102", "pve3")):
        written.services[sid].state, written.services[sid].node = "started", node
    for lrm in at.center.world.newest.lrms.values():
        lrm.mode = "active"
    at.say(*(f"start pve-ha-crm {name}" for name in at.center.world.machines))


def entry(comment: str, state: cluster.HAState) -> Callable[[Clinic], None]:
    return lambda at: at.center.world.set_ha(cluster.HAResource("vm:100", state, comment))


async def protect_local(at: Clinic) -> None:
    spec = {"clusterRef": {"name": NAME}, "vmid": 103}
    manifest = {
        "apiVersion": api.API_VERSION,
        "kind": "ProtectedVM",
        "metadata": {"name": "scratch"},
        "spec": spec,
    }
    await at.kubectl("create", "-n", at.namespace, "-f", "-", stdin=json.dumps(manifest))


async def unprotect_local(at: Clinic) -> None:
    await at.kubectl("delete", "protectedvm", "scratch", "-n", at.namespace)


async def settled(at: Clinic) -> None:
    """Everybody is in one membership again, and has told of its guests and storages."""
    for _ in range(200):
        await asyncio.sleep(0.05)
        if all(at.center.world.membership.quorate(name) for name in at.center.world.machines):
            break


HEALTHY = tuple(sorted(api_access.OPERATOR))
NEEDS_SHELL = frozenset(
    {"votes", "detection", "clocks", "fencing-identity", "node-shell-key", "timer", "owner"}
)
FAULTS = {
    "endpoint dead": said(
        "stop pveproxy pve2",
        "start pveproxy pve2",
        "endpoints",
        "pveha uses the others",
        "pveproxy",
        "127.",
        "Warning",
        frozenset({"certificates", "quorum"}),
    ),
    "certificate foreign": Fault(
        certify(foreign=True),
        certify(),
        "certificates",
        "not trusted",
        "find out who answers there",
        "127.",
        others=frozenset({"endpoints", "quorum"}),
    ),
    "certificate expired": Fault(
        certify(days_left=-1),
        certify(),
        "certificates",
        "expired",
        "pvecm updatecerts",
        "127.",
        others=frozenset({"endpoints", "quorum"}),
    ),
    "certificate about to expire": Fault(
        certify(days_left=5), certify(), "certificates", "expires on", "renew it", "127.", "Warning"
    ),
    "privilege missing": Fault(
        grant(*(each for each in HEALTHY if each != "VM.PowerMgmt")),
        grant(*HEALTHY),
        "token",
        "lacks VM.PowerMgmt on /vms: pveha can look but not act",
        'pveum role modify pveha --append 1 --privs "VM.PowerMgmt"; '
        "pveum acl modify / --users 'pveha@pve' --tokens 'pveha@pve!operator' --roles pveha",
    ),
    "no privileges at all": Fault(
        grant(),
        grant(*HEALTHY),
        "token",
        "pveha sees less than there is",
        "pveum role add pveha --privs "
        '"Datastore.Audit,Sys.Audit,Sys.Console,VM.Audit,VM.GuestAgent.Audit,VM.Migrate,VM.PowerMgmt,'
        'VM.Replicate"; ',
        others=frozenset(
            {"quorum", "storage", "ha-manager", "ha-lrm", "ha-services", "marks", *NEEDS_SHELL, "node-shell"}
            | {"control-plane", "replicas", "replica-spread", "fencing"}
        ),
    ),
    "no quorum": said(
        "partition pve1 | pve2 | pve3",
        "heal",
        "quorum",
        "has no quorum",
        "do not lower the expected votes",
        "pve1",
        others=frozenset(
            {
                "votes",
                "ha-manager",
                "ha-lrm",
                "node-shell",
                "storage",
                "replicas",
                "control-plane",
                "replica-spread",
            }
        ),
    ),
    "two_node set": said(
        "corosync two_node 1", "corosync two_node 0", "votes", "sets two_node", "remove two_node"
    ),
    "last_man_standing set": said(
        "corosync last_man_standing 1",
        "corosync last_man_standing 0",
        "votes",
        "down to one",
        "remove last_man_standing",
    ),
    "expected votes lowered": said(
        "expected votes 2",
        "expected votes 0",
        "votes",
        "2 votes are expected, nodes and QDevice have 3",
        "pvecm expected 3",
    ),
    "token timeout raised": said(
        "corosync token 30000",
        "corosync token 100",
        "detection",
        "after 66.0 s",
        "lower totem.token",
        severity="Warning",
    ),
    "clock ahead": said(
        "set clock pve2 90",
        "set clock pve2 0",
        "clocks",
        "90 s ahead",
        "chronyc",
        "pve2",
        others=frozenset({"ha-lrm"}),
    ),
    "BMC identities swapped": said(
        "swap bmcs pve1 pve2",
        "straighten bmcs",
        "fencing-identity",
        "that is pve2",
        "systemID",
        "pve1",
    ),
    "BMC unreachable": said(
        "cut operator pve2 bmc",
        "heal operator pve2 bmc",
        "fencing",
        "no answer",
        "check the BMC's address",
        "pve2",
    ),
    "BMC password wrong": Fault(
        password("wrong"), password(""), "fencing", "401", "correct username and password", "pve2"
    ),
    "BMC reads off": said(
        "bmc reads off pve3",
        "bmc reads true pve3",
        "fencing",
        "reads Off while the node is a member",
        "rebind",
        "pve3",
    ),
    "node shell absent": said(
        "remove node shell pve2",
        "install node shell pve2",
        "node-shell",
        "is pveha-node installed there",
        "pveha node install",
        "pve2",
        others=frozenset({"votes", "clocks", "fencing-identity"}),
    ),
    "node shell older": said(
        "downgrade node shell pve3",
        "install node shell pve3",
        "node-shell",
        "pveha-node 0.0.9 is there",
        "pveha node install",
        "pve3",
        "Warning",
        frozenset({"clocks", "timer"}),
    ),
    "key not bound to its command": said(
        "unbind node shell pve1",
        "install node shell pve1",
        "node-shell-key",
        "`id` was answered",
        "restrict",
        "pve1",
    ),
    "timer not installed": said(
        "remove timer pve1", "install timer pve1", "timer", "no timer there", "pveha node install", "pve1"
    ),
    "storage local to one node": Fault(
        protect_local,
        unprotect_local,
        "storage",
        "scratch (103) cannot be started elsewhere",
        "shared storage",
        "local",
    ),
    "storage offline on a node": said(
        "cut storage pve3 shared",
        "heal storage pve3 shared",
        "storage",
        "not online on pve3",
        "pvesm status",
        "shared",
        "Warning",
    ),
    "HA disarmed": Fault(
        manager(lambda crm: setattr(crm, "disarm_state", "disarmed")),
        awake,
        "ha-manager",
        "disarmed",
        "arm-ha",
    ),
    "HA manager stuck": Fault(
        manager(lambda crm: setattr(crm, "timestamp", crm.timestamp - 100)),
        awake,
        "ha-manager",
        "has written nothing for",
        "journalctl -u pve-ha-crm on pve1",
        "pve1",
    ),
    "service in error": Fault(
        manager(lambda crm: setattr(crm.services["vm:101"], "state", "error")),
        awake,
        "ha-services",
        "given the guest up",
        "ha-manager set vm:101",
        "vm:101",
    ),
    "service record stale": Fault(
        manager(lambda crm: setattr(crm.services["vm:101"], "node", "pve3")),
        awake,
        "ha-services",
        "the CRM has it on pve3, its configuration is on pve2",
        "ha-manager set vm:101",
        "vm:101",
        "Warning",
    ),
    "mark left behind": Fault(
        entry("[pveha op=gone epoch=1 was=started]", cluster.HAState.IGNORED),
        entry("", cluster.HAState.STARTED),
        "marks",
        "mark of operation gone",
        "ha-manager set vm:100 --state started",
        "vm:100",
    ),
    "another pveha's cluster": Fault(
        lambda at: own(at, "cafe/dc1/other"),
        lambda at: own(at, ""),
        "owner",
        "belongs to cafe/dc1/other",
        "pveha.dev/take-over: cafe/dc1/other",
    ),
    "machines stay off after a power cut": Fault(
        lambda at: restore(at, "off"),
        lambda at: restore(at, "last"),
        "power-restore",
        "pve1, pve2, pve3 stay off",
        "LastState",
        severity="Warning",
    ),
    "control plane on a guarded guest": Fault(
        move(kube_1=100), move(), "control-plane", "kube-1 is guest qemu/100 on pve1", "elsewhere"
    ),
    "all replicas on guarded guests": Fault(
        move(kube_2=100, kube_3=101),
        move(),
        "replicas",
        "pveha-kube-3 on kube-3, guest qemu/101 on pve2",
        "no guest of this cluster",
    ),
    "all replicas on one Proxmox node": Fault(
        move(kube_2=100, kube_3="pve1"),
        move(),
        "replica-spread",
        "some 370 s in all",
        "topologyKey",
        severity="Warning",
        others=frozenset({"replicas"}),
    ),
}


def own(at: Clinic, owner: str) -> None:
    at.center.world.newest.files["priv/pveha/owner"] = owner


async def offline(*arguments: str) -> tuple[int, str]:
    """Exit status and output of a verb, of which nothing says where an API server is."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        status = await asyncio.to_thread(cli.main, list(arguments))
    return status, out.getvalue()


def restore(at: Clinic, policy: str) -> None:
    for machine in at.center.world.machines.values():
        machine.power_restore = policy


async def test_explain_answers_for_the_cluster_and_for_its_snapshot(clinic: Clinic, tmp_path: Path) -> None:
    status, text = await clinic.pveha("explain", "pve2", "--json")
    answer = json.loads(text)
    (db,) = answer["guests"]
    assert (status, db["protectedVM"], db["from"], db["recovered"]) == (0, "db", "pve2", True), text
    assert db["to"] in {"pve1", "pve3"}
    file = tmp_path / "dc1.json"
    status, text = await clinic.pveha("snapshot", str(file))
    assert (status, text) == (0, f"{file}: 3 nodes, 4 guests, 3 ProtectedVMs\n")
    assert clinic.center.connection.token.secret not in file.read_text(encoding="utf-8")
    status, text = await clinic.pveha("explain", "pve2", "--json", "--file", str(file))
    assert json.loads(text) == answer
    status, text = await offline("simulate", str(file), "--fail", "pve2", "--json")
    played = json.loads(text)
    assert status == 0, text
    assert played["guests"][str(db["vmid"])] == {"node": db["to"], "state": "running"}
    assert played["back"][str(db["vmid"])] <= db["expectedDowntimeSeconds"] + 2
    assert (played["fenced"], played["problems"], played["double_runs"]) == (["pve2"], [], 0)


async def test_a_healthy_cluster_is_clean(clinic: Clinic) -> None:
    assert await clinic.found(lambda bad: not bad) == (0, [])
    _, findings = await clinic.findings()
    assert {each["check"] for each in findings} == {"configuration", *examination.CHECKS}


@pytest.mark.parametrize("name", FAULTS)
async def test_it_finds(clinic: Clinic, name: str) -> None:
    fault = FAULTS[name]

    def mine(bad: list[Finding]) -> list[Finding]:
        of_check = [each for each in bad if each["check"] == fault.check]
        return [each for each in of_check if each["subject"].startswith(fault.subject)]

    def others(bad: list[Finding]) -> set[str]:
        return {each["check"] for each in bad} - {fault.check} - fault.others

    await done(fault.make(clinic))
    try:
        status, bad = await clinic.found(lambda bad: bool(mine(bad)) and not others(bad))
    finally:
        await done(fault.heal(clinic))
        await settled(clinic)
    assert mine(bad), bad
    assert fault.words in mine(bad)[0]["message"]
    assert fault.remedy in mine(bad)[0]["remedy"]
    assert mine(bad)[0]["severity"] == fault.severity
    assert others(bad) == set()
    assert status == (2 if any(each["severity"] == "Failure" for each in bad) else 1)


async def done(result: object) -> None:
    if isinstance(result, Awaitable):
        await result


async def test_it_is_clean_again_as_a_table_and_every_check_was_wrong_once(clinic: Clinic) -> None:
    status, text = await clinic.doctor(NAME)
    assert status == 0, text
    assert text.startswith(f"HACluster {clinic.namespace}/{NAME}: OK\n")
    assert {each.check for each in FAULTS.values()} | {"configuration", "ha-lrm"} == {
        "configuration", *examination.CHECKS,
    }  # fmt: skip


async def test_a_secret_that_is_missing_leaves_nothing_else_to_look_at(clinic: Clinic) -> None:
    secret = await clinic.kubectl("get", "secret", f"{NAME}-token", "-n", clinic.namespace, "-o", "json")
    await clinic.kubectl("delete", "secret", f"{NAME}-token", "-n", clinic.namespace)
    try:
        status, found = await clinic.found()
    finally:
        await clinic.kubectl("replace", "--force", "-f", "-", stdin=secret)
    assert status == 2
    assert f"Secret {NAME}-token in namespace {clinic.namespace}" in found[0]["message"]
    assert {each["severity"] for each in found[1:]} == {"Unknown"}
    assert {each["check"] for each in found} == {"configuration", *examination.CHECKS}


async def test_without_such_a_cluster_nothing_is_examined(
    clinic: Clinic, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await clinic.doctor("dc9") == (3, "")
    assert "no HACluster dc9" in capsys.readouterr().err


async def test_a_node_that_is_down_keeps_nothing_else_from_being_looked_at(clinic: Clinic) -> None:
    """The last test: it leaves a node that boots."""
    clinic.say("power off pve3")
    await asyncio.sleep(1.0)
    try:
        status, found = await clinic.found()
    finally:
        clinic.say("power on pve3")
    assert status == 1
    assert {(each["check"], each["severity"]) for each in found} == {
        ("endpoints", "Warning"),
        ("certificates", "Unknown"),
        ("quorum", "Warning"),
        ("fencing-identity", "Unknown"),
    }
