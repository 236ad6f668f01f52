"""Mode Observe touches nothing, not even when a node dies; it says what it would do.

A token that may only look is enough for that, and is told when it is no longer enough.
"""

import asyncio
import base64

from cluster.stories.theatre import Place, Theatre, story, until, until_equal

READING_VERBS = {"status", "inventory", "processes"}


@story
async def test_observe_touches_nothing(on: Theatre) -> None:
    place = await on.place("--guests", "12", "--mode", "Observe", "--managed")
    auditor = place.world.about["auditor"]
    token = place.manifest("Secret", "dc1-token")
    for key, text in (("tokenID", auditor["id"]), ("tokenSecret", auditor["secret"])):
        token["data"][key] = base64.b64encode(text.encode()).decode()
    await place.apply(token)
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

    await _nothing_was_touched(place)
    after = await place.state()
    assert {vmid: guest["node"] for vmid, guest in after["guests"].items()} == {
        vmid: guest["node"] for vmid, guest in before["guests"].items()
    }
    assert {sid: (each["state"], each["comment"]) for sid, each in after["ha"].items()} == {
        sid: (each["state"], each["comment"]) for sid, each in before["ha"].items()
    }
    assert (await place.status()).get("epoch") is None

    enforcing = place.manifest("HACluster")
    enforcing["spec"]["mode"] = "Enforce"
    await place.apply(enforcing)
    await until_equal(lambda: _connected(place), ("False", "PrivilegesMissing"), "looking is not enough now")
    assert "Sys.Console" in (await place.condition("Connected"))[2]
    assert (await place.condition("Acting"))[:2] == ("False", "NotConnected")
    await _nothing_was_touched(place)


async def _connected(place: Place) -> tuple[str, ...]:
    return (await place.condition("Connected"))[:2]


async def _nothing_was_touched(place: Place) -> None:
    calls, shell = await place.world.ask("calls"), await place.world.ask("shell_calls")
    assert sum(calls.values()) > 100
    assert {call.partition(" ")[0] for call in calls} == {"GET"}
    assert shell["status"] > 0
    assert set(shell) <= READING_VERBS
    assert await place.world.ask("bmc_log") == []
