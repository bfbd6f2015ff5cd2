"""ASE relaxations of many structures in step: each runs its own optimizer, a potential evaluates all as one batch.

Each relaxation runs in a greenlet, with the code that relaxes one structure alone. Where it asks its calculator for
energy, forces and stress, it waits; when all wait, their crystals are evaluated together. One that ends makes room for
the next. Imports ASE and greenlet, so it is imported only when it is used.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ase import Atoms
from ase.calculators.calculator import Calculator
from greenlet import getcurrent, greenlet

from e3relax_flows.engines.batches import Batches, EvaluatedCalculator, Evaluation

Relaxation = Callable[[Calculator], Any]


class WaitingCalculator(EvaluatedCalculator):
    """The calculator of one relaxation: it hands its crystal to whoever runs the relaxations, and waits.

    Attributes
    ----------
    spent_s
        This crystal's part, by its number of atoms, of the time that its batches took.
    """

    spent_s = 0.0

    def clock(self) -> float:
        """Seconds that the evaluations of this relaxation have taken."""
        return self.spent_s

    def evaluate(self, atoms: Atoms) -> Evaluation:
        """Wait for the evaluation of the crystal."""
        ambient = sys.stdout, warnings.filters
        try:
            found, seconds = getcurrent().parent.switch(atoms)
        finally:
            sys.stdout, warnings.filters = ambient
        self.spent_s += seconds
        return found


def relax_in_step(relaxations: Sequence[Relaxation], batches: Batches) -> Iterator[tuple[int, Any]]:
    """Run relaxations in step: place and result, or the exception that ended it, as each ends.

    Parameters
    ----------
    relaxations
        Each is called with a calculator of its own.
    batches
        What evaluates their crystals. As many relaxations run at a time as its batch holds atoms, at least one.
    """
    queue = deque(enumerate(relaxations))
    running: dict[int, _Running] = {}
    while queue or running:
        while queue and sum(each.n_atoms for each in running.values()) < batches.max_atoms:
            place, relaxation = queue.popleft()
            each = _Running(relaxation, batches)
            if each.resume(each.calculator):
                yield place, each.result
            else:
                running[place] = each
        for place, answer in _evaluate(running, batches):
            if running[place].resume(answer):
                yield place, running.pop(place).result


class _Running:
    """One relaxation that waits for the evaluation of `atoms`, or has ended with `result`."""

    def __init__(self, relaxation: Relaxation, batches: Batches) -> None:
        self.calculator = WaitingCalculator(batches)
        self._greenlet = greenlet(relaxation)
        self.atoms: Atoms | None = None
        self.result: Any = None

    @property
    def n_atoms(self) -> int:
        return 0 if self.atoms is None else len(self.atoms)

    def resume(self, answer: Any) -> bool:
        """Go on with an answer, or an exception to be raised where it waits; whether it has ended then."""
        ambient = sys.stdout, warnings.filters
        try:
            go_on = self._greenlet.throw if isinstance(answer, Exception) else self._greenlet.switch
            said = go_on(answer)
        except Exception as error:  # the boundary between relaxations
            said = error
        finally:
            sys.stdout, warnings.filters = ambient
        if self._greenlet.dead:
            self.result = said
        else:
            self.atoms = said
        return self._greenlet.dead


def _evaluate(running: dict[int, _Running], batches: Batches) -> Iterator[tuple[int, Any]]:
    """Evaluation of each waiting crystal with its part of the time, or why there is none; like sizes together."""
    places = sorted(running, key=lambda place: running[place].n_atoms)
    while places:
        chosen = [places.pop()]
        n_atoms = running[chosen[0]].n_atoms
        while places and 4 * running[places[-1]].n_atoms >= running[chosen[0]].n_atoms and n_atoms < batches.max_atoms:
            chosen.append(places.pop())
            n_atoms += running[chosen[-1]].n_atoms
        yield from zip(chosen, _evaluate_batch([running[place].atoms for place in chosen], batches), strict=True)


def _evaluate_batch(crystals: Sequence[Any], batches: Batches) -> list[Any]:
    began = time.perf_counter()
    try:
        found = batches.evaluate(crystals)
    except Exception as error:  # the boundary between crystals: only the guilty ones fail
        if len(crystals) == 1:
            return [error]
        return [answer for crystal in crystals for answer in _evaluate_batch([crystal], batches)]
    seconds = (time.perf_counter() - began) / sum(map(len, crystals))
    return [(each, seconds * len(crystal)) for each, crystal in zip(found, crystals, strict=True)]
