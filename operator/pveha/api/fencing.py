"""How a node's death is proven: methods of an HACluster, and what each needs to know of a single node."""

import hashlib
from enum import StrEnum
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator

from pveha.api.meta import (
    LIST_SET,
    Fingerprint,
    Host,
    Label,
    Matches,
    Model,
    NodeName,
    Port,
    Rule,
    SecretRef,
    cel,
    list_map,
)

DEFAULT_LEVEL = 1
DEFAULT_TIMEOUT_SECONDS = 15
SLOW_TIMEOUT_SECONDS = 30
"""Of methods that start a process for each request."""
DEFAULT_CONFIRMED_SECONDS = 600


class Redfish(Model):
    """Power control through the BMC's Redfish service. What differs from node to node is in
    spec.nodes[].fencing."""


class Ipmi(Model):
    """Power control through IPMI 2.0 (RMCP+). Choose Redfish where the BMC has both: IPMI does not verify who
    answers."""


class AgentParameter(StrEnum):
    """Parameters a fence agent may be given. Those that name files or programs are not among them, because an
    agent would run or read them; nor is missing_as_off, which would make a typing error a proof of death."""

    IP = "ip"
    IPPORT = "ipport"
    PLUG = "plug"
    SWITCH = "switch"
    SSL = "ssl"
    SSL_SECURE = "ssl_secure"
    SSL_INSECURE = "ssl_insecure"
    SSH = "ssh"
    INET4_ONLY = "inet4_only"
    INET6_ONLY = "inet6_only"
    LANPLUS = "lanplus"
    CIPHER = "cipher"
    PRIVLVL = "privlvl"
    SNMP_VERSION = "snmp_version"
    SNMP_AUTH_PROT = "snmp_auth_prot"
    SNMP_PRIV_PROT = "snmp_priv_prot"
    SNMP_SEC_LEVEL = "snmp_sec_level"
    SYSTEMS_URI = "systems_uri"
    LOGIN_TIMEOUT = "login_timeout"
    SHELL_TIMEOUT = "shell_timeout"
    POWER_TIMEOUT = "power_timeout"
    POWER_WAIT = "power_wait"


class Parameter(Model):
    """One parameter of a fence agent."""

    name: AgentParameter
    """Its name, as `fence_NAME -o metadata` tells it."""
    value: Annotated[
        str,
        Field(min_length=1, max_length=256),
        Matches(
            r"[A-Za-z0-9._:/@%+-]+",
            "must consist of letters, digits and . _ : / @ % + - only; "
            "secrets belong into the Secret that credentialsSecretRef names",
        ),
    ]
    """Its value. Secrets do not belong here."""


Parameters = Annotated[tuple[Parameter, ...], Field(max_length=16, json_schema_extra=list_map("name"))]


class Agent(Model):
    """Power control through an executable of the fence-agents project."""

    name: Annotated[
        str,
        Field(max_length=64),
        Matches(
            r"fence_[a-z0-9_]+",
            "must be the name of a fence agent without a path, for instance fence_apc_snmp: "
            "agents are looked for in one folder of the operator's image only",
        ),
    ]
    """Name of the executable, for instance `fence_apc_snmp`."""
    parameters: Parameters = Field(default=())
    """Parameters that are the same for all nodes, for instance the PDU's address."""


class Manual(Model):
    """A person confirms that a node is off, by the annotation pveha.dev/confirm-off on the HACluster."""

    confirmed_seconds: Annotated[int, Field(ge=60, le=3600)] | None = None
    """How long such a confirmation counts; absent means 600. Guests that are not claimed by then need another
    one."""

    @property
    def effective_confirmed_seconds(self) -> int:
        return self.confirmed_seconds or DEFAULT_CONFIRMED_SECONDS


class FencingMethod(Model):
    """A way to switch nodes off and to see that they are off."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "[has(self.redfish), has(self.ipmi), has(self.agent), has(self.manual)]"
                ".filter(each, each).size() == 1",
                "set exactly one of redfish, ipmi, agent and manual, for instance `redfish: {}`",
            )
        )
    )

    name: Label
    """Name by which spec.nodes[].fencing[].method refers to this method."""
    level: Annotated[int, Field(ge=1, le=9)] | None = None
    """Levels are tried in order, lowest first; absent means 1. All methods of a level that a node has must
    prove its death together: give the two power distribution units of a server with two power supplies the
    same level, and a BMC and a power distribution unit that can each do it alone different ones."""
    timeout_seconds: Annotated[int, Field(ge=5, le=120)] | None = None
    """How long switching a node off may take before the method counts as failed; absent means 15 for Redfish
    and 30 for the others. Raise it for BMCs that are slow to answer: too short a time leaves the guests to
    Proxmox's own HA."""
    redfish: Redfish | None = None
    """Use the Redfish service of each node's BMC: `redfish: {}`."""
    ipmi: Ipmi | None = None
    """Use IPMI 2.0 of each node's BMC: `ipmi: {}`."""
    agent: Agent | None = None
    """Use a fence agent, for instance for a power distribution unit (PDU)."""
    manual: Manual | None = None
    """Let a person confirm: `manual: {}`. Never automatic; a last resort for nodes whose other methods may
    fail with them."""

    @model_validator(mode="after")
    def _of_one_kind(self) -> "FencingMethod":
        if sum(kind is not None for kind in (self.redfish, self.ipmi, self.agent, self.manual)) != 1:
            raise ValueError("set exactly one of redfish, ipmi, agent and manual")
        return self

    @property
    def effective_level(self) -> int:
        return self.level or DEFAULT_LEVEL

    @property
    def effective_timeout_seconds(self) -> int:
        default = DEFAULT_TIMEOUT_SECONDS if self.redfish is not None else SLOW_TIMEOUT_SECONDS
        return self.timeout_seconds or default

    @property
    def tells_who(self) -> bool:
        """Whether the device names the machine it speaks of. Others are bound by a drill (S1)."""
        return self.redfish is not None or self.ipmi is not None


class Afterwards(StrEnum):
    """What becomes of a fenced node."""

    STAY_OFF = "StayOff"
    POWER_ON = "PowerOn"


class AfterFencing(Model):
    """What becomes of a fenced node once its guests run elsewhere."""

    action: Afterwards = Afterwards.STAY_OFF
    """StayOff: a person looks at it first. PowerOn: it is switched on again once nothing of its guests is
    left to do: for nodes nobody is near."""
    after_seconds: Annotated[int, Field(ge=0, le=86400)] = 300
    """How long after the proof of its death it is switched on at the earliest."""


class Fencing(Model):
    """How a node's death is proven. Without a proof pveha starts nothing and leaves the guests to Proxmox's
    own HA."""

    methods: Annotated[
        tuple[FencingMethod, ...], Field(max_length=8, json_schema_extra=list_map("name"))
    ] = ()
    """The methods that spec.nodes[].fencing uses."""
    afterwards: AfterFencing = AfterFencing()
    """What becomes of a fenced node once its guests run elsewhere."""


class NodeFencing(Model):
    """How one method reaches this node's power."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            Rule(
                "[has(self.address), has(self.host), has(self.parameters)].filter(each, each).size() <= 1",
                "set address for a redfish method, host for an ipmi method, parameters for an agent, "
                "and none of them for a manual one",
            ),
            Rule(
                "has(self.address) == (has(self.fingerprint) != has(self.caSecretRef)) "
                "&& !(has(self.fingerprint) && has(self.caSecretRef))",
                "set exactly one of fingerprint (SHA-256 of the BMC's certificate, usual for self-signed "
                "ones) and caSecretRef (a Secret with the key ca.crt) beside address: certificates are "
                "always verified",
            ),
            Rule(
                "!(has(self.address) || has(self.host)) || has(self.credentialsSecretRef)",
                "set credentialsSecretRef to a Secret with the keys username and password of the BMC",
            ),
            Rule("!has(self.systemID) || has(self.address)", "systemID goes with address only: remove it"),
            Rule("!has(self.port) || has(self.host)", "port goes with host only: write it into address"),
        )
    )

    method: Label
    """The method of spec.fencing.methods this entry belongs to."""
    address: (
        Annotated[
            str,
            Field(max_length=300),
            Matches(
                r"https://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?",
                "must be an https:// URL without a path, for instance https://192.0.2.21: "
                "http would show the BMC's password to the network",
            ),
        ]
        | None
    ) = None
    """For Redfish: URL of the BMC, for instance https://192.0.2.21. It should be reachable while the node is
    off and without that node."""
    system_id: (
        Annotated[
            str,
            Field(min_length=1, max_length=128),
            Matches(
                r"[A-Za-z0-9][A-Za-z0-9._:-]*",
                "must be the last part of the system's path below /redfish/v1/Systems/",
            ),
        ]
        | None
    ) = None
    """For Redfish: which system of the BMC is this node, if it manages several (a chassis with blades).
    Absent means that it manages one."""
    host: Host | None = None
    """For IPMI: DNS name or IP address of the BMC."""
    port: Port | None = None
    """For IPMI: UDP port of the BMC; absent means 623."""
    parameters: Parameters | None = None
    """For a fence agent: parameters that are this node's own, for instance the outlet (`plug`). They win over
    those of the method."""
    credentials_secret_ref: SecretRef | None = None
    """Secret with the keys `username` and `password`: an account that may read and switch the power, and
    nothing else. A fence agent may also have `community`, `snmp_auth_passwd` and `snmp_priv_passwd`, and
    needs no Secret if its device asks for none."""
    fingerprint: Fingerprint | None = None
    """For Redfish: SHA-256 fingerprint of the BMC's certificate; the usual choice, because BMCs come with
    self-signed certificates."""
    ca_secret_ref: SecretRef | None = None
    """For Redfish: Secret with the key `ca.crt`: the authority that signed the BMC's certificate. Choose this
    if you roll out your own."""

    @model_validator(mode="after")
    def _verification_is_never_off(self) -> "NodeFencing":
        if self.address is not None and (self.fingerprint is None) == (self.ca_secret_ref is None):
            raise ValueError("set exactly one of fingerprint and caSecretRef")
        return self


NodeMethods = Annotated[tuple[NodeFencing, ...], Field(max_length=4, json_schema_extra=list_map("method"))]
AlsoCutsOff = Annotated[tuple[NodeName, ...], Field(max_length=31, json_schema_extra=LIST_SET)]


def device(method: FencingMethod, entry: NodeFencing) -> str:
    """What a drill has been done with: another outlet, another agent, and it has to be done again."""
    told = method.model_dump_json(include={"redfish", "ipmi", "agent"}) + entry.model_dump_json(
        exclude={"credentials_secret_ref", "fingerprint", "ca_secret_ref"}
    )
    return hashlib.sha256(told.encode()).hexdigest()[:16]
