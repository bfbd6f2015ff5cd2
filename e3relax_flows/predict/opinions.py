"""Second opinions: single points of a potential on initial and predicted structures, in batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import E3RelaxError
from e3relax_flows.core.geometry import make_right_handed
from e3relax_flows.graphs.batching import plan_batches
from e3relax_flows.schemas.predictions import SecondOpinion

if TYPE_CHECKING:
    from ase.calculators.calculator import Calculator

    from e3relax_flows.engines.batches import Batches

# Atoms in one batch: on a CPU larger ones exceed its caches.
MAX_ATOMS = {"cpu": 60, "cuda": 4_000}
EV_PER_CUBIC_ANGSTROM = 1 / 160.21766  # of one GPa

logger = logging.getLogger(__name__)


class Silence(NamedTuple):
    """Reason why a structure has no second opinion."""

    message: str
    failed: bool  # the potential failed; a repetition may succeed


class SinglePoint(NamedTuple):
    """Single point of a potential on one structure."""

    energy: float  # eV per atom
    force: float  # eV/Å, the largest on an atom
    stress: float  # eV/Å³, Frobenius norm


class Judge:
    """A potential for second opinions; loaded once, on the available device.

    Parameters
    ----------
    name
        Name of an engine that is a potential, such as "chgnet", or of a potential.
    device
        auto, cpu, cuda or cuda:N.

    Raises
    ------
    EngineError
        When the potential is unknown.
    MissingDependencyError
        When its package is not installed.
    """

    def __init__(self, name: str, device: str = "auto") -> None:
        from e3relax_flows.engines.registry import get_potential
        from e3relax_flows.graphs.devices import resolve_device

        resolved = resolve_device(device)
        self.device = str(resolved)
        self.potential = get_potential(name)
        self.potential.check_installed()
        self.max_atoms = MAX_ATOMS[resolved.type]

    @cached_property
    def calculator(self) -> Calculator:
        """ASE calculator, for steps and for potentials that evaluate one structure at a time."""
        if self.batches is not None:
            from e3relax_flows.engines.batches import EvaluatedCalculator

            return EvaluatedCalculator(self.batches)
        return self.potential.load(self.device)

    @cached_property
    def batches(self) -> Batches | None:
        """Batched evaluation; None if structures are evaluated one by one, or by CHGNet's own batches."""
        if self.potential.family is None or self.potential.family.name == "CHGNet":
            return None
        from e3relax_flows.engines.batches import load_batches

        return load_batches(self.potential, self.device)

    @property
    def label(self) -> str:
        """Versioned name of the potential's weights."""
        return self.potential.label

    def compare(self, pairs: Sequence[tuple[Structure, Structure]]) -> list[SecondOpinion]:
        """Opinions on initial and predicted structures, in order; a failed one holds the reason."""
        found = self.measure([structure for pair in pairs for structure in pair])
        opinions = []
        for before, after in zip(found[::2], found[1::2], strict=True):
            silence = next((each for each in (before, after) if isinstance(each, Silence)), None)
            if isinstance(before, SinglePoint) and isinstance(after, SinglePoint):
                opinions.append(
                    SecondOpinion(
                        potential=self.label,
                        energy_change=after.energy - before.energy,
                        initial_force=before.force,
                        predicted_force=after.force,
                        initial_stress=before.stress,
                        predicted_stress=after.stress,
                    )
                )
            else:
                opinions.append(SecondOpinion(potential=self.label, **(silence._asdict() if silence else {})))
        n_silent = sum(opinion.energy_change is None for opinion in opinions)
        logger.info("second opinion of %s: %d computed, %d not given", self.label, len(opinions) - n_silent, n_silent)
        return opinions

    def measure(self, structures: Sequence[Structure]) -> list[SinglePoint | Silence]:
        """Single points in the order of the structures, the reason instead of a failed one."""
        found: dict[int, SinglePoint | Silence] = {}
        known = []
        for index, structure in enumerate(structures):
            try:
                self.potential.check(structure)
                known.append(index)
            except E3RelaxError as error:
                found[index] = Silence(str(error), failed=False)
        order = sorted(known, key=lambda index: len(structures[index]))
        sizes = [(len(structures[index]), 0) for index in order]
        for indices in plan_batches(sizes, self.max_atoms, 1):
            batch = [order[index] for index in indices]
            found |= dict(zip(batch, self._run([structures[index] for index in batch]), strict=True))
        return [found[index] for index in range(len(structures))]

    def _run(self, structures: list[Structure]) -> list[SinglePoint | Silence]:
        """One batch; when it fails it is halved until only the failing structure is left."""
        try:
            points = self._evaluate([turn_right_handed(structure) for structure in structures])
            silence = Silence(f"{self.label} gives numbers that are not finite", failed=False)
            return [point if all(map(math.isfinite, point)) else silence for point in points]
        except Exception as error:  # the boundary between structures
            if len(structures) == 1:
                logger.info(
                    "second opinion of %s on %s: failed, %s", self.label, structures[0].composition.hill_formula, error
                )
                return [Silence(f"{self.label} failed on it: {type(error).__name__}: {error}", failed=True)]
            logger.info(
                "second opinion of %s: a batch of %d failed and is halved: %s", self.label, len(structures), error
            )
        half = len(structures) // 2
        return self._run(structures[:half]) + self._run(structures[half:])

    def _evaluate(self, structures: list[Structure]) -> list[SinglePoint]:
        if self.potential.family is not None and self.potential.family.name == "CHGNet":
            model: Any = vars(self.calculator)["model"]
            results = model.predict_structure(structures, task="efs", batch_size=len(structures))
            return [
                SinglePoint(float(each["e"]), _find_largest(each["f"]), _find_norm(each["s"]) * EV_PER_CUBIC_ANGSTROM)
                for each in (results if isinstance(results, list) else [results])
            ]
        if self.batches is not None:
            crystals = [_make_atoms(structure) for structure in structures]
            return [
                SinglePoint(each.energy / len(atoms), _find_largest(each.forces), _find_norm(each.stress))
                for each, atoms in zip(self.batches.evaluate(crystals), crystals, strict=True)
            ]
        return [self._evaluate_one(structure) for structure in structures]

    def _evaluate_one(self, structure: Structure) -> SinglePoint:
        atoms = _make_atoms(structure)
        atoms.calc = self.calculator
        energy = float(atoms.get_potential_energy()) / len(atoms)
        return SinglePoint(energy, _find_largest(atoms.get_forces()), _find_norm(atoms.get_stress(voigt=False)))


def turn_right_handed(structure: Structure) -> Structure:
    """The bare crystal, two lattice vectors exchanged where the cell is left-handed: potentials fail on those."""
    matrix, fractions = make_right_handed(structure.lattice.matrix, structure.frac_coords)
    return Structure(Lattice(matrix), [site.specie.Z for site in structure], fractions)


def _make_atoms(structure: Structure) -> Any:
    from pymatgen.io.ase import AseAtomsAdaptor

    return AseAtomsAdaptor.get_atoms(structure, msonable=False)


def _find_largest(forces: Any) -> float:
    return float(np.linalg.norm(np.asarray(forces, dtype=float), axis=1).max())


def _find_norm(stress: Any) -> float:
    return float(np.linalg.norm(np.asarray(stress, dtype=float)))
