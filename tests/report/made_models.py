"""Documents of a model and of a campaign with known numbers."""

from __future__ import annotations

from e3relax_flows.core.ids import hash_content
from e3relax_flows.report.model_figures import TrustRow
from e3relax_flows.report.model_page import ModelDocuments
from e3relax_flows.schemas.campaigns import (
    Arm,
    BeginResult,
    CampaignConfig,
    CampaignDoc,
    ConcludeResult,
    GenerationDoc,
    Interval,
    Label,
    LabelResult,
    PairsResult,
    RetrainResult,
    SelectedCandidate,
    SelectResult,
)
from e3relax_flows.schemas.models import (
    Comparison,
    Decision,
    EvaluatedPair,
    EvaluationDoc,
    GateDoc,
    GateLimits,
    ModelDoc,
)
from e3relax_flows.schemas.outcomes import OutcomeState, StartKind
from e3relax_flows.schemas.predictions import PredictOptions, Verdict
from e3relax_flows.schemas.retraining import RetrainConfig

EVIL = "<script>alert('x')</script> <b>\"q\"</b>"
CALIBRATION = {
    "n_pairs": 3708,
    "refused": 0.56,
    "elements": [8, 12, 26, 57, 92],
    "trust": {
        "coverage": 0.9,
        "error": [2.12, 0.14],
        "harm": [-0.71, 0.13],
        "interval": [-1.38, 1.37],
        "max_harm": 0.078,
        "signals": ["residual"],
    },
}
# pair, source, system, error of displacement and strain, the same left alone
PAIRS = [
    ("a", "mp", "Mg-O", 0.1, 0.02, 0.2, 0.04),
    ("b", "mp", "Fe-O", 0.2, 0.04, 0.2, 0.04),
    ("c", EVIL, "La-O", 0.3, 0.02, 0.25, 0.06),
    ("d", EVIL, "Fe-S", None, None, 0.5, 0.1),
]


def make_evaluation() -> EvaluationDoc:
    rows = [
        EvaluatedPair(
            pair_id=pair_id,
            source=source,
            stratum="oxides" if "O" in system else "chalcogenides",
            displacement=displacement,
            strain=strain,
            identity_displacement=identity,
            identity_strain=identity_strain,
            identity_volume=0.1,
            verdict=Verdict.ACCEPT if displacement else Verdict.ERROR,
            valid=displacement is not None,
        )
        for pair_id, source, system, displacement, strain, identity, identity_strain in PAIRS
    ]
    return EvaluationDoc(evaluation_id="e", model_id="m-2", holdout_id="h", options=PredictOptions(), rows=rows)


def make_gate(number: int = 1, decision: Decision = Decision.PROMOTE) -> GateDoc:
    sums = {"n": 100, "challenger": 0.09, "incumbent": 0.1, "identity": 0.3}
    return GateDoc(
        gate_id=f"g-{number}",
        challenger_id=f"m-{number + 1}",
        incumbent_id=f"m-{number}",
        holdout_id="h",
        decision=decision,
        reasons=[f"better by 10 % {EVIL}"],
        comparisons=[Comparison(name="all", change=-0.1, low=-0.15, high=-0.05, **sums)],
        limits=GateLimits(),
        n_looks=2,
    )


def make_model() -> ModelDocuments:
    config = {"kind": "e3relax_h2", "calibration": CALIBRATION, "provenance": {"n_parameters": 214183, "hours": 1.55}}
    doc = ModelDoc(
        model_id="m-2",
        name="retrained",
        kind="e3relax_h2",
        parent_id="m-1",
        weights_sha256="0",
        n_bytes=1,
        metrics={"mp": {"displacement": 0.0921, "strain": 0.05}, EVIL: {"strain": 0.25}},
    )
    trust = [
        TrustRow(0.1, 0.05, 0.2, 0.01, 0.12, 0.3),
        TrustRow(0.1, 0.05, 0.2, 0.3, 0.3, 0.2),
        TrustRow(0.2, 0.1, 0.4, 0.3, 0.15, 0.2),
        TrustRow(None, None, None, None, 0.2, 0.2),
    ]
    card = f"# retrained\n\n{EVIL} ![x](https://example.org/x.png)\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    return ModelDocuments(
        model_id="m-2",
        name=f"retrained {EVIL}",
        config=config,
        card=card,
        doc=doc,
        aliases=["default"],
        evaluations=[make_evaluation()],
        gates=[make_gate()],
        systems={pair_id: system for pair_id, _, system, *_ in PAIRS},
        trust=trust,
    )


def make_campaign(n_generations: int = 3) -> tuple[CampaignDoc, list[GenerationDoc], dict[str, GateDoc]]:
    config = CampaignConfig(
        name="oxides", inputs=["pool"], engine="vasp", labels=10, retraining=RetrainConfig(holdout="mine")
    )
    campaign = CampaignDoc(
        campaign_id=hash_content({"campaign": 1}),
        name=f"oxides {EVIL}",
        config=config,
        maker={},
        n_pool=500,
        n_chunks=1,
    )
    gates = {f"g-{n}": make_gate(n, Decision.PROMOTE if n % 2 else Decision.KEEP) for n in range(1, n_generations + 1)}
    return campaign, [_make_generation(campaign, number) for number in range(n_generations)], gates


def _make_generation(campaign: CampaignDoc, number: int) -> GenerationDoc:
    arms = [Arm.SCORED] * 5 + [Arm.DIVERSE] * 3 + [Arm.RANDOM] * 2
    selected = [
        SelectedCandidate(
            id=f"c-{i}", structure_id=f"s-{number}-{i}", chunk=0, place=i, arm=arm, expected_error=0.1, cost=1.0
        )
        for i, arm in enumerate(arms)
    ]
    labels = [
        Label(
            outcome_id=f"o-{number}-{i}",
            structure_id=one.structure_id,
            start_kind=StartKind.PREDICTED,
            state=OutcomeState.FAILED if i == 0 else OutcomeState.SUCCESSFUL,
        )
        for i, one in enumerate(selected)
    ]
    promoted = number % 2 == 0
    error = 0.1 - 0.01 * number
    return GenerationDoc(
        campaign_id=campaign.campaign_id,
        generation=number,
        begin=BeginResult(model_id=f"m-{number + 1}", n_left=500 - 10 * number),
        select=SelectResult(selected=selected),
        label=LabelResult(labels=labels),
        pairs=PairsResult(pair_ids=[f"p-{number}-{i}" for i in range(9)], counts={}),
        retrain=RetrainResult(
            challenger_id=f"m-{number + 2}",
            gate_id=f"g-{number + 1}",
            decision=Decision.PROMOTE if promoted else Decision.KEEP,
            promoted=promoted,
            hours=0.25,
        ),
        conclude=ConcludeResult(
            model_id=f"m-{number + 2}",
            error_before=Interval(mean=error, low=error - 0.01, high=error + 0.02, n=50),
            error=Interval(mean=error - 0.01, low=error - 0.02, high=error, n=50),
            identity_error=Interval(mean=0.3, low=0.25, high=0.35, n=50),
            random_error=Interval(mean=error + 0.05, n=1),
            random_identity_error=Interval(mean=0.4, low=0.3, high=0.5, n=2),
            dft_hours=12.5,
            control_ratio=0.7,
            saved_hours=3.0 if number else None,
        ),
    )
