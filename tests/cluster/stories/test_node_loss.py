"""The main job through every real socket: HTTPS, SSH, Redfish, Kubernetes."""

from cluster.stories.theatre import KINDS, Place, Theatre, condition, story, until, until_equal

FOREIGN = ("100", "101", "102")
"""One guest of each node is registered with Proxmox HA by somebody else."""


@story
async def test_node_loss_and_farewell(on: Theatre) -> None:
    place = await on.place("--guests", "36", "--containers", "6", "--boot-seconds", "10")
    for vmid in FOREIGN:
        await place.world.ask(f"register vm:{vmid}")
    await on.operator(place)
    await until(place.protected, "every guest is protected")
    before, victim = await place.state(), await place.victim()
    names = {str(pvm["spec"]["vmid"]): name for name, pvm in (await place.objects("ProtectedVM")).items()}
    victims = await place.on(victim)
    assert len(victims) == 12

    cut = await place.world.ask(f"power off {victim}")
    await until(lambda: place.recovered(victims, victim), "its guests run elsewhere")
    await until(place.settled, "Proxmox HA holds every guest again")

    async def told() -> bool:
        guests = await place.objects("ProtectedVM")
        return all(
            guests[names[vmid]].get("status", {}).get("lastFailover", {}).get("completionTime")
            and condition(guests[names[vmid]]["status"], "Ready")[0] == "True"
            for vmid in victims
        )

    await until(told, "their statuses say so")
    await until_equal(
        lambda: _operations(place), ([], True), "nothing is in progress and the failure is complete"
    )
    after, cluster = await place.state(), await place.status()
    failure = cluster["lastFailure"]
    assert (failure["node"], failure["guests"], failure["recovered"]) == (victim, 12, 12)
    assert failure["startTime"] <= failure["provenTime"] <= failure["completionTime"]
    assert [(each["name"], each["state"]) for each in cluster["notOnline"]] == [(victim, "Fenced")]
    assert condition(cluster, "Degraded")[:2] == ("True", "NodeDown")
    assert condition(cluster, "Ready")[0] == "True"
    guests = await place.objects("ProtectedVM")
    for vmid in victims:
        status = guests[names[vmid]]["status"]
        last, node = status["lastFailover"], after["guests"][vmid]["node"]
        assert (last["id"], last["from"], last["to"], status["node"]) == (failure["id"], victim, node, node)
        assert 5 <= last["downtimeSeconds"] <= 60
    for vmid in set(names) - set(victims):
        assert "lastFailover" not in guests[names[vmid]]["status"]
    for sid, resource in after["ha"].items():
        assert resource["comment"] == before["ha"][sid]["comment"], sid

    downtimes = await place.world.ask(f"downtimes {cut}")
    others = [vmid for vmid in before["guests"] if vmid not in victims]
    assert {vmid: after["guests"][vmid] for vmid in others} == {v: before["guests"][v] for v in others}
    assert {vmid: downtimes[vmid] for vmid in others} == dict.fromkeys(others, 0)
    assert await place.world.ask("double_runs") == 0
    assert {each["name"] for each in await place.world.ask("bmc_log")} == {victim}
    events = await place.events()
    recovered = {event["regarding"]["name"] for event in events if event["reason"] == "Recovered"}
    assert recovered == {names[vmid] for vmid in victims}
    fenced = [event for event in events if event["reason"] == "Fenced"]
    assert [event["regarding"]["kind"] for event in fenced] == ["HACluster"]
    assert victim in fenced[0]["note"]

    await place.world.ask(f"power on {victim}")
    await until_equal(lambda: _degraded(place), "None", "the node is back")

    # Farewell, with the operator running: what is ours goes once that is confirmed, what is not stays, guests
    # run on.
    before = await place.state()
    await place.delete("protectedvms")
    await until_equal(lambda: _held(place), "MassRemoval", "so many at once are held")
    count = len(before["ha"]) - len(FOREIGN)
    await place.kubectl("annotate", "hacluster", "dc1", f"pveha.dev/confirm-unprotect={count}")
    await until_equal(lambda: _registered(place), {f"vm:{vmid}" for vmid in FOREIGN}, "ours are unregistered")
    await place.delete(KINDS)
    assert (await place.state())["guests"] == before["guests"]
    assert await place.world.ask(f"downtimes {cut}") == downtimes


async def _operations(place: Place) -> tuple[list[object], bool]:
    status = await place.status()
    return status.get("operations", []), "completionTime" in status.get("lastFailure", {})


async def _held(place: Place) -> str:
    return (await place.condition("UnprotectHeld"))[1]


async def _degraded(place: Place) -> str:
    return (await place.condition("Degraded"))[1]


async def _registered(place: Place) -> set[str]:
    return set((await place.state())["ha"])
