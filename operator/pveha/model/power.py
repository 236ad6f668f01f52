"""What a BMC or an outlet answers."""

import dataclasses
import enum
import functools


class PowerState(enum.Enum):
    """Power of a machine as its BMC reads it."""

    ON = "On"
    OFF = "Off"
    CHANGING = "Changing"
    """Redfish PoweringOn, PoweringOff, Paused: neither proves anything."""


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Switch:
    """One way to switch one node: an entry of `spec.nodes[].fencing`. A binding (S1) is one switch's."""

    node: str
    method: str

    def __str__(self) -> str:
        return f"{self.node}/{self.method}"


@dataclasses.dataclass(frozen=True, slots=True)
class PowerReading:
    """One read of a machine's power; `identities` are its UUID and serial, lower case, none from an
    outlet."""

    state: PowerState
    identities: frozenset[str]
    asked_at: float
    answered_at: float
    restore: str = ""
    """What the machine does when the mains return, in Redfish's words: AlwaysOn, AlwaysOff, LastState; "" if
    it is not told."""


@functools.lru_cache(maxsize=1024)
def same_machine(bmc: frozenset[str], dmi: frozenset[str]) -> bool:
    """Whether a BMC and a node name the same machine (S1).

    Some vendors swap the bytes of a UUID's first three groups, so both forms are compared.
    """
    forms = {form for identity in bmc for form in (identity, swapped_uuid(identity))}
    return bool(forms & dmi)


def swapped_uuid(identity: str) -> str:
    """`identity` with the bytes of its first three groups reversed if it is a UUID, else unchanged."""
    groups = identity.split("-")
    if [len(group) for group in groups] != [8, 4, 4, 4, 12]:
        return identity
    swapped = ["".join(reversed([group[i : i + 2] for i in range(0, len(group), 2)])) for group in groups[:3]]
    return "-".join(swapped + groups[3:])
