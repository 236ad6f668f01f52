"""What a scenario file is in real time: a data centre with every face, and manifests for an API server.

`python -m pveha.sim --scenario FILE` serves these; whoever started it runs operators and plays the timeline.
"""

import dataclasses
from typing import Any

from pveha.model import mark
from pveha.sim import config, datacenter, rig, scenario


def world(about: scenario.Scenario, owner: str) -> config.Config:
    """The scenario's data centre. HA resources that are `ours` in virtual time have this owner instead."""
    return dataclasses.replace(
        about.world, guests=tuple(_owned(guest, owner) for guest in about.world.guests)
    )


def manifests(
    about: scenario.Scenario, running: datacenter.DataCenter, namespace: str
) -> list[dict[str, Any]]:
    """Secrets, the HACluster, and FailoverPolicies and ProtectedVMs as the scenario has them."""
    made = []
    for manifest in running.manifests(namespace, rig.CLUSTER):
        if manifest["kind"] == "Secret":
            made.append(manifest)
        elif manifest["kind"] == "HACluster":
            made.append({**manifest, "spec": {**manifest["spec"], **about.cluster}})
    made += [rig.policy(name, **spec) for name, spec in about.policies.items()]
    made += [rig.protected_vm(vmid, **spec) for vmid, spec in about.protect.items()]
    for manifest in made:
        manifest["metadata"] = {"name": manifest["metadata"]["name"], "namespace": namespace}
    return made


def _owned(guest: config.Guest, owner: str) -> config.Guest:
    if guest.ha is None:
        return guest
    comment = mark.parse(guest.ha.comment)
    if comment.owner != rig.OWNER:
        return guest
    text = str(dataclasses.replace(comment, owner=owner))
    return dataclasses.replace(guest, ha=dataclasses.replace(guest.ha, comment=text))
