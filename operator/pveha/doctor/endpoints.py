"""The addresses of the Proxmox API: do they answer, are they who they should be, what may the token do."""

import asyncio

from pveha import api
from pveha.doctor import finding
from pveha.doctor.patient import Patient
from pveha.model import errors
from pveha.proxmox import access, certificates, client
from pveha.proxmox import endpoints as proxmox_endpoints

RENEWAL_DAYS = 14
"""Proxmox VE renews its own certificates when less is left of them."""
LEAST_VERSION = 9


async def answers(patient: Patient) -> list[finding.Finding]:
    """Each endpoint is asked, with the token."""
    asked = await asyncio.gather(*(_ask(patient, each) for each in patient.addresses))
    works = [str(address) for address, problem in zip(patient.addresses, asked, strict=True) if not problem]
    found = []
    for address, problem in zip(patient.addresses, asked, strict=True):
        if isinstance(problem, errors.Unauthorized):
            remedy = "correct tokenID and tokenSecret, or make the token anew: pveum user token add"
            found.append(finding.failure(str(problem), remedy, str(address)))
        elif problem and works:
            remedy = "bring the node or its pveproxy back, open port 8006, or take it out of spec.endpoints"
            found.append(finding.warning(f"{problem}; pveha uses the others", remedy, str(address)))
        elif problem:
            remedy = "check address, network, firewall (port 8006) and pveproxy on the node"
            found.append(finding.failure(str(problem), remedy, str(address)))
    if len(patient.addresses) == 1 and len(await patient.nodes()) > 1:
        message = "there is one endpoint only: if it is gone when pveha starts, the cluster is not found"
        found.append(finding.warning(message, "name a second node in spec.endpoints"))
    return found or [finding.ok(f"{finding.listed(works)} answer")]


async def _ask(patient: Patient, address: proxmox_endpoints.Address) -> errors.PvehaError | None:
    """Why an endpoint cannot be used, or None."""
    asking = client.ProxmoxClient([address], patient.token, patient.trust)
    try:
        version = (await asking.privileges()).version
        if int(version.partition(".")[0] or 0) < LEAST_VERSION:
            return errors.Refused(f"Proxmox VE {version} there: pveha needs {LEAST_VERSION}")
    except errors.PvehaError as error:
        return error
    finally:
        await asking.close()
    return None


async def certified(patient: Patient) -> list[finding.Finding]:
    """The certificate at each address that is named, now and in two weeks."""
    try:
        away = await patient.nodes() - await patient.online()
    except errors.PvehaError:
        away = frozenset()
    port = patient.addresses[0].port
    named = [
        proxmox_endpoints.Address(each.address, port)
        for each in patient.spec.nodes
        if each.address and each.name not in away
    ]
    addresses = list(dict.fromkeys([*patient.addresses, *named]))
    shown = await asyncio.gather(
        *(certificates.look(each, patient.trust) for each in addresses), return_exceptions=True
    )
    found = []
    for address, each in zip(addresses, shown, strict=True):
        where = str(address)
        if isinstance(each, errors.PvehaError):
            found.append(finding.unknown(f"its certificate cannot be seen ({each})", where))
        elif isinstance(each, BaseException):
            raise each
        else:
            found += _judge(each, where, pinned=bool(patient.trust.fingerprints))
    least = min((each.days_left for each in shown if isinstance(each, certificates.Shown)), default=0.0)
    return found or [finding.ok(f"the certificates are trusted, the first expires in {least:.0f} days")]


def _judge(shown: certificates.Shown, where: str, *, pinned: bool) -> list[finding.Finding]:
    date = f"{shown.not_after:%Y-%m-%d}"
    if shown.distrust:
        remedy = (
            "if it was renewed, correct spec.tls; if it has expired, 'pvecm updatecerts --force' on that "
            "node makes a new one; if it is neither, find out who answers there"
        )
        message = f"its certificate (until {date}) is not trusted: {shown.distrust}"
        return [finding.failure(message, remedy, where)]
    if pinned and shown.days_left < RENEWAL_DAYS:
        message = f"its certificate expires on {date}: the node renews it, and the new one is not pinned"
        remedy = "add the new fingerprint to spec.tls.fingerprints at once, or use spec.tls.caSecretRef"
        return [finding.warning(message, remedy, where)]
    if shown.days_left < RENEWAL_DAYS:
        message = f"its certificate expires on {date}, {shown.days_left:.0f} days from now"
        return [finding.warning(message, "renew it ('pvecm updatecerts --force' on that node)", where)]
    return []


async def token(patient: Patient) -> list[finding.Finding]:
    """The token's privileges, with the lines that grant what is missing."""
    permissions = await patient.permissions()
    lacking = access.missing(permissions, access.EVERYTHING)
    if not lacking:
        return [finding.ok(f"{patient.token.id} holds what pveha needs")]
    lines = "; ".join(access.grants(permissions, lacking, patient.token.id))
    remedy = f"as root on a node: {lines} (pveha: the role of docs/getting-started.md)"
    message = f"{patient.token.id} lacks {', '.join(map(str, lacking))}"
    if not access.missing(permissions, access.ENFORCE):
        lost = []
        if access.missing(permissions, access.MIGRATE):
            lost.append("no node can be drained")
        if access.missing(permissions, access.AGENT):
            lost.append("who depends on a guest with a guest agent waits for it in vain")
        if access.missing(permissions, access.REPLICATE):
            lost.append("no guest is started from a replica")
        return [finding.warning(f"{message}: {', '.join(lost)}, all else works", remedy)]
    looking = not access.missing(permissions, access.OBSERVE)
    if looking and patient.spec.mode is api.hacluster.Mode.OBSERVE:
        return [finding.warning(f"{message}, which mode Enforce needs", remedy)]
    consequence = (
        "pveha can look but not act" if looking else "pveha sees less than there is, and does nothing"
    )
    return [finding.failure(f"{message}: {consequence}", remedy)]
