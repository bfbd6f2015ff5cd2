"""ASE relaxations of many structures in step: each runs its own optimizer, a potential evaluates all as one batch.

Each relaxation runs in a greenlet, with the code that relaxes one structure alone. When it needs
energy, forces and stress, it waits; when all wait, their crystals are evaluated together. One that ends is replaced by
the next. Imports ASE and greenlet, so it is imported only when it is used.
"""

from __future__ import annotations

import logging
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

logger = logging.getLogger(__name__)


class WaitingCalculator(EvaluatedCalculator):
    """The calculator of one relaxation: it passes its crystal to the loop over all relaxations, and waits.

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
    """Run relaxations in step: index and result, or the exception that ended it, as each ends.

    Parameters
    ----------
    relaxations
        Each is called with a calculator of its own.
    batches
        Evaluates their crystals. As many relaxations run at a time as its batch holds atoms, at least one.
    """
    queue = deque(enumerate(relaxations))
    running: dict[int, _Running] = {}
    while queue or running:
        while queue and sum(each.n_atoms for each in running.values()) < batches.max_atoms:
            index, relaxation = queue.popleft()
            each = _Running(relaxation, batches)
            if each.resume(each.calculator):
                yield index, each.result
            else:
                running[index] = each
        for index, answer in _evaluate(running, batches):
            if running[index].resume(answer):
                yield index, running.pop(index).result


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
        """Continue with an answer, or raise an exception where it waits; return whether it has ended."""
        ambient = sys.stdout, warnings.filters
        try:
            go_on = self._greenlet.throw if isinstance(answer, Exception) else self._greenlet.switch
            result = go_on(answer)
        except Exception as error:  # the boundary between relaxations
            result = error
        finally:
            sys.stdout, warnings.filters = ambient
        if self._greenlet.dead:
            self.result = result
        else:
            self.atoms = result
        return self._greenlet.dead


def _evaluate(running: dict[int, _Running], batches: Batches) -> Iterator[tuple[int, Any]]:
    """Evaluation of each waiting crystal with its part of the time, or its error; similar sizes together."""
    indices = sorted(running, key=lambda index: running[index].n_atoms)
    while indices:
        chosen = [indices.pop()]
        n_atoms = running[chosen[0]].n_atoms
        smallest = running[chosen[0]].n_atoms / 4
        while indices and running[indices[-1]].n_atoms >= smallest and n_atoms < batches.max_atoms:
            chosen.append(indices.pop())
            n_atoms += running[chosen[-1]].n_atoms
        yield from zip(chosen, _evaluate_batch([running[index].atoms for index in chosen], batches), strict=True)


def _evaluate_batch(crystals: Sequence[Any], batches: Batches) -> list[Any]:
    began = time.perf_counter()
    try:
        found = batches.evaluate(crystals)
    except Exception as error:  # the boundary between crystals: only those with the error fail
        if len(crystals) == 1:
            return [error]
        logger.info("batch of %d crystals: failed and evaluated one by one: %s", len(crystals), error)
        return [answer for crystal in crystals for answer in _evaluate_batch([crystal], batches)]
    seconds = (time.perf_counter() - began) / sum(map(len, crystals))
    return [(each, seconds * len(crystal)) for each, crystal in zip(found, crystals, strict=True)]
