"""Run an active-learning campaign: choose candidates, relax them, retrain, let the gate decide; and again.

    python workflows/06_campaign.py            # 2 generations of 16 labels, CHGNet (a potential, not DFT); 10 minutes
    python workflows/06_campaign.py --smoke    # a minute; its numbers mean nothing

The pool are borides, carbides and nitrides of transition metals, in which the bundled weights are weak. Some are
relaxed before: a part of their chemical systems is held out, on which models are judged, the others are the first
pairs. All stores are in the folder --out: your own aliases are not touched. Run it again after an interruption: what
was done is found. On the command line the same is: e3relax campaign new CONFIG, then e3relax campaign run ID.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from monty.json import jsanitize
from pymatgen.core import Structure

from e3relax_flows import (
    INTERSTITIAL,
    CampaignConfig,
    CampaignState,
    E3RelaxError,
    E3RelaxSettings,
    HoldoutDoc,
    PairFilter,
    PrerelaxMaker,
    ScreenMaker,
    build_campaign_pairs,
    enumerate_candidates,
    find_alias,
    find_same_holdout,
    freeze_holdout,
    get_engine,
    isolate_stores,
    iter_pairs,
    load_generations,
    load_settings,
    open_campaign_stores,
    open_dataset_stores,
    open_pair_store,
    promote,
    register_model,
    resolve_model,
    run_campaign,
    run_screen,
    save_holdout,
    show_campaign,
)

ALIAS, HOLDOUT = "campaign", "interstitial"
HELD_OUT = 0.5  # of the chemical systems that are relaxed before the campaign
SMOKE = {"n": 9, "known": 5, "labels": 1, "steps": 10, "max_atoms": 2}


def main() -> int:
    arguments = parse_arguments()
    start = resolve_model("default", load_settings())
    settings = isolate_stores(arguments.out)
    register_model(start, settings)
    if find_alias(ALIAS, settings) is None:
        promote(ALIAS, start.model_id, "where the campaign begins", settings=settings)
    candidates = enumerate_candidates(INTERSTITIAL, arguments.n, arguments.max_atoms)
    holdout = relax_known(candidates[: arguments.known], start.model_id, arguments, settings)
    pool = [item for item in candidates[arguments.known :] if item[1].chemical_system not in holdout.groups]
    path = arguments.out / "pool.json"
    path.write_text(json.dumps(jsanitize({name: item.as_dict() for name, item in pool}, recursive_msonable=True)))
    config = describe_campaign(path, arguments)
    campaign = run_campaign(
        config, settings, arguments.out, lambda job: print(job.name, job.error or "done", file=sys.stderr)
    )
    with open_campaign_stores(settings) as stores:
        show_campaign(campaign, load_generations(stores, campaign.campaign_id))
    return int(campaign.state != CampaignState.FINISHED)


def relax_known(
    candidates: list[tuple[str, Structure]], model_id: str, arguments: argparse.Namespace, settings: E3RelaxSettings
) -> HoldoutDoc:
    """Relax some candidates, make pairs of them, and hold a part of their chemical systems out."""
    maker = ScreenMaker(name="known", prerelax=PrerelaxMaker(model=model_id), engine=get_engine("chgnet"), control=0)
    names, structures = [name for name, _ in candidates], [structure for _, structure in candidates]
    report = run_screen(maker, structures, names, settings, arguments.out / "known")
    ids = [outcome.outcome_id for row in report.screen.candidates for outcome in row.outcomes]
    build_campaign_pairs(ids, "screen", settings)
    wanted = PairFilter(dft_only=False)
    with open_pair_store(settings) as pairs, open_dataset_stores(settings) as datasets:
        current = (pair for pair in iter_pairs(pairs) if pair.origin_id in ids)
        holdout = freeze_holdout(current, HOLDOUT, "chemical_system", HELD_OUT, wanted, min_pairs=2)
        return find_same_holdout(datasets, holdout) or save_holdout(datasets, holdout)


def describe_campaign(pool: Path, arguments: argparse.Namespace) -> CampaignConfig:
    return CampaignConfig.model_validate(
        {
            "name": "smoke" if arguments.smoke else "interstitial",
            "inputs": [str(pool.absolute())],
            "engine": "chgnet",
            "labels": arguments.labels,
            "control": 0.25,
            "retraining": {
                "name": f"{ALIAS}-tuned",
                "alias": ALIAS,
                "holdout": HOLDOUT,
                "replay": {"fraction": 0},
                "dataset": {"filter": {"dft_only": False}, "val_fraction": 0.25},
                "training": {
                    "data": {"max_atoms": 160},
                    "schedule": {
                        "max_steps": arguments.steps,
                        "learning_rate": 2e-4,
                        "warmup_steps": arguments.steps // 20,
                        "ema_decay": 0.99,
                    },
                    "val_every": max(arguments.steps // 8, 1),
                    "threads": 1,
                },
                "gate": {"min_stratum": 2 if arguments.smoke else 20},
            },
            "stop": {"labels": arguments.labels * arguments.generations},
        }
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=150, help="candidates, those that are relaxed before among them")
    parser.add_argument("--known", type=int, default=50, help="relaxed before the campaign")
    parser.add_argument("--labels", type=int, default=16, help="of each generation")
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400, help="of each training")
    parser.add_argument("--max-atoms", type=int, default=None, help="of a candidate")
    parser.add_argument("--out", type=Path, default=None, help="folder of everything (runs/campaign)")
    parser.add_argument("--smoke", action="store_true", help="all of it in a minute, with numbers that mean nothing")
    arguments = parser.parse_args()
    if arguments.smoke:
        vars(arguments).update(SMOKE)
    arguments.out = arguments.out or Path("runs/campaign-smoke" if arguments.smoke else "runs/campaign")
    return arguments


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except E3RelaxError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from error
