"""Restart order as a graph: who starts, who waits, whose time is over, who goes round in a circle."""

import dataclasses

import hypothesis
from hypothesis import strategies

from pveha.decide import order

NOW = 1000.0


def guest(name: str, *after: str, **fields: object) -> order.Guest:
    """A guest that is down and to be started; `key` puts early letters first."""
    known = {
        "key": (0, 0, ord(name[0])),
        "after": frozenset(after),
        "starting": True,
        "unready": "it is down",
    }
    return order.Guest(name, **{**known, **fields})  # type: ignore[arg-type]


def ready(name: str) -> order.Guest:
    return guest(name, starting=False, ready=True, unready="")


def plan(*guests: order.Guest) -> order.Order:
    named = {each.name: each for each in guests}
    return order.plan(named, order.in_circles({each.name: each.after for each in guests}), NOW)


def test_a_chain_starts_at_its_beginning() -> None:
    found = plan(guest("web", "app"), guest("app", "db"), guest("db"))
    assert found.start == ("db",)
    assert found.waits["app"].sentence == "waits for db to be ready (it is down)"
    assert found.waits["web"].on == ("app",)
    assert found.awaited == {"db"}, "the time of who waits itself does not run"


def test_a_chain_goes_on_where_it_is_ready() -> None:
    found = plan(guest("web", "app"), guest("app", "db"), ready("db"))
    assert found.start == ("app",)
    assert found.awaited == {"db", "app"}


def test_a_slow_branch_holds_up_nobody_beside_it() -> None:
    slow = guest("slow", starting=False)
    found = plan(slow, guest("after", "slow"), guest("beside"), ready("other"), guest("third", "other"))
    assert found.start == ("beside", "third")
    assert found.waits.keys() == {"after"}


def test_priority_orders_those_that_may_start() -> None:
    found = plan(guest("a", key=(-1, 0, 1)), guest("b", key=(-900, 0, 2)), guest("c", "b", key=(-999, 0, 3)))
    assert found.start == ("b", "a")


def test_who_waits_for_two_waits_for_both() -> None:
    found = plan(guest("w", "x", "y"), guest("x"), guest("y"))
    assert found.waits["w"].on == ("x", "y")
    assert (
        found.waits["w"].sentence
        == "waits for x to be ready (it is down); and for y to be ready (it is down)"
    )


def test_after_its_time_it_goes_on_without() -> None:
    late = guest("db", starting=False, since=NOW - 300, timeout=300)
    found = plan(late, guest("app", "db"))
    assert found.start == ("app",)
    assert found.overdue == {"app": ("db",)}
    assert not plan(dataclasses.replace(late, since=NOW - 299), guest("app", "db")).overdue


def test_after_its_time_it_stays_down_where_the_policy_says_so() -> None:
    late = guest("db", starting=False, since=NOW - 300, timeout=300, stops=True)
    found = plan(late, guest("app", "db"), guest("web", "app"))
    assert found.start == ()
    assert found.waits["app"].stopped
    assert "for more than 300 s: its policy says startup.onTimeout: Stop" in found.waits["app"].sentence
    assert not found.waits["web"].stopped, "it waits for app, which waits"
    assert plan(ready("db"), guest("app", "db")).start == ("app",), "it goes on when db is ready after all"


def test_what_is_late_does_not_hide_what_is_not() -> None:
    late = guest("db", starting=False, since=NOW - 300, timeout=300)
    found = plan(late, guest("cache", starting=False, since=NOW), guest("app", "db", "cache"))
    assert found.waits["app"].on == ("cache",)


def test_who_goes_round_in_a_circle_is_not_held_back() -> None:
    found = plan(guest("a", "b"), guest("b", "c"), guest("c", "a", "d"), guest("d"), guest("e", "a"))
    assert found.start == ("a", "b", "c", "d")
    assert found.waits.keys() == {"e"}, "who depends on one of them waits as ever"


def test_a_dependency_that_does_not_exist_is_not_waited_for() -> None:
    assert plan(guest("app", "nobody")).start == ("app",)


def test_circles_are_named_by_the_shortest_way_round() -> None:
    after = {"a": ("b",), "b": ("c", "a"), "c": ("a",), "d": ("a",), "e": ("e",), "f": ("g",), "g": ()}
    assert order.in_circles(after) == {
        "a": ("a", "b", "a"),
        "b": ("b", "a", "b"),
        "c": ("c", "a", "b", "c"),
        "e": ("e", "e"),
    }


def test_who_lies_between_two_circles_is_in_neither() -> None:
    after = {"a": ("b",), "b": ("a", "between"), "between": ("c",), "c": ("d",), "d": ("c",)}
    assert order.in_circles(after).keys() == {"a", "b", "c", "d"}


NAMES = "abcdef"


@strategies.composite
def graphs(draw: strategies.DrawFn) -> dict[str, order.Guest]:
    found = {}
    for name in NAMES:
        after = draw(strategies.sets(strategies.sampled_from(NAMES), max_size=3)) - {name}
        is_ready = draw(strategies.booleans())
        found[name] = guest(
            name,
            *after,
            starting=not is_ready and draw(strategies.booleans()),
            ready=is_ready,
            since=draw(strategies.sampled_from([None, NOW - 10, NOW - 400])),
            stops=draw(strategies.booleans()),
        )
    return found


@hypothesis.given(graphs())
def test_everybody_starts_or_waits_for_somebody(guests: dict[str, order.Guest]) -> None:
    circles = order.in_circles({each.name: each.after for each in guests.values()})
    found = order.plan(guests, circles, NOW)
    down = {each.name for each in guests.values() if each.starting}
    assert down == set(found.start) | found.waits.keys()
    assert not set(found.start) & found.waits.keys()
    for name in found.start:
        late = found.overdue.get(name, ())
        assert name in circles or all(guests[other].ready or other in late for other in guests[name].after)
    for wait in found.waits.values():
        assert wait.on
        assert all(not guests[other].ready for other in wait.on)


@hypothesis.given(graphs())
def test_in_the_end_everybody_starts(guests: dict[str, order.Guest]) -> None:
    """If what starts becomes ready, and what is down for good does too, nobody is left."""
    guests = {
        name: each if each.starting else dataclasses.replace(each, ready=True)
        for name, each in guests.items()
    }
    circles = order.in_circles({each.name: each.after for each in guests.values()})
    for _ in NAMES:
        for name in order.plan(guests, circles, NOW).start:
            guests[name] = dataclasses.replace(guests[name], starting=False, ready=True)
    assert not any(each.starting for each in guests.values())


@hypothesis.given(graphs(), strategies.sampled_from(NAMES))
def test_a_clock_that_begins_anew_starts_nobody_earlier(guests: dict[str, order.Guest], name: str) -> None:
    """An empty memory is not bolder."""
    circles = order.in_circles({each.name: each.after for each in guests.values()})
    anew = {**guests, name: dataclasses.replace(guests[name], since=None)}
    assert set(order.plan(anew, circles, NOW).start) <= set(order.plan(guests, circles, NOW).start)
