"""Changes of HA resources and rules as lines of a world's log."""

import dataclasses

from pveha.model import cluster, mark
from pveha.sim import ha_rules, scenario, world


class ResourceLog:
    """From now on logs each change of an HA resource or rule, whoever made it."""

    def __init__(self, about: world.World) -> None:
        self._world = about
        self._resources = dict(about.newest.resources)
        self._rules = dict(about.newest.rules)
        about.on_change(self._changed)

    def _changed(self) -> None:
        self._follow_rules()
        now = self._world.newest.resources
        if now == self._resources:
            return
        for sid in sorted(now.keys() | self._resources.keys()):
            old, new = self._resources.get(sid), now.get(sid)
            if old != new:
                change = f"{scenario.state_of(old)} => {scenario.state_of(new)}"
                self._world.say(f"resource {sid}", f"{change} {_comment(new)}".rstrip())
        self._resources = dict(now)

    def _follow_rules(self) -> None:
        now = self._world.newest.rules
        if now == self._rules:
            return
        for name in sorted(now.keys() | self._rules.keys()):
            if now.get(name) != self._rules.get(name):
                text = ha_rules.shown(now[name]).partition(": ")[2] if name in now else "removed"
                self._world.say(f"rule {name}", text)
        self._rules = dict(now)


def _comment(resource: cluster.HAResource | None) -> str:
    """The comment without the name of the owner, which is always the same."""
    return str(dataclasses.replace(mark.parse(resource.comment), owner="")) if resource else ""
