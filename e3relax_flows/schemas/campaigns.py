"""Documents of active-learning campaigns: configuration, choices and results of each generation, final state."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from e3relax_flows.core.ids import hash_content
from e3relax_flows.core.run_information import collect_versions, now
from e3relax_flows.schemas.displays import Displayed, Summary, keep_known
from e3relax_flows.schemas.engines import EngineSpec
from e3relax_flows.schemas.models import Decision, OnChallenger
from e3relax_flows.schemas.outcomes import DEFAULT_CONTROL, OutcomeState, StartKind
from e3relax_flows.schemas.predictions import PredictOptions, Verdict
from e3relax_flows.schemas.retraining import RetrainConfig, SnapshotDoc

ScoredBy = Literal["error", "error_x_cost", "error_per_cost"]


class Arm(StrEnum):
    """Why a candidate was chosen; in the order in which the arms choose."""

    RANDOM = "random"
    SCORED = "scored"
    DIVERSE = "diverse"


class CampaignState(StrEnum):
    """new: registered; running: its jobs are somewhere; halted: a job failed; stopped: by a user; finished.

    Examples
    --------
    >>> from e3relax_flows import CampaignState
    >>> [str(state) for state in CampaignState], CampaignState.FINISHED == "finished"
    (['new', 'running', 'halted', 'stopped', 'finished'], True)
    """

    NEW = "new"
    RUNNING = "running"
    HALTED = "halted"
    STOPPED = "stopped"
    FINISHED = "finished"


class StopReason(StrEnum):
    """Why a campaign ended; the first that holds, in this order."""

    PERSON = "person"
    LABELS = "labels"
    CORE_HOURS = "core_hours"
    POOL_EMPTY = "pool_empty"
    NO_PROMOTION = "no_promotion"
    SAVING_BELOW_COST = "saving_below_cost"


class Phase(StrEnum):
    """What a generation does, in this order; each is done once."""

    BEGIN = "begin"
    SELECT = "select"
    PREDICT = "predict"
    LABEL = "label"
    PAIRS = "pairs"
    SNAPSHOT = "snapshot"
    RETRAIN = "retrain"
    CONCLUDE = "conclude"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Mix(_Section):
    """Fractions of the labels of a generation; they sum to one.

    The default draws all labels at random: in our benchmark no other mix had a lower error on the holdout.

    Examples
    --------
    >>> from e3relax_flows import SelectionMix
    >>> SelectionMix(scored=0.4, diverse=0.3, random=0.3).scored
    0.4
    """

    scored: float = Field(0.0, ge=0, le=1, description="largest expected error, see scored_by")
    diverse: float = Field(0.0, ge=0, le=1, description="furthest in the latent space from all that were chosen before")
    random: float = Field(1.0, ge=0, le=1, description="drawn from all that are left: the unbiased error")

    @model_validator(mode="after")
    def _sums_to_one(self) -> Self:
        total = self.scored + self.diverse + self.random
        if abs(total - 1) > 1e-6:
            raise ValueError(f"scored, diverse and random sum to {total:g}; they must sum to 1")
        return self


class StopRules(_Section):
    """When a campaign ends; the first that holds."""

    labels: int | None = Field(None, ge=1, description="budget: candidates chosen for labelling; none: any number")
    core_hours: float | None = Field(None, gt=0, description="budget: core hours of relaxations; none: any number")
    cores: int = Field(1, ge=1, description="cores of one relaxation, by which its hours are counted")
    without_promotion: int | None = Field(3, ge=1, description="generations one after the other that promoted nothing")
    saving_over_cost: float | None = Field(
        None,
        gt=0,
        description="end when the core hours that one more generation is expected to save are below this many times "
        "those that it costs; needs controls; none: never",
    )
    candidates_to_come: int | None = Field(
        None, ge=0, description="relaxations on which the model will save hours; none: what is left of the pool"
    )


class CampaignConfig(_Section):
    """A campaign, from a pool of candidates to a model that is better on such candidates.

    Examples
    --------
    The same as in configs/campaign.yaml:

    >>> from e3relax_flows import CampaignConfig
    >>> config = CampaignConfig(engine="vasp-mp24", inputs=["pool/"], labels=50, retraining={"holdout": "mine"})
    >>> config.mix.random, config.stop.without_promotion
    (1.0, 3)
    """

    name: str = Field(
        "campaign", pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$", description="another name: another campaign"
    )
    inputs: list[str] = Field(default_factory=list, description="files and folders of structures")
    sources: list[dict[str, Any]] = Field(default_factory=list, description="as those of a screen")
    engine: str | EngineSpec = Field(
        description="name of the engine, see `e3relax doctor`; or a maker by its path, with settings and powerups"
    )
    engine_settings: dict[str, Any] = Field(default_factory=dict, description="arguments of the engine's builder")
    device: str = Field("auto", description="torch device of predictions")
    options: PredictOptions = Field(default_factory=lambda: PredictOptions(), description="how to predict")
    chunk_size: int = Field(500, ge=1, description="structures of the pool in one prediction job")
    labels: int = Field(ge=1, description="candidates that each generation chooses")
    mix: Mix = Field(default_factory=lambda: Mix())
    scored_by: ScoredBy = Field("error", description="error: saves most hours per hour of labels; see configs")
    control: float = Field(DEFAULT_CONTROL, ge=0, le=1, description="fraction relaxed from the initial structure, too")
    paired_controls: bool = Field(True, description="relax controls from their prediction, too")
    seed: int = 0
    source: str = Field("screen", description="source of the pairs; screen: as `e3relax data build` calls them")
    retraining: RetrainConfig = Field(description="as in configs/retrain.yaml; its alias names the model in service")
    stop: StopRules = Field(default_factory=lambda: StopRules())

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if not self.inputs and not self.sources:
            raise ValueError("no candidates; give inputs, sources, or both")
        wanted = self.retraining.dataset.filter.sources
        if wanted is not None and self.source not in wanted:
            raise ValueError(
                f"the pairs of this campaign have source {self.source!r}, which retraining.dataset.filter.sources "
                f"leaves out; add it to {wanted}"
            )
        if self.retraining.original_holdout == self.retraining.holdout:
            raise ValueError("retraining.holdout and retraining.original_holdout are the same; leave the second out")
        if self.retraining.name == self.retraining.alias:
            raise ValueError(f"retraining.name is {self.retraining.name!r}, the alias; give new models another name")
        return self


class SelectedCandidate(BaseModel):
    """One candidate that a generation chose, and why."""

    id: str = Field(description="the user's name for the structure")
    structure_id: str
    chunk: int = Field(description="of the pool")
    place: int = Field(description="in its chunk")
    arm: Arm
    expected_error: float = Field(description="Å; calibrated where the model is, else its residual")
    cost: float = Field(description="expected, in the unit of the costs of this generation")
    score: float | None = Field(None, description="of scored ones")
    distance: float | None = Field(None, description="of diverse ones, in the latent space")


class Interval(BaseModel):
    """A mean with the ends of its bootstrap 95 % interval."""

    mean: float
    low: float | None = Field(None, description="None: of fewer than two there is no interval")
    high: float | None = None
    n: int

    def __str__(self) -> str:
        ends = "" if self.low is None or self.high is None else f" ({self.low:.4g} to {self.high:.4g})"
        return f"{self.mean:.4g}{ends}"


class BeginResult(BaseModel):
    """What a generation begins with."""

    model_id: str = Field(description="in service when it begins")
    n_left: int = Field(description="candidates of the pool that were not chosen before")
    last_updated: datetime = Field(default_factory=now)

    model_config = ConfigDict(protected_namespaces=())


class SelectResult(BaseModel):
    """What was chosen."""

    selected: list[SelectedCandidate]
    n_unpredictable: int = Field(0, description="candidates that are left and cannot be predicted")
    is_calibrated: bool = Field(True, description="whether expected errors are calibrated ones")
    last_updated: datetime = Field(default_factory=now)


class Label(BaseModel):
    """One relaxation of a chosen candidate."""

    outcome_id: str
    structure_id: str
    start_kind: StartKind
    state: OutcomeState | None = Field(None, description="None: there is no outcome")
    message: str | None = None
    hours: float | None = Field(None, description="wall time of the relaxation")
    reused: bool = Field(False, description="it was in the store before the campaign, and cost nothing now")
    prediction_error: float | None = Field(None, description="Å; displacement + 2.5 Å · strain, before training")
    initial_error: float | None = Field(None, description="Å; the same of the initial structure")


class PredictResult(BaseModel):
    """Predictions of the chosen candidates, by structure id; a missing one could not be predicted."""

    predictions: dict[str, str]
    verdicts: dict[str, Verdict]
    last_updated: datetime = Field(default_factory=now)


class LabelResult(BaseModel):
    """Results of the relaxations."""

    labels: list[Label]
    last_updated: datetime = Field(default_factory=now)


class PairsResult(BaseModel):
    """Pairs that were built from the labels."""

    pair_ids: list[str]
    counts: dict[str, int] = Field(description="relaxations by the result of building pairs")
    last_updated: datetime = Field(default_factory=now)


class RetrainResult(OnChallenger):
    """Result of the retraining; without a challenger there were no new pairs to train on."""

    challenger_id: str | None = None
    gate_id: str | None = None
    decision: Decision | None = None
    promoted: bool = False
    hours: float = Field(0.0, description="of all trainings")
    message: str | None = None
    last_updated: datetime = Field(default_factory=now)


class ConcludeResult(BaseModel):
    """The figures of a generation."""

    model_id: str = Field(description="in service afterwards")
    error: Interval | None = Field(None, description="Å; of that model, on the holdout")
    error_before: Interval | None = Field(None, description="Å; of the model before, on the same")
    identity_error: Interval | None = Field(None, description="Å; of the initial structures of the holdout")
    random_error: Interval | None = Field(
        None, description="Å; of the model before, on the labels of the random arm: the rest of the pool, unbiased"
    )
    random_identity_error: Interval | None = None
    dft_hours: float = Field(description="core hours of this generation's relaxations")
    control_ratio: float | None = Field(
        None, description="hours from the prediction over hours from the initial structure, of controls up to now"
    )
    saved_hours: float | None = Field(None, description="core hours; None without controls in pairs")
    last_updated: datetime = Field(default_factory=now)

    model_config = ConfigDict(protected_namespaces=())


class GenerationDoc(Displayed, BaseModel):
    """One generation; the results of those phases that are done."""

    campaign_id: str
    generation: int
    begin: BeginResult | None = None
    select: SelectResult | None = None
    predict: PredictResult | None = None
    label: LabelResult | None = None
    pairs: PairsResult | None = None
    snapshot: SnapshotDoc | None = None
    retrain: RetrainResult | None = None
    conclude: ConcludeResult | None = None

    @property
    def phases(self) -> list[Phase]:
        """Phases that are done."""
        return [phase for phase in Phase if getattr(self, phase.value) is not None]

    @property
    def n_labels(self) -> int:
        """Candidates that were chosen."""
        return len(self.select.selected) if self.select else 0

    def summarize(self) -> Summary:
        """The displayed fields."""
        labels = self.label.labels if self.label else []
        facts: list[tuple[str, object]] = [
            ("candidates chosen", self.n_labels or None),
            *(
                (f"- {arm}", n)
                for arm, n in Counter(one.arm for one in (self.select.selected if self.select else ())).items()
            ),
            *(
                (f"relaxations {state or 'without outcome'}", n)
                for state, n in Counter(one.state for one in labels).items()
            ),
            ("pairs", len(self.pairs.pair_ids) if self.pairs else None),
            ("gate", self.retrain.decision if self.retrain else None),
        ]
        if self.conclude:
            facts += [
                ("error before, Å", self.conclude.error_before),
                ("error, Å", self.conclude.error),
                ("model in service", self.conclude.model_id),
                ("core hours", self.conclude.dft_hours),
            ]
        phase = self.phases[-1] if self.phases else "not begun"
        return Summary(f"generation {self.generation} of campaign {self.campaign_id}: {phase}", keep_known(facts))


class CampaignDoc(Displayed, BaseModel):
    """A campaign; found by `campaign_id`. Its generations, pool and scores are in collections of their own."""

    campaign_id: str
    name: str
    config: CampaignConfig
    maker: dict[str, Any] = Field(description="the CampaignMaker, serialised")
    n_pool: int = Field(description="candidates")
    n_chunks: int
    n_unreadable: int = 0
    n_duplicates: int = 0
    state: CampaignState = CampaignState.NEW
    reason: StopReason | None = Field(None, description="why it ended")
    message: str | None = Field(None, description="the same in words, with numbers")
    n_starts: int = Field(0, description="how often it was begun or resumed; jobs of earlier starts do nothing more")
    place: str | None = Field(None, description="local, fireworks or remote")
    created: datetime = Field(default_factory=now)
    versions: dict[str, str] = Field(default_factory=collect_versions)
    last_updated: datetime = Field(default_factory=now)

    def summarize(self) -> Summary:
        """The displayed fields."""
        facts: list[tuple[str, object]] = [
            ("pool", self.n_pool),
            ("engine", str(self.config.engine)),
            ("labels per generation", self.config.labels),
            ("budget, labels", self.config.stop.labels),
            ("budget, core hours", self.config.stop.core_hours),
            ("alias", self.config.retraining.alias),
            ("place", self.place),
            ("message", self.message),
            ("campaign id", self.campaign_id),
            ("last change", f"{self.last_updated:%Y-%m-%d %H:%M} UTC"),
        ]
        return Summary(f"{self.name}: {self.state}", keep_known(facts))


def identify_campaign(config: CampaignConfig, engine_id: str, retrain: Any = None) -> str:
    """Id of a campaign: what it computes; not when it stops, nor where and in how many jobs it runs.

    Parameters
    ----------
    config
        Of the campaign.
    engine_id
        Of the engine that labels, whatever its name.
    retrain
        What retrains, in its canonical form; None: as configured.
    """
    left_out = {"stop", "chunk_size", "device", "engine", "engine_settings", "retraining"}
    content = config.model_dump(mode="json", exclude=left_out) | {"retraining": config.retraining.describe()}
    return hash_content({"config": content, "engine": engine_id, "retrain": retrain})
