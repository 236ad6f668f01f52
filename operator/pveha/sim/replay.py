"""A random run as a scenario folder that `pveha simulate` plays again, to the same violation.

It is played as random runs are, and judged by the invariants alone:

    about: Seed 7 violates "comes right".
    world: ...         as in every scenario
    operators: [a, b]
    protect: [101]     vmids of the guests with a ProtectedVM
    timeline:          seconds of the world
      - {at: 45.0, do: [power off pve1]}
    calm_at: 900.0     from then on everything is mended, by `calm`, and has to come right by itself
    calm: [...]
    engine: Fast
    depends: [[102, 101]]  guests of which the first depends on the second
    afterwards: 60     seconds after which fenced nodes are switched on again, if they are
    confirmed_seconds: 600  how long a person's word that a node is off counts, if it does
    wishes: {...}      of placement: `groups` of one FailoverPolicy, `guests` by vmid, `zones` by node
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import pydantic
import yaml

from pveha.sim import chaos, config, invariants, scenario, simulation

KEY = "calm_at"
"""Only files of random runs have it."""


class Replay(scenario.Strict):
    """One random run."""

    about: str
    world: Annotated[config.Config, pydantic.BeforeValidator(lambda value: scenario.read_world(value)[0])]
    operators: tuple[str, ...]
    protect: tuple[int, ...]
    timeline: tuple[scenario.Step, ...]
    calm_at: float
    calm: tuple[str, ...]
    engine: str = "Fast"
    depends: tuple[tuple[int, int], ...] = ()
    wishes: chaos.Wishes = chaos.NO_WISHES
    afterwards: int | None = None
    confirmed_seconds: int | None = None

    def plan(self) -> chaos.Plan:
        """What to play."""
        steps = tuple((step.at or 0.0, line) for step in self.timeline for line in step.do)
        faults = (chaos.Fault("file", steps),)
        seed = self.world.seed
        return chaos.Plan(
            seed,
            self.world,
            self.operators,
            self.protect,
            faults,
            self.calm_at,
            self.calm,
            self.engine,
            self.depends,
            self.wishes,
            self.afterwards,
            self.confirmed_seconds,
        )


def load(path: pathlib.Path) -> chaos.Plan | None:
    """The run in a file or folder, or None if that is an ordinary scenario. Errors: `ScenarioError`."""
    file = path / scenario.FILE if path.is_dir() else path
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
        if not isinstance(document, dict) or KEY not in document:
            return None
        return Replay.model_validate(document).plan()
    except OSError as error:
        raise scenario.ScenarioError(f"{file}: {error.strerror}") from error
    except (yaml.YAMLError, pydantic.ValidationError) as error:
        raise scenario.ScenarioError(f"{file}: {error}") from error


def write(plan: chaos.Plan, into: pathlib.Path) -> None:
    """Write a run, and the log that comes of it, into a folder."""
    result = simulation.play(plan)
    into.mkdir(parents=True, exist_ok=True)
    (into / scenario.FILE).write_text(scenario.dump(document(plan, result.violations)), encoding="utf-8")
    (into / scenario.LOG).write_text("\n".join(result.log) + "\n", encoding="utf-8")


def document(plan: chaos.Plan, violations: Iterable[invariants.Violation]) -> dict[str, Any]:
    """A run as its file has it."""
    rules = sorted({violation.rule for violation in violations})
    told = (
        f"Seed {plan.seed} violates {', '.join(rules)}." if rules else f"Seed {plan.seed} violates no rule."
    )
    world = scenario.write_world(plan.about)
    for guest, about in zip(world.get("guests", ()), plan.about.guests, strict=True):
        guest["kind"] = about.kind.ha_type
        guest["ha"] = {k: v for k, v in guest["ha"].items() if k != "sid"} if about.ha else "none"
    return {
        "about": told,
        "world": world,
        "operators": list(plan.operators),
        "protect": list(plan.protect),
        "timeline": list(_steps(plan)),
        "calm_at": plan.calm_at,
        "calm": list(plan.calm),
        "engine": plan.engine,
        "depends": [list(pair) for pair in plan.depends],
        "wishes": dataclasses.asdict(plan.wishes),
        "afterwards": plan.afterwards,
        "confirmed_seconds": plan.confirmed_seconds,
    }


def _steps(plan: chaos.Plan) -> Iterator[dict[str, Any]]:
    faults = sorted((step for fault in plan.faults for step in fault.steps), key=lambda step: step[0])
    for at, lines in itertools.groupby(faults, key=lambda step: step[0]):
        yield {"at": at, "do": [line for _, line in lines]}
