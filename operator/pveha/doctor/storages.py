"""Storages of protected guests: on other nodes too, and online there."""

from pveha.doctor import finding
from pveha.doctor.patient import Patient

SHOWN = 10
"""Guests named in one sentence."""


async def shared(patient: Patient) -> list[finding.Finding]:
    """Every storage that a protected guest has a volume on."""
    if not patient.guests:
        return [finding.ok("no guest is protected")]
    configs, inventory = (await patient.configs()).guests, await patient.inventory()
    online = await patient.online()
    used: dict[str, list[str]] = {}
    for vmid, name in sorted(patient.guests.items()):
        for storage in configs[vmid].storages if vmid in configs else ():
            used.setdefault(storage, []).append(f"{name} ({vmid})")
    found = []
    for storage, guests in sorted(used.items()):
        rows = {each.node: each for each in inventory.storages if each.storage == storage}
        of = f"{', '.join(guests[:SHOWN])}{f' and {len(guests) - SHOWN} more' if len(guests) > SHOWN else ''}"
        if not any(each.shared for each in rows.values()):
            message = f"the storage is not shared: {of} cannot be started elsewhere"
            remedy = "move their volumes to a shared storage, or take the protection away"
            found.append(finding.failure(message, remedy, storage))
            continue
        there = {name for name, each in rows.items() if each.available and name in online}
        if away := online - there:
            message = f"the storage is not online on {finding.listed(away)}: {of} cannot be started there"
            remedy = f"see `pvesm status` there, and the nodes of {storage} in /etc/pve/storage.cfg"
            make = finding.failure if len(there) < 2 else finding.warning
            found.append(make(message, remedy, storage))
    told = f"{finding.listed(used) or 'no storage'}: shared, and online on every member"
    return found or [finding.ok(told)]
