"""Guarded ASE relaxations: time limit, largest deformation, right-handed axes.

Imports ASE and atomate2, so the engines import it only when they are used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.neighborlist import neighbor_list
from ase.optimize.optimize import Optimizer
from atomate2.ase.jobs import AseRelaxMaker
from atomate2.ase.schemas import AseResult
from atomate2.ase.utils import OPTIMIZERS, AseRelaxer
from pymatgen.core import Molecule, Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.geometry import SWAP, measure_log_strain

logger = logging.getLogger(__name__)


class RightHandedCalculator(Calculator):
    """Gives a calculator the right-handed description of a left-handed cell.

    Energy, forces (per atom) and stress (Cartesian) do not depend on the order of the lattice vectors, so the
    relaxation keeps its axes while the inner calculator never gets a negative determinant.

    Parameters
    ----------
    calculator
        Any ASE calculator.
    cutoff
        Its reach in Å, where an atom without a neighbour in reach is an error: it would feel no force, and count as
        relaxed. None: the calculator checks that itself.
    """

    def __init__(self, calculator: Calculator, cutoff: float | None = None) -> None:
        super().__init__()
        self.inner = calculator
        self.cutoff = cutoff
        self.implemented_properties = list(calculator.implemented_properties)

    @property
    def name(self) -> str:
        """The inner calculator's name, for documents."""
        return str(getattr(self.inner, "name", type(self.inner).__name__))

    def clock(self) -> float:
        """Seconds for the time limit of a relaxation."""
        return float(getattr(self.inner, "clock", time.monotonic)())

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate `properties` (energy in eV, forces in eV/Å, stress in eV/Å^3)."""
        super().calculate(atoms, properties, system_changes)
        image = turn_right_handed(self.atoms)
        if self.cutoff is not None:
            check_neighbors(image, self.cutoff)
        for name in properties:
            self.results[name] = self.inner.get_property(name, image)
        for name, value in getattr(self.inner, "results", {}).items():
            self.results.setdefault(name, value)


def check_neighbors(atoms: Atoms, cutoff: float) -> None:
    """Raise EngineError where an atom has no other within `cutoff` Å."""
    joined = np.unique(neighbor_list("i", atoms, cutoff))
    if lonely := sorted(set(range(len(atoms))) - set(joined.tolist())):
        raise EngineError(
            f"{atoms.symbols}: site {lonely[0]} and {len(lonely) - 1} others have no neighbour within {cutoff:g} Å, "
            "which is as far as the potential reaches; begin at a denser cell"
        )


def turn_right_handed(atoms: Atoms) -> Atoms:
    """Copy of `atoms` with two lattice vectors exchanged where the cell is left-handed; positions stay."""
    image = atoms.copy()
    if np.linalg.det(image.cell.array) < 0:
        image.set_cell(image.cell.array[SWAP], scale_atoms=False)
        image.pbc = image.pbc[SWAP]
    return image


class StoppedError(Exception):
    """A relaxation that was stopped before it converged; used in this module only."""


class GuardedOptimizer(Optimizer):
    """Base class that `guard_optimizer` combines with an ASE optimizer."""

    time_limit_s: ClassVar[float | None] = None
    max_strain: ClassVar[float] = 1.0

    def run(self, *args: Any, **kwargs: Any) -> bool:
        """Optimise; if stopped, return to the last geometry whose forces are known and report unconverged."""
        self._free = getattr(self.atoms, "atoms", self.atoms)  # below the filter that frees the cell
        self._start = self._free.cell.array.copy()
        # of relaxations that run in step each is charged with its own part
        self._clock = getattr(self._free.calc, "clock", time.monotonic)
        self._began = self._clock()
        self._safe: Atoms | None = None
        try:
            return bool(super().run(*args, **kwargs))
        except Exception as error:  # the boundary of one relaxation: what was reached is kept
            if self._safe is None:
                raise
            logger.warning("relaxation of %s: stopped, %s", self._free.symbols, error)
        self._free.set_cell(self._safe.cell, scale_atoms=False)
        self._free.set_positions(self._safe.positions, apply_constraint=False)
        return False

    def step(self, *args: Any, **kwargs: Any) -> None:
        """Make one step from a geometry whose forces are known, unless a limit forbids it."""
        self._safe = self._free.copy()
        if self.time_limit_s is not None and self._clock() - self._began > self.time_limit_s:
            raise StoppedError(f"time limit of {self.time_limit_s} s after {self.nsteps + 1} evaluations")
        super().step(*args, **kwargs)
        if not np.isfinite(self._free.positions).all() or not np.isfinite(self._free.cell.array).all():
            raise StoppedError("the step is not finite")
        deformed = self._free.cell.array
        if np.linalg.det(deformed) * np.linalg.det(self._start) <= 0:
            raise StoppedError("the cell was turned inside out")
        strain = float(np.abs(np.linalg.eigvalsh(measure_log_strain(self._start, deformed))).max())
        if strain > self.max_strain:
            raise StoppedError(f"logarithmic strain {strain:.2f} is above {self.max_strain}")


def guard_optimizer(name: str, time_limit_s: float | None, max_strain: float) -> type[Optimizer]:
    """ASE optimizer `name` with a wall-clock limit (s) and a largest logarithmic strain.

    Raises
    ------
    EngineError
        When atomate2 does not know the optimizer.
    """
    if name not in OPTIMIZERS:
        raise EngineError(f"optimizer {name!r} is unknown; known: {', '.join(OPTIMIZERS)}")
    limits = {"time_limit_s": time_limit_s, "max_strain": max_strain}
    return type(f"Guarded{name}", (GuardedOptimizer, OPTIMIZERS[name]), limits)


@dataclass
class GuardedRelaxMaker(AseRelaxMaker):
    """atomate2's AseRelaxMaker with limits; to be subclassed with a calculator.

    Parameters
    ----------
    time_limit_s
        Wall-clock limit of one relaxation in s; it is checked before each step. None: no limit.
    max_strain
        Largest absolute eigenvalue of the logarithmic strain of the cell; beyond it the relaxation is stopped.
    """

    time_limit_s: float | None = None
    max_strain: float = 1.0

    def run_ase(
        self,
        mol_or_struct: Structure | Molecule,
        prev_dir: str | Path | None = None,  # noqa: ARG002
    ) -> AseResult:
        """Relax one structure; one that is stopped by a limit is unconverged and keeps its last geometry."""
        options = dict(self.optimizer_kwargs)
        optimizer = guard_optimizer(options.pop("optimizer", "BFGS"), self.time_limit_s, self.max_strain)
        relaxer = AseRelaxer(
            self.calculator,
            optimizer=optimizer,  # type: ignore[arg-type]  # a class, as AseRelaxer's own table holds
            relax_cell=self.relax_cell,
            relax_shape=self.relax_shape,
            fix_symmetry=self.fix_symmetry,
            symprec=self.symprec,  # type: ignore[arg-type]  # looked at with fix_symmetry only
            **options,
        )
        clock = getattr(self.calculator, "clock", time.monotonic)
        began = clock()
        result = relaxer.relax(mol_or_struct, steps=self.steps, **self.relax_kwargs)
        result.elapsed_time = clock() - began
        return result
