"""Changes of HA resources as lines of a world's log."""

import dataclasses

from pveha.model import cluster, mark
from pveha.sim import scenario, world


class ResourceLog:
    """From now on logs each change of an HA resource, whoever made it."""

    def __init__(self, about: world.World) -> None:
        self._world = about
        self._resources = dict(about.newest.resources)
        about.on_change(self._changed)

    def _changed(self) -> None:
        now = self._world.newest.resources
        if now == self._resources:
            return
        for sid in sorted(now.keys() | self._resources.keys()):
            old, new = self._resources.get(sid), now.get(sid)
            if old != new:
                change = f"{scenario.state_of(old)} => {scenario.state_of(new)}"
                self._world.say(f"resource {sid}", f"{change} {_comment(new)}".rstrip())
        self._resources = dict(now)


def _comment(resource: cluster.HAResource | None) -> str:
    """The comment without the name of the owner, which is always the same."""
    return str(dataclasses.replace(mark.parse(resource.comment), owner="")) if resource else ""
