"""Documents of screens: the state of every candidate, with ids and small numbers; structures stay in the stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from e3relax_flows.core.run_information import collect_versions, now
from e3relax_flows.schemas.candidates import CandidatesConfig
from e3relax_flows.schemas.displays import Displayed, Summary, keep_known
from e3relax_flows.schemas.engines import EngineSpec
from e3relax_flows.schemas.outcomes import DEFAULT_CONTROL, OutcomeDoc, OutcomeState, StartKind
from e3relax_flows.schemas.predictions import PredictionDoc, PredictOptions, Reason, Verdict

DEFAULT_NAME, DEFAULT_CHUNK_SIZE = "screen", 200  # of a screen, through every door


class CandidateState(StrEnum):
    """State of a candidate.

    waiting: its prediction has not run; predicted: the next step is not decided; planned: its relaxation has
    not run; submitted: its relaxation was submitted to workers; held: another flow relaxes it.
    These are final: successful, unconverged, failed: the worst of its outcomes; duplicate: another candidate is
    relaxed instead; skipped: refused, and the screen skips these; error: there is no prediction; left: the budget was
    spent before; cancelled: by a user.

    Examples
    --------
    >>> from e3relax_flows import CandidateState
    >>> CandidateState("successful") is CandidateState.SUCCESSFUL
    True
    """

    WAITING = "waiting"
    PREDICTED = "predicted"
    PLANNED = "planned"
    SUBMITTED = "submitted"
    HELD = "held"
    SUCCESSFUL = "successful"
    UNCONVERGED = "unconverged"
    FAILED = "failed"
    DUPLICATE = "duplicate"
    SKIPPED = "skipped"
    ERROR = "error"
    LEFT = "left"
    CANCELLED = "cancelled"


class ScreenPhase(StrEnum):
    """Phase of a screen; finished: every candidate is in a final state."""

    PREDICTING = "predicting"
    RELAXING = "relaxing"
    FINISHED = "finished"
    CANCELLED = "cancelled"


class ScreenLimits(BaseModel):
    """Budget of a screen, and limits of its submission.

    Examples
    --------
    At most 100 candidates are relaxed, ten at the same time:

    >>> from e3relax_flows import ScreenConfig, ScreenLimits
    >>> limits = ScreenLimits(candidates=100, max_in_flight=10)
    >>> ScreenConfig(engine="chgnet", inputs=["candidates/"], limits=limits).limits.max_in_flight
    10
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_in_flight: int | None = Field(None, ge=1, description="candidates at workers at the same time; none: all")
    candidates: int | None = Field(None, ge=0, description="budget: candidates that are relaxed; none: all")
    core_hours: float | None = Field(None, ge=0, description="budget: core hours of relaxations; none: any number")
    cores: int = Field(1, ge=1, description="cores of one relaxation, by which its hours are counted")


class Submitted(BaseModel):
    """Owner of a prediction or relaxation: a process on a machine, or a flow that is run by workers."""

    place: str = Field(description="local, fireworks, remote, or flow: that of a ScreenMaker")
    flow: str | None = Field(None, description="uuid of the flow; None: a process does it")
    host: str | None = Field(None, description="of the process")
    pid: int | None = Field(None, description="of the process")


class ChunkDoc(BaseModel):
    """Output of one prediction job: a prediction per structure, in the order of its input."""

    predictions: list[PredictionDoc]
    n_reused: int = Field(0, description="predictions that were in the store already")


class OutcomeRow(BaseModel):
    """The numbers of one relaxation that a table shows; `state` is None until it has run.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import OutcomeRow
    >>> from e3relax_flows.testing import make_outcome
    >>> initial, relaxed = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> row = OutcomeRow.from_outcome(make_outcome(initial, relaxed)[1])
    >>> print(row.start_kind, row.state, row.n_ionic_steps)
    predicted successful 4
    """

    outcome_id: str
    start_kind: StartKind
    state: OutcomeState | None = None
    message: str | None = None
    reused: bool = Field(False, description="the outcome was in the store before this screen")
    energy: float | None = Field(None, description="eV per cell")
    n_ionic_steps: int | None = None
    n_electronic_steps: int | None = None
    wall_time_s: float | None = None
    recorded: datetime | None = Field(None, description="when the outcome was written; UTC")
    superseded: datetime | None = Field(None, description="when a failed outcome was written that is tried again")

    @field_validator("recorded", "superseded")
    @classmethod
    def _ensure_utc(cls, moment: datetime | None) -> datetime | None:
        """Stores return UTC without a time zone."""
        return moment.replace(tzinfo=UTC) if moment is not None and moment.tzinfo is None else moment

    @classmethod
    def from_outcome(cls, outcome: OutcomeDoc, reused: bool = False) -> OutcomeRow:
        """Row of an outcome document."""
        row = cls(
            outcome_id=outcome.outcome_id,
            start_kind=outcome.start_kind,
            state=outcome.state,
            message=outcome.message,
            reused=reused,
            recorded=outcome.last_updated,
        )
        if outcome.result is not None:
            row.energy = outcome.result.energy
            row.n_ionic_steps = outcome.result.n_ionic_steps
            row.n_electronic_steps = outcome.result.n_electronic_steps
            row.wall_time_s = outcome.result.wall_time_s
        return row


class CandidateRow(BaseModel):
    """Result of one candidate.

    Examples
    --------
    A row of `ScreenDoc.candidates`:

    >>> from e3relax_flows import CandidateRow, CandidateState
    >>> row = CandidateRow(id="NaBr-1", state=CandidateState.SKIPPED, message="atoms are too close")
    >>> print(row.id, row.state, row.outcomes)
    NaBr-1 skipped []
    """

    id: str = Field(description="the user's name for the structure")
    state: CandidateState
    message: str | None = Field(None, description="why there is no prediction, or why it was refused")
    note: str | None = Field(None, description="warnings of the parser of its file")
    formula: str | None = None
    structure_id: str | None = None
    prediction_id: str | None = None
    model_id: str | None = None
    verdict: Verdict | None = Field(None, description="None if the whole prediction job failed")
    reasons: list[Reason] = Field(default_factory=list)
    score: float | None = Field(None, description="Å")
    expected_error: float | None = Field(None, description="Å")
    is_polished: bool = Field(False, description="whether relaxations begin at the polished prediction")
    harm_probability: float | None = Field(
        None, description="that the prediction is materially further from the relaxed one"
    )
    duplicate_of: str | None = Field(None, description="id of the candidate that is relaxed instead")
    outcomes: list[OutcomeRow] = Field(default_factory=list)


class ScreenRow(CandidateRow):
    """A candidate as the store of screens keeps it."""

    row_key: str = Field(description="screen_id:id")
    screen_id: str
    group: str = Field(description="screen_id:state, by which rows are found")
    number: int = Field(description="index in the order of the screen")
    chunk: int | None = Field(None, description="number of its chunk; None: it is not predicted")
    rank: float = Field(description="the smaller the sooner it is relaxed")
    attempt: int = Field(0, description="how often it was requeued")
    submitted: Submitted | None = Field(None, description="who predicts or relaxes it, or did so last")

    @model_validator(mode="before")
    @classmethod
    def _read_flow(cls, raw: Any) -> Any:
        """Rows of earlier releases have a text: the uuid of a flow, `sent`, or `process HOST PID`."""
        if not isinstance(raw, dict) or "flow" not in raw:
            return raw
        text = str(raw["flow"] or "")
        kind, *rest = text.split(" ")
        row = {key: value for key, value in raw.items() if key != "flow"}
        if kind == "process" and len(rest) == 2:
            return row | {"submitted": {"place": "local", "host": rest[0], "pid": int(rest[1])}}
        place = "remote" if text == "sent" else "fireworks"
        return row | {"submitted": {"place": place, "flow": text}} if text else row


class ScreenDoc(Displayed, BaseModel):
    """A screen: its settings and a row per candidate, in the order of the input.

    Examples
    --------
    The candidates of a screen by their state:

    >>> from e3relax_flows import CandidateRow, ScreenDoc
    >>> rows = [CandidateRow(id="NaBr", state="successful"), CandidateRow(id="KBr", state="failed", message="killed")]
    >>> settings = {"engine_id": "an id", "model": "default", "on_refuse": "initial", "paired_controls": True}
    >>> screen = ScreenDoc(name="salts", engine="vasp-mp24", seed=0, control=0.1, candidates=rows, **settings)
    >>> {row.id: row.message for row in screen.candidates if row.state == "failed"}
    {'KBr': 'killed'}
    """

    screen_id: str | None = Field(None, description="None: it is kept by its job only")
    phase: ScreenPhase = ScreenPhase.FINISHED
    message: str | None = Field(None, description="why the screen ended")
    place: str | None = Field(None, description="local, fireworks or remote")
    maker: dict[str, Any] = Field(default_factory=dict, description="the ScreenMaker, serialised")
    limits: ScreenLimits = Field(default_factory=ScreenLimits)
    n_chunks: int = 0
    n_submitted: int = Field(0, description="candidates whose relaxation this screen has submitted")
    core_hours: float = Field(0.0, description="of the relaxations that this screen has run")
    created: datetime = Field(default_factory=now)
    name: str
    engine: str = Field(description="name of the engine")
    engine_id: str
    engine_settings: dict[str, Any] | None = Field(
        None, description="arguments of `get_engine` besides the name; None: the engine was built by code"
    )
    model: str = Field(description="id of the model, or its configured name; the rows hold the ids")
    on_refuse: str
    control: float = Field(description="fraction of accepted candidates that start from the initial structure")
    arms: dict[str, float] = Field(
        default_factory=dict, description="fraction of candidates that start from there, too, by start"
    )
    served: str = Field("predicted", description="where every candidate starts: predicted or initial")
    paired_controls: bool
    seed: int
    candidates: list[CandidateRow] = Field(default_factory=list)
    counts: dict[str, int] = Field(default_factory=dict, description="candidates by state")
    versions: dict[str, str] = Field(default_factory=collect_versions)
    last_updated: datetime = Field(default_factory=now)

    @model_validator(mode="after")
    def _name_arms(self) -> ScreenDoc:
        """Screens of earlier releases have `control` alone."""
        self.arms = self.arms or {"initial": self.control}
        return self

    @property
    def described_arms(self) -> str:
        """Such as "initial 0.1, predicted 0.05"."""
        return ", ".join(f"{arm} {fraction:g}" for arm, fraction in self.arms.items()) or "none"

    def summarize(self) -> Summary:
        """The displayed fields."""
        counts = count_states(self.candidates) or self.counts
        facts: list[tuple[str, object]] = [
            ("candidates", sum(counts.values())),
            *((f"- {state}", count) for state, count in counts.items()),
            ("engine", self.engine),
            ("model", self.model),
            ("arms", self.described_arms),
            ("served start", self.served if self.served != "predicted" else None),
            ("screen id", self.screen_id),
            ("message", self.message),
            ("last change", f"{self.last_updated:%Y-%m-%d %H:%M} UTC"),
        ]
        return Summary(f"{self.name}: {self.phase}", keep_known(facts))


def count_states(candidates: Iterable[CandidateRow]) -> dict[str, int]:
    """Candidates by state, in the order of `CandidateState`, without zeros."""
    counts = Counter(row.state for row in candidates)
    return {str(state): counts[state] for state in CandidateState if counts[state]}


class ScreenConfig(CandidatesConfig):
    """A screen; `ScreenMaker` documents the fields of the same name.

    Examples
    --------
    The same as in configs/screen.yaml:

    >>> from e3relax_flows import ScreenConfig
    >>> config = ScreenConfig(engine="vasp-mp24", inputs=["candidates/"], control=0.2, limits={"core_hours": 500})
    >>> config.on_refuse, config.paired_controls, config.limits.core_hours
    ('initial', True, 500.0)
    """

    engine: str | EngineSpec = Field(
        description="name of the engine, see `e3relax doctor`; or a maker by its path, with settings and powerups"
    )
    engine_settings: dict[str, Any] = Field(default_factory=dict, description="arguments of the engine's builder")
    name: str = Field(DEFAULT_NAME, description="name of the screen; another name is another screen")
    model: str = Field("default", description="alias, name, id or folder of a model")
    device: str = Field("auto", description="torch device")
    options: PredictOptions = Field(default_factory=PredictOptions, description="how to predict")
    control: float = Field(
        DEFAULT_CONTROL,
        ge=0,
        le=1,
        description="fraction of candidates relaxed from the initial structure; short for an arm",
    )
    arms: Mapping[Literal["initial", "predicted", "polished"], Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None, description="fraction of candidates that start from there, too; given, these are all"
    )
    prerelax: Literal["predict", "none"] = Field(
        "predict", description="none: every candidate starts at its initial structure, and only arms at the prediction"
    )
    paired_controls: bool = Field(True, description="relax controls from their prediction, too")
    on_refuse: Literal["initial", "skip", "fail"] = Field("initial", description="what follows a refused prediction")
    seed: int = Field(0, description="seed of the drawing of controls")
    chunk_size: int = Field(DEFAULT_CHUNK_SIZE, ge=1, description="structures per prediction job")
    limits: ScreenLimits = Field(default_factory=ScreenLimits, description="budget, and candidates at work at once")
    retry_failed: bool = Field(False, description="try outcomes again that failed before")
    one_launch: bool | None = Field(
        None, description="on FireWorks, a candidate's calculations in one launch; none: if the engine is not DFT"
    )
    out: Path = Field(Path("runs/screen"), description="folder of the page, the table and the jobs' own folders")
