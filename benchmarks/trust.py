"""Is the expected error right, and what does the guard keep out: tables and a figure, on pairs not fitted to.

python benchmarks/trust.py TEST.jsonl.gz --val VAL.jsonl.gz [--model default] [--threads 1]
    [--figure docs/assets/trust.png] [--shifted OTHER.jsonl.gz] [--second-opinion chgnet [--judged 120]]

The model's own calibration is judged on TEST. VAL, on which that calibration was fitted, gives the curve of the
threshold and, with one source left out at a time, the coverage on a source that the calibration has not seen. OTHER
holds pairs of another kind. A second opinion costs single points, so that only so many pairs of a source are judged.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch

from e3relax_flows import Predictor
from e3relax_flows.core.savings import find_harmed, measure_savings
from e3relax_flows.predict.trust import OpinionModel
from e3relax_flows.train.calibrate import (
    HARM_GOAL,
    NEAR,
    NEAR_GOAL,
    collect,
    fit_trust,
    judge_by,
    judge_starts,
    judge_unseen,
    trace_thresholds,
    vary_starts,
)
from e3relax_flows.train.dataset import load_pairs
from e3relax_flows.train.opinions import collect_opinions
from e3relax_flows.train.pairs import join_pairs

mpl.use("Agg")
from matplotlib import pyplot as plt


def judge(data, trust):
    """Expected errors, whether the intervals hold, and what the guard accepts of a calibration set."""
    if data.signals != trust.signals:
        raise SystemExit(f"the model was calibrated with {trust.signals}, this set has {data.signals}")
    log_error = data.logs @ np.array(trust.error)
    rest = np.log(np.maximum(data.after, 1e-6)) - log_error
    holds = (rest >= trust.interval[0]) & (rest <= trust.interval[1])
    return np.exp(log_error), holds, judge_by(trust, data).accept(trust.max_harm)


def rank_correlation(a, b):
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def group(sources):
    """Names and masks: all raw starts, every source, and all better starts."""
    near = np.char.endswith(sources, NEAR)
    groups = {"all": ~near} | {name: sources == name for name in sorted(set(sources[~near].tolist()))}
    return groups | ({"better starts": near} if near.any() else {})


def print_tables(data, trust, shifted):
    """Coverage and rank correlation; saving, harm, refusals and errors before and after the guard."""
    expected, holds, accepted = judge(data, trust)
    print(f"\nIntervals of {trust.coverage:.0%}, from {np.exp(trust.interval[0]):.2f} to "
          f"{np.exp(trust.interval[1]):.2f} times the expected error\n")  # fmt: skip
    print("| starts | n | mean error, Å | mean expected, Å | rank correlation | coverage | not in the calibration |")
    print("|---|---|---|---|---|---|---|")
    for name, mask in group(data.sources).items():
        other = f"{shifted[name]:.3f}" if name in shifted else ""
        print(
            f"| {name} | {mask.sum()} | {data.after[mask].mean():.3f} | {expected[mask].mean():.3f} "
            f"| {rank_correlation(expected[mask], data.after[mask]):.2f} | {holds[mask].mean():.3f} | {other} |"
        )
    print(
        f"\nGuard: a saving is expected, and the probability of material harm is at most {trust.max_harm:.3f}. Errors "
        "are displacement + 2.5 Å · strain, Å. Saving: of the most, the better of initial and predicted.\n"
    )
    print_guard(data, accepted)


def print_guard(data, accepted):
    """What a guard saves, harms and serves."""
    harmed, worse = find_harmed(data.before, data.after), data.after > data.before
    savings = measure_savings(data.before, data.after)
    print("| starts | n | refused, % | saving | without guard | materially harmed, % | without guard | worse at all, % "
          "| error of starts | of predictions | of what is served |")  # fmt: skip
    print("|" + "---|" * 11)
    for name, mask in group(data.sources).items():
        served = np.where(accepted, data.after, data.before)[mask]
        most = max(np.maximum(savings[mask], 0.0).sum(), 1e-9)
        saved, all_saved = (savings * accepted)[mask].sum() / most, savings[mask].sum() / most
        print(
            f"| {name} | {mask.sum()} | {100 * (1 - accepted[mask].mean()):.1f} | {saved:.2f} "
            f"| {all_saved:.2f} | {100 * (harmed & accepted)[mask].mean():.1f} "
            f"| {100 * harmed[mask].mean():.1f} | {100 * (worse & accepted)[mask].mean():.1f} "
            f"| {data.before[mask].mean():.3f} | {data.after[mask].mean():.3f} | {served.mean():.3f} |"
        )


def leave_one_out(val, test):
    """Coverage on each source of `test` by a calibration that has not seen it."""
    coverage = {}
    for name in sorted({source for source in val.sources.tolist() if not source.endswith(NEAR)}):
        others = ~np.char.startswith(val.sources, name)
        coverage[name] = judge(test, fit_trust(val.take(others)))[1][test.sources == name].mean()
    return coverage


def print_curve(val, trust):
    """Thresholds, on the pairs that chose one, each source judged by coefficients fitted without it."""
    curve = trace_thresholds(val, judge_unseen(val))
    best = max(curve, key=lambda point: point.saving)
    print(f"\nThe threshold on {len(val.after)} validation starts; goal: material harm below {HARM_GOAL:.0%} for every "
          f"source, {NEAR_GOAL:.0%} for better starts; sources judged by what was fitted without them\n")  # fmt: skip
    print("| probability of harm up to | accepted, % | saving, mean ln(error before / served) | of the most "
          "| bound of a source's harm, % | |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for point in curve:
        chosen, most = np.isclose(point.max_harm, trust.max_harm), point is best
        if not (chosen or most) and curve.index(point) % 6:
            continue
        words = "**chosen**" if chosen else "most saved" if most else ""
        print(
            f"| {point.max_harm:.3f} | {100 * point.accepted:.0f} | {point.saving:.3f} "
            f"| {point.saving / best.saving:.2f} | {100 * max(point.harmed.values()):.1f} | {words} |"
        )
    return curve


def draw(data, trust, curve, path):
    """Error against expected error, and the curve of the threshold."""
    expected, _, accepted = judge(data, trust)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for mask, color, label in ((accepted, "tab:blue", "accepted"), (~accepted, "tab:orange", "refused")):
        left.scatter(expected[mask], data.after[mask], s=3, alpha=0.4, color=color, label=label, linewidths=0)
    ends = np.array([expected.min(), expected.max()])
    left.plot(ends, ends, color="black", linewidth=0.8)
    for end in trust.interval:
        left.plot(ends, ends * np.exp(end), color="black", linewidth=0.8, linestyle="--")
    left.set(xscale="log", yscale="log", xlabel="expected error, Å", ylabel="error, Å", title="held-out pairs")
    left.legend(markerscale=4)
    limits = [point.max_harm for point in curve]
    right.plot(limits, [point.saving for point in curve], color="tab:blue", label="saving, mean ln(before / served)")
    right.plot(limits, [point.accepted for point in curve], color="tab:green", label="share accepted")
    worst = [max(point.harmed.values()) for point in curve]
    right.plot(limits, worst, color="tab:red", label="materially harmed, worst source")
    right.axvline(trust.max_harm, color="black", linewidth=0.8)
    right.axhline(HARM_GOAL, color="tab:red", linewidth=0.8, linestyle="--")
    right.set(xlabel="threshold on the probability of harm", title="threshold, on the validation pairs")
    right.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"\nFigure: {path}")


def choose_pairs(sources, most):
    """At most so many indices of every source, drawn by seed."""
    places = {}
    for index, source in enumerate(sources):
        places.setdefault(source, []).append(index)
    rng = np.random.default_rng(0)
    for place in places.values():
        rng.shuffle(place)
    return sorted(index for place in places.values() for index in place[:most])


def print_opinions(predictor, paths, arguments):
    """The guard alone and with a second opinion, on the same pairs."""
    judge_ = predictor.get_judge(arguments.second_opinion)
    opinion = OpinionModel.from_calibration(predictor.calibration, judge_.label)
    for path in paths:
        pairs = load_pairs([path])
        chosen = choose_pairs(pairs.sources, arguments.judged)
        data = collect_opinions(predictor, pairs.select(chosen), judge_)
        own = collect(predictor, pairs.select(chosen))
        print(f"\nOf {path.name} at most {arguments.judged} pairs of a source; the guard alone\n")
        print_guard(own, judge(own, predictor.trust)[2])
        print(f"\nWith the second opinion of {judge_.label}\n")
        print_guard(data, judge_starts(data, np.array(opinion.harm), np.array(opinion.saving)).accept(opinion.max_harm))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", type=Path)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--model", default="default")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--shifted", type=Path)
    parser.add_argument("--second-opinion")
    parser.add_argument("--judged", type=int, default=120)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    predictor = Predictor.load(arguments.model)
    if predictor.trust is None:
        raise SystemExit(f"model {predictor.model_id} has no calibration of trust; export it again")
    sets = {}
    for name, path in (("val", arguments.val), ("test", arguments.test)):
        pairs = load_pairs([path])
        sets[name] = collect(predictor, join_pairs([pairs, vary_starts(pairs.select(range(0, len(pairs), 3)))]))
    val, test = sets["val"], sets["test"]
    print(f"Model {predictor.model_id}; {len(test.after)} starts of {arguments.test.name}")
    print_tables(test, predictor.trust, leave_one_out(val, test))
    curve = print_curve(val, predictor.trust)
    if arguments.second_opinion:
        print_opinions(predictor, [path for path in (arguments.test, arguments.shifted) if path], arguments)
    elif arguments.shifted:
        data = collect(predictor, load_pairs([arguments.shifted]))
        print(f"\nThe same guard on {arguments.shifted.name}\n")
        print_guard(data, judge(data, predictor.trust)[2])
    if arguments.figure:
        draw(test, predictor.trust, curve, arguments.figure)


if __name__ == "__main__":
    main()
