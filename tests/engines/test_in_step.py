"""Relaxations in step give what each gives alone, and one that fails costs no other."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE
from monty.json import jsanitize
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.engines import get_engine
from e3relax_flows.engines.batches import Evaluation, load_batches
from e3relax_flows.engines.chunks import relax_structures
from e3relax_flows.engines.guards import guard_optimizer
from e3relax_flows.engines.in_step import relax_in_step
from e3relax_flows.engines.potentials import find_potential


class EmtBatches:
    """Effective medium theory, crystal by crystal; it knows how many it was given at a time."""

    name, device = "emt", "cpu"

    def __init__(self, max_atoms: int = 100) -> None:
        self.max_atoms = max_atoms
        self.sizes: list[int] = []

    def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation]:
        self.sizes.append(len(crystals))
        found = []
        for crystal in crystals:
            atoms = crystal.copy()
            atoms.calc = EMT()
            found.append(Evaluation(atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)))
        return found


def make_alloy(element: str, cubic: bool = True) -> Atoms:
    atoms = bulk(element, cubic=cubic)
    atoms.set_cell(atoms.cell.array * 1.04, scale_atoms=True)
    atoms.rattle(0.08, seed=1)
    return atoms


def relax(atoms: Atoms, calculator: Calculator) -> tuple[int, Atoms]:
    atoms.calc = calculator
    optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
    optimizer.run(fmax=0.3, steps=12)
    return optimizer.nsteps, atoms


def test_each_takes_the_steps_that_it_takes_alone() -> None:
    elements, batches = ["Cu", "Al", "Au", "Ni"], EmtBatches()
    found = dict(relax_in_step([partial(relax, make_alloy(element)) for element in elements], batches))
    alone = [relax(make_alloy(element), EMT()) for element in elements]
    assert len({n for n, _ in alone}) > 1
    for place, (n_steps, atoms) in enumerate(alone):
        assert found[place][0] == n_steps
        np.testing.assert_allclose(found[place][1].positions, atoms.positions, atol=1e-9)
        assert found[place][1].get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-9)
    assert batches.sizes[0] == 4
    assert sum(batches.sizes) >= sum(n + 1 for n, _ in alone)


def test_a_batch_is_filled_again_and_holds_like_sizes() -> None:
    batches = EmtBatches(max_atoms=9)
    bodies = [partial(relax, make_alloy("Cu")) for _ in range(4)] + [partial(relax, make_alloy("Cu", cubic=False))]
    assert sorted(place for place, _ in relax_in_step(bodies, batches)) == [0, 1, 2, 3, 4]
    assert max(batches.sizes) == 3  # a third one while eight atoms wait
    single = EmtBatches(max_atoms=1)
    assert len(dict(relax_in_step(bodies[:2], single))) == 2
    assert set(single.sizes) == {1}


def test_what_cannot_be_evaluated_fails_alone() -> None:
    bad = make_alloy("Cu")
    bad.numbers[0] = 26  # iron, which EMT has not
    found = dict(
        relax_in_step([partial(relax, atoms) for atoms in (make_alloy("Cu"), bad, make_alloy("Al"))], EmtBatches())
    )
    assert isinstance(found[1], NotImplementedError)
    assert found[0][0] == relax(make_alloy("Cu"), EMT())[0]
    assert found[2][0] == relax(make_alloy("Al"), EMT())[0]


def test_each_is_charged_with_its_part_of_the_time() -> None:
    spent: dict[int, float] = {}

    def measure(place: int, n: int, calculator: Any) -> None:
        atoms = make_alloy("Cu") * (n, 1, 1)
        atoms.calc = calculator
        atoms.get_potential_energy()
        spent[place] = calculator.clock()

    list(relax_in_step([partial(measure, 0, 1), partial(measure, 1, 3)], EmtBatches()))
    assert spent[0] > 0
    assert spent[1] == pytest.approx(3 * spent[0])

    def stop(calculator: Any) -> bool:
        atoms = make_alloy("Cu")
        atoms.calc = calculator
        optimizer = guard_optimizer("FIRE", time_limit_s=1000.0, max_strain=1.0)(FrechetCellFilter(atoms), logfile=None)
        calculator.spent_s = 0.0
        optimizer.attach(lambda: setattr(calculator, "spent_s", calculator.spent_s + 600.0))
        return optimizer.run(fmax=1e-9, steps=50), optimizer.nsteps

    [(_, (converged, n_steps))] = relax_in_step([stop], EmtBatches())
    assert not converged
    assert n_steps < 4


def test_output_and_warnings_are_as_before_and_an_interrupt_ends_all() -> None:
    output, filters = sys.stdout, warnings.filters
    engine = get_engine("mlip", potential="SevenNet", checkpoint="7net-0", steps=2, device="cpu")
    cells = [Structure(Lattice.cubic(a), ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]]) for a in (2.6, 2.7)]
    assert len(list(relax_structures(engine, cells))) == 2
    assert sys.stdout is output
    assert warnings.filters is filters

    class Interrupted(EmtBatches):
        def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation]:
            if len(self.sizes) == 2:
                raise KeyboardInterrupt
            return super().evaluate(crystals)

    with pytest.raises(KeyboardInterrupt):
        list(relax_in_step([partial(relax, make_alloy("Cu")), partial(relax, make_alloy("Al"))], Interrupted()))


def test_documents_are_those_of_one_relaxation_after_the_other() -> None:
    engine = get_engine("mlip", potential="SevenNet", checkpoint="7net-0", steps=3, device="cpu")
    face_centred = 1 - np.eye(3)
    oxide = Structure(2.15 * face_centred, ["Mg", "O"], [[0, 0, 0], [0.5, 0.5, 0.52]])
    left = Structure(2.75 * face_centred[[1, 0, 2]], ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.26]])
    lonely = Structure(Lattice.cubic(9.0), ["Mg"], [[0, 0, 0]])
    unknown = Structure(Lattice.cubic(3.0), ["Ra"], [[0, 0, 0]])
    structures = [oxide, lonely, unknown, left]
    found = dict(relax_structures(engine, structures))
    assert isinstance(found[2], EngineError)
    assert "no neighbour within 5 Å" in str(found[1])
    for place in (0, 3):
        alone = type(engine.maker).make.original(replace_maker(engine.maker), structures[place])
        compare(jsanitize(found[place], strict=True), jsanitize(alone, strict=True))


def replace_maker(maker: Any) -> Any:
    """A copy that loads a calculator of its own."""
    return replace(maker)


def compare(first: Any, second: Any) -> None:
    """The same fields and texts, numbers as single precision leaves them; times and folders are each one's own."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first.keys() - {"elapsed_time", "last_updated", "dir_name", "@version"}:
            compare(first[key], second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            compare(one, other)
    elif isinstance(first, float):
        assert first == pytest.approx(second, rel=3e-4, abs=3e-4)
    else:
        assert first == second


def test_potentials_without_batches_run_one_after_the_other() -> None:
    assert load_batches(find_potential("CHGNet", None), "cpu") is None
    assert load_batches(find_potential("SevenNet", "7net-0"), "cpu") is not None
