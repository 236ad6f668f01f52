"""The best that any plan could do, from OR-tools' CP-SAT.

Lexicographic, as the engine's promise is: first how many guests of the highest priority can run at all, then,
with that many of them running, how many of the next, and so on. Counting guests of all priorities alike would
hold against the engine that it gives a large important guest the place of three small ones.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable

from ortools.sat.python import cp_model

from bench import clusters
from pveha.decide.placing import problem

MILLI = 1000


@dataclasses.dataclass(frozen=True, slots=True)
class Bound:
    """Of each priority, the highest first: how many guests run."""

    running: dict[int, int]
    """Cannot be exceeded."""
    found: dict[int, int]
    """Do run in a plan that CP-SAT found."""

    @property
    def proven(self) -> bool:
        """Whether that plan is the best there is."""
        return self.running == self.found


Cells = dict[tuple[int, str], cp_model.IntVar]


def bound(instance: clusters.Instance, seconds: float) -> Bound:
    """Spends at most `seconds` on each priority."""
    model = cp_model.CpModel()
    cells = _model(model, instance)
    running: dict[int, int] = {}
    found: dict[int, int] = {}
    for priority in sorted({guest.priority for guest in instance.to_place}, reverse=True):
        vmids = {guest.vmid for guest in instance.to_place if guest.priority == priority}
        count = sum(cell for (vmid, _), cell in cells.items() if vmid in vmids)
        model.maximize(count)
        solver = cp_model.CpSolver()
        solver.parameters.max_time_in_seconds = seconds
        solver.parameters.num_workers = 8
        status = solver.solve(model)
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            raise RuntimeError(f"CP-SAT says {solver.status_name(status)}")
        running[priority] = min(len(vmids), int(solver.best_objective_bound + 1e-6))
        found[priority] = round(solver.objective_value)
        model.clear_objective()
        model.add(count >= found[priority])
        model.clear_hints()
        for cell in cells.values():
            model.add_hint(cell, solver.value(cell))
    return Bound(running, found)


def _model(model: cp_model.CpModel, instance: clusters.Instance) -> Cells:
    up = [node for node in instance.asked.nodes if node.name not in instance.down and node.accepts]
    guests = instance.to_place
    missing = {guest.vmid for guest in guests}
    cells = {
        (guest.vmid, node.name): model.new_bool_var(f"{guest.vmid}@{node.name}")
        for guest in guests
        for node in up
        if guest.eligible is None or node.name in guest.eligible
    }
    for guest in guests:
        model.add_at_most_one(cells[guest.vmid, node.name] for node in up if (guest.vmid, node.name) in cells)
    for node in up:
        stay = [guest for guest in instance.asked.guests if guest.node == node.name]
        here = [(guest, cells[guest.vmid, node.name]) for guest in guests if (guest.vmid, node.name) in cells]
        memory = node.memory - node.used_memory - sum(guest.memory for guest in stay)
        _limit(model, [(cell, guest.memory) for guest, cell in here], memory)
        if node.cpu:
            cpu = round((node.cpu - node.used_cpu) * MILLI) - sum(round(each.cpu * MILLI) for each in stay)
            _limit(model, [(cell, round(guest.cpu * MILLI)) for guest, cell in here], cpu)
    homes = {guest.vmid: guest.node for guest in instance.asked.guests if guest.vmid not in missing}
    for group in instance.asked.groups:
        if group.required:
            _require(model, group, cells, homes, _places(instance.asked.nodes, group.topology))
    return cells


def _limit(model: cp_model.CpModel, used: list[tuple[cp_model.IntVar, int]], most: int) -> None:
    """Counted in the greatest unit that divides all sizes, which makes CP-SAT's bounds tighter."""
    unit = math.gcd(*(size for _, size in used)) or 1
    model.add(sum(cell * (size // unit) for cell, size in used) <= max(most // unit, 0))


def _places(nodes: Iterable[problem.Node], topology: problem.Topology) -> Callable[[str], str]:
    zones = {node.name: node.zone or node.name for node in nodes}
    return (lambda name: zones[name]) if topology is problem.Topology.ZONE else (lambda name: name)


def _require(
    model: cp_model.CpModel,
    group: problem.Group,
    cells: Cells,
    homes: dict[int, str],
    place: Callable[[str], str],
) -> None:
    staying = {place(homes[vmid]) for vmid in group.vmids if vmid in homes}
    ours = {(vmid, name): cell for (vmid, name), cell in cells.items() if vmid in group.vmids}
    chosen: dict[str, cp_model.IntVar] = {}
    for where in sorted({place(name) for _, name in ours}):
        here = [cell for (_, name), cell in ours.items() if place(name) == where]
        if group.rule is problem.Rule.SEPARATE:
            model.add(sum(here) <= (where not in staying))
        elif staying:
            if where not in staying:
                model.add(sum(here) == 0)
        else:
            chosen[where] = model.new_bool_var(f"{group.name}@{where}")
            for cell in here:
                model.add_implication(cell, chosen[where])
    model.add_at_most_one(chosen.values())
