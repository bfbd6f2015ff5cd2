"""Documents of outcomes: the result of a relaxation, joined with the prediction from which it began."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pymatgen.core import Structure

from e3relax_flows.core.geometry import STRAIN_WEIGHT_ANGSTROM
from e3relax_flows.core.ids import hash_content
from e3relax_flows.core.run_information import collect_versions, now
from e3relax_flows.schemas.displays import Displayed, Summary, describe_structure, keep_known
from e3relax_flows.schemas.functionals import FunctionalName
from e3relax_flows.schemas.pairs import Freedom
from e3relax_flows.schemas.predictions import JsonStructure, Prediction

DEFAULT_CONTROL = 0.1  # fraction of candidates that are relaxed from their initial structures, too


class StartKind(StrEnum):
    """Where the relaxation began.

    predicted; polished: some steps of a potential from there; initial because the prediction was refused; initial as a
    control.

    Examples
    --------
    Controls begin at the initial structure, so that savings can be measured:

    >>> from e3relax_flows import StartKind
    >>> [str(kind) for kind in StartKind if not kind.is_from_prediction]
    ['initial', 'control']
    """

    PREDICTED = "predicted"
    POLISHED = "polished"
    INITIAL = "initial"
    CONTROL = "control"

    @property
    def is_from_prediction(self) -> bool:
        """Whether it began at the prediction, polished or not."""
        return self in (StartKind.PREDICTED, StartKind.POLISHED)

    def pick(self, prediction: Prediction) -> Structure | None:
        """The structure of a prediction where it began."""
        return {StartKind.PREDICTED: prediction.structure, StartKind.POLISHED: prediction.polished}.get(
            self, prediction.initial
        )


class OutcomeState(StrEnum):
    """successful: converged; unconverged: the engine gave a structure that is not the minimum; failed: no structure.

    Examples
    --------
    Outcomes of a store by their state:

    >>> from e3relax_flows import OutcomeState, find_outcomes, open_workspace
    >>> with open_workspace() as workspace:
    ...     failed = find_outcomes(workspace.outcomes, criteria={"state": OutcomeState.FAILED.value})
    >>> len(failed)
    0
    """

    SUCCESSFUL = "successful"
    UNCONVERGED = "unconverged"
    FAILED = "failed"


# serial: structures are relaxed one after the other by ASE; torchsim: those of a chunk together by TorchSim
Batch = Literal["serial", "torchsim"]


class PotentialInfo(BaseModel):
    """Which weights of which potential relaxed a structure, and how."""

    label: str = Field(description="versioned name, such as SevenNet-l3i5; no two checkpoints have the same")
    potential: str = Field(description="name of the potential, or dotted path of an ASE calculator")
    checkpoint: str | None = Field(None, description="name of the weights in their package, or their file")
    modal: str | None = Field(None, description="task of a network that serves several")
    weights_hash: str | None = Field(None, description="sha256 of the file of weights; None: it has none")
    functional: str | None = Field(None, description="of the energies that it was trained on; None: not known")
    device: str | None = Field(None, description="what it ran on; None: the calculator chose")
    fix_symmetry: bool | None = Field(None, description="whether the space group was kept; None: no relaxation")
    batch: Batch | None = Field(
        None,
        description="serial: one after the other by ASE; torchsim: many together; None: no relaxation, or not known",
    )


class RelaxationResult(BaseModel):
    """One relaxation by one engine, in the engine's own site order.

    Examples
    --------
    What `Engine.read` gives:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import RelaxationResult
    >>> before, after = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> result = RelaxationResult(
    ...     initial=before, relaxed=after, energy=-3.7, converged=True, code="VASP", functional="PBE", is_dft=True
    ... )
    >>> round(result.relaxed.volume, 2), result.free
    (11.05, None)
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    initial: JsonStructure = Field(description="the true start of the relaxation")
    relaxed: JsonStructure
    energy: float | None = Field(None, description="eV per cell")
    n_ionic_steps: int | None = Field(None, description="energy and force evaluations at distinct geometries")
    n_electronic_steps: int | None = Field(None, description="SCF iterations; None where the code has none")
    converged: bool
    wall_time_s: float | None = None
    dir_name: str | None = None
    code: str = Field(description="VASP, GPAW, CHGNet, ...")
    functional: FunctionalName | None = Field(None, description="such as PBE, PBE+U or PBE+D3-BJ at 50 GPa")
    is_dft: bool = Field(description="False for potentials, which are labelled everywhere as not DFT")
    free: Freedom | None = Field(None, description="what the last relaxation was free to change; None: not known")
    parameters: dict[str, Any] = Field(
        default_factory=dict,
        description="input of energy corrections: hubbards, potcar_spec, encut; empty where the code has none",
    )
    functionals: list[FunctionalName] = Field(
        default_factory=list, description="of the relaxations one after the other, where more than one was run"
    )
    potential: PotentialInfo | None = Field(None, description="weights that relaxed; None: DFT, or not known")
    unnamed: str | None = Field(None, description="why the functional is not known, where the code's input has none")
    conditions: list[str] = Field(
        default_factory=list,
        description="what moved the minimum besides the functional, such as a field or a charge; such a relaxation "
        "gives no pair",
    )


def add_known(values: Sequence[Any]) -> Any:
    """Sum of the steps or times of parts of a relaxation; None where one of them, or all, are not known."""
    return None if not values or None in values else sum(values)


class StructureErrors(BaseModel):
    """How far a structure is from the relaxed one."""

    displacement: float = Field(description="Å; mean over atoms, nearest image, drift removed, relaxed lattice")
    strain: float = Field(description="Frobenius norm of the logarithmic strain between the lattices")
    volume: float = Field(description="|V/V_relaxed - 1|")

    @property
    def combined(self) -> float:
        """Å; displacement + 2.5 Å · strain, the error that guards and gates go by."""
        return self.displacement + STRAIN_WEIGHT_ANGSTROM * self.strain


class OutcomeDoc(Displayed, BaseModel):
    """Result of the engine for one start of one structure; found by `outcome_id`, joined by `prediction_id`.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows.testing import make_outcome
    >>> initial, relaxed = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> prediction, outcome = make_outcome(initial, relaxed)
    >>> print(outcome.state, outcome.start_kind, outcome.result.n_ionic_steps)
    successful predicted 4
    >>> round(outcome.initial_errors.volume, 2)
    0.26
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    outcome_id: str
    prediction_id: str
    structure_id: str
    id: str | None = Field(None, description="the user's name for the structure")
    model_id: str
    engine: str = Field(description="name of the engine")
    engine_id: str = Field(description="content id of the engine and its settings")
    start_kind: StartKind
    state: OutcomeState
    message: str | None = Field(None, description="why it failed")
    result: RelaxationResult | None = None
    prediction_errors: StructureErrors | None = Field(None, description="predicted against relaxed")
    polished_errors: StructureErrors | None = Field(None, description="the polished prediction against relaxed")
    initial_errors: StructureErrors | None = Field(None, description="initial against relaxed")
    same_basin: bool | None = Field(
        None, description="StructureMatcher takes predicted and relaxed for the same structure"
    )
    job_uuids: list[str] = Field(default_factory=list, description="jobs whose documents hold the relaxation")
    hosts: list[str] = Field(default_factory=list, description="flows around them, innermost first")
    versions: dict[str, str] = Field(default_factory=collect_versions)
    metadata: dict[str, Any] = Field(default_factory=dict, description="metadata of the job that recorded it")
    last_updated: datetime = Field(default_factory=now)

    def summarize(self) -> Summary:
        """The displayed fields."""
        result, errors, start = self.result, self.prediction_errors, self.initial_errors
        code = f"{result.code}{'' if result.is_dft else ', not DFT'}" if result else None
        facts: list[tuple[str, object]] = [
            ("message", self.message),
            ("relaxed", describe_structure(result.relaxed) if result else None),
            ("code", " ".join(filter(None, (code, result.functional))) if result and code else None),
            ("weights, sha256", result.potential.weights_hash if result and result.potential else None),
            ("moved also by", result.conditions if result else None),
            ("energy, eV", result.energy if result else None),
            ("ionic steps", result.n_ionic_steps if result else None),
            ("electronic steps", result.n_electronic_steps if result else None),
            ("displaced, initial to relaxed, Å", start.displacement if start else None),
            ("displaced, predicted to relaxed, Å", errors.displacement if errors else None),
            ("volume off, initial, %", 100 * start.volume if start else None),
            ("volume off, predicted, %", 100 * errors.volume if errors else None),
            ("predicted in the same basin", self.same_basin),
            ("folder", result.dir_name if result else None),
            ("prediction", self.prediction_id),
            ("model", self.model_id),
        ]
        return Summary(f"{self.id or self.structure_id}: {self.state} from {self.start_kind}", keep_known(facts))


def identify_outcome(prediction_id: str, engine_id: str, start_kind: StartKind) -> str:
    """Id of an outcome: the prediction, the engine with its settings, and where the relaxation began."""
    return hash_content({"prediction": prediction_id, "engine": engine_id, "start": str(start_kind)})


class StepStatistics(BaseModel):
    """Steps of the converged relaxations that began at one kind of start."""

    n: int = Field(description="converged relaxations whose ionic steps are known")
    mean_ionic_steps: float
    median_ionic_steps: float
    mean_electronic_steps: float | None = Field(None, description="None where the code has none")
    median_electronic_steps: float | None = None


class PairedSaving(BaseModel):
    """Steps from one start over steps from another, for the same structures and engine."""

    n_pairs: int
    ratio: float = Field(description="steps from the one over steps from the other, each summed over pairs; < 1 saves")
    low: float | None = Field(None, description="lower end of the bootstrap 95 % interval; None for a single pair")
    high: float | None = Field(None, description="upper end of it")


class ArmSaving(BaseModel):
    """Savings of one start over another, for the candidates that were relaxed from both."""

    start: StartKind
    over: StartKind = Field(description="initial, of controls and refused candidates, or predicted")
    refused: bool = Field(False, description="whether these are candidates whose prediction was refused")
    n_broken_pairs: int = Field(0, description="pairs of which one did not converge; they are in no ratio")
    ionic: PairedSaving | None = Field(None, description="None without a pair that converged")
    electronic: PairedSaving | None = Field(None, description="None where the code has none, too")

    @property
    def label(self) -> str:
        """The start in words."""
        return f"{self.start}{', though refused' if self.refused else ''}"


class SavingsSummary(BaseModel):
    """Savings by prediction, measured on controls; without controls they are not known."""

    n_candidates: int = Field(description="different structures")
    n_predicted: int = Field(description="outcomes that began at the predicted structure")
    n_initial: int = Field(description="outcomes that began at the initial structure, the prediction being refused")
    n_control: int = Field(description="outcomes that began at the initial structure as controls")
    n_unconverged: int
    n_failed: int
    n_broken_pairs: int = Field(description="pairs of which one did not converge; they are in no ratio")
    engines: list[str]
    is_dft: bool | None = Field(None, description="whether every result is DFT; None without results")
    predicted: StepStatistics | None = None
    control: StepStatistics | None = None
    ionic: PairedSaving | None = Field(None, description="None without controls that have a partner")
    electronic: PairedSaving | None = None
    arms: list[ArmSaving] = Field(default_factory=list, description="every start that can be compared with another")
