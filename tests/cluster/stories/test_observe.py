"""Mode Observe touches nothing, not even when a node dies; it says what it would do."""

import asyncio

from cluster.stories.theatre import Theatre, story, until

READING_VERBS = {"status", "inventory", "processes"}


@story
async def test_observe_touches_nothing(on: Theatre) -> None:
    place = await on.place("--guests", "12", "--mode", "Observe", "--managed")
    await on.operator(place)
    await until(place.protected, "every guest would be ready for failover")
    before, victim = await place.state(), await place.victim()
    await place.world.ask(f"power off {victim}")

    async def would() -> str:
        notes = [event["note"] for event in await place.events() if event["reason"] == "WouldRecover"]
        return " ".join(notes)

    note = await until(would, "an Event says what would be done")
    assert f"would fence {victim}" in note
    for vmid in await place.on(victim):
        assert f"{vmid} to " in note
    assert (await place.condition("Acting"))[:2] == ("False", "Observe")
    await asyncio.sleep(15)

    calls, shell = await place.world.ask("calls"), await place.world.ask("shell_calls")
    assert sum(calls.values()) > 100
    assert {call.partition(" ")[0] for call in calls} == {"GET"}
    assert shell["status"] > 0
    assert set(shell) <= READING_VERBS
    assert await place.world.ask("bmc_log") == []
    after = await place.state()
    assert {vmid: guest["node"] for vmid, guest in after["guests"].items()} == {
        vmid: guest["node"] for vmid, guest in before["guests"].items()
    }
    assert {sid: (each["state"], each["comment"]) for sid, each in after["ha"].items()} == {
        sid: (each["state"], each["comment"]) for sid, each in before["ha"].items()
    }
    assert (await place.status()).get("epoch") is None
