"""How long enrolment takes where nothing but Proxmox's lock and our own pacing takes time."""

from pveha.sim import clock, config, rig

GUESTS = 500
SECONDS = 60.0


def test_500_guests_are_enrolled_and_registered_within_a_minute_of_one_line() -> None:
    async def play() -> float:
        found = [
            config.Guest(100 + number, f"pve{number % 3 + 1}", memory=64 << 20, tags=("gold",))
            for number in range(GUESTS)
        ]
        on = rig.Rig(config.three_nodes(found))
        on.world.start()
        on.start_operator()
        await on.settle()
        began = on.world.now()
        on.apply("auto protect gold")
        done = await on.until(lambda: len(on.world.newest.resources) == GUESTS, 2 * SECONDS, "registered")
        for guest in found:
            assert on.guest_status(guest.vmid).metadata.labels == {"pveha.dev/auto-protect": "auto"}
        await on.kill_operator()
        return done - began

    assert clock.run(play()) <= SECONDS
