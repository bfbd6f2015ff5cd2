"""What is a DFT label worth: errors and savings in a chemistry that the model has not seen, against labels and choice.

    python benchmarks/label_value.py nrel --base base/model --pool train.jsonl.gz --test test.jsonl.gz --out runs/labels
    python benchmarks/label_value.py nrel chalcogenides --out runs/labels --report --figure docs/assets/label_value.png

A base model was trained without a chemistry (`e3relax train` on the other pairs). The pairs of that chemistry, whose
DFT results exist, are the pool. An arm chooses a budget of them as the base model sees them, the base model is
fine-tuned on these, and both are compared on other groups of the chemistry. Choice, training and guard are those of a
campaign. Give each --blend a folder --out of its own.
`random` runs at all budgets (the learning curve), the other arms at those of --compared. Seeds come outermost, so that
a run that is interrupted leaves whole seeds; run it again and it goes on. --others names pairs outside the chemistry,
on which is measured what was forgotten.
"""

from __future__ import annotations

import argparse
import json
import shutil
import warnings
from dataclasses import replace
from itertools import product
from pathlib import Path
from time import perf_counter

import matplotlib as mpl
import numpy as np
import torch

from e3relax_flows import (
    Predictor,
    SelectionMix,
    SelectionPool,
    TrainConfig,
    choose_candidates,
    draw_uniform,
    load_pairs,
    measure_errors,
    resolve_model,
    train_model,
)

mpl.use("Agg")
from matplotlib import pyplot as plt

ARMS = {
    "random": SelectionMix(scored=0, diverse=0, random=1),
    "scored": SelectionMix(scored=1, diverse=0, random=0),  # by the expected error, Å
    "diverse": SelectionMix(scored=0, diverse=1, random=0),
    "mixed": SelectionMix(scored=0.4, diverse=0.3, random=0.3),
    "saving": SelectionMix(scored=1, diverse=0, random=0),  # where the model expects to save least
}
STEPS = {100: 300, 300: 500, 1000: 1000}  # of fine-tuning, by labels
VAL_FRACTION = 0.2  # of the groups of the labelled pairs; they choose the best weights
MIN_GROUPS = 10  # from so many on groups are drawn again, else single pairs


def main():
    arguments = parse_arguments()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not arguments.report:
            (chemistry,) = arguments.chemistries
            measure(chemistry, arguments)
    results = {name: read_results(arguments.out / name) for name in arguments.chemistries}
    for name, rows in results.items():
        print_tables(name, rows)
    if arguments.figure:
        draw(results, arguments.figure)


def measure(chemistry, arguments):
    """Run what is not there yet: all arms and budgets of a seed, then the next seed."""
    out, base = arguments.out / chemistry, resolve_model(str(arguments.base))
    pool, test = load_pairs(arguments.pool), sample(load_pairs(arguments.test), arguments.n_test)
    others = sample(load_pairs(arguments.others), arguments.n_others) if arguments.others else None
    predictor, looked = Predictor.load(str(base.path), device="cpu"), None
    write(out / "base.json", judge(predictor, test, others) | {"n_pool": len(pool), "groups": test.groups})
    for seed in range(arguments.seeds):
        for budget in (n for n in STEPS if n < len(pool)):
            for arm in ARMS if budget in arguments.compared else ("random",):
                record = out / arm / str(budget) / str(seed) / "result.json"
                if record.exists():
                    continue
                looked = looked or look(predictor, pool)
                begin = perf_counter()
                chosen = choose(*looked[:2], arm, budget, seed)
                model = train(record.parent, base, pool.select(chosen), budget, seed, arguments.blend)
                blend = str(arguments.blend)
                content = {blend: judge(Predictor.load(str(model.path), device="cpu"), test, others)}
                shutil.rmtree(record.parent / "run")
                content["before"] = float(looked[2][chosen].mean())
                content["atoms"] = float(pool.sizes[chosen].mean())
                write(record, content)
                error, served = (np.mean(content[blend][kind]) for kind in ("errors", "served"))
                print(f"{chemistry}, {arm}, {budget} labels, seed {seed}: error {error:.4f} Å, served {served:.4f} Å; "
                      f"{perf_counter() - begin:.0f} s", flush=True)  # fmt: skip


def look(predictor, pool):
    """The pool as the selection sees it by the base model, the expected savings, and the true errors, Å."""
    starts = [pool[i].build_initial() for i in range(len(pool))]
    found = predictor.predict(starts)
    errors, savings = (
        np.array([getattr(one, name) if getattr(one, name) is not None else np.nan for one in found])
        for name in ("expected_error", "expected_saving")
    )
    seen = SelectionPool(pool.ids, errors, np.ones(len(pool)), predictor.embed(starts))
    return seen, savings, score(found, pool)[0]


def score(predictions, pairs):
    """Errors [3, n], Å: of the predictions, of what the guard serves, of the initial structures."""
    rows = []
    for index, prediction in enumerate(predictions):
        start, relaxed = pairs[index].build_initial(), pairs[index].build_relaxed()
        made, served = prediction.structure or start, prediction.served or start
        rows.append([measure_errors(side, relaxed).combined for side in (made, served, start)])
    return np.array(rows).T


def sample(pairs, n):
    """At most `n` pairs, the same ones each time, of as many groups as there are."""
    order = sorted(range(len(pairs)), key=lambda i: draw_uniform(0, f"test:{pairs.ids[i]}"))
    return pairs.select(sorted(order[:n]))


def choose(pool, savings, arm, budget, seed):
    """Indices of the pool that an arm labels; `savings` [n] are the expected ones, ln(start / prediction)."""
    seen = replace(pool, errors=np.exp(-savings)) if arm == "saving" else pool
    return [choice.index for choice in choose_candidates(seen, ARMS[arm], budget, (seed, "label value"))]


def train(folder, base, labelled, budget, seed, blend):
    """Fine-tune the base model; gives the exported model."""
    held, run, steps = hold_out(labelled, seed), folder / "run", STEPS[budget]
    run.mkdir(parents=True, exist_ok=True)
    files = {name: [run / f"{name}.jsonl"] for name in ("train", "val")}
    for name, is_held in (("train", False), ("val", True)):
        rows = [json.dumps(row) + "\n" for row in list_rows(labelled) if (row["group"] in held) is is_held]
        files[name][0].write_text("".join(rows))
    config = {
        "out": run, "name": "model", "kind": base.config["kind"], "network": base.config["network"],
        "data": {"functionals": sorted(set(labelled.functionals)), "max_atoms": 160, **files},
        "schedule": {"max_steps": steps, "learning_rate": 3e-4, "warmup_steps": steps // 20, "ema_decay": 0.99},
        "val_every": max(steps // 5, 1), "seed": seed, "threads": 1,
        "finetune": {"path": base.path, "accept_worse": True, "blend": blend},
    }  # fmt: skip
    return train_model(TrainConfig.model_validate(config))


def list_rows(pairs):
    """Rows of a pair file."""
    for index, pair in enumerate(pairs[i] for i in range(len(pairs))):
        row = {"id": pairs.ids[index], "source": pairs.sources[index], "functional": pairs.functionals[index]}
        for side in ("initial", "relaxed"):
            lattice, fractions = (getattr(pair, f"{side}_{what}").tolist() for what in ("lattice", "fractions"))
            row[side] = {"lattice": lattice, "frac": fractions}
        yield row | {"group": pairs.groups[index], "numbers": pair.numbers.tolist()}


def hold_out(labelled, seed):
    """Groups of the labelled pairs that choose the best weights: so many that they have a fifth of the pairs."""
    held, wanted = set(), VAL_FRACTION * len(labelled)
    for group in sorted(set(labelled.groups), key=lambda group: draw_uniform(seed, f"val:{group}")):
        if sum(g in held for g in labelled.groups) >= wanted:
            break
        held.add(group)
    return held


def judge(predictor, test, others):
    """Errors, Å, of the predictions and of what is served on the test pairs, and of the predictions of other pairs."""

    def run(pairs):
        return score(predictor.predict([pairs[i].build_initial() for i in range(len(pairs))]), pairs)

    found = dict(zip(("errors", "served", "initial"), run(test).tolist(), strict=True))
    return found | ({"others": float(run(others)[0].mean())} if others is not None else {})


def write(path, content):
    """Write a document, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(content))
    draft.replace(path)


def read_results(out):
    """Of the base model under ("base", 0), else by arm and budget: a document for each seed."""
    results = {("base", 0): {0: json.loads((out / "base.json").read_text())}}
    for path in sorted(out.glob("*/*/*/result.json")):
        seed, budget, arm = path.parts[-2], path.parts[-3], path.parts[-4]
        results.setdefault((arm, int(budget)), {})[int(seed)] = json.loads(path.read_text())
    return results


def compare(own, other, groups, n_resamples=4000):
    """Ratio of two means - 1 with its 95 % interval, when groups and seeds are drawn again; rows are seeds [s, n]."""
    sums = draw_sums(np.concatenate([own, other]), np.array(groups), n_resamples)
    rng, n = np.random.default_rng(0), len(own)
    drawn = [
        np.take_along_axis(part, rng.integers(len(part), size=(len(part), n_resamples)), axis=0).mean(axis=0)
        for part in (sums[:n], sums[n:])
    ]
    low, high = np.quantile(drawn[0] / drawn[1] - 1, [0.025, 0.975])
    return np.mean(own) / np.mean(other) - 1, low, high


def draw_sums(columns, groups, n_resamples):
    """Sums of the columns [m, n] over groups that are drawn again: [m, n_resamples]; all columns see the same draws."""
    names, places = np.unique(groups, return_inverse=True)
    if len(names) >= MIN_GROUPS:
        columns = np.stack([np.bincount(places, column, len(names)) for column in columns])
    generator, n_units = np.random.default_rng(list(b"label value")), columns.shape[1]
    draws = generator.integers(n_units, size=(n_resamples, n_units))
    return np.stack([column[draws].sum(axis=1) for column in columns])


def print_tables(chemistry, results):
    """The learning curve, then the arms against random."""
    base = results[("base", 0)][0]
    groups, initial = base["groups"], np.array([base["initial"]])
    print(f"\n{chemistry}: {base['n_pool']} pairs in the pool, {len(groups)} test pairs in {len(set(groups))} groups; "
          f"initial {initial.mean():.4f} Å\n")  # fmt: skip
    print("| labels | weights of the base | seeds | error, Å | against the base (95 %) | served, Å "
          "| served over initial (95 %) | elsewhere |")  # fmt: skip
    print("|" + " --- |" * 8)
    rows = [("0", "", {0: base})]
    for (arm, budget), seeds in sorted(results.items(), key=lambda item: item[0][1]):
        if arm == "random":
            for blend in list_blends(seeds):
                rows.append((str(budget), f"{float(blend):.0%}", {k: v[blend] for k, v in seeds.items()}))
    for budget, blend, seeds in rows:
        errors, served = (np.array([row[kind] for row in seeds.values()]) for kind in ("errors", "served"))
        change = compare(errors, np.array([base["errors"]]), groups)
        saved = compare(served, initial, groups)
        others = np.mean([row["others"] for row in seeds.values()]) / base["others"] - 1 if "others" in base else np.nan
        print(f"| {budget} | {blend} | {len(seeds)} | {errors.mean():.4f} | {say(change)} | {served.mean():.4f} | "
              f"{1 + saved[0]:.2f} ({1 + saved[1]:.2f} to {1 + saved[2]:.2f}) | {others:+.1%} |")  # fmt: skip
    print("\n| labels | chosen | seeds | their error before, Å | their atoms | error, Å | against random (95 %) "
          "| served, Å | against random (95 %) |")  # fmt: skip
    print("|" + " --- |" * 9)
    budgets = sorted({budget for arm, budget in results if arm not in ("base", "random")})
    for budget, arm in product(budgets, ARMS):
        seeds = results.get((arm, budget), {})
        if not seeds:
            continue
        blend = list_blends(seeds)[0]
        plain = {k: v[blend] for k, v in seeds.items()}
        others = {k: v[blend] for k, v in results[("random", budget)].items() if k in plain}
        cells = []
        for kind in ("errors", "served"):
            own, other = (np.array([row[kind] for row in part.values()]) for part in (plain, others))
            cells += [f"{own.mean():.4f}", "" if arm == "random" else say(compare(own, other, groups))]
        before, atoms = (np.mean([row[kind] for row in seeds.values()]) for kind in ("before", "atoms"))
        print(f"| {budget} | {arm} | {len(seeds)} | {before:.3f} | {atoms:.1f} | {' | '.join(cells)} |")


def list_blends(seeds):
    """Shares of the base model's weights of which every seed has figures."""
    return sorted(set.intersection(*(set(row) for row in seeds.values())) - {"before", "atoms"}, key=float)


def say(change):
    """A relative change with its interval."""
    return f"{change[0]:+.1%} ({change[1]:+.1%} to {change[2]:+.1%})"


def draw(results, path):
    """Error and what is served over the initial structure's, against labels; a point for each arm."""
    figure, axes = plt.subplots(1, len(results), figsize=(5 * len(results), 4), layout="constrained", squeeze=False)
    for axis, (chemistry, rows) in zip(axes[0], results.items(), strict=True):
        base = rows[("base", 0)][0]
        initial = np.mean(base["initial"])
        for kind, style, label in (("errors", "-", "prediction"), ("served", "--", "served")):
            curve = {0: np.mean(base[kind])}
            for (arm, budget), seeds in sorted(rows.items(), key=lambda item: item[0][1]):
                if arm == "random":
                    curve[budget] = np.mean([np.mean(row[list_blends(seeds)[0]][kind]) for row in seeds.values()])
            axis.plot(np.maximum(list(curve), 30), np.array(list(curve.values())) / initial, f"C0{style}o", label=label)
        for number, arm in enumerate(list(ARMS)[1:], 1):
            own = {budget: seeds for (name, budget), seeds in rows.items() if name == arm}
            points = {
                b: np.mean([np.mean(row[list_blends(s)[0]]["errors"]) for row in s.values()]) for b, s in own.items()
            }
            if points:
                axis.plot(list(points), np.array(list(points.values())) / initial, f"C{number}x", label=arm)
        axis.set(xscale="log", xlabel="DFT labels (left: none)", title=chemistry)
    axes[0][0].set(ylabel="error over that of the initial structure")
    axes[0][0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"\nFigure: {path}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chemistries", nargs="+", help="names of folders in --out; one of them, unless --report")
    parser.add_argument("--base", type=Path, help="model folder that was trained without the chemistry")
    parser.add_argument("--pool", type=Path, nargs="+", help="pair files of the chemistry")
    parser.add_argument("--test", type=Path, nargs="+", help="pair files of other groups of the chemistry")
    parser.add_argument("--others", type=Path, nargs="+", help="pair files outside it")
    parser.add_argument("--n-test", type=int, default=400, help="test pairs at most")
    parser.add_argument("--n-others", type=int, default=300, help="other pairs at most")
    parser.add_argument("--compared", type=int, nargs="+", default=[300], help="budgets at which arms are compared")
    parser.add_argument("--blend", type=float, default=0.0, help="share of the base model's weights in what is served")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("runs/label_value"))
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--figure", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
