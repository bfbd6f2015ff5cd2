"""Potentials instead of DFT, through atomate2's force-field maker; results are marked as not DFT."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure

from e3relax_flows.core.errors import EngineError, MissingDependencyError
from e3relax_flows.core.optional import require
from e3relax_flows.engines.ase_documents import Free, hold_cell, read_ase_documents, read_potential
from e3relax_flows.engines.base import Engine, get_entry
from e3relax_flows.engines.potentials import Potential, find_potential
from e3relax_flows.schemas.outcomes import PotentialInfo, RelaxationResult

TORCHSIM_POTENTIALS = ("SevenNet",)


@dataclass
class MlipEngine(Engine):
    """A potential by name and checkpoint: fast, for screens before DFT, demonstrations and tests; not DFT."""

    is_dft: ClassVar[bool] = False
    code: ClassVar[str] = "potential"
    relaxes_chunks: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """Versioned name of the weights, such as "SevenNet-l3i5"."""
        return self.describe().label

    @property
    def functional(self) -> str | None:
        """That of the training data of the weights."""
        return self.describe().functional

    def check(self, structure: Structure) -> None:
        """Refuse elements that were not in the training data of the weights."""
        self._find().check(structure)

    def read(self, documents: list[Any]) -> RelaxationResult:
        """Read force-field task documents; a relaxation has evaluations, but no electronic steps."""
        found = next((info for document in reversed(documents) if (info := read_potential(document))), None)
        info = found or self.describe()
        result = read_ase_documents(documents, info.label, f"{info.label} (not DFT)", is_dft=False)
        return result.model_copy(update={"potential": info})

    def describe(self) -> PotentialInfo:
        """The potential and its weights."""
        describe = getattr(self.maker, "describe", None)
        return describe() if describe is not None else self._find().info

    def _find(self) -> Potential:
        if hasattr(self.maker, "find_potential"):
            return self.maker.find_potential()
        named = str(getattr(self.maker, "force_field_name", "CHGNet")).removeprefix("MLFF.")
        name = str(getattr(self.maker, "calculator_meta", named)) if named == "Forcefield" else named
        return find_potential(name, calculator_kwargs=getattr(self.maker, "calculator_kwargs", None))


@dataclass
class AseEngine(Engine):
    """A relaxation by another of atomate2's ASE makers, named by its calculator and marked as not DFT."""

    is_dft: ClassVar[bool] = False
    code: ClassVar[str] = "ASE"

    def read(self, documents: list[Any]) -> RelaxationResult:
        """Read the documents of ASE relaxations."""
        known = (name for document in reversed(documents) if (name := get_entry(document, "ase_calculator_name")))
        label = str(next(known, self.code))
        return read_ase_documents(documents, label, f"{label} (not DFT)", is_dft=False)


class PotentialConfig(BaseModel):
    """Settings of an engine that relaxes with a potential."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "mlip"
    potential: str = Field(description="CHGNet, SevenNet, MACE, a name of atomate2, or an ASE calculator module:Class")
    checkpoint: str | None = Field(None, description="name of the weights in their package, or their file")
    fmax: float = Field(0.02, gt=0, description="largest force, eV/Å")
    steps: int = Field(300, ge=1, description="most steps")
    time_limit_s: float | None = Field(300.0, ge=0, description="most seconds per structure")
    modal: str | None = Field(None, description="task of a network that serves several")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:N")
    fix_symmetry: bool = Field(False, description="keep the space group that the structure has within symprec")
    symprec: float = Field(1e-2, gt=0, description="Å; where fix_symmetry")
    free: Free = Field("all", description="cell: all; shape (at its volume); volume (at its shape); sites (no cell)")
    optimizer: str | None = Field(None, description="ASE's, by atomate2's name; None: BFGS, with torchsim LBFGS")
    max_strain: float = Field(1.0, gt=0, description="largest logarithmic strain before a relaxation is stopped")
    functional: str | None = Field(None, description="functional of the training data of your own weights")
    batch: Literal["auto", "serial", "torchsim"] = Field(
        "auto",
        description="serial: one after the other; torchsim: a chunk together; auto: torchsim on a GPU, if supported",
    )
    calculator_kwargs: dict[str, Any] = Field(default_factory=dict, description="further arguments of the calculator")

    def build(self) -> MlipEngine:
        """The engine; weights and package are located, and nothing is loaded.

        Raises
        ------
        EngineError, MissingDependencyError
            When the potential is unknown, or its package or weights are missing.
        """
        potential = find_potential(self.potential, self.checkpoint, self.modal, self.calculator_kwargs)
        potential.check_installed()
        require("ase", "mlip", f"engine {self.name!r}")
        held = hold_cell(self.free)
        kind = self._find_maker(potential)
        maker = kind(
            force_field_name=self.potential,
            relax_cell=held["relax_cell"],
            relax_kwargs={"fmax": self.fmax, "final_atoms_object_file": None, **held["relax_kwargs"]},
            optimizer_kwargs={"optimizer": self.optimizer or ("LBFGS" if kind.batch == "torchsim" else "BFGS")},
            calculator_kwargs=dict(self.calculator_kwargs),
            **self.model_dump(
                include={
                    *("checkpoint", "steps", "time_limit_s", "modal", "device"),
                    *("fix_symmetry", "symprec", "max_strain", "functional"),
                }
            ),
        )
        maker.name = f"{maker.describe().label} relax"
        return MlipEngine(name=self.name, maker=maker)

    def _find_maker(self, potential: Potential) -> Any:
        """Class of the maker, which determines how many structures are relaxed together."""
        from e3relax_flows.engines.mlip_jobs import PotentialRelaxMaker

        if self.batch == "serial" or (self.batch == "auto" and not self._prefers_torchsim(potential)):
            return PotentialRelaxMaker
        if not has_torchsim_model(potential):
            raise EngineError(
                f"batch=torchsim: {potential.label} with these settings has no supported model in TorchSim, "
                f"only {', '.join(TORCHSIM_POTENTIALS)} without calculator_kwargs has; give batch=serial"
            )
        if find_spec("torch_sim") is None:
            raise MissingDependencyError(
                f"engine {self.name!r} with batch=torchsim needs 'torch_sim', which is not installed; on Python 3.12 "
                "or newer install it with: pip install 'e3relax-flows[torchsim]'; without it give batch=serial"
            )
        from e3relax_flows.engines.torchsim_jobs import TorchSimRelaxMaker

        return TorchSimRelaxMaker

    def _prefers_torchsim(self, potential: Potential) -> bool:
        """Whether TorchSim is installed and there is a GPU; on the CPU it is slower."""
        if not has_torchsim_model(potential) or find_spec("torch_sim") is None or self.device == "cpu":
            return False
        from e3relax_flows.graphs.devices import resolve_device

        return resolve_device(self.device).type == "cuda"


def has_torchsim_model(potential: Potential) -> bool:
    """Whether TorchSim relaxes by this potential here."""
    return potential.info.potential in TORCHSIM_POTENTIALS and not potential.kwargs
