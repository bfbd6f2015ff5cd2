"""Documents of the registry: models, the aliases that name them, evaluations on a holdout, and gates."""

from __future__ import annotations

import re
from datetime import datetime
from enum import StrEnum
from statistics import fmean
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from e3relax_flows.core.ids import hash_content
from e3relax_flows.core.run_information import collect_versions, now
from e3relax_flows.schemas.displays import Displayed, Summary, keep_known
from e3relax_flows.schemas.predictions import PredictOptions, Verdict


class ModelDoc(Displayed, BaseModel):
    """A model whose files are in the weights store; found by `model_id`, the hash of configuration and weights."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    name: str
    kind: str = Field(description="e3relax_h2 or released")
    parent_id: str | None = Field(None, description="model whose weights training began with")
    dataset_id: str | None = None
    run_id: str | None = Field(None, description="the training run")
    config: dict[str, Any] = Field(default_factory=dict, description="config.json of the model folder")
    card: str = Field("", description="Markdown")
    weights_sha256: str
    n_bytes: int = Field(description="size of the weights file")
    metrics: dict[str, dict[str, float]] = Field(default_factory=dict, description="errors by source, on validation")
    training_hours: float | None = None
    hardware: dict[str, Any] = Field(default_factory=dict, description="device, world size, host")
    versions: dict[str, str] = Field(default_factory=collect_versions)
    created_at: datetime = Field(default_factory=now)

    def summarize(self) -> Summary:
        """The displayed fields."""
        errors = [
            (source, ", ".join(f"{metric} {value:.4g}" for metric, value in values.items()))
            for source, values in self.metrics.items()
        ]
        facts: list[tuple[str, object]] = [
            ("kind", self.kind),
            ("size, MB", self.n_bytes / 1e6),
            ("parent", self.parent_id),
            ("dataset", self.dataset_id),
            ("training run", self.run_id),
            ("training, h", self.training_hours),
            ("created", f"{self.created_at:%Y-%m-%d %H:%M} UTC"),
            *errors,
        ]
        return Summary(f"{self.name}: model {self.model_id}", keep_known(facts))


class AliasMove(BaseModel):
    """One move of an alias."""

    model_config = ConfigDict(protected_namespaces=())

    model_id: str
    previous_id: str | None = None
    reason: str = Field(description="what the user gave, or the gate")
    gate_id: str | None = None
    rollback: bool = False
    moved_at: datetime = Field(default_factory=now)


class AliasDoc(BaseModel):
    """A name that means one model at a time; found by `name`."""

    model_config = ConfigDict(protected_namespaces=())

    name: str
    model_id: str
    history: list[AliasMove] = Field(default_factory=list, description="oldest first")
    version: int = Field(0, description="number of moves; two movers at once cannot both win")


class EvaluatedPair(BaseModel):
    """Errors on one pair of a holdout, with those of the initial structure."""

    pair_id: str
    source: str
    group: str | None = Field(None, description="pairs of one are similar; they are drawn again together")
    stratum: str = Field(description="chemistry family or whatever the strata are besides the source")
    displacement: float | None = Field(None, description="Å; None when there is no prediction")
    strain: float | None = None
    volume: float | None = None
    identity_displacement: float
    identity_strain: float
    identity_volume: float
    verdict: Verdict
    valid: bool = Field(description="the predicted structure is a possible crystal, whether or not it is trusted")
    message: str | None = None


class EvaluationDoc(Displayed, BaseModel):
    """Errors of one model on one holdout, pair by pair; found by `evaluation_id`."""

    model_config = ConfigDict(protected_namespaces=())

    evaluation_id: str
    model_id: str = Field(description="of the weights that were really loaded")
    holdout_id: str
    options: PredictOptions
    rows: list[EvaluatedPair] = Field(description="sorted by pair id")
    device: str = "cpu"
    versions: dict[str, str] = Field(default_factory=collect_versions)
    created_at: datetime = Field(default_factory=now)

    def summarize(self) -> Summary:
        """The displayed fields: means over the pairs that have a prediction, with those of the initial structures."""
        facts: list[tuple[str, object]] = [
            ("pairs", len(self.rows)),
            ("without prediction", sum(row.displacement is None for row in self.rows)),
        ]
        for name, unit in (("displacement", " Å"), ("strain", ""), ("volume", "")):
            rows = [row for row in self.rows if getattr(row, name) is not None]
            if rows:
                alone, predicted = (fmean(getattr(row, key + name) for row in rows) for key in ("identity_", ""))
                facts.append((f"{name}, initial → predicted", f"{alone:.4g} → {predicted:.4g}{unit}"))
        facts += [
            ("refused", sum(row.verdict == Verdict.REFUSE for row in self.rows)),
            ("holdout", self.holdout_id),
            ("device", self.device),
            ("created", f"{self.created_at:%Y-%m-%d %H:%M} UTC"),
        ]
        return Summary(f"evaluation of model {self.model_id}", keep_known(facts))


def identify_evaluation(model_id: str, holdout_id: str, options: PredictOptions) -> str:
    """Id of an evaluation: the model, the holdout and the options of prediction."""
    return hash_content({"model": model_id, "holdout": holdout_id, "options": options.model_dump(mode="json")})


class Decision(StrEnum):
    """promote: better and nowhere worse; keep: neither; reject: worse; incomplete: cannot be decided."""

    PROMOTE = "promote"
    KEEP = "keep"
    REJECT = "reject"
    INCOMPLETE = "incomplete"


class GateLimits(BaseModel):
    """What a challenger must show."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    margin: float = Field(0.0, ge=0, description="relative decrease of the primary error that must be exceeded")
    tolerance: float = Field(
        0.05,
        ge=0,
        description="relative increase of an error that counts as equal, by stratum and on the original",
    )
    max_harmed: float = Field(
        0.05,
        ge=0,
        le=1,
        description="share of structures that are served materially (10 % and 0.02 Å) further from the minimum than "
        "before; more only where the incumbent harms as many",
    )
    min_stratum: int = Field(20, ge=2, description="strata of fewer pairs are reported, not judged")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    n_resamples: int = Field(10_000, ge=100)
    seed: int = 0


class OnChallenger(BaseModel):
    """Of a challenger; documents that were written before the release call it a candidate."""

    @model_validator(mode="before")
    @classmethod
    def _read_old_names(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        return {re.sub("^candidate", "challenger", key): value for key, value in raw.items()}


class Comparison(OnChallenger):
    """A mean error of challenger and incumbent on the same pairs."""

    name: str = Field(
        description='"all", "source: ..." or "stratum: ..."; before it "served: " where refused predictions count as '
        'the initial structure, and "original: " on the original holdout'
    )
    n: int
    n_groups: int | None = Field(None, description="groups drawn again with replacement; None: single pairs were")
    challenger: float = Field(description="Å; mean of displacement + 2.5 Å · strain")
    incumbent: float
    identity: float
    change: float = Field(description="challenger/incumbent - 1")
    low: float = Field(description="ends of the interval of `change`, from groups or pairs drawn again")
    high: float
    identity_low: float | None = Field(None, description="lower end of the interval of challenger/identity - 1")
    judged: bool = True


class Harm(OnChallenger):
    """How many structures are worse off: accepted by the guards, and materially further from the relaxed structure.

    Material is what costs DFT steps: further by more than 10 % and 0.02 Å (displacement + 2.5 Å · strain).
    """

    name: str = Field(description="as of a comparison; always of the served structures")
    n: int
    n_groups: int | None = Field(None, description="groups drawn again with replacement; None: single pairs were")
    challenger: float = Field(description="share of the n")
    incumbent: float
    low: float = Field(description="ends of the interval of challenger - incumbent, from groups or pairs drawn again")
    high: float
    challenger_refused: float = Field(description="share of the n for which it serves the initial structure")
    incumbent_refused: float
    challenger_any: float | None = Field(None, description="share that is further by any amount; None: not counted")
    incumbent_any: float | None = None
    judged: bool = True


class GateDoc(Displayed, OnChallenger):
    """The judgement on a challenger; found by `gate_id`.

    Examples
    --------
    The judgements that promoted a model; none so far:

    >>> from e3relax_flows import find_gates, load_settings, open_judgements
    >>> with open_judgements(load_settings()) as stores:
    ...     gates = find_gates(stores, {"decision": "promote"})
    >>> [(gate.challenger_id, gate.reasons) for gate in gates]
    []
    """

    model_config = ConfigDict(protected_namespaces=())

    gate_id: str
    challenger_id: str
    incumbent_id: str
    holdout_id: str
    original_holdout_id: str | None = None
    decision: Decision
    reasons: list[str] = Field(description="why, each with its numbers")
    comparisons: list[Comparison] = Field(default_factory=list)
    harm: list[Harm] = Field(default_factory=list, description="none in judgements of earlier releases")
    limits: GateLimits
    n_looks: int = Field(description="different challengers that were judged on this holdout, this one included")
    versions: dict[str, str] = Field(default_factory=collect_versions)
    created_at: datetime = Field(default_factory=now)

    def summarize(self) -> Summary:
        """The displayed fields."""
        facts: list[tuple[str, object]] = [
            ("challenger", self.challenger_id),
            ("incumbent", self.incumbent_id),
            ("holdout", self.holdout_id),
            *((f"reason {number}", reason) for number, reason in enumerate(self.reasons, start=1)),
            *(
                (one.name, f"{one.change:+.1%} ({one.low:+.1%} to {one.high:+.1%}), {one.n} pairs")
                for one in self.comparisons
            ),
            ("challengers judged on it", self.n_looks),
        ]
        return Summary(f"gate {self.gate_id}: {self.decision}", keep_known(facts))


def identify_gate(evaluation_ids: list[str], limits: GateLimits) -> str:
    """Id of a gate: evaluations of challenger and incumbent, of both again on the original holdout, and the limits."""
    return hash_content({"evaluations": evaluation_ids, "limits": limits.model_dump(mode="json")})
