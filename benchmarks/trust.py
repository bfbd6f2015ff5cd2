"""Is the expected error right, and what does the guard keep out: tables and a figure, on pairs not fitted to.

python benchmarks/trust.py TEST.jsonl.gz --val VAL.jsonl.gz [--model default] [--threads 1] [--limit 200]
    [--figure docs/assets/trust.png] [--shifted OTHER.jsonl.gz] [--second-opinion chgnet [--judged 120]]

The model's own calibration is judged on TEST. VAL, on which that calibration was fitted, gives the curve of the
threshold and, with one source left out at a time, the coverage on a source that the calibration has not seen. OTHER
holds pairs of another kind. A second opinion costs single points, so that only so many pairs of a source are judged.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
import torch

from e3relax_flows import Predictor, load_pairs, measure_errors, recalibrate, vary_starts

mpl.use("Agg")
from matplotlib import pyplot as plt

NEAR = " (near)"  # in the sources of starts that were made better
HARM_GOAL, NEAR_GOAL = 0.03, 0.08  # material harm: shares of all starts of a source, and of the better starts
MIN_STARTS = 50  # of a source, to have a say in the threshold
RESOLUTION = 0.005  # Å; nearer to the minimum nothing is saved


class Starts(NamedTuple):
    """Predictions with their truth; arrays [n]."""

    before: np.ndarray  # Å, error of the start
    after: np.ndarray  # Å, error of the prediction
    sources: np.ndarray
    accepted: np.ndarray
    expected: np.ndarray  # Å
    interval: np.ndarray  # [n, 2] Å
    harm: np.ndarray  # probability of material harm
    saving: np.ndarray  # expected ln(before / after)

    def take(self, mask):
        """Some of them."""
        return Starts(*(values[mask] for values in self))

    @property
    def savings(self):
        """True ln(before / after) [n]."""
        return np.log(np.maximum(self.before, RESOLUTION) / np.maximum(self.after, RESOLUTION))

    @property
    def harmed(self):
        """Which predictions are materially further from the relaxed structure than the start."""
        return self.after > 1.1 * self.before + 0.02


class Point(NamedTuple):
    """What comes of accepting up to a probability of harm."""

    max_harm: float
    accepted: float
    saving: float  # mean over sources of the mean ln(error of the start / of what is served)
    harmed: dict  # by source, bound of the share that is served a materially worse start


def collect(predictor, pairs, **options):
    """Predict from every start; what has no expected error is left out."""
    rows = []
    for index, found in enumerate(predictor.predict([pairs[i].build_initial() for i in range(len(pairs))], **options)):
        if found.structure is None or found.expected_error is None:
            continue
        pair = pairs[index]
        relaxed = pair.build_relaxed()
        errors = (measure_errors(side, relaxed).combined for side in (pair.build_initial(), found.structure))
        accepted = found.verdict == "accept"
        rows.append((*errors, pairs.sources[index], accepted, found.expected_error, found.error_interval,
                     found.harm_probability, found.expected_saving))  # fmt: skip
    return Starts(*map(np.array, zip(*rows, strict=True)))


def collect_all(predictor, pairs):
    """All starts, and better ones of a third of the pairs."""
    parts = (collect(predictor, pairs), collect(predictor, vary_starts(pairs.select(range(0, len(pairs), 3)))))
    return Starts(*map(np.concatenate, zip(*parts, strict=True)))


def rank_correlation(a, b):
    """Spearman's."""
    ranks = [np.argsort(np.argsort(values)) for values in (a, b)]
    return float(np.corrcoef(*ranks)[0, 1])


def group(sources):
    """Names and masks: all raw starts, every source, and all better starts."""
    near = np.char.endswith(sources, NEAR)
    groups = {"all": ~near} | {name: sources == name for name in sorted(set(sources[~near].tolist()))}
    return groups | ({"better starts": near} if near.any() else {})


def print_tables(data, max_harm, unseen):
    """Coverage and rank correlation; saving, harm, refusals and errors before and after the guard."""
    low, high = (data.interval / data.expected[:, None]).mean(axis=0)
    holds = find_held(data)
    print(f"\nIntervals of 90%, from {low:.2f} to {high:.2f} times the expected error\n")
    print("| starts | n | mean error, Å | mean expected, Å | rank correlation | coverage | not in the calibration |")
    print("|---|---|---|---|---|---|---|")
    for name, mask in group(data.sources).items():
        other = f"{unseen[name]:.3f}" if name in unseen else ""
        print(
            f"| {name} | {mask.sum()} | {data.after[mask].mean():.3f} | {data.expected[mask].mean():.3f} "
            f"| {rank_correlation(data.expected[mask], data.after[mask]):.2f} | {holds[mask].mean():.3f} | {other} |"
        )
    print(
        f"\nGuard: a saving is expected, and the probability of material harm is at most {max_harm:.3f}. Errors "
        "are displacement + 2.5 Å · strain, Å. Saving: of the most, the better of initial and predicted.\n"
    )
    print_guard(data)


def find_held(data):
    """Which errors [n] lie in their interval."""
    return (data.after >= data.interval[:, 0]) & (data.after <= data.interval[:, 1])


def print_guard(data):
    """What a guard saves, harms and serves."""
    accepted, harmed, savings, worse = data.accepted, data.harmed, data.savings, data.after > data.before
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


def leave_one_out(predictor, val, test):
    """Coverage on each source of `test`, and the starts of each source of `val`, by guards that have not seen it."""
    coverage, parts = {}, []
    for name in sorted(set(val.sources)):
        inside = [source == name for source in val.sources]
        unseen = recalibrate(predictor, val.select(np.flatnonzero(np.logical_not(inside))))
        parts.append(collect_all(unseen, val.select(np.flatnonzero(inside))))
        if name in test.sources:
            own = collect(unseen, test.select([i for i, source in enumerate(test.sources) if source == name]))
            coverage[name] = find_held(own).mean()
    return coverage, Starts(*map(np.concatenate, zip(*parts, strict=True)))


def trace(data, n_points=60):
    """The guard's curve: thresholds at even shares of acceptance; of n starts, k harmed, (k+1)/(n+1) is stated."""
    sources, points = np.where(np.char.endswith(data.sources, NEAR), "better starts", data.sources), []
    names = np.unique(sources)
    for limit in np.unique(np.quantile(data.harm, np.linspace(0.02, 1.0, n_points))):
        accepted = (data.harm <= limit) & (data.saving > 0)
        gains, harmed = data.savings * accepted, data.harmed & accepted
        bounds = {
            str(name): float((harmed[sources == name].sum() + 1) / ((sources == name).sum() + 1))
            for name in names
            if (sources == name).sum() >= MIN_STARTS
        }
        saving = float(np.mean([gains[sources == name].mean() for name in names]))
        points.append(Point(float(limit), float(accepted.mean()), saving, bounds or {"all": float(harmed.mean())}))
    return points


def print_curve(val, max_harm):
    """Thresholds, on the pairs that chose one, each source judged by coefficients fitted without it."""
    curve = trace(val)
    best, chosen = max(curve, key=lambda point: point.saving), min(curve, key=lambda p: abs(p.max_harm - max_harm))
    print(f"\nThe threshold on {len(val.after)} validation starts; goal: material harm below {HARM_GOAL:.0%} for every "
          f"source, {NEAR_GOAL:.0%} for better starts; sources judged by what was fitted without them\n")  # fmt: skip
    print("| probability of harm up to | accepted, % | saving, mean ln(error before / served) | of the most "
          "| bound of a source's harm, % | |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for number, point in enumerate(curve):
        if point not in (chosen, best) and number % 6:
            continue
        words = "**nearest to the chosen one**" if point is chosen else "most saved" if point is best else ""
        print(
            f"| {point.max_harm:.3f} | {100 * point.accepted:.0f} | {point.saving:.3f} "
            f"| {point.saving / best.saving:.2f} | {100 * max(point.harmed.values()):.1f} | {words} |"
        )
    return curve


def draw(data, max_harm, curve, path):
    """Error against expected error, and the curve of the threshold."""
    expected, accepted = data.expected, data.accepted
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for mask, color, label in ((accepted, "tab:blue", "accepted"), (~accepted, "tab:orange", "refused")):
        left.scatter(expected[mask], data.after[mask], s=3, alpha=0.4, color=color, label=label, linewidths=0)
    ends = np.array([expected.min(), expected.max()])
    left.plot(ends, ends, color="black", linewidth=0.8)
    for factor in (data.interval / expected[:, None]).mean(axis=0):
        left.plot(ends, ends * factor, color="black", linewidth=0.8, linestyle="--")
    left.set(xscale="log", yscale="log", xlabel="expected error, Å", ylabel="error, Å", title="held-out pairs")
    left.legend(markerscale=4)
    limits = [point.max_harm for point in curve]
    right.plot(limits, [point.saving for point in curve], color="tab:blue", label="saving, mean ln(before / served)")
    right.plot(limits, [point.accepted for point in curve], color="tab:green", label="share accepted")
    worst = [max(point.harmed.values()) for point in curve]
    right.plot(limits, worst, color="tab:red", label="materially harmed, worst source")
    right.axvline(max_harm, color="black", linewidth=0.8)
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
    for path in paths:
        pairs = load_pairs([path])
        chosen = pairs.select(choose_pairs(pairs.sources, arguments.judged))
        print(f"\nOf {path.name} at most {arguments.judged} pairs of a source; the guard alone\n")
        print_guard(collect(predictor, chosen))
        print(f"\nWith the second opinion of {arguments.second_opinion}\n")
        print_guard(collect(predictor, chosen, second_opinion=arguments.second_opinion))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", type=Path)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--model", default="default")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--shifted", type=Path)
    parser.add_argument("--second-opinion")
    parser.add_argument("--judged", type=int, default=120)
    parser.add_argument("--limit", type=int, help="pairs of a source at most, of TEST and VAL; none: all")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    predictor = Predictor.load(arguments.model)
    if "trust" not in predictor.calibration:
        raise SystemExit(f"model {predictor.model_id} has no calibration of trust; export it again")
    max_harm = predictor.calibration["trust"]["max_harm"]
    test, val = (load_pairs([path]) for path in (arguments.test, arguments.val))
    if arguments.limit:
        test, val = (pairs.select(choose_pairs(pairs.sources, arguments.limit)) for pairs in (test, val))
    data = collect_all(predictor, test)
    coverage, unseen = leave_one_out(predictor, val, test)
    print(f"Model {predictor.model_id}; {len(data.after)} starts of {arguments.test.name}")
    print_tables(data, max_harm, coverage)
    curve = print_curve(unseen, max_harm)
    if arguments.second_opinion:
        print_opinions(predictor, [path for path in (arguments.test, arguments.shifted) if path], arguments)
    elif arguments.shifted:
        print(f"\nThe same guard on {arguments.shifted.name}\n")
        print_guard(collect(predictor, load_pairs([arguments.shifted])))
    if arguments.figure:
        draw(data, max_harm, curve, arguments.figure)


if __name__ == "__main__":
    main()
