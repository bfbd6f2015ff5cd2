"""The relaxation job of potentials; imports atomate2's force fields, so engines import it when used."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from ase.calculators.calculator import Calculator
from atomate2.forcefields.jobs import ForceFieldRelaxMaker
from atomate2.forcefields.schemas import ForceFieldTaskDocument
from jobflow import job
from pydantic import Field
from pymatgen.core import Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.engines.batches import load_batches
from e3relax_flows.engines.guards import GuardedRelaxMaker, RightHandedCalculator
from e3relax_flows.engines.in_step import relax_in_step
from e3relax_flows.engines.potentials import Potential, find_potential, is_path
from e3relax_flows.schemas.outcomes import Batch, PotentialInfo


class PotentialTaskDoc(ForceFieldTaskDocument):
    """atomate2's document of a force field, with the weights that were used."""

    potential: PotentialInfo | None = Field(None, description="which weights of which potential")


@dataclass
class PotentialRelaxMaker(GuardedRelaxMaker, ForceFieldRelaxMaker):
    """atomate2's ForceFieldRelaxMaker for weights that have a name, with limits and right-handed axes.

    Parameters beyond atomate2's and those of GuardedRelaxMaker are below. Unlike atomate2's, the job needs no
    additional store: of the steps it keeps the energies only.

    Parameters
    ----------
    force_field_name
        CHGNet, SevenNet, MACE, another name of atomate2, or the dotted path of an ASE calculator ("module:Class").
    checkpoint
        Name of the weights in their package, or their file; None: the usual ones.
    modal
        Which task of a network that serves several.
    device
        auto, cpu, cuda or cuda:N; auto is CUDA where there is one.
    weights_hash
        sha256 of the file of weights, found when the maker is made; a job that finds other weights fails.
    functional
        Functional of the training data of weights that are not in our table, for the record.
    """

    name: str = "potential relax"
    force_field_name: str | Any = "CHGNet"
    steps: int = 300
    relax_kwargs: dict = field(default_factory=lambda: {"fmax": 0.05, "final_atoms_object_file": None})
    optimizer_kwargs: dict = field(default_factory=lambda: {"optimizer": "BFGS"})
    ionic_step_data: tuple[str, ...] | None = ("energy",)
    time_limit_s: float | None = 300.0
    checkpoint: str | None = None
    modal: str | None = None
    device: str = "auto"
    weights_hash: str | None = None
    functional: str | None = None

    batch: ClassVar[Batch] = "serial"

    def __post_init__(self) -> None:
        """Find the potential; additions of atomate2 to the name and the keyword arguments are left out.

        Raises
        ------
        EngineError
            When name, checkpoint or modal is unknown.
        """
        potential = self.find_potential()
        if is_path(potential.info.potential):
            self.calculator_meta, self.force_field_name = potential.info.potential, "Forcefield"
        else:
            # a copy with another name would keep the old one's calculator
            self.calculator_meta, self.force_field_name = None, potential.force_field
        super().__post_init__()
        self.task_document_kwargs.pop("force_field_name", None)
        self.checkpoint, self.calculator_kwargs = potential.info.checkpoint, potential.kwargs
        self.weights_hash = self.weights_hash or potential.info.weights_hash
        self.functional = self.functional or potential.info.functional

    def find_potential(self) -> Potential:
        """The potential of this maker, as it is installed here."""
        name = str(self.force_field_name).removeprefix("MLFF.")
        name = str(self.calculator_meta) if name == "Forcefield" else name
        return find_potential(name, self.checkpoint, self.modal, self.calculator_kwargs)

    def describe(self) -> PotentialInfo:
        """Description of the potential for documents, before anything runs."""
        changes = {"weights_hash": self.weights_hash, "functional": self.functional}
        known = {"device": self.device, "fix_symmetry": self.fix_symmetry, "batch": self.batch}
        return self.find_potential().info.model_copy(update=changes | known)

    @job
    def make(self, structure: Structure, prev_dir: str | Path | None = None) -> PotentialTaskDoc:
        """Relax a structure as a job; `prev_dir` is there because atomate2's flows pass it, and is not used."""
        document = ForceFieldRelaxMaker.make.original(self, structure, prev_dir)  # type: ignore[attr-defined]
        info = self.describe().model_copy(update={"device": self.find_device()})
        return PotentialTaskDoc(**dict(document), potential=info)

    def find_device(self) -> str:
        """Device of the calculator, if it has such an attribute."""
        inner = getattr(self.calculator, "inner", self.calculator)
        device = getattr(inner, "device", None)
        return self.device if device is None else str(device)

    def relax_many(self, structures: Sequence[Structure]) -> Iterator[tuple[int, Any]] | None:
        """Relax structures in step: index and document, or the exception that ended it, as each ends.

        None if these weights are evaluated for one crystal at a time.
        """
        batches = load_batches(self._find_checked(), self.device)
        if batches is None:
            return None

        def relax(structure: Structure, calculator: Calculator) -> PotentialTaskDoc:
            maker = copy.copy(self)
            maker._calculator = RightHandedCalculator(calculator)  # batches look for lonely atoms
            return PotentialRelaxMaker.make.original(maker, structure)  # type: ignore[attr-defined]

        return relax_in_step([partial(relax, structure) for structure in structures], batches)

    def _get_calculator(self) -> Calculator:
        calculator = self._find_checked().load(self.device)
        cutoff = getattr(calculator, "cutoff", getattr(calculator, "r_max", None))
        return RightHandedCalculator(calculator, cutoff=None if cutoff is None else float(cutoff))

    def _find_checked(self) -> Potential:
        """The potential of this maker, with the weights that it was made with.

        Raises
        ------
        EngineError
            When other weights are installed here.
        """
        potential = self.find_potential()
        found = potential.info.weights_hash
        if self.weights_hash is not None and found != self.weights_hash:
            raise EngineError(
                f"the weights of {potential.label} on this machine have the sha256 {found}, those of the engine "
                f"{self.weights_hash}; install the same version of its package, or copy the file"
            )
        return potential
