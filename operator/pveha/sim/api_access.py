"""Who calls the simulated API, and what they may do.

A token acts for a user. With privilege separation (the default) it has only what its own ACL grants; without,
all that its user has. The ACL of the deepest path that covers an object counts.
"""

import dataclasses
import hmac
from collections.abc import Mapping

_PRIVILEGES = {
    "Datastore": "Allocate AllocateSpace AllocateTemplate Audit",
    "Group": "Allocate",
    "Mapping": "Audit Modify Use",
    "Permissions": "Modify",
    "Pool": "Allocate Audit",
    "Realm": "Allocate AllocateUser",
    "SDN": "Allocate Audit Use",
    "Sys": "AccessNetwork Audit Console Incoming Modify PowerMgmt Syslog",
    "User": "Modify",
    "VM": "Allocate Audit Backup Clone Console Migrate PowerMgmt Replicate Snapshot Snapshot.Rollback",
    "VM.Config": "CDROM CPU Cloudinit Disk HWType Memory Network Options",
    "VM.GuestAgent": "Audit FileRead FileSystemMgmt FileWrite Unrestricted",
}
PRIVILEGES = frozenset(f"{group}.{name}" for group, names in _PRIVILEGES.items() for name in names.split())
"""All privileges of 9.2 (VM.Monitor is gone)."""

OPERATOR = frozenset(
    (
        "Sys.Audit",
        "Sys.Console",
        "VM.Audit",
        "VM.GuestAgent.Audit",
        "VM.Migrate",
        "VM.PowerMgmt",
        "VM.Replicate",
        "Datastore.Audit",
    )
)
"""What pveha needs on `/`."""

AUDITOR = frozenset(("Sys.Audit", "VM.Audit", "Datastore.Audit", "Pool.Audit", "SDN.Audit"))
"""The role PVEAuditor, as far as the calls served here look at it."""

_LISTED = ("/", "/access", "/access/groups", "/nodes", "/pool", "/sdn", "/storage", "/vms")
"""Paths that `/access/permissions` lists for everybody, beside those of the caller's own ACLs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller. `token` is empty for a login with a password: only root's may skip locks."""

    user: str
    token: str = ""
    acl: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)

    @property
    def name(self) -> str:
        """As it appears in UPIDs."""
        return f"{self.user}!{self.token}" if self.token else self.user

    @property
    def skips_locks(self) -> bool:
        return self.user == "root@pam" and not self.token

    def privileges(self, path: str) -> frozenset[str]:
        """What the caller may do with the object at an access path such as `/vms/100`."""
        while path and path not in self.acl:
            path = path.rpartition("/")[0]
        return self.acl.get(path or "/", frozenset())

    def may(self, path: str, *privileges: str) -> bool:
        """Whether the caller has any of `privileges` on `path`."""
        return not self.privileges(path).isdisjoint(privileges)

    def permissions(self) -> dict[str, dict[str, int]]:
        """`GET /access/permissions`; paths without any privilege are left out."""
        paths = dict.fromkeys((*_LISTED, *self.acl))
        return {path: dict.fromkeys(held, 1) for path in paths if (held := sorted(self.privileges(path)))}


ROOT = Caller("root@pam", acl={"/": PRIVILEGES})
"""root's own login."""


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """An API token as `pveum user token add` makes it; `id` is USER@REALM!NAME."""

    id: str
    secret: str = dataclasses.field(repr=False)
    acl: Mapping[str, frozenset[str]] = dataclasses.field(default_factory=dict)

    @property
    def caller(self) -> Caller:
        user, _, name = self.id.partition("!")
        return Caller(user, name, self.acl)


class Tokens:
    """The tokens a cluster knows."""

    def __init__(self, *tokens: Token) -> None:
        self._tokens = {token.id: token for token in tokens}

    def grant(self, identifier: str, acl: Mapping[str, frozenset[str]]) -> None:
        """Give a token these ACLs and no others."""
        self._tokens[identifier] = dataclasses.replace(self._tokens[identifier], acl=acl)

    def authenticate(self, authorization: str | None) -> Caller | None:
        """The caller of an `Authorization: PVEAPIToken=ID=SECRET` header, or None."""
        scheme, _, credentials = (authorization or "").partition("=")
        identifier, _, secret = credentials.partition("=")
        token = self._tokens.get(identifier)
        if scheme != "PVEAPIToken" or token is None or not hmac.compare_digest(token.secret, secret):
            return None
        return token.caller
