"""What follows from a snapshot: operations to start and cancel, what to tell users, and when to look
again."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from pveha.api import failoverpolicy, hacluster, protectedvm
from pveha.model import guests, kubernetes, operations

M = TypeVar("M")


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event about an object of the cluster: `name` None means the HACluster, else a
    ProtectedVM."""

    reason: str
    message: str
    warning: bool = False
    name: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """The statuses as they should be, by object name.

    Conditions carry the time of this round: the status writer keeps the old one where the status did not
    change.
    """

    cluster: hacluster.HAClusterStatus
    guests: Mapping[str, protectedvm.ProtectedVMStatus]
    policies: Mapping[str, failoverpolicy.FailoverPolicyStatus]
    standing: frozenset[str] = frozenset()
    """Those of `guests` of which nothing is to be written for now."""
    unfinished: float = dataclasses.field(default=0.0, compare=False)
    """Part of the processor that further reports are worth, because they would know more even if nothing
    happens; 0: they would not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Enrol:
    """Write a ProtectedVM that pveha owns; `uid` is that of the present one, "" if there is none."""

    manifest: kubernetes.Manifest
    uid: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Dismiss:
    """Delete a ProtectedVM that pveha owns, as it was when this was decided."""

    ref: kubernetes.ObjectRef
    resource_version: str


@dataclasses.dataclass(frozen=True, slots=True)
class Looking:
    """What observers should pay attention to until the next decision."""

    suspects: frozenset[str] = frozenset()
    """Nodes whose power is read every 5 s instead of at the slow cadence, and every 1.5 s if `urgent`."""
    urgent: bool = False
    """A failure is being handled: membership is read four times a second."""
    closely: bool = False
    """Guests and HA state are read every second instead of every five: in a failure, and while the CRM has
    to take note of what we did."""
    agents: frozenset[tuple[guests.GuestRef, str]] = frozenset()
    """Guests, with their nodes, whose agent is asked every other second because something waits for them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Decision(Generic[M]):
    """The result of one round."""

    sentence: str
    """What was decided and why, for the log."""
    start: tuple[operations.Operation, ...]
    cancel: tuple[str, ...]
    """Ids of operations to cancel."""
    events: tuple[Event, ...]
    """What just happened."""
    enrolment: Mapping[str, Enrol | Dismiss]
    """What is to be done to ProtectedVMs that pveha owns, by name: all of it, until it is seen to be done."""
    tell: Callable[[], Report] = dataclasses.field(compare=False)
    """Pure, and made only when somebody asks: with many guests it costs more than the decision itself."""
    looking: Looking
    memory: M
    wake_after: float
    """Seconds until the next round is due if nothing happens."""

    @property
    def report(self) -> Report:
        return self.tell()
