"""A lost node that is a member again, but cannot be asked, starts its guest itself; then that is moved."""

from decide_scene import Scene


class Rejoined(Scene):
    """pve2 was lost and nobody can prove it; now it is a member again whose API does not answer, and what it
    tells the others of guest 102 is that it has just been started."""

    def __init__(self) -> None:
        super().__init__()
        self.settle()
        self.set_guest(102, uptime=500)
        self.step(30)
        self.lose("pve2", bmc=None)
        self.step(30)
        self.nodes["pve2"].online = True
        self.set_guest(102, status="stopped", uptime=0)
        self.step(5)

    def is_recovered(self) -> bool:
        decision = self.step(0.5)
        last = decision.report.guests["vm102"].last_failover
        return any(event.reason == "Recovered" for event in decision.events) or last is not None


def test_what_is_moved_from_there_was_not_recovered() -> None:
    scene = Rejoined()
    scene.set_guest(102, status="running", uptime=3)
    scene.step(1)
    scene.move(102, "pve1")
    assert not any(scene.is_recovered() for _ in range(10))


def test_what_its_old_node_told_is_not_the_word_of_the_new_one() -> None:
    scene = Rejoined()
    scene.set_guest(102, status="running", uptime=3)
    scene.move(102, "pve1")
    assert not any(scene.is_recovered() for _ in range(10))


def test_what_native_ha_starts_elsewhere_was_recovered() -> None:
    scene = Rejoined()
    scene.move(102, "pve1")
    scene.step(2)
    scene.set_guest(102, status="running", uptime=1)
    assert scene.is_recovered()
