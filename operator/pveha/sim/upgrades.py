"""Clusters that are being upgraded: while a node that pveha can ask runs Proxmox VE 8, nothing is begun
(docs/decisions/0024), and a node whose pveha-node speaks another protocol takes no guests."""

from pveha.sim import rig

HEARD_SECONDS = 60.0
"""By then every pveha-node has been asked something."""

ASKED_SECONDS = 135.0
"""Versions are asked for every two minutes."""


class Upgrades:
    """Follows which versions the leader must know of."""

    def __init__(self, watched: rig.Rig) -> None:
        self._rig = watched
        self._world = watched.world
        self._known: dict[str, tuple[object, float]] = {}
        """Old nodes that the leader of a term could have asked all the time since."""
        self._upgraded_at = float("-inf")
        self._strange: dict[str, float] = {}
        """Nodes whose pveha-node speaks the next protocol, since when."""

    def disturbed(self, line: str) -> None:
        """A line of the timeline is about to be done."""
        if line.startswith("set version"):
            self._upgraded_at = self._world.now()
        verb, _, name = line.partition(" node shell ")
        if verb == "upgrade":
            self._strange.setdefault(name, self._world.now())
        elif verb in ("install", "downgrade"):
            self._strange.pop(name, None)

    def takes_no_guests(self, name: str) -> bool:
        """Whether the leader must know that a node's pveha-node does not understand it."""
        since = self._strange.get(name)
        return since is not None and self._world.now() - since > HEARD_SECONDS

    def look(self) -> None:
        """A leader renews its Lease, as it does every few seconds."""
        leader = self._rig.leader()
        term = leader.term if leader is not None else None
        known = {}
        for name in self._old():
            before, since = self._known.get(name, (None, 0.0))
            if term is not None and self._answers(name):
                known[name] = (term, since if before is term else self._world.now())
        self._known = known

    def why_nothing(self) -> str:
        """Why the leader begins nothing, or an empty string."""
        leader, now = self._rig.leader(), self._world.now()
        for name in self._old():
            term, since = self._known.get(name, (None, now))
            if leader is not None and term is leader.term and now - since > ASKED_SECONDS:
                return f"while {name} runs Proxmox VE {self._world.machines[name].version}"
        return ""

    @property
    def under_way(self) -> bool:
        """Whether some node is old, or was until lately."""
        return bool(self._old()) or self._world.now() - self._upgraded_at < ASKED_SECONDS

    def _old(self) -> list[str]:
        return [name for name, on in self._world.machines.items() if int(on.version.partition(".")[0]) < 9]

    def _answers(self, name: str) -> bool:
        on, world = self._world.machines[name], self._world
        served = on.runs("pveproxy") and on.runs("pvedaemon") and on.runs("pmxcfs")
        return served and world.reachable(name, "api") and not world.deaf
