"""Documents of screens: what became of every candidate, by ids and small numbers; structures stay in the stores."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from enum import StrEnum

from pydantic import BaseModel, Field

from e3relax_flows.core.runinfo import collect_versions, now
from e3relax_flows.schemas.outcomes import OutcomeDoc, OutcomeState, StartKind
from e3relax_flows.schemas.predictions import PredictionDoc, Reason, Verdict


class CandidateState(StrEnum):
    """How far a candidate came.

    planned: its relaxation is still to run; successful, unconverged, failed: the worst of its outcomes;
    duplicate: another candidate is relaxed in its place; skipped: refused, and the screen skips these;
    error: there is no prediction.
    """

    PLANNED = "planned"
    SUCCESSFUL = "successful"
    UNCONVERGED = "unconverged"
    FAILED = "failed"
    DUPLICATE = "duplicate"
    SKIPPED = "skipped"
    ERROR = "error"


class ChunkDoc(BaseModel):
    """Output of one prediction job: a prediction per structure, in the order of its input."""

    predictions: list[PredictionDoc]
    n_reused: int = Field(0, description="predictions that were in the store already")


class OutcomeRow(BaseModel):
    """The numbers of one relaxation that a table shows; `state` is None until it has run."""

    outcome_id: str
    start_kind: StartKind
    state: OutcomeState | None = None
    message: str | None = None
    reused: bool = Field(False, description="the outcome was in the store before this screen")
    energy: float | None = Field(None, description="eV per cell")
    n_ionic_steps: int | None = None
    n_electronic_steps: int | None = None
    wall_time_s: float | None = None

    @classmethod
    def from_outcome(cls, outcome: OutcomeDoc, reused: bool = False) -> OutcomeRow:
        """Row of an outcome document."""
        row = cls(
            outcome_id=outcome.outcome_id,
            start_kind=outcome.start_kind,
            state=outcome.state,
            message=outcome.message,
            reused=reused,
        )
        if outcome.result is not None:
            row.energy = outcome.result.energy
            row.n_ionic_steps = outcome.result.n_ionic_steps
            row.n_electronic_steps = outcome.result.n_electronic_steps
            row.wall_time_s = outcome.result.wall_time_s
        return row


class CandidateRow(BaseModel):
    """What became of one candidate."""

    id: str = Field(description="the user's name for the structure")
    state: CandidateState
    message: str | None = Field(None, description="why there is no prediction, or why it was refused")
    formula: str | None = None
    structure_id: str | None = None
    prediction_id: str | None = None
    model_id: str | None = None
    verdict: Verdict | None = Field(None, description="None when the whole prediction job failed")
    reasons: list[Reason] = Field(default_factory=list)
    score: float | None = Field(None, description="Å")
    expected_error: float | None = Field(None, description="Å")
    harm_probability: float | None = Field(None, description="that the initial structure is nearer to the relaxed one")
    duplicate_of: str | None = Field(None, description="id of the candidate that is relaxed in its place")
    outcomes: list[OutcomeRow] = Field(default_factory=list)


class ScreenDoc(BaseModel):
    """A screen: its settings and a row per candidate, in the order of the input."""

    name: str
    engine: str = Field(description="name of the engine")
    engine_id: str
    model: str = Field(description="the model as it was asked for; the rows hold the resolved ids")
    on_refuse: str
    control: float = Field(description="fraction of accepted candidates that start from the initial structure")
    paired_controls: bool
    seed: int
    candidates: list[CandidateRow]
    counts: dict[str, int] = Field(default_factory=dict, description="candidates by state")
    versions: dict[str, str] = Field(default_factory=collect_versions)
    last_updated: datetime = Field(default_factory=now)


def count_states(candidates: list[CandidateRow]) -> dict[str, int]:
    """Candidates by state, in the order of `CandidateState`, without zeros."""
    counts = Counter(row.state for row in candidates)
    return {str(state): counts[state] for state in CandidateState if counts[state]}
