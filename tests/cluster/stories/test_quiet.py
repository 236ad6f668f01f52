"""Nothing happens, so nothing is written; and how many guests there are costs Proxmox no calls."""

import asyncio

from cluster.stories.theatre import ALL_KINDS, Theatre, story, until

QUIET_SECONDS = 60.0
CALM_DOWN_SECONDS = 10.0
"""From every guest being protected to the last status being written."""
SLACK = 0.1
"""Part by which the calls of a minute may differ: clocks of polls are not in step with ours."""


@story
async def test_quiet_with_200_guests(on: Theatre) -> None:
    few, many = await asyncio.gather(
        on.place("--guests", "20"), on.place("--guests", "200", "--guest-mib", "256")
    )
    operator = await on.operator(many, few)
    await until(few.protected, "20 guests are protected")
    await until(many.protected, "200 guests are protected", pause=3.0)
    await asyncio.sleep(CALM_DOWN_SECONDS)

    versions = await many.versions()
    calls = [await place.world.ask("calls") for place in (few, many)]
    await asyncio.sleep(QUIET_SECONDS)
    calls_after = [await place.world.ask("calls") for place in (few, many)]
    versions_after = await many.versions()
    changed = {name for name in versions | versions_after if versions.get(name) != versions_after.get(name)}
    assert len(versions) > 200
    assert changed == {"Lease/pveha-dc1"}

    with_few, with_many = (
        {call: count - before.get(call, 0) for call, count in after.items()}
        for before, after in zip(calls, calls_after, strict=True)
    )
    assert sum(with_few.values()) > 100
    for call in with_few | with_many:
        few_calls, many_calls = with_few.get(call, 0), with_many.get(call, 0)
        assert abs(few_calls - many_calls) <= 2 + SLACK * few_calls, (call, few_calls, many_calls)

    # Farewell, with the operator stopped: nothing waits for it, and no guest notices.
    await on.stop(operator)
    before = await few.state()
    await few.delete(ALL_KINDS)
    after = await few.state()
    assert (after["guests"], set(after["ha"])) == (before["guests"], set(before["ha"]))
