"""Documents of predictions: options, results of the network, and the verdict of the guards."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from math import exp
from typing import Annotated, Any, Literal, Self

from monty.json import jsanitize
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pymatgen.core import Structure

from e3relax_flows.core.geometry import STRAIN_WEIGHT_ANGSTROM
from e3relax_flows.core.ids import hash_content
from e3relax_flows.core.run_information import collect_versions, now
from e3relax_flows.schemas.displays import Displayed, Summary, describe_structure, keep_known

# beside the sites: everything; the shape, at its volume; the volume, at its shape; nothing
Free = Literal["all", "shape", "volume", "sites"]

# a structure that `model_dump_json` writes as pymatgen's dictionary and `model_validate_json` reads back
JsonStructure = Annotated[Structure, PlainSerializer(lambda item: jsanitize(item.as_dict()), when_used="json")]


class Verdict(StrEnum):
    """accept: start DFT from it; refuse: a guard refused it; error: no prediction could be made.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import Verdict
    >>> from e3relax_flows.testing import TablePredictor
    >>> copper = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]])
    >>> prediction = TablePredictor("table", {"Cu": 11.6}, refused=["Cu"]).predict([copper])[0]
    >>> prediction.verdict is Verdict.REFUSE, prediction.served == copper
    (True, True)
    """

    ACCEPT = "accept"
    REFUSE = "refuse"
    ERROR = "error"


class Reason(StrEnum):
    """Why a prediction was refused (first group) or could not be made (second group).

    Examples
    --------
    The predicted structures that a guard refused because atoms are too close:

    >>> from e3relax_flows import Reason, open_workspace, predictions_dataframe
    >>> with open_workspace() as workspace:
    ...     refused = predictions_dataframe(workspace.predictions, {"reasons": Reason.CLOSE_ATOMS.value})
    >>> len(refused)
    0
    """

    CLOSE_ATOMS = "close_atoms"
    VOLUME = "volume"
    STRAIN = "strain"
    NOT_FINITE = "not_finite"
    DETERMINANT = "determinant"
    SCORE = "score"
    HARM = "harm"
    NO_SAVING = "no_saving"
    UNTRAINED = "untrained"
    VACUUM = "vacuum"

    NOT_A_STRUCTURE = "not_a_structure"
    UNREADABLE = "unreadable"
    EMPTY = "empty"
    DISORDERED = "disordered"
    OVERLAPPING = "overlapping"
    ZERO_VOLUME = "zero_volume"
    UNKNOWN_ELEMENT = "unknown_element"
    CONSTRAINT = "constraint"
    FAILED = "failed"


class Constraints(BaseModel):
    """Constraints of the user.

    Examples
    --------
    A slab keeps its vacuum along c and its lowest atom; the cell of a substrate stays as it is:

    >>> from e3relax_flows import Constraints, PredictOptions
    >>> options = PredictOptions(constraints=Constraints(vacuum_axis="c", fixed_atoms=(0,)))
    >>> options.constraints.free, Constraints(free="sites").holds_cell
    ('all', True)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fix_cell: bool = Field(False, description="the lattice stays as it is; the same as free: sites")
    free: Free = Field(
        "all",
        description="what may change besides the sites: all of the cell; its shape, at its volume; its volume, at its "
        "shape; sites: nothing. With a vacuum axis it applies to the plane of the other two",
    )
    vacuum_axis: Literal["a", "b", "c"] | None = Field(
        None, description="2D: this lattice vector keeps its length and direction, the other two stay in their plane"
    )
    fixed_atoms: tuple[int, ...] = Field((), description="indices of sites whose fractional coordinates stay")
    selective_dynamics: bool = Field(True, description="sites with selective_dynamics False along an axis keep it")

    @property
    def holds_cell(self) -> bool:
        """Whether nothing but sites may change."""
        return self.fix_cell or self.free == "sites"

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if self.fix_cell and self.free not in ("all", "sites"):
            raise ValueError(f"fix_cell holds the whole cell, and free={self.free!r} does not; give one of them")
        return self

    @model_serializer(mode="wrap")
    def _write_one_spelling(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Write the constraints as before `free` existed, where possible: ids of predictions depend on it."""
        content: dict[str, Any] = handler(self)
        if content.get("free") == "sites":
            content["fix_cell"] = True
        if content.get("free") in ("all", "sites"):
            del content["free"]
        return content


class GuardLimits(BaseModel):
    """When a prediction is refused; one limit per guard.

    The limits on volume and strain only catch what no real substitution does: of 29,260 real pairs initial ->
    relaxed, 99.8 % lie within them. The probability of harm is the guard that knows the network.

    Examples
    --------
    >>> from e3relax_flows import GuardLimits, PredictOptions
    >>> PredictOptions(guards=GuardLimits(max_volume_ratio=2.0)).guards.max_volume_ratio
    2.0
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_distance: float = Field(0.5, description="shortest distance over the sum of covalent radii")
    min_volume_ratio: float = Field(0.25, description="smallest predicted volume over initial volume")
    max_volume_ratio: float = Field(6.0, description="largest predicted volume over initial volume")
    max_strain: float = Field(1.0, description="largest absolute eigenvalue of the logarithmic strain")
    max_score: float | None = Field(None, description="largest score, Å; none: no limit")
    max_harm: float | None = Field(
        None,
        ge=0,
        le=1,
        description="largest probability of harm; none: the model's calibrated rule, which also refuses what is "
        "expected to save nothing",
    )
    allow_untrained: bool = Field(False, description="accept elements that the model has hardly seen in training")


class PredictOptions(BaseModel):
    """How to predict; part of the id of a prediction.

    Examples
    --------
    >>> from e3relax_flows import Constraints, GuardLimits, PredictOptions
    >>> options = PredictOptions(passes=1, constraints=Constraints(fix_cell=True), guards=GuardLimits(max_harm=0.3))
    >>> options.passes, options.symmetry
    (1, 'keep')
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    passes: int = Field(2, ge=1, description="largest number of applications of the network")
    stop_below: float = Field(0.002, ge=0, description="Å; no further pass once the last one moved less than this")
    symmetry: Literal["keep", "free"] = Field("keep", description="keep: project onto the space group of the input")
    symprec: float = Field(0.01, gt=0, description="Å; tolerance with which the space group of the input is found")
    constraints: Constraints = Field(default_factory=lambda: Constraints())
    guards: GuardLimits = Field(default_factory=lambda: GuardLimits())
    second_opinion: str | None = Field(
        None,
        description="potential whose energies of initial and predicted structure join the guard's judgement: chgnet, "
        "another engine that is a potential, or a name of `find_potential`",
    )
    polish: Literal["auto"] | Annotated[int, Field(ge=0)] = Field(
        0,
        description="steps of that potential from an accepted prediction; symmetry and constraints are kept; auto: the "
        "calibrated number for each crystal",
    )

    @model_validator(mode="after")
    def _check_polish(self) -> Self:
        if self.polish != 0 and self.second_opinion is None:
            raise ValueError(
                f"polish is {self.polish!r} and no potential is named; give second_opinion, too, such as chgnet "
                "(typed: --second-opinion chgnet)"
            )
        return self

    @model_serializer(mode="wrap")
    def _leave_out_what_is_not_asked_for(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out later options where they are not used, so that ids of earlier predictions stay the same."""
        content: dict[str, Any] = handler(self)
        unused = {name for name, value in (("second_opinion", None), ("polish", 0)) if content.get(name) == value}
        return {name: value for name, value in content.items() if name not in unused}


class SecondOpinion(BaseModel):
    """Single points of a potential on the initial and on the predicted structure."""

    potential: str = Field(description="versioned name of its weights, such as CHGNet-0.3.0")
    energy_change: float | None = Field(None, description="eV per atom, predicted - initial; None: see the message")
    initial_force: float | None = Field(None, description="eV/Å, the largest")
    predicted_force: float | None = None
    initial_stress: float | None = Field(None, description="eV/Å³, Frobenius norm")
    predicted_stress: float | None = None
    message: str | None = Field(None, description="why it is missing; the guard then judged without it")
    failed: bool = Field(False, description="the potential failed on it; a repetition may succeed")


class Prediction(Displayed, BaseModel):
    """One structure in, one prediction out.

    `structure` keeps site order, site properties, charge and properties of `initial`. It is None only when
    `verdict` is error. A refused prediction keeps its numbers.

    Examples
    --------
    What `Predictor.predict` gives for each structure:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows.testing import TablePredictor
    >>> copper = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]])
    >>> prediction = TablePredictor("table", {"Cu": 11.6}).predict([copper], ids=["copper"])[0]
    >>> print(prediction.id, prediction.verdict, round(prediction.volume_ratio, 2))
    copper accept 0.83
    >>> prediction.served == prediction.structure
    True
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    id: str | None = Field(None, description="the user's name for the structure: an MP id, a file name")
    initial: JsonStructure | None = Field(None, description="the structure of the input")
    structure: JsonStructure | None = Field(None, description="the predicted structure")
    polished: JsonStructure | None = Field(
        None, description="the predicted structure after some steps of the second opinion's potential"
    )
    n_polish_steps: int = 0
    verdict: Verdict
    reasons: list[Reason] = Field(default_factory=list)
    message: str | None = Field(None, description="the reasons in words, and what to do")
    score: float | None = Field(
        None,
        description="Å; move of one more application of the network, or after an early stop of the last one",
    )
    expected_error: float | None = Field(
        None, description="Å; displacement + 2.5 Å · strain to the relaxed structure, as calibrated"
    )
    error_interval: tuple[float, float] | None = Field(
        None, description="Å; holds that error for nine of ten structures like those of the calibration"
    )
    harm_probability: float | None = Field(
        None,
        description="probability that the prediction is further from the relaxed structure than the initial one, by "
        "more than 10 % and 0.02 Å (displacement + 2.5 Å · strain); where `expected_saving` is None: further at all",
    )
    expected_saving: float | None = Field(
        None,
        description="ln(error of the initial structure / error of the prediction), as calibrated; None where the "
        "model was calibrated by an earlier release",
    )
    second_opinion: SecondOpinion | None = Field(None, description="if one was requested")
    signals: dict[str, float] = Field(default_factory=dict, description="what these were computed from")
    displacement: float | None = Field(None, description="Å; mean over atoms, drift removed, predicted lattice")
    max_displacement: float | None = Field(None, description="Å; the largest of these")
    strain: float | None = Field(None, description="Frobenius norm of the logarithmic strain")
    volume_ratio: float | None = Field(None, description="predicted volume over initial volume")
    n_passes: int = 0
    model_id: str
    wall_time_s: float = Field(0.0, description="this structure's share of its batch's time")

    @property
    def is_polished(self) -> bool:
        """Whether relaxations begin at the polished prediction."""
        return self.polished is not None and self.verdict is Verdict.ACCEPT

    @property
    def served(self) -> Structure | None:
        """Where a relaxation should begin: the prediction, polished or not, or the initial structure where refused."""
        if self.verdict is not Verdict.ACCEPT:
            return self.initial
        return self.polished if self.polished is not None else self.structure

    @property
    def move(self) -> float:
        """Å; displacement + 2.5 Å · strain of the prediction, 0 where there is none."""
        return (self.displacement or 0.0) + STRAIN_WEIGHT_ANGSTROM * (self.strain or 0.0)

    def summarize(self) -> Summary:
        """The displayed fields."""
        interval, saving = self.error_interval, self.expected_saving
        facts: list[tuple[str, object]] = [
            ("initial", describe_structure(self.initial)),
            ("predicted", describe_structure(self.structure)),
            ("reasons", list(self.reasons)),
            ("message", self.message),
            ("predicted / initial volume", self.volume_ratio),
            ("displacement, Å", self.displacement),
            ("strain", self.strain),
            ("expected error, Å", self.expected_error),
            ("nine of ten lie in, Å", f"{interval[0]:.3g} to {interval[1]:.3g}" if interval else None),
            ("probability of harm", self.harm_probability),
            ("expected error, predicted / initial", exp(-saving) if saving is not None else None),
            *_describe_opinion(self.second_opinion),
            ("steps of it from the prediction", self.n_polish_steps or None),
            ("score, Å", self.score),
            ("model", self.model_id),
        ]
        return Summary(f"{self.id or 'prediction'}: {self.verdict}", keep_known(facts))


def _describe_opinion(opinion: SecondOpinion | None) -> list[tuple[str, object]]:
    if opinion is None:
        return []
    return [
        ("second opinion", opinion.potential if opinion.message is None else f"none: {opinion.message}"),
        ("its energy, predicted - initial, eV/atom", opinion.energy_change),
        ("its largest force, predicted, eV/Å", opinion.predicted_force),
    ]


class PredictionDoc(Prediction):
    """A prediction as it is stored, written once and found by `prediction_id`.

    Examples
    --------
    Predictions are stored with what they were made from:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows.testing import make_outcome
    >>> initial, relaxed = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> prediction, _ = make_outcome(initial, relaxed)
    >>> prediction.id, prediction.options.passes, prediction.served.volume < prediction.initial.volume
    ('Cu', 2, True)
    """

    prediction_id: str
    structure_id: str | None = Field(None, description="content id of `initial`")
    options: PredictOptions
    device: str = Field("cpu", description="torch device that predicted")
    versions: dict[str, str] = Field(default_factory=collect_versions)
    metadata: dict[str, Any] = Field(default_factory=dict, description="metadata of that job")
    job_uuid: str | None = Field(None, description="job that made it")
    hosts: list[str] = Field(default_factory=list, description="flows around that job, innermost first")
    last_updated: datetime = Field(default_factory=now)


class PrerelaxOutput(BaseModel):
    """The `output` that atomate2's flows expect of a relaxation; a prediction has no energy."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    structure: JsonStructure
    energy: float | None = None
    forces: list[list[float]] | None = None
    stress: list[list[float]] | None = None


class PrerelaxDoc(BaseModel):
    """The document of a pre-relaxation job, in the form that atomate2's flows expect from a relax maker.

    `structure` is where the next calculation should start: the predicted structure where the prediction was
    accepted, the initial one where it was refused. `dir_name` is always None: atomate2's flows pass it to the
    next VASP job, which would look there for the files of a VASP run.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    structure: JsonStructure
    prediction: PredictionDoc
    output: PrerelaxOutput
    dir_name: None = None


def identify_prediction(structure_id: str, model_id: str, options: PredictOptions) -> str:
    """Id of a prediction: the structure, the resolved model and the options; outcomes refer to a prediction by it."""
    return hash_content({"structure": structure_id, "model": model_id, "options": options.model_dump(mode="json")})
