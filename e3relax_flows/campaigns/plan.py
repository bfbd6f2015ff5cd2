"""What a campaign would do and cost."""

from __future__ import annotations

from typing import Any

from e3relax_flows.campaigns.maker import CampaignMaker
from e3relax_flows.core.errors import E3RelaxError
from e3relax_flows.ledger.workspace import Workspace
from e3relax_flows.retraining.training import estimate_training, plan_snapshot


def plan_campaign(maker: CampaignMaker, n_pool: int, model_id: str, workspace: Workspace) -> dict[str, Any]:
    """What a campaign would do and cost; hours are None where nothing is known to estimate them from."""
    config = maker.config
    found = workspace.outcomes.query({"engine_id": maker.engine.engine_id}, ["result.wall_time_s"], limit=500)
    times = [seconds for raw in found if (seconds := (raw.get("result") or {}).get("wall_time_s"))]
    try:
        snapshot, dataset = plan_snapshot(config.retraining, None, workspace)
        training = estimate_training(config.retraining, snapshot, dataset, workspace)
    except E3RelaxError:  # there are no pairs yet
        training = None
    budget = min(n_pool, config.stop.labels or n_pool)
    relaxations = 1 + (config.control if config.paired_controls else 0)
    hours = None if not times else sum(times) / len(times) / 3600
    n_generations = -(-budget // config.labels)
    return {
        "name": config.name,
        "engine": maker.engine.name,
        "is_dft": maker.engine.is_dft,
        "model_id": model_id,
        "n_pool": n_pool,
        "labels": budget,
        "labels_per_generation": config.labels,
        "generations": n_generations,
        "mix": config.mix.model_dump(),
        "relaxations": round(budget * relaxations),
        "core_hours": None if hours is None else round(budget * relaxations * hours * config.stop.cores, 3),
        "known_relaxations": len(times),
        "core_hour_budget": config.stop.core_hours,
        "training_hours": None if training is None else float(f"{training * n_generations:.2g}"),
        "prediction_jobs": -(-n_pool // config.chunk_size),
    }
