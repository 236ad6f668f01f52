"""What the token must be allowed to do.

Proxmox VE answers several lists with those entries only that the caller may see: without privileges
`/cluster/resources` is 200 and empty. Empty must never be read as "no guests", so whoever asks for such a
list first looks at this table.
"""

import dataclasses
from collections.abc import Collection, Mapping

from typing_extensions import override

from pveha.model import errors

Permissions = Mapping[str, Mapping[str, bool]]
"""By path: privileges held there, and whether they propagate to the paths below."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Need:
    """A privilege on a path. `below`: on everything below the path as well."""

    path: str
    privilege: str
    below: bool = False

    @override
    def __str__(self) -> str:
        return f"{self.privilege} on {self.path}"


_GUESTS = Need("/vms", "VM.Audit", below=True)

INVENTORY = frozenset(
    {_GUESTS, Need("/storage", "Datastore.Audit", below=True), Need("/nodes", "Sys.Audit", below=True)}
)
"""`GET /cluster/resources` leaves out guests and storages not to be seen, and hides the memory of nodes."""

HA_READ = frozenset({Need("/", "Sys.Audit")})
"""`GET /cluster/status` and `/cluster/ha/...`: 403 without; looked at first, for the remedy in the error."""

REPLICATION = frozenset({_GUESTS})
"""`GET /cluster/replication` leaves out jobs of guests that may not be seen."""

HA_WRITE = frozenset({Need("/", "Sys.Console")})
"""`POST`, `PUT`, `DELETE` of `/cluster/ha/resources` and `/cluster/ha/rules`: registering, disowning and
adopting guests, and the rules of placement."""

POWER = frozenset({Need("/vms", "VM.PowerMgmt", below=True)})
"""`POST .../status/start`."""

OBSERVE = INVENTORY | HA_READ | REPLICATION
ENFORCE = OBSERVE | HA_WRITE | POWER

MIGRATE = frozenset({Need("/vms", "VM.Migrate", below=True)})
"""`POST .../migrate`: draining nodes. Without it all else works."""

AGENT = frozenset({Need("/vms", "VM.GuestAgent.Audit", below=True)})
"""`POST .../agent/ping`: whether a guest that others depend on is ready. Without it those wait in vain."""

REPLICATE = frozenset({Need("/vms", "VM.Replicate", below=True)})
"""`PUT /cluster/replication/ID`: starting guests from replicas (S19). Without it those are left alone."""

EVERYTHING = ENFORCE | MIGRATE | AGENT | REPLICATE


def missing(permissions: Permissions, needs: Collection[Need]) -> list[Need]:
    """Those of `needs` that are not met, with the paths below where an ACL of its own takes a privilege away.

    `/access/permissions` lists the paths on which something is held. A path with a role that holds nothing
    (NoAccess) is not listed, and cannot be told from one without an ACL.
    """
    found = []
    for need in needs:
        held = permissions.get(need.path, {})
        if need.privilege not in held or (need.below and not held[need.privilege]):
            found.append(need)
        elif need.below:
            found += [
                Need(path, need.privilege)
                for path, narrower in permissions.items()
                if path.startswith(f"{need.path}/") and need.privilege not in narrower
            ]
    return sorted(found)


def throughout(permissions: Permissions, path: str) -> frozenset[str]:
    """Privileges held on `path` and everything below."""
    held = permissions.get(path, {})
    return frozenset(name for name in held if not missing(permissions, [Need(path, name, below=True)]))


def demand(permissions: Permissions, needs: Collection[Need], token: str, purpose: str) -> None:
    """Raise `Forbidden` with what is missing and the line that grants it, unless all `needs` are met."""
    if lacking := missing(permissions, needs):
        message = f"token {token} may not {purpose}: it lacks {', '.join(map(str, lacking))}. {remedy(token)}"
        raise errors.Forbidden(message)


def grants(permissions: Permissions, lacking: Collection[Need], token: str) -> list[str]:
    """The lines to type on a node that give the token exactly what it lacks, by a role called pveha."""
    privileges = ",".join(sorted({need.privilege for need in lacking}))
    new = not any(permissions.values())
    user = token.partition("!")[0]
    paths = sorted({_granted_at(permissions, need) for need in lacking})
    return [
        f'pveum role {"add pveha" if new else "modify pveha --append 1"} --privs "{privileges}"',
        *(f"pveum acl modify {path} --users '{user}' --tokens '{token}' --roles pveha" for path in paths),
    ]


def _granted_at(permissions: Permissions, need: Need) -> str:
    """Where an ACL must name the role: at the top, unless what is held there is taken away further down."""
    return need.path if need.privilege in permissions.get("/", {}) else "/"


def remedy(token: str) -> str:
    """The lines to type on a node so that the token may do all that pveha does."""
    user = token.partition("!")[0]
    wanted = ",".join(sorted({need.privilege for need in EVERYTHING}))
    return (
        f'Grant it as root on a node: pveum role add pveha --privs "{wanted}"; '
        f"pveum acl modify / --users '{user}' --tokens '{token}' --roles pveha"
    )
