"""One exception tree. Every error names the object, what was tried, and where there is one, the remedy."""


class PvehaError(Exception):
    """Anything pveha itself raises."""


class OutsideError(PvehaError):
    """A port (Proxmox, BMC, node shell, Kubernetes) did not do what was asked."""


class Unreachable(OutsideError):
    """No answer: refused, timed out, broken off. The request may have had its effect."""


class Busy(Unreachable):
    """The other side says that it has no time now: the same again a moment later may succeed."""


class BadAnswer(OutsideError):
    """An answer that does not have the documented shape."""


class Unauthorized(OutsideError):
    """The credentials are wrong."""


class Forbidden(OutsideError):
    """The credentials are right but may not do this."""


class Untrusted(OutsideError):
    """The other side's certificate or host key is not the pinned one."""


class NotFound(OutsideError):
    """The object does not exist."""


class AlreadyExists(OutsideError):
    """The object exists already."""


class Conflict(OutsideError):
    """The object changed since it was read (digest, resourceVersion, other field manager)."""


class NoQuorum(OutsideError):
    """The cluster, or the node asked, is not quorate."""


class Locked(OutsideError):
    """A lock held by somebody else is in the way."""


class Refused(OutsideError):
    """The other side understood and declined; the message is its reason."""


class StaleEpoch(Refused):
    """A newer epoch exists: another leader has taken over."""


class AnotherOwner(Refused):
    """The cluster belongs to another pveha; `owner` names it."""

    def __init__(self, message: str, owner: str) -> None:
        super().__init__(message)
        self.owner = owner


class NotLeader(PvehaError):
    """Leadership ended, or too little of the lease is left for this side effect."""


class InvalidConfiguration(PvehaError):
    """Something the user wrote cannot be used; the message names the object and the remedy."""
