"""Does choosing candidates help: the same number of labels, scored and diverse against random ones, over seeds.

python benchmarks/ablation.py [--out runs/ablation] [--seeds 0 1 2] [--steps 600] [--figure docs/assets/ablation.png]

The pool is relaxed once by CHGNet (a potential, not DFT); what is in the stores below --out is not relaxed again. Each
arm and seed is a campaign without its gate: choose, train on all that was chosen so far, choose with the new model.
Selection, training and errors are computed by the functions that the flow uses. A part of the chemical systems is held
out. Run again after an interruption it goes on; --report only prints what is there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from itertools import product
from pathlib import Path
from time import perf_counter

import matplotlib as mpl
import numpy as np
import torch
from selection_parts import assess, describe_schedule, finetune, look_at

from e3relax_flows import (
    COMMON,
    INTERSTITIAL,
    PairFilter,
    Predictor,
    PrerelaxMaker,
    ScreenMaker,
    enumerate_candidates,
    find_outcomes,
    find_predictions,
    get_engine,
    load_settings,
    resolve_model,
    run_screen,
)
from e3relax_flows.campaigns.selection import choose_candidates
from e3relax_flows.cli import console
from e3relax_flows.core.ids import draw_uniform
from e3relax_flows.core.model_folders import read_model_folder
from e3relax_flows.judging.bootstrap import draw_sums
from e3relax_flows.ledger.store import open_stores
from e3relax_flows.pairs.datasets import build_dataset
from e3relax_flows.pairs.making import LeftOutError, pair_outcome
from e3relax_flows.schemas.campaigns import Mix
from e3relax_flows.train.export import export_model
from e3relax_flows.train.snapshot import pack_pairs

mpl.use("Agg")
from matplotlib import pyplot as plt

ARMS = {
    "random": Mix(scored=0, diverse=0, random=1),
    "scored+diverse": Mix(scored=0.5, diverse=0.5, random=0),
    "scored": Mix(scored=1, diverse=0, random=0),
    "diverse": Mix(scored=0, diverse=1, random=0),
}
HELD_OUT, POOL_SEED = 0.3, 0  # of the chemical systems; the same for all arms and seeds


def label_pool(arguments, settings, model_id):
    """Pairs of all candidates by structure id, each candidate relaxed once; those without a pair are left out."""
    candidates = [
        *enumerate_candidates(INTERSTITIAL, arguments.n),
        *enumerate_candidates(COMMON, arguments.n_common),
    ]
    maker = ScreenMaker(name="pool", prerelax=PrerelaxMaker(model=model_id), engine=get_engine("chgnet"))
    names, structures = [name for name, _ in candidates], [structure for _, structure in candidates]
    report = run_screen(maker, structures, names, settings, arguments.out / "pool")
    ids = [outcome.outcome_id for row in report.screen.candidates for outcome in row.outcomes]
    pairs, n_left_out = {}, 0
    with open_stores(settings) as stores:
        outcomes = find_outcomes(stores.outcomes, ids)
        predictions = find_predictions(stores.predictions, {item.prediction_id for item in outcomes.values()})
    for outcome in outcomes.values():
        try:
            pair = pair_outcome(outcome, predictions[outcome.prediction_id], "pool")
        except LeftOutError:
            n_left_out += 1
            continue
        pairs.setdefault(outcome.structure_id, (pair, outcome.result.wall_time_s or 0.0))
    print(f"{len(candidates)} candidates, {len(pairs)} pairs, {n_left_out} relaxations left none", flush=True)
    return pairs


def split_pool(pairs):
    """Structure ids of the pool and of the holdout, by chemical systems."""
    held = {
        pair.chemical_system
        for pair, _ in pairs.values()
        if draw_uniform(POOL_SEED, f"ablation:{pair.chemical_system}") < HELD_OUT
    }
    ids = sorted(pairs)
    return [i for i in ids if pairs[i][0].chemical_system not in held], [
        i for i in ids if pairs[i][0].chemical_system in held
    ]


def train(folder, start, pairs, labelled, seed, arguments):
    """Fine-tune a model on all that was labelled; gives its folder."""
    if (folder / "model" / "config.json").exists():
        return read_model_folder(folder / "model")
    docs = {pairs[i][0].pair_id: pairs[i][0] for i in labelled}
    dataset = build_dataset(
        docs.values(), [], PairFilter(dft_only=False), val_fraction=arguments.val_fraction, seed=seed
    )
    splits = {name: pack_pairs(docs.values(), getattr(dataset, name)) for name in ("train", "val")}
    trainer = finetune(folder, start, splits, seed, describe_schedule(arguments.steps, 2e-4, 8))
    return export_model(trainer, folder / "model")


def run_campaign(arm, seed, pairs, pool_ids, held_ids, start, arguments):
    """Generations of one arm and seed, each written when it is done."""
    model, labelled = start, []
    for generation in range(arguments.generations):
        folder = arguments.out / "campaigns" / arm / str(seed) / str(generation)
        record = folder / "result.json"
        if record.exists():
            done = json.loads(record.read_text())
            labelled, model = done["labelled"], read_model_folder(folder / "model")
            continue
        begin = perf_counter()
        predictor = Predictor.load(str(model.path), device="cpu")
        pool, _ = look_at(predictor, pool_ids, [pairs[i][0].initial for i in pool_ids])
        taken = [pool_ids.index(i) for i in labelled]
        choices = choose_candidates(pool, ARMS[arm], arguments.labels, (seed, str(generation)), "error", taken)
        chosen = [pool_ids[choice.index] for choice in choices]
        before, _, _ = assess(predictor, pack_pairs([pairs[i][0] for i in chosen]))
        labelled = [*labelled, *chosen]
        model = train(folder, model, pairs, labelled, seed, arguments)
        held = pack_pairs([pairs[i][0] for i in held_ids])
        errors, served, identity = assess(Predictor.load(str(model.path), device="cpu"), held)
        content = {
            "arm": arm, "seed": seed, "generation": generation, "labelled": labelled, "model_id": model.model_id,
            "chosen_error": float(before.mean()), "hours": sum(pairs[i][1] for i in chosen) / 3600,
            "errors": errors.tolist(), "served": served.tolist(), "identity": identity.tolist(),
            "groups": held.groups, "seconds": round(perf_counter() - begin, 1),
        }  # fmt: skip
        draft = record.with_suffix(".tmp")
        draft.write_text(json.dumps(content))
        draft.replace(record)
        shutil.rmtree(folder / "shards", ignore_errors=True)
        print(f"{arm}, seed {seed}, generation {generation + 1}: {len(labelled)} labels, error {errors.mean():.4f} Å, "
              f"served {served.mean():.4f} Å; {content['seconds']} s", flush=True)  # fmt: skip


def read_results(out):
    """What was measured, by arm, seed and generation."""
    found = [json.loads(path.read_text()) for path in sorted((out / "campaigns").glob("*/*/*/result.json"))]
    return {(item["arm"], item["seed"], item["generation"]): item for item in found}


def compare(results, arm, seeds, generation, kind):
    """Mean error of an arm over that of random ones, and its interval, seeds' means by pair drawn again by groups."""
    own, other = (
        np.mean([results[(name, seed, generation)][kind] for seed in seeds], axis=0) for name in (arm, "random")
    )
    groups = np.array(results[(arm, seeds[0], generation)]["groups"])
    sums, _ = draw_sums(np.stack([own, other]), groups, 10_000, f"{arm}{generation}{kind}")
    low, high = np.quantile(sums[0] / sums[1] - 1, [0.025, 0.975])
    return own.mean() / other.mean() - 1, low, high


def print_tables(results, base, n_labels):
    """A row for each arm and generation that all seeds have."""
    print("\n| labels | chosen | seeds | error of the chosen before, Å | error on the holdout, Å | of the seeds, Å | "
          "served, Å | against random | 95 % | hours |")  # fmt: skip
    print("|" + " --- |" * 10)
    print(f"| 0 | | | | {base[0].mean():.4f} | | {base[1].mean():.4f} | | | |")
    for generation, arm in product(sorted({key[2] for key in results}), ARMS):
        seeds = sorted(key[1] for key in results if key[0] == arm and key[2] == generation)
        both = [seed for seed in seeds if ("random", seed, generation) in results]
        if not both:
            continue
        rows = [results[(arm, seed, generation)] for seed in both]
        means = [np.mean(row["errors"]) for row in rows]
        against = "| |"
        if arm != "random":
            change, low, high = compare(results, arm, both, generation, "errors")
            against = f"{change:+.1%} | {low:+.1%} to {high:+.1%} |"
        print(
            f"| {(generation + 1) * n_labels} | {arm} | {len(both)} | {np.mean([r['chosen_error'] for r in rows]):.3f} "
            f"| {np.mean(means):.4f} | {' '.join(f'{mean:.4f}' for mean in means)} "
            f"| {np.mean([np.mean(row['served']) for row in rows]):.4f} | {against} "
            f"{np.mean([row['hours'] for row in rows]):.3f} |"
        )


def draw(results, base, n_labels, path):
    """Error on the holdout against labels, a line for each arm, a point for each seed."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    for axis, kind, start in zip(axes, ("errors", "served"), base[:2], strict=True):
        for number, arm in enumerate(ARMS):
            found = {(k[1], k[2]): np.mean(v[kind]) for k, v in results.items() if k[0] == arm}
            if not found:
                continue
            generations = sorted({key[1] for key in found})
            means = [np.mean([v for k, v in found.items() if k[1] == g]) for g in generations]
            axis.plot(
                [0, *((g + 1) * n_labels for g in generations)], [start.mean(), *means], color=f"C{number}", label=arm
            )
            axis.scatter(
                [(k[1] + 1) * n_labels + (number - 1.5) * 0.4 for k in found],
                list(found.values()),
                s=12,
                color=f"C{number}",
            )
        axis.set(xlabel="labels", title={"errors": "predictions", "served": "what the guard lets through"}[kind])
    axes[0].set(ylabel="mean error on the holdout, Å")
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"\nFigure: {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--n", type=int, default=190, help="borides, carbides, nitrides")
    parser.add_argument("--n-common", type=int, default=150, help="common crystals")
    parser.add_argument("--labels", type=int, default=40, help="of each generation")
    parser.add_argument("--generations", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600, help="of each training")
    parser.add_argument("--val-fraction", type=float, default=0.25, help="of the labelled chemical systems")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["random", "scored+diverse"])
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--report", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    arguments.out = arguments.out.absolute()
    os.environ["E3RELAX_CONFIG_FILE"] = str(arguments.out / "settings.yaml")
    os.environ["E3RELAX_DATA_DIR"] = str(arguments.out / "data")
    settings = load_settings()
    torch.set_num_threads(1)
    with console.hide_warnings():
        start = resolve_model("default", settings)
        pairs = label_pool(arguments, settings, start.model_id)
        pool_ids, held_ids = split_pool(pairs)
        held = pack_pairs([pairs[i][0] for i in held_ids])
        base = assess(Predictor.load(str(start.path), device="cpu"), held)
        print(
            f"model {start.model_id}; {len(pool_ids)} pairs in the pool, {len(held_ids)} held out in "
            f"{len(set(held.groups))} chemical systems; error {base[0].mean():.4f} Å, served {base[1].mean():.4f} Å, "
            f"initial {base[2].mean():.4f} Å", flush=True,
        )  # fmt: skip
        if not arguments.report:
            for seed, arm in product(arguments.seeds, arguments.arms):
                run_campaign(arm, seed, pairs, pool_ids, held_ids, start, arguments)
    results = read_results(arguments.out)
    print_tables(results, base, arguments.labels)
    if arguments.figure:
        draw(results, base, arguments.labels, arguments.figure)


if __name__ == "__main__":
    main()
