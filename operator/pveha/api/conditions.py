"""Every condition type and every reason, each with what it means and what to do about it.

One enumeration of types a resource, one of reasons a condition. All conditions but Degraded and
UnprotectHeld are good when True. A reason's text is the heading; the condition's message names the objects at
hand. docs/reference.md shows these tables.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Self

NOTHING = "-"
"""Remedy of what needs none."""


class Documented(StrEnum):
    """A word for programs that knows its sentence for people: member = word, meaning, remedy."""

    meaning: str
    remedy: str

    def __new__(cls, word: str, meaning: str, remedy: str = NOTHING) -> Self:
        member = str.__new__(cls, word)
        member._value_ = word
        member.meaning = meaning
        member.remedy = remedy
        return member


class ClusterCondition(Documented):
    """Condition types of HACluster."""

    READY = (
        "Ready",
        "pveha can protect this cluster's guests. A node loss that is being handled leaves it True.",
    )
    CONNECTED = "Connected", "The Proxmox API answers, is trusted, and the token may do what is needed."
    QUORATE = "Quorate", "The Proxmox cluster has a quorum, and all views that pveha gets agree."
    OWNED = "Owned", "This HACluster is the one that may act on the Proxmox cluster."
    FENCING_READY = "FencingReady", "Every node's death could be proven."
    FAST_READY = "FastReady", "The Fast engine could take over guests now."
    HA_HEALTHY = "HAHealthy", "Proxmox's own HA, the net underneath, works."
    DEGRADED = "Degraded", "A node is down or a failure is being handled. True is bad."
    ACTING = "Acting", "pveha would act if a node died now."
    UNPROTECT_HELD = (
        "UnprotectHeld",
        "Many guests at once would lose their protection, and pveha waits for a confirmation. True is bad.",
    )
    DRAINED = "Drained", "Nothing that runs is left on any node whose availability is Drain."
    CAPACITY_ASSURED = (
        "CapacityAssured",
        "Whichever nodes are lost, as many as spec.capacity says: there is room for all their guests.",
    )
    SOUND = (
        "Sound",
        "Nothing is seen that works today and would hurt in the next failure, or break by itself soon.",
    )


class PolicyCondition(Documented):
    """Condition types of FailoverPolicy."""

    READY = "Ready", "The policy can be used."


class GuestCondition(Documented):
    """Condition types of ProtectedVM."""

    READY = "Ready", "The guest is found, is the one that was meant, and is registered with Proxmox's own HA."
    FAILOVER_READY = (
        "FailoverReady",
        (
            "The guest would be recovered if its node died now: by pveha within seconds, with engine Native "
            "by Proxmox's own HA within minutes."
        ),
    )
    PLACEMENT_READY = (
        "PlacementReady",
        (
            "What spec.placement wishes is understood and possible, and Proxmox's HA rules say the same as "
            "far as they can."
        ),
    )


class ClusterReady(Documented):
    """Reasons of HACluster's Ready."""

    OK = "OK", "All that protection needs is in order."
    INVALID = (
        "Invalid",
        "The stored object breaks a rule that is newer than the object.",
        "Correct the field that the message names and apply the object again.",
    )
    NOT_CONNECTED = "NotConnected", "The Proxmox API cannot be used.", "See the condition Connected."
    NOT_QUORATE = (
        "NotQuorate",
        "The cluster has no quorum or shows different views.",
        "See the condition Quorate.",
    )
    NOT_OWNED = "NotOwned", "Another operator owns the cluster.", "See the condition Owned."
    FENCING_NOT_READY = (
        "FencingNotReady",
        "The death of a node could not be proven; its guests are left to Proxmox's own HA.",
        "See the condition FencingReady.",
    )
    FAST_NOT_READY = (
        "FastNotReady",
        "Guests could not be taken over; they are left to Proxmox's own HA.",
        "See the condition FastReady.",
    )
    HA_NOT_HEALTHY = (
        "HANotHealthy",
        "Proxmox's own HA does not work, so there is no net underneath.",
        "See the condition HAHealthy.",
    )
    STARTING = "Starting", "pveha has just started and has not seen the whole cluster yet."


class Connected(Documented):
    """Reasons of HACluster's Connected."""

    OK = "OK", "An endpoint answers and the token has its privileges."
    SECRET_MISSING = (
        "SecretMissing",
        "A Secret that the HACluster names does not exist.",
        "Create the Secret that the message names, in the HACluster's namespace.",
    )
    SECRET_INVALID = (
        "SecretInvalid",
        "A Secret lacks a key, or its content cannot be used.",
        "Correct the key that the message names.",
    )
    UNAUTHORIZED = (
        "Unauthorized",
        "Proxmox refuses the token.",
        "Check tokenID (user@realm!name) and tokenSecret, and that neither token nor user has expired.",
    )
    PRIVILEGES_MISSING = (
        "PrivilegesMissing",
        "The token lacks privileges. What it may not see looks like an empty cluster, so pveha does nothing.",
        "Give the token's role the privileges that the message names, on /, with propagation.",
    )
    CERTIFICATE_MISMATCH = (
        "CertificateMismatch",
        "An endpoint shows a certificate that spec.tls does not allow.",
        (
            "If the certificate was renewed, update the CA or the fingerprints; if not, find out who answers "
            "there."
        ),
    )
    UNREACHABLE = (
        "Unreachable",
        "No endpoint answers in time. Guests keep running; nothing is fenced for that.",
        "Check network, firewall (port 8006) and spec.endpoints.",
    )
    BAD_ANSWER = (
        "BadAnswer",
        "What answers does not behave like the Proxmox API.",
        "Check that spec.endpoints name Proxmox nodes and no other web server or proxy in between.",
    )
    VERSION_UNSUPPORTED = (
        "VersionUnsupported",
        "This version of Proxmox VE is not supported.",
        "Upgrade the nodes to Proxmox VE 9: nothing is registered, fenced or recovered by pveha before.",
    )
    STARTING = "Starting", "No endpoint has been asked yet."


class Quorate(Documented):
    """Reasons of HACluster's Quorate."""

    OK = "OK", "The cluster has a quorum and its views agree."
    NO_QUORUM = (
        "NoQuorum",
        "No quorate part of the cluster is seen. pveha does nothing until there is one.",
        "Bring nodes or the cluster network back. Do not lower the expected votes while nodes may still run.",
    )
    SPLIT_VIEW = (
        "SplitView",
        "Two quorate answers name different members. pveha does nothing.",
        "Look at `pvecm status` on the nodes that the message names.",
    )
    HISTORY_FORKED = (
        "HistoryForked",
        (
            "Nodes that were off while others went on have come back without them and are quorate, with "
            "guests and HA resources as they once were. pveha does nothing."
        ),
        (
            "Switch those nodes off, then all nodes on together, so that they agree before any guest runs; "
            "pveha goes on by itself then. `wait_for_all: 1` in corosync.conf is meant to prevent it."
        ),
    )
    UNKNOWN = "Unknown", "The cluster could not be asked.", "See the condition Connected."


class Owned(Documented):
    """Reasons of HACluster's Owned."""

    OK = "OK", "The Proxmox cluster's epoch register names this HACluster."
    NOT_USED = (
        "NotUsed",
        "Engine Native without node shell needs no epoch: HA resources themselves name their owner.",
    )
    ANOTHER_OPERATOR = (
        "AnotherOperator",
        "The Proxmox cluster is owned by another HACluster, perhaps of another Kubernetes cluster.",
        (
            "Remove the other one, or take over: annotate this one with pveha.dev/take-over: <owner in the "
            "message>."
        ),
    )
    NOT_CLAIMED = "NotClaimed", "Nothing has been claimed yet; that happens in mode Enforce only."


class FencingReady(Documented):
    """Reasons of HACluster's FencingReady."""

    OK = "OK", "Every node has a level of fencing methods that answer and are bound to it."
    NOT_USED = "NotUsed", "No fencing is configured, and spec.recovery.engine Native needs none."
    NOT_CONFIGURED = (
        "NotConfigured",
        "No fencing is configured for the nodes in the message. Their guests are left to Proxmox's own HA.",
        "Add spec.fencing.methods and spec.nodes[].fencing.",
    )
    FENCING_UNVERIFIED = (
        "FencingUnverified",
        (
            "A BMC has not been bound: it does not answer, or its identity is not that of the node. Or an "
            "outlet has not been bound by a drill."
        ),
        (
            "Check address, credentials and systemID in spec.nodes[].fencing of the nodes in the message; do "
            "the drill of docs/fencing.md for outlets."
        ),
    )
    FENCING_CONTRADICTED = (
        "FencingContradicted",
        (
            "A BMC said what cannot be true, for instance off while its node answers. It proves nothing any "
            "more."
        ),
        "Find out which machine the BMC belongs to, correct spec.nodes[].fencing.",
    )
    SECRET_MISSING = (
        "SecretMissing",
        "A BMC's Secret does not exist.",
        "Create the Secret that the message names, in the HACluster's namespace.",
    )
    SECRET_INVALID = (
        "SecretInvalid",
        "A BMC's Secret lacks a key, or its content cannot be used.",
        "Correct the key that the message names.",
    )
    UNREACHABLE = (
        "Unreachable",
        "A BMC does not answer. If its node died now, its death could not be proven.",
        "Check the BMC's network and power.",
    )
    UNAUTHORIZED = (
        "Unauthorized",
        "A BMC refuses the credentials.",
        "Correct username and password in the Secret that the message names.",
    )
    CERTIFICATE_MISMATCH = (
        "CertificateMismatch",
        "A BMC shows a certificate other than the pinned one.",
        "If it was renewed, update fingerprint or CA; if not, find out who answers there.",
    )
    UNKNOWN = "Unknown", "Not all BMCs have been read yet."


class FastReady(Documented):
    """Reasons of HACluster's FastReady."""

    OK = "OK", "The node shell answers on every online node and the cluster's votes are safe."
    NOT_USED = "NotUsed", "No node shell is configured, and spec.recovery.engine Native can do without."
    NOT_CONFIGURED = (
        "NotConfigured",
        "spec.recovery.nodeShell is not set.",
        "Install pveha-node on the nodes and set spec.recovery.nodeShell.",
    )
    VOTES_UNSAFE = (
        "VotesUnsafe",
        (
            "The votes of the cluster do not guarantee one quorate side: two_node, last_man_standing, "
            "auto_tie_breaker, or lowered expected votes."
        ),
        "Correct corosync's configuration; for two nodes add a QDevice.",
    )
    SECRET_MISSING = (
        "SecretMissing",
        "The node shell's Secret does not exist.",
        "Create the Secret that the message names, in the HACluster's namespace.",
    )
    SECRET_INVALID = (
        "SecretInvalid",
        "The node shell's Secret lacks a key, or its content cannot be used.",
        (
            "Correct the key that the message names: ssh-privatekey in OpenSSH's form, known_hosts with "
            "every node."
        ),
    )
    NODE_SHELL_UNREACHABLE = (
        "NodeShellUnreachable",
        "SSH to the nodes in the message fails.",
        "Check network, firewall (port 22) and spec.nodes[].address.",
    )
    NODE_SHELL_DENIED = (
        "NodeShellDenied",
        "A node refuses the SSH key, or its host key is not in known_hosts.",
        "Install the key with its forced command on the node; add the node's host key to known_hosts.",
    )
    NODE_SHELL_VERSION = (
        "NodeShellVersion",
        "pveha-node on a node does not speak this operator's version.",
        "Install the pveha-node that belongs to this operator.",
    )
    NODE_SHELL_FAILED = (
        "NodeShellFailed",
        "pveha-node answered with an error.",
        "Look at the message, and at `pveha-node status` on the node.",
    )
    UNKNOWN = "Unknown", "The node shells have not been asked yet."


class HAHealthy(Documented):
    """Reasons of HACluster's HAHealthy."""

    OK = "OK", "The CRM makes its rounds and every online node's LRM reports."
    HA_MANAGER_STUCK = (
        "HAManagerStuck",
        "The CRM has written no status for more than 30 s although its master is alive.",
        "Look at `journalctl -u pve-ha-crm` on the master; restart the service there.",
    )
    DISARMED = (
        "Disarmed",
        "HA is disarmed or being disarmed, so pveha does nothing.",
        "Arm HA again when the work is done.",
    )
    LRM_NOT_ALIVE = (
        "LRMNotAlive",
        "The LRM of an online node does not report. Nothing is started there.",
        "Look at `journalctl -u pve-ha-lrm` on the nodes in the message.",
    )
    NODE_STUCK_IN_FENCE = (
        "NodeStuckInFence",
        "The CRM holds a member for lost for ever, as none of its HA resources is left to be fenced.",
        "Switch the node off for three minutes: its HA resources are recovered elsewhere.",
    )
    NOT_IN_USE = (
        "NotInUse",
        "No HA resource exists, so the CRM is idle. It wakes when the first guest is registered.",
    )
    UNKNOWN = "Unknown", "The HA state could not be read.", "See the condition Connected."


class Degraded(Documented):
    """Reasons of HACluster's Degraded."""

    NONE = "None", "All nodes are online."
    NODE_DOWN = "NodeDown", "A node is down.", "See status.notOnline; repair the node."
    RECOVERING = "Recovering", "Guests of a dead node are being started elsewhere."
    NODE_PLANNED_DOWN = "NodePlannedDown", "A node was shut down or rebooted on purpose; it is not fenced."
    PLANNED_DOWN_TOO_LONG = (
        "PlannedDownTooLong",
        "A node that was shut down or rebooted on purpose is away for longer than safety.plannedDownSeconds.",
        "Look after the node. Its guests are not recovered by pveha.",
    )
    NODE_ISOLATED = (
        "NodeIsolated",
        "A node answers but is no member of the cluster.",
        "Repair the cluster network. After safety.isolatedGraceSeconds the node is fenced.",
    )
    NODE_UNPROVABLE = (
        "NodeUnprovable",
        "A node is gone and its death cannot be proven. Its guests are left to Proxmox's own HA.",
        "Look after node and BMC.",
    )
    FENCE_FAILED = (
        "FenceFailed",
        "The BMC took the command and the node is still not off. Its guests are left to Proxmox's own HA.",
        "Switch the node off by hand.",
    )
    HELD_BACK = (
        "HeldBack",
        "Guests of a node are held back from Proxmox's own HA, which would start second copies.",
        "Make sure that the node is off or bring it back.",
    )
    PATH_BROKEN = (
        "PathBroken",
        "A node is a member and has power, but its API does not answer pveha. It is not touched for that.",
        "Look at the network between pveha and the node, and at pveproxy on the node.",
    )
    NODE_UNTRUSTED = (
        "NodeUntrusted",
        "What answers at a node's address shows a certificate that spec.tls does not allow. It is not asked.",
        "If the certificate was renewed, correct spec.tls; if not, find out who answers there.",
    )
    NODE_QUARANTINED = (
        "NodeQuarantined",
        "A node was lost and returned too often within an hour: no guests are started on it for a while.",
        "Find out why it flaps. The annotation pveha.dev/end-quarantine ends the quarantine early.",
    )
    QDEVICE_SILENT = (
        "QDeviceSilent",
        "The QDevice gives a node no vote. A cluster that needs that vote loses quorum with its next node.",
        (
            "Look at `systemctl status corosync-qdevice` on the nodes in the message and at corosync-qnetd "
            "on its host; `pvecm status` shows the vote."
        ),
    )
    UNKNOWN = "Unknown", "Membership could not be read.", "See the condition Connected."


class UnprotectHeld(Documented):
    """Reasons of HACluster's UnprotectHeld."""

    NONE = "None", "Nothing is held."
    MASS_REMOVAL = (
        "MassRemoval",
        "More than 5 guests, and more than 20 %, lost their ProtectedVM or selection at once: they stay.",
        "Bring back what was deleted, or annotate the HACluster with pveha.dev/confirm-unprotect: NUMBER.",
    )
    UNKNOWN = "Unknown", "Guests or HA resources could not be read.", "See the condition Connected."


class Acting(Documented):
    """Reasons of HACluster's Acting: OK, or what keeps pveha from acting."""

    OK = "OK", "Nothing keeps pveha from acting."
    NATIVE = (
        "Native",
        "Engine Native: pveha keeps guests registered, and Proxmox's own HA acts when a node dies.",
    )
    OBSERVE = "Observe", "spec.mode is Observe: pveha says what it would do.", "Set spec.mode to Enforce."
    PAUSED = "Paused", "spec.pauseRequests is not empty.", "Remove the requests when their reason has gone."
    BLAST_RADIUS = (
        "BlastRadius",
        (
            "More nodes are down than safety.maxFailedNodesPercent allows; this is more likely a fault of "
            "the network."
        ),
        "Look at network and power. If the nodes are really dead, raise safety.maxFailedNodesPercent.",
    )
    STORM_COOLDOWN = (
        "StormCooldown",
        (
            "Too many nodes were lost at once a short while ago: nothing new is begun until "
            "safety.stormCooldownSeconds have passed since. Proxmox's own HA goes on."
        ),
        "Wait. If the cluster is known to be well, set safety.stormCooldownSeconds to 0 for the moment.",
    )
    NOT_LEADER = (
        "NotLeader",
        "No replica holds the Lease, or the one that does cannot renew it.",
        "Check the operator's pods and the Kubernetes API.",
    )
    NOT_CONNECTED = "NotConnected", "The Proxmox API cannot be used.", "See the condition Connected."
    NOT_QUORATE = (
        "NotQuorate",
        "The cluster has no quorum or shows different views.",
        "See the condition Quorate.",
    )
    HISTORY_FORKED = (
        "HistoryForked",
        "The quorate nodes went on from an old state of the cluster.",
        "See the condition Quorate.",
    )
    NOT_OWNED = "NotOwned", "Another operator owns the cluster.", "See the condition Owned."
    NOT_READY = "NotReady", "Fencing or the Fast engine is not ready.", "See FencingReady and FastReady."
    DISARMED = "Disarmed", "Proxmox's HA is disarmed.", "See the condition HAHealthy."
    STARTING = "Starting", "pveha has just started: nothing is done on a first view."


class Drained(Documented):
    """Reasons of HACluster's Drained."""

    OK = "OK", "Nothing that runs is left on the nodes in Drain: they can be worked on."
    NOT_REQUESTED = "NotRequested", "No node's availability is Drain."
    DRAINING = "Draining", "Guests are being moved away, or wait for their turn, a lock or an earlier move."
    WAITING = (
        "Waiting",
        "No guest is sent on its way for the time being.",
        "The message names what is waited for: a failure that is handled, a pause, a node that is away.",
    )
    GUESTS_STAY = (
        "GuestsStay",
        "What is left cannot be moved, or is not to be; everything else is away.",
        "The message says why of each guest: make room, change the policy, or move or stop them yourself.",
    )
    MIGRATION_FAILED = (
        "MigrationFailed",
        "A migration failed. The guest runs where it was and is tried again, with growing pauses.",
        "Read the task log of the migration in Proxmox.",
    )
    CAPACITY_REFUSES = (
        "CapacityRefuses",
        "Without the node the others could not lose as many as spec.capacity says (enforcement: Enforce).",
        "Add a node or memory, stop guests, ask for less in spec.capacity, or set its enforcement to Warn.",
    )
    PRIVILEGES_MISSING = (
        "PrivilegesMissing",
        "The token may not migrate guests: nothing is drained. All else works.",
        "Add VM.Migrate to the role of the token and of its user, on /vms, with propagation.",
    )


class CapacityAssured(Documented):
    """Reasons of HACluster's CapacityAssured."""

    OK = "OK", "No combination of losses leaves a protected guest without a node."
    INSUFFICIENT_CAPACITY = (
        "InsufficientCapacity",
        (
            "At least one combination does. The message names the worst and the guests that would stay down, "
            "the least important first."
        ),
        "Add a node or memory, stop or move guests, or change the rules that forbid nodes: docs/capacity.md.",
    )
    TOO_FEW_NODES = (
        "TooFewNodes",
        "There are not more nodes (or zones) than spec.capacity.tolerateNodeFailures.",
        "Add nodes, or ask for less.",
    )
    NOT_REQUESTED = "NotRequested", "spec.capacity.tolerateNodeFailures is 0."
    NOT_USED = "NotUsed", "With engine Native, Proxmox's own HA places guests without looking at memory."
    UNKNOWN = "Unknown", "The cluster has not been seen whole yet.", "See the condition Connected."


class Sound(Documented):
    """Reasons of HACluster's Sound. The message has all that was found, the reason is that of the first."""

    OK = "OK", "Nothing is found, of what can be seen all the time. `pveha doctor` looks at more."
    QUORUM_FRAGILE = (
        "QuorumFragile",
        "The loss of one node would cost the rest its quorum: nobody would recover its guests.",
        "Add a node, or a QDevice (`pvecm qdevice setup`).",
    )
    TIMER_SILENT = (
        "TimerSilent",
        (
            "The timer of pveha-node is missing on a node or does not look: a guest that is taken over while "
            "pveha dies could stay out of Proxmox HA."
        ),
        "`pveha node install`, with all nodes named; `systemctl status pveha-repair.timer` on the node.",
    )
    CLOCK_SKEWED = (
        "ClockSkewed",
        "A node's clock is wrong: ages of HA's timestamps are misjudged.",
        "See `chronyc tracking` on the nodes that the message names.",
    )
    RECORD_STALE = (
        "RecordStale",
        (
            "For more than a minute the CRM has placed a guest on another node than the one that holds its "
            "configuration. When that node is fenced, HA stands still for the whole cluster."
        ),
        "Set the guest's HA state to ignored, wait for 30 s, set it back.",
    )
    STORAGE_OFFLINE = (
        "StorageOffline",
        "A storage of protected guests is offline on a node: they cannot be started there.",
        "See `pvesm status` on the nodes that the message names.",
    )
    CERTIFICATE_EXPIRING = (
        "CertificateExpiring",
        "A certificate of the Proxmox API expires within two weeks; pveha will not trust it then.",
        (
            "`pvecm updatecerts --force` on that node; with spec.tls.fingerprints add the new certificate's "
            "fingerprint before it is in use."
        ),
    )
    AGENT_FORBIDDEN = (
        "AgentForbidden",
        (
            "The token may not ask the guest agents of guests that others depend on: those would wait until "
            "time is over, and with startup.onTimeout: Stop stay down."
        ),
        "Add VM.GuestAgent.Audit to the role of the token and of its user, on /vms with propagation.",
    )
    UNKNOWN = "Unknown", "The cluster has not been seen whole yet.", "See the condition Connected."


class PolicyReady(Documented):
    """Reasons of FailoverPolicy's Ready."""

    OK = "OK", "The policy is understood."
    INVALID = (
        "Invalid",
        (
            "The stored object breaks a rule that is newer than the object. Guests that use it keep their "
            "registration."
        ),
        "Correct the field that the message names and apply the object again.",
    )


class GuestReady(Documented):
    """Reasons of ProtectedVM's Ready."""

    PROTECTED = "Protected", "The guest is registered with Proxmox's own HA and watched by pveha."
    OBSERVED = (
        "Observed",
        "The HACluster is in mode Observe: the guest would be registered.",
        "Set the HACluster's spec.mode to Enforce.",
    )
    PENDING = "Pending", "The guest is about to be registered."
    INVALID = (
        "Invalid",
        "The stored object breaks a rule that is newer than the object.",
        "Correct the field that the message names and apply the object again.",
    )
    CLUSTER_NOT_FOUND = (
        "ClusterNotFound",
        "No HACluster of that name exists in this namespace.",
        "Create it, or create the ProtectedVM in the HACluster's namespace.",
    )
    CLUSTER_NOT_READY = (
        "ClusterNotReady",
        "The cluster cannot be asked, so nothing is known about the guest.",
        "See the HACluster's conditions.",
    )
    POLICY_NOT_FOUND = (
        "PolicyNotFound",
        "No FailoverPolicy of that name exists in this namespace.",
        "Create it, or correct spec.policyRef.",
    )
    GUEST_NOT_FOUND = (
        "GuestNotFound",
        "The cluster has no guest with this vmid.",
        "Correct the manifest, or delete the ProtectedVM if the guest was deleted.",
    )
    DUPLICATE_CLAIM = (
        "DuplicateClaim",
        "An older ProtectedVM is for the same guest; the older one counts.",
        "Delete one of the two. manifests/policies refuses such duplicates at apply time.",
    )
    GUEST_REPLACED = (
        "GuestReplaced",
        "Another guest has got this vmid since protection began; nothing is done to it.",
        "If the new guest is to be protected, delete the ProtectedVM and create it again.",
    )
    IS_TEMPLATE = "IsTemplate", "The guest is a template, which never runs.", "Delete the ProtectedVM."
    PREEMPTED = (
        "Preempted",
        "The guest was stopped to make room for a more important one of a lost node (spec.preemption).",
        "It is started again once there is room: bring the lost node back, or add memory.",
    )
    UNREGISTERED = (
        "Unregistered",
        "The guest is not registered with Proxmox's own HA, and registering it failed.",
        "Look at the message; Proxmox says there why it refused.",
    )
    HA_STATE_ERROR = (
        "HAStateError",
        "Proxmox's own HA has put the guest into state error and leaves it alone, and so does pveha.",
        "Repair the guest, set its HA state to disabled, then to started.",
    )
    FOREIGN_ENTRY = (
        "ForeignEntry",
        (
            "The guest's HA resource was made by somebody else and differs from the policy; pveha does not "
            "change it."
        ),
        "Change the HA resource in Proxmox, or remove it there so that pveha registers the guest.",
    )
    DEPENDENCY_IGNORED = (
        "DependencyIgnored",
        "Proxmox's own HA would start the guest, and knows no order: spec.dependsOn has no effect.",
        "Set spec.recovery.engine of the HACluster to Fast, or nodeFailure.action of the policy to Restart.",
    )
    TAKING_OVER = "TakingOver", "The guest is being started on another node."
    WAITING = (
        "Waiting",
        "The guest has been moved off a lost node and is started when the guests it depends on are ready.",
        "Look after the guest in the message; its policy says for how long it is waited for.",
    )
    DEPENDENCY_NOT_READY = (
        "DependencyNotReady",
        (
            "The guest stays down because one that it depends on did not become ready in time, and that "
            "one's policy says startup.onTimeout: Stop."
        ),
        "Repair the guest in the message: this one is started when it is ready. Or edit spec.dependsOn.",
    )
    DEPENDENCY_CYCLE = (
        "DependencyCycle",
        "ProtectedVMs depend on each other in a circle. None of them is held back: they start by priority.",
        "Take one of the names in the message out of a spec.dependsOn.",
    )
    DEPENDENCY_NOT_FOUND = (
        "DependencyNotFound",
        "A name in spec.dependsOn is of no guest of this HACluster. It is not waited for.",
        "Correct spec.dependsOn, or create the ProtectedVM in this namespace.",
    )


class FailoverReady(Documented):
    """Reasons of ProtectedVM's FailoverReady: OK, or why the guest would be left to Proxmox's own HA."""

    OK = "OK", "The guest would be started on status.failoverPlan.targetNode."
    WAITING = (
        "Waiting",
        "The guest is being recovered, and waits for a guest that it depends on.",
        "See the condition Ready.",
    )
    DEPENDENCY_NOT_READY = (
        "DependencyNotReady",
        (
            "The guest would be moved and not started: one that it depends on would stay down, and the "
            "policy of that one says startup.onTimeout: Stop."
        ),
        "See why the guest in the message would stay down, or set startup.onTimeout: Continue in its policy.",
    )
    NATIVE = (
        "Native",
        (
            "Engine Native: Proxmox's own HA would start the guest on another node, after 135 to 180 s as "
            "measured."
        ),
    )
    NOT_REGISTERED = (
        "NotRegistered",
        "The guest is not registered with Proxmox's own HA, which therefore would not recover it.",
        "See the condition Ready.",
    )
    LRM_NOT_ACTIVE = (
        "LRMNotActive",
        (
            "The LRM of the guest's node is not active: the node would not reset itself when cut off, and "
            "native HA is held back from the guest then."
        ),
        "Look at `journalctl -u pve-ha-lrm` and at the watchdog on the node that the message names.",
    )
    DISKS_UNKNOWN = (
        "DisksUnknown",
        "The guest's configuration has not been read yet. All else is in order.",
        (
            "Wait: without a node shell configurations are read one by one, two a second. If it stays, the "
            "token may lack VM.Audit, or the guest's node does not answer."
        ),
    )
    NOT_READY = "NotReady", "The guest is not protected at all.", "See the condition Ready."
    NATIVE_ONLY = (
        "NativeOnly",
        "The policy leaves the guest to Proxmox's own HA.",
        "Set the policy's nodeFailure.action to Restart if seconds matter.",
    )
    NO_CAPACITY = (
        "NoCapacity",
        "No other node has the memory for it, or the CPUs (where spec.capacity.cpuAllocationRatio is given).",
        "Add memory, CPUs or a node, stop or move guests, or raise the ratio.",
    )
    NO_TARGET = (
        "NoTarget",
        "No other node could take it, for the reasons in the message.",
        "Remove the obstacles that the message names.",
    )
    LOCAL_DISK_ONLY = (
        "LocalDiskOnly",
        "A disk of the guest is on storage that only its node has.",
        "Move the disk to shared storage.",
    )
    STORAGE_UNAVAILABLE = (
        "StorageUnavailable",
        "A storage of the guest is not available on any other node.",
        "Make the storage available on more nodes.",
    )
    BRIDGE_MISSING = (
        "BridgeMissing",
        "No other node has every bridge or SDN vnet of the guest's network devices.",
        "Make the bridge on more nodes, add them to the vnet's zone, or change the guest's network devices.",
    )
    VLAN_MISSING = (
        "VlanMissing",
        "The guest's bridge carries its VLAN, or trunks, on no other node.",
        "Make the bridge VLAN-aware and have it carry the VLAN (`bridge-vids`) on more nodes.",
    )
    MAPPING_MISSING = (
        "MappingMissing",
        "A PCI, USB or directory mapping of the guest leads to nothing on any other node.",
        "Map a device of more nodes to it in Datacenter, Resource Mappings.",
    )
    CPU_UNSUPPORTED = (
        "CpuUnsupported",
        "No other node has the CPU flags of the guest's CPU type, or as many CPUs as it has vCPUs.",
        "Give the guest a CPU type that all nodes have (x86-64-v2-AES), or fewer vCPUs.",
    )
    MACHINE_UNSUPPORTED = (
        "MachineUnsupported",
        "QEMU is too old for the guest's machine type on every other node.",
        "Upgrade the nodes that the message names.",
    )
    LOCAL_MEDIA = (
        "LocalMedia",
        "An ISO file in the guest's CD drive is on a storage of its node alone.",
        "Eject it, or move the file to shared storage.",
    )
    LOCAL_RESOURCES = (
        "LocalResources",
        "The guest uses devices of its node.",
        "Remove the devices, or leave the guest to Proxmox's own HA (action Native) or to people.",
    )
    FENCING_UNVERIFIED = (
        "FencingUnverified",
        "The death of the guest's node could not be proven.",
        "See the HACluster's condition FencingReady.",
    )
    FENCING_MANUAL = (
        "FencingManual",
        "Only a person can confirm the death of the guest's node, which takes longer than seconds.",
        "Add a fencing method that works without a person, or accept it.",
    )
    NODE_SHELL_UNREACHABLE = (
        "NodeShellUnreachable",
        "The nodes that could take the guest cannot be reached by the node shell.",
        "See the HACluster's condition FastReady.",
    )
    FAST_NOT_READY = (
        "FastNotReady",
        "The Fast engine could not take over anything now.",
        "See the HACluster's conditions FastReady, Connected and Quorate.",
    )
    HA_NOT_HEALTHY = (
        "HANotHealthy",
        "Proxmox's own HA does not work.",
        "See the HACluster's condition HAHealthy.",
    )
    HAS_REPLICATION = (
        "HasReplication",
        "The guest has replication jobs, and its policy does not let it be started from a replica.",
        (
            "Set the policy's data.require to SharedOrReplicated if what was written since the last sync may "
            "be lost, or use shared storage."
        ),
    )
    REPLICA_UNKNOWN = (
        "ReplicaUnknown",
        "When the guest's replicas were last synced is not known, or they never were.",
        "Look at `pvesr status` on the guest's node, and at the job's log.",
    )
    REPLICA_TOO_OLD = (
        "ReplicaTooOld",
        "More would be lost than data.maxDataLossSeconds of the guest's policy allows.",
        (
            "Let the replication job run more often, see why it fails, or raise the limit: it has to be the "
            "job's interval and a minute at least."
        ),
    )
    DATA_LOSS_NOT_ACCEPTED = (
        "DataLossNotAccepted",
        (
            "The guest runs from a replica since its last failover, and its replication jobs stay disabled: "
            "they would overwrite what the lost node holds newer."
        ),
        (
            "Save what you need of that, then annotate the ProtectedVM with pveha.dev/accept-data-loss and "
            "the id in the message."
        ),
    )
    REPLICATION_NOT_HELD = (
        "ReplicationNotHeld",
        "A replication job of the guest cannot be disabled, without which it is not started from a replica.",
        "Give the token VM.Replicate on /vms, or do what the message says.",
    )
    NATIVE_RULE_FORBIDS = (
        "NativeRuleForbids",
        "Proxmox's HA rules leave no node for it.",
        "Change the rules that the message names.",
    )
    PLACEMENT_FORBIDS = (
        "PlacementForbids",
        "Its Required wishes (spec.placement) leave no node for it.",
        "Free or add a node that they allow, or make a wish Preferred. See the condition PlacementReady.",
    )
    LOCK_NOT_CLEARABLE = (
        "LockNotClearable",
        "The guest has a lock that must not be cleared by a program.",
        "Finish or undo what holds the lock, then `qm unlock` or `pct unlock`.",
    )
    COMMENT_TOO_LONG = (
        "CommentTooLong",
        "The comment of the guest's HA resource leaves no room for pveha's mark, and is not shortened.",
        "Shorten the comment in Proxmox.",
    )
    USER_IGNORED = "UserIgnored", "Somebody set the HA state to ignored.", "Set it to started in Proxmox."
    DISABLED = "Disabled", "Somebody set the HA state to disabled.", "Set it to started in Proxmox."
    HA_STATE_ERROR = (
        "HAStateError",
        "Proxmox's own HA has put the guest into state error.",
        "Repair the guest, set its HA state to disabled, then to started.",
    )
    DUPLICATE_SUSPECTED = (
        "DuplicateSuspected",
        "A process of the guest was found on another node; it is not started until a person decides.",
        "Find out which copy is the right one and stop the other.",
    )
    NATIVE_AHEAD = "NativeAhead", "Proxmox's own HA is recovering the guest already; pveha leaves it alone."
    BUSY = "Busy", "The guest is being migrated, started or stopped."


class PlacementReady(Documented):
    """Reasons of ProtectedVM's PlacementReady."""

    OK = "OK", "The wishes are kept, and Proxmox's HA rules say the same."
    NOTHING_WISHED = "NothingWished", "The guest has no wishes in spec.placement."
    GROUP_NOT_DEFINED = (
        "GroupNotDefined",
        "The guest names a group that its FailoverPolicy does not define.",
        "Define it in the policy's spec.placement.groups, or take it out of the ProtectedVM.",
    )
    NODE_NOT_FOUND = (
        "NodeNotFound",
        "A nodeAffinity names a node that the cluster does not have.",
        "Correct the name, as Proxmox shows it.",
    )
    IMPOSSIBLE = (
        "Impossible",
        "Required wishes contradict each other, or ask for more nodes or zones than there are.",
        "Make one of them Preferred, or change what the message names.",
    )
    NOT_KEPT = (
        "NotKept",
        "The guest runs where a Required wish does not want it.",
        "Migrate it, if the message does not say that Proxmox's own HA is about to.",
    )
    CONFLICTING_RULE = (
        "ConflictingRule",
        "An HA rule that somebody else made stands against ours, and Proxmox takes only one of them.",
        "Remove or change the rule that the message names, or the wish.",
    )
    RULE_REFUSED = (
        "RuleRefused",
        "Proxmox declined one of our HA rules.",
        "Look at the message; it is tried again every minute.",
    )
    PENDING = "Pending", "Our HA rules are about to be written."
    OBSERVED = (
        "Observed",
        "HA rules would be written.",
        "Set the HACluster's spec.mode to Enforce.",
    )
    NOT_EXPRESSIBLE = (
        "NotExpressible",
        (
            "pveha keeps the wishes; HA rules cannot say all of it, so that Proxmox's own HA may not. False "
            "if it alone recovers guests (engine Native) and the wish is Required."
        ),
        "Accept it, or wish what rules can say: Required groups by Node, and nodeAffinity.",
    )


Reasons = Mapping[Documented, tuple[Documented, ...]]

BY_RESOURCE: Mapping[str, Reasons] = {
    "HACluster": {
        ClusterCondition.READY: tuple(ClusterReady),
        ClusterCondition.CONNECTED: tuple(Connected),
        ClusterCondition.QUORATE: tuple(Quorate),
        ClusterCondition.OWNED: tuple(Owned),
        ClusterCondition.FENCING_READY: tuple(FencingReady),
        ClusterCondition.FAST_READY: tuple(FastReady),
        ClusterCondition.HA_HEALTHY: tuple(HAHealthy),
        ClusterCondition.DEGRADED: tuple(Degraded),
        ClusterCondition.ACTING: tuple(Acting),
        ClusterCondition.UNPROTECT_HELD: tuple(UnprotectHeld),
        ClusterCondition.DRAINED: tuple(Drained),
        ClusterCondition.CAPACITY_ASSURED: tuple(CapacityAssured),
        ClusterCondition.SOUND: tuple(Sound),
    },
    "FailoverPolicy": {PolicyCondition.READY: tuple(PolicyReady)},
    "ProtectedVM": {
        GuestCondition.READY: tuple(GuestReady),
        GuestCondition.FAILOVER_READY: tuple(FailoverReady),
        GuestCondition.PLACEMENT_READY: tuple(PlacementReady),
    },
}
"""Kind → condition type → its reasons; a condition may only carry a reason listed here."""
