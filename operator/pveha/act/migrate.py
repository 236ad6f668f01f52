"""Send a guest to another node, unless it is no longer what the decision saw.

Proxmox does the moving. If it fails the guest stays where it is: nothing has to be undone.
"""

import asyncio

from pveha.act import context
from pveha.model import cluster, errors, mark, operations

WRITE_SECONDS = 11.0
"""Deadline of the call that starts or queues a migration (`proxmox.client`)."""
POLL_SECONDS = 2.0
"""A live migration takes seconds to hours."""
SILENT_SECONDS = 60.0
"""For how long a task may not be readable before it is left to itself."""


async def migrate(operation: operations.Migrate, with_: context.Context) -> operations.Outcome:
    """Start the migration; follow its task, or leave the command to the CRM."""
    loop = asyncio.get_running_loop()
    with_.step("Asking")
    await with_.ready(WRITE_SECONDS)
    resource = (await with_.hypervisor.ha_config()).resources.get(operation.ref.sid)
    if resource is not None and mark.parse(resource.comment).mark is not None:
        raise errors.Refused(f"{operation.ref.sid} was set aside by a takeover meanwhile")
    if _is_managed(resource) is not operation.managed:
        raise errors.Refused(f"the HA resource of {operation.ref} was changed by somebody else meanwhile")
    with_.require(WRITE_SECONDS)
    if operation.managed:
        await with_.hypervisor.migrate_service(operation.ref, operation.target)
        return operations.Outcome(loop.time())
    upid = await with_.hypervisor.migrate(operation.ref, operation.source, operation.target)
    with_.step("Moving")
    return operations.Outcome(loop.time(), error=await _follow(upid, with_))


def _is_managed(resource: cluster.HAResource | None) -> bool:
    return resource is not None and resource.state is not cluster.HAState.IGNORED


async def _follow(upid: str, with_: context.Context) -> str:
    """Why the task failed, or an empty string."""
    loop = asyncio.get_running_loop()
    heard_at = loop.time()
    while True:
        try:
            status = await with_.hypervisor.task(upid)
        except errors.OutsideError as problem:
            if loop.time() - heard_at > SILENT_SECONDS:
                return f"what became of it cannot be read: {problem}"
        else:
            heard_at = loop.time()
            if not status.running:
                return "" if status.succeeded else f"the migration task failed: {status.exit_status}"
        await asyncio.sleep(POLL_SECONDS)
