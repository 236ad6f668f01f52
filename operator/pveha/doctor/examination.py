"""Every check on every HACluster: side by side, each within a deadline, none stopped by another."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from pveha import api, tls
from pveha.control import links
from pveha.doctor import endpoints, fencing, finding, ha, kubernetes, shell, storages, votes
from pveha.doctor.patient import Patient
from pveha.kube import client as kube_client
from pveha.model import errors
from pveha.model.kubernetes import ClusterKey, Manifest
from pveha.proxmox import credentials

CHECK_SECONDS = 30.0
"""Of one check. Each of its questions has a deadline of its own, most of them of 5 s or less."""

Check = Callable[[Patient], Awaitable[list[finding.Finding]]]

CONFIGURATION = "configuration"
CHECKS: Mapping[str, Check] = {
    "endpoints": endpoints.answers,
    "certificates": endpoints.certified,
    "token": endpoints.token,
    "quorum": votes.quorum,
    "votes": votes.votes,
    "detection": votes.detection,
    "clocks": votes.clocks,
    "fencing": fencing.readable,
    "fencing-identity": fencing.bound,
    "power-restore": fencing.power_restore,
    "node-shell": shell.installed,
    "node-shell-key": shell.confined,
    "timer": shell.timer,
    "storage": storages.shared,
    "ha-manager": ha.manager,
    "ha-lrm": ha.lrms,
    "ha-services": ha.services,
    "marks": ha.marks,
    "owner": shell.owner,
    "control-plane": kubernetes.control_plane,
    "replicas": kubernetes.replicas,
    "replica-spread": kubernetes.spread,
}
"""By the names they are reported under, in this order."""


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """What was found about one HACluster."""

    key: ClusterKey
    results: tuple[finding.Result, ...]


async def examine(kube: kube_client.ApiServer, namespace: str | None, names: Collection[str]) -> list[Report]:
    """The HAClusters of a namespace (None: of all), or those of these names.

    Raises NotFound if there is none, and what Kubernetes raises.
    """
    clusters = (await kube.list_objects(api.HACluster.kind_name, namespace)).objects
    protected = (await kube.list_objects(api.ProtectedVM.kind_name, namespace)).objects
    wanted = [each for each in clusters if not names or each["metadata"]["name"] in names]
    there = {each["metadata"]["name"] for each in wanted}
    if missing := sorted(set(names) - there) or ([] if wanted else ["at all"]):
        where = f"in namespace {namespace}" if namespace else "in any namespace"
        raise errors.NotFound(f"no HACluster {', '.join(missing)} {where}")
    return [await _examine(kube, each, protected) for each in wanted]


async def _examine(kube: kube_client.ApiServer, manifest: Manifest, protected: Sequence[Manifest]) -> Report:
    key = ClusterKey(manifest["metadata"]["namespace"], manifest["metadata"]["name"])

    async def read(name: str) -> Mapping[str, bytes]:
        return await kube.secret(key.namespace, name)

    try:
        about = api.parse(manifest)
        assert isinstance(about, api.HACluster)
        guests, refused = _guests(key, protected)
        secrets = links.Secrets(key.namespace, read)
        token, trust = await _credentials(about, secrets)
        ports = await links.connect(about.spec, key.namespace, read)
    except (errors.PvehaError, api.ManifestError) as error:
        broken = finding.failure(str(error), "correct it; see docs/reference.md")
        unseen = finding.unknown(f"the HACluster cannot be used: see {CONFIGURATION}")
        rest = (finding.Result(name, (unseen,)) for name in CHECKS)
        return Report(key, (finding.Result(CONFIGURATION, (broken,)), *rest))
    patient = Patient(about, guests, ports, trust, token, kube)
    try:
        found = await asyncio.gather(*(_run(check, patient) for check in CHECKS.values()))
    finally:
        await patient.close()
        await ports.close()
    configuration = refused or [finding.ok("the HACluster, its ProtectedVMs and its Secrets can be used")]
    results = zip((CONFIGURATION, *CHECKS), (configuration, *found), strict=True)
    return Report(key, tuple(finding.Result(name, tuple(each)) for name, each in results))


async def _run(check: Check, patient: Patient) -> list[finding.Finding]:
    """What cannot be found out is told as such, whatever the reason: a doctor that falls ill is no help."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await check(patient)
    except TimeoutError:
        return [finding.unknown(f"no answer within {CHECK_SECONDS:g} s")]
    except errors.PvehaError as error:
        return [finding.unknown(str(error))]
    except Exception as error:
        return [finding.unknown(f"the check itself failed: {error!r}", remedy="please report this")]


def _guests(
    key: ClusterKey, protected: Sequence[Manifest]
) -> tuple[Mapping[int, str], list[finding.Finding]]:
    """ProtectedVMs of a cluster, by vmid, and those that cannot be read."""
    guests, refused = {}, []
    for manifest in protected:
        spec = manifest.get("spec") or {}
        mine = (manifest["metadata"]["namespace"], (spec.get("clusterRef") or {}).get("name"))
        if mine != (key.namespace, key.name):
            continue
        name = manifest["metadata"]["name"]
        try:
            parsed = api.parse(manifest)
        except api.ManifestError as error:
            refused.append(finding.failure(str(error), "correct it; see docs/reference.md", f"pvm/{name}"))
            continue
        if isinstance(parsed, api.ProtectedVM):
            guests[parsed.spec.vmid] = name
    return guests, refused


async def _credentials(about: api.HACluster, secrets: links.Secrets) -> tuple[credentials.Token, tls.Trust]:
    """The token and whom to trust, for questions to a single endpoint."""
    field = "spec.credentialsSecretRef"
    name = about.spec.credentials_secret_ref.name
    token = credentials.Token(
        await secrets.value(name, "tokenID", field), await secrets.value(name, "tokenSecret", field)
    )
    ref = about.spec.tls.ca_secret_ref
    ca = await secrets.value(ref.name, "ca.crt", "spec.tls.caSecretRef") if ref else None
    return token, tls.Trust(ca, tuple(about.spec.tls.fingerprints or ()))
