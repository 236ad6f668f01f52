"""Proxmox's own HA, which recovers what pveha does not."""

import asyncio

from pveha.doctor import finding
from pveha.doctor.patient import Patient
from pveha.model import cluster, guests, mark

STUCK_SECONDS = 30.0
"""A CRM flushes its state every 10 s (S9)."""
LRM_SECONDS = 40.0
"""An LRM reports every 5 to 10 s; later than this pveha starts nothing there."""
MOVING = frozenset({"migrate", "relocate"})
"""States of a service whose configuration may be ahead of the CRM's record."""
PERSISTS_SECONDS = 2.0


async def manager(patient: Patient) -> list[finding.Finding]:
    """Armed, and its master makes its rounds."""
    status, resources = await patient.ha_status(), (await patient.ha_config()).resources
    if not status.armed:
        message = "Proxmox HA is disarmed: a node's guests come back nowhere, and pveha does nothing"
        return [finding.failure(message, "ha-manager crm-command arm-ha")]
    if status.master is None:
        if not resources:
            return [finding.ok("Proxmox HA is not in use yet: it begins with the first registered guest")]
        message = f"Proxmox HA has {len(resources)} resources and no master"
        return [finding.failure(message, "journalctl -u pve-ha-crm on the nodes")]
    if status.master not in await patient.online():
        message = f"the master {status.master} is not a member; another takes over within two minutes"
        return [finding.warning(message, "look again then", status.master)]
    silent = await patient.node_now(status.master) - status.timestamp
    if silent > STUCK_SECONDS:
        message = f"the master has written nothing for {silent:.0f} s: HA stands still for the whole cluster"
        remedy = f"journalctl -u pve-ha-crm on {status.master}; systemctl restart pve-ha-crm there"
        return [finding.failure(message, remedy, status.master)]
    return [finding.ok(f"armed, and the master {status.master} makes its rounds")]


async def lrms(patient: Patient) -> list[finding.Finding]:
    """Every member's LRM reports."""
    status, online = await patient.ha_status(), await patient.online()
    if status.master is None:
        return [finding.ok("Proxmox HA is not in use yet")]
    found = []
    for name in sorted(online):
        lrm = status.lrms.get(name)
        remedy = f"journalctl -u pve-ha-lrm on {name}; systemctl restart pve-ha-lrm there"
        if lrm is None:
            found.append(
                finding.failure("its LRM has never reported: nothing is started there", remedy, name)
            )
        elif (silent := await patient.node_now(name) - lrm.timestamp) > LRM_SECONDS:
            message = f"its LRM has been silent for {silent:.0f} s: nothing is started there"
            found.append(finding.failure(message, remedy, name))
        elif lrm.state == "lost_agent_lock":
            message = "its LRM has lost its lock: its watchdog will reset the node"
            found.append(finding.failure(message, remedy, name))
        elif status.armed and lrm.mode != "active":
            message = f"its LRM is in mode {lrm.mode}: no guest is started there"
            remedy = f"when the work is done: ha-manager crm-command node-maintenance disable {name}"
            found.append(finding.warning(message, remedy, name))
    return found or [finding.ok(f"the LRMs of {finding.listed(online)} report")]


async def services(patient: Patient) -> list[finding.Finding]:
    """Services in error, and records that differ from where the configuration is (S8, S9)."""
    found = []
    for sid, service in sorted((await patient.ha_status()).services.items()):
        if service.state == "error":
            message = "Proxmox HA has given the guest up (error): nobody recovers it"
            remedy = f"ha-manager set {sid} --state disabled, put it right, then --state started"
            make = finding.failure if _vmid(sid) in patient.guests else finding.warning
            found.append(make(message, remedy, sid))
    stale = await _stale(patient)
    if stale:
        await asyncio.sleep(PERSISTS_SECONDS)
        still, online = await _stale(patient, again=True), await patient.online()
        for sid in sorted(stale.keys() & still.keys()):
            record, configured = still[sid]
            message = f"the CRM has it on {record.node}, its configuration is on {configured}"
            remedy = f"ha-manager set {sid} --state ignored; wait 30 s; ha-manager set {sid} --state started"
            if record.node not in online:
                message += ": when that node is fenced, HA stands still for the whole cluster"
            make = finding.warning if record.node in online else finding.failure
            found.append(make(message, remedy, sid))
    return found or [finding.ok("no service is in error, and every record is where its guest is")]


async def _stale(patient: Patient, *, again: bool = False) -> dict[str, tuple[cluster.ServiceStatus, str]]:
    status, inventory = await patient.ha_status(again=again), await patient.inventory(again=again)
    found = {}
    for sid, service in status.services.items():
        guest = inventory.guests.get(_vmid(sid))
        if guest is not None and guest.node != service.node and service.state not in MOVING:
            found[sid] = (service, guest.node)
    return found


async def marks(patient: Patient) -> list[finding.Finding]:
    """Guests that are out of Proxmox HA by a mark of pveha that no operation answers for."""
    open_operations = {each.id for each in patient.status.operations}
    found = []
    for sid, resource in sorted((await patient.ha_config()).resources.items()):
        left = mark.parse(resource.comment).mark
        if left is None:
            continue
        if left.hold:
            message = f"Proxmox HA is held back from it, because nobody could tell whether {left.hold} is off"
            remedy = f"make sure that {left.hold} is off, or bring it back"
            found.append(finding.warning(message, remedy, sid))
        elif left.op not in open_operations:
            message = f"it carries the mark of operation {left.op}, which pveha does not list as open"
            remedy = (
                "the running operator gives it back within a minute, the nodes' timer after 240 s; if "
                f"neither does: ha-manager set {sid} --state {left.was}, without the mark in its comment"
            )
            found.append(finding.failure(message, remedy, sid))
    return found or [finding.ok("no guest is out of Proxmox HA by a mark that was left")]


def _vmid(sid: str) -> int:
    ref = guests.parse_sid(sid)
    return ref.vmid if ref else 0
