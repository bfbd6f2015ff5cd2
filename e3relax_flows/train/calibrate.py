"""Fit the trust in a model on pairs outside of its training: expected error, saving, harm, threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from e3relax_flows.core.savings import find_harmed, measure_savings
from e3relax_flows.predict.predictor import Predictor
from e3relax_flows.predict.trust import SIGNALS, TrustModel, take_logs
from e3relax_flows.schemas.predictions import GuardLimits, PredictOptions
from e3relax_flows.train.dataset import PairSet
from e3relax_flows.train.evaluate import combine_errors, measure_predictions
from e3relax_flows.train.metrics import measure_pair
from e3relax_flows.train.pairs import join_pairs

Floats = NDArray[np.float64]

COVERAGE = 0.9
HARM_GOAL = 0.03  # material harm: of all structures, for every source
NEAR_GOAL = 0.08  # of the better starts, a fifth of which are minima: more than in any screen
SHOWN = 0.05  # probability of as much harm below which a guard does not keep the goals
MIN_PAIRS = 50  # of a source, to count for the threshold; and starts to which a guard is adapted
MIN_STARTS = 500  # from fewer, of which some dozens are harmed, nine coefficients cannot be fitted
NEAR = " (near)"  # added to the source of a pair whose start was made better
BETTER = "better starts"  # all of these as one source
RIDGE = 1.0  # penalty of the coefficients, the intercept's excepted
# How far the coefficients of a guard may be from those of its parent, standard deviations, and that of a single saving
# from its expectation: of the tested values (benchmarks/results/label_value.md) these kept most of the saving.
PARENT_INTERCEPT, PARENT_SLOPE, SAVING_NOISE = 1.0, 0.3, 0.6
MOST_HARM = 0.5  # upper limit of an adapted threshold
MARGIN = 0.1  # fraction by which an adapted guard must save more than the parent's; less may be chance


class CalibrationSet(NamedTuple):
    """Predictions with their true errors."""

    logs: Floats  # [n, 1 + n_signals] ones and logarithms of the signals
    signals: tuple[str, ...]
    before: Floats  # [n] Å, error of the start
    after: Floats  # [n] Å, error of the prediction
    sources: NDArray[np.str_]  # [n]

    def take(self, mask: NDArray[np.bool_]) -> CalibrationSet:
        """Some of the starts."""
        return CalibrationSet(self.logs[mask], self.signals, self.before[mask], self.after[mask], self.sources[mask])


class Judgement(NamedTuple):
    """Expectations of the guard for each start of a calibration set."""

    harm: Floats  # [n] probability of material harm
    saving: Floats  # [n] expected ln(error of the start / error of the prediction)

    def accept(self, limit: float) -> NDArray[np.bool_]:
        """Which predictions [n] a limit on the probability of harm accepts."""
        return (self.harm <= limit) & (self.saving > 0)


class Threshold(NamedTuple):
    """One point of the guard's curve: the result of accepting up to a probability of harm."""

    max_harm: float
    accepted: float  # share
    saving: float  # mean over sources of the mean ln(error of the start / error of what is served)
    harmed: dict[str, float]  # by source, bound of the share of structures with a materially worse start

    def exceed(self, goal: float) -> float:
        """Excess of the worst source over its goal; at most 0 if all keep it."""
        return max(share - (NEAR_GOAL if source == BETTER else goal) for source, share in self.harmed.items())


def collect(predictor: Predictor, pairs: PairSet, options: PredictOptions | None = None) -> CalibrationSet:
    """Predict from the initial side of every pair without guards; predictions without a score are left out."""
    unguarded = GuardLimits(max_harm=1.0)
    options = (options or PredictOptions()).model_copy(update={"guards": unguarded})
    rows = [pairs[i] for i in range(len(pairs))]
    predictions = predictor.predict([pair.build_initial() for pair in rows], options, ids=pairs.ids)
    known = [i for i, prediction in enumerate(predictions) if "residual" in prediction.signals]
    identity = np.array([measure_pair(p.initial_fractions, p.initial_lattice, p) for p in rows])
    shared = set(SIGNALS)
    for i in known:
        shared &= predictions[i].signals.keys()
    names = tuple(name for name in SIGNALS if name in shared)
    return CalibrationSet(
        take_logs([predictions[i].signals for i in known], names),
        names,
        combine_errors(identity)[known],
        combine_errors(measure_predictions(predictions, pairs))[known],
        np.array(pairs.sources)[known],
    )


def vary_starts(pairs: PairSet, seed: int = 0) -> PairSet:
    """The same pairs from better starts: the relaxed structures, with noise or not, or most of the way to them.

    Their sources get " (near)"; together they count as one source.

    Examples
    --------
    >>> import numpy as np
    >>> from e3relax_flows import PairSet, vary_starts
    >>> pairs = PairSet(
    ...     ids=["CsCl"], sources=["mine"], first=np.array([0, 2]), numbers=np.array([55, 17]),
    ...     fractions=np.array([[[0, 0, 0], [0.5, 0.5, 0.5]]] * 2), lattices=np.eye(3) * [[[[4.4]]], [[[4.12]]]],
    ... )
    >>> better = vary_starts(pairs)
    >>> better.sources, round(better[0].build_initial().lattice.a, 2)
    (['mine (near)'], 4.12)
    """
    rng = np.random.default_rng(seed)
    fractions, lattices = pairs.fractions.copy(), pairs.lattices.copy()
    for index in range(len(pairs)):
        part, noise = ((0.0, 0.0), (0.0, 0.02), (0.0, 0.05), (0.15, 0.0), (0.3, 0.01))[index % 5]
        atoms = slice(int(pairs.first[index]), int(pairs.first[index + 1]))
        strain = 0.2 * noise * rng.normal(size=(3, 3))
        lattice = lattices[1, index] + part * (lattices[0, index] - lattices[1, index])
        lattices[0, index] = lattice @ (np.eye(3) + 0.5 * (strain + strain.T))
        moves = noise * rng.normal(size=fractions[1, atoms].shape) @ np.linalg.inv(lattices[0, index])
        fractions[0, atoms] = fractions[1, atoms] + part * (fractions[0, atoms] - fractions[1, atoms]) + moves
    sources = [source + NEAR for source in pairs.sources]
    return replace(pairs, fractions=fractions, lattices=lattices, sources=sources)


def fit_trust(data: CalibrationSet, goal: float = HARM_GOAL) -> TrustModel:
    """Fit the expectations, and choose the threshold that saves most among those that keep the goals.

    For saving and the risk of harm every source counts the same, so that no kind of crystal dominates. The
    threshold is judged on every source by coefficients that were fitted without it, so that it holds under shift.
    """
    error = fit_line(data.logs, np.log(np.maximum(data.after, 1e-6)))
    rest = np.log(np.maximum(data.after, 1e-6)) - data.logs @ error
    interval = find_interval(rest, data.sources)
    harm, saving = fit_guard(data)
    limit = choose_max_harm(trace_thresholds(data, judge_unseen(data)), goal)
    return TrustModel(
        data.signals, tuple(error.tolist()), tuple(harm.tolist()), interval, COVERAGE, limit, tuple(saving.tolist())
    )


def fit_guard(data: CalibrationSet) -> tuple[Floats, Floats]:
    """Coefficients of the log-odds of material harm and of the saving."""
    counts = balance_sources(data.sources)
    harm = fit_odds(data.logs, find_harmed(data.before, data.after), counts)
    return harm, fit_line(data.logs, measure_savings(data.before, data.after), counts)


def judge_starts(data: CalibrationSet, harm: Floats, saving: Floats | None) -> Judgement:
    """Expectations by the guard's coefficients; without those of the saving, every prediction is expected to save."""
    savings = np.ones(len(data.logs)) if saving is None else data.logs @ saving
    return Judgement(find_harm(data.logs, harm), savings)


def judge_unseen(data: CalibrationSet) -> Judgement:
    """Expectations for each source by a guard that was fitted without it; a single source is included in its fit."""
    names = np.char.replace(data.sources, NEAR, "")
    sources = np.unique(names)
    if len(sources) == 1:
        return judge_starts(data, *fit_guard(data))
    found = Judgement(np.empty(len(names)), np.empty(len(names)))
    for source in sources:
        left_out = names == source
        judged = judge_starts(data.take(left_out), *fit_guard(data.take(~left_out)))
        found.harm[left_out], found.saving[left_out] = judged
    return found


def find_interval(rest: Floats, sources: NDArray[np.str_]) -> tuple[float, float]:
    """Ends of the interval of logarithmic errors that covers every source, as that of the next one is unknown."""
    tail = (1.0 - COVERAGE) / 2
    parts = [rest[mask] for mask in _list_judges(sources).values()]
    return (min(find_quantile(part, tail) for part in parts), max(find_quantile(part, 1.0 - tail) for part in parts))


def _list_judges(sources: NDArray[np.str_]) -> dict[str, NDArray[np.bool_]]:
    """Masks of the sources that count, better starts as one; sources that are too small are counted together."""
    pooled = pool_sources(sources)
    masks = {str(source): pooled == source for source in np.unique(pooled)}
    judges = {source: mask for source, mask in masks.items() if mask.sum() >= MIN_PAIRS}
    return judges or {"all": np.full(len(sources), True)}


def find_quantile(values: Floats, share: float) -> float:
    """Conformal quantile: with n values, the ceil((n+1)·share)-th for an upper end, mirrored for a lower."""
    if share < 0.5:
        return -find_quantile(-values, 1.0 - share)
    rank = min(int(np.ceil((len(values) + 1) * share)), len(values))
    return float(np.sort(values)[rank - 1])


def fit_line(logs: Floats, target: Floats, counts: Floats | None = None) -> Floats:
    """Least squares with a small ridge; `counts` [n] are the weights of the rows."""
    weighted = logs if counts is None else logs * counts[:, None]
    return np.asarray(np.linalg.solve(weighted.T @ logs + _penalty(logs), weighted.T @ target), dtype=np.float64)


def pool_sources(sources: NDArray[np.str_]) -> NDArray[np.str_]:
    """The sources, with all better starts as one."""
    return np.where(np.char.endswith(sources, NEAR), BETTER, sources)


def balance_sources(sources: NDArray[np.str_]) -> Floats:
    """Weights [n], 1 in the mean, with which every source counts the same."""
    _, index, counts = np.unique(pool_sources(sources), return_inverse=True, return_counts=True)
    return (len(sources) / len(counts) / counts)[index]


def fit_odds(
    logs: Floats, flags: NDArray[np.bool_], counts: Floats, prior: tuple[Floats, Floats] | None = None
) -> Floats:
    """Logistic regression by Newton's method; `counts` [n] are the weights of the rows.

    `prior` are means and precisions of the coefficients; None: a small ridge.
    """
    mean, penalty = (np.zeros(logs.shape[1]), _penalty(logs)) if prior is None else (prior[0], np.diag(prior[1]))
    weights = mean.copy()
    for _ in range(50):
        chance = find_harm(logs, weights)
        gradient = logs.T @ (counts * (chance - flags)) + penalty @ (weights - mean)
        curvature = (logs * (counts * chance * (1 - chance))[:, None]).T @ logs + penalty + 1e-9 * np.eye(len(weights))
        change = np.linalg.solve(curvature, gradient)
        weights -= change * min(1.0, 5.0 / max(float(np.abs(change).max()), 1e-12))
        if np.abs(change).max() < 1e-8:
            break
    return weights


def _penalty(logs: Floats) -> Floats:
    penalty = RIDGE * np.eye(logs.shape[1])
    penalty[0, 0] = 1e-6
    return penalty


def find_harm(logs: Floats, weights: Floats) -> Floats:
    """Probabilities of harm [n]."""
    return 1.0 / (1.0 + np.exp(-np.clip(logs @ weights, -50.0, 50.0)))


def trace_thresholds(data: CalibrationSet, judged: Judgement, n_points: int = 60) -> list[Threshold]:
    """The guard's curve: thresholds at even shares of acceptance."""
    limits = np.unique(np.quantile(judged.harm, np.linspace(0.02, 1.0, n_points)))
    return [measure_threshold(data, judged, float(limit)) for limit in limits]


def measure_threshold(data: CalibrationSet, judged: Judgement, limit: float) -> Threshold:
    """Result of a threshold; sources that are too small are counted together.

    With k of n starts harmed, the bound is (k + 1) / (n + 1): conformal control of the risk of the next one.
    """
    sources, accepted = pool_sources(data.sources), judged.accept(limit)
    gains = measure_savings(data.before, data.after) * accepted
    harmed = accepted & find_harmed(data.before, data.after)
    shares = {
        source: float((harmed[mask].sum() + 1) / (mask.sum() + 1))
        for source, mask in _list_judges(data.sources).items()
    }
    saving = float(np.mean([gains[sources == source].mean() for source in np.unique(sources)]))
    return Threshold(limit, float(accepted.mean()), saving, shares)


def choose_max_harm(curve: Sequence[Threshold], goal: float) -> float:
    """The threshold that saves most among those that keep material harm below the goals for every source.

    If none does, the one that saves most among those nearest to the goals.
    """
    least = max(min(point.exceed(goal) for point in curve), 0.0)
    kept = [point for point in curve if point.exceed(goal) <= least]
    return max(kept, key=lambda point: point.saving).max_harm


def keep_trust(known: TrustModel, data: CalibrationSet, goal: float = HARM_GOAL) -> TrustModel:
    """Trust of another model; its threshold is lowered if more harm than the goals is significant, never raised.

    It becomes the one that saves most among those without significant harm. A few starts alone are no
    evidence: for 30 without any harm the bound of `measure_threshold` is above the goal.
    """
    judged = judge_by(known, data)
    if not is_harm_shown(data, judged.accept(known.max_harm), goal):
        return known
    curve = [point for point in trace_thresholds(data, judged) if point.max_harm < known.max_harm]
    kept = [point for point in curve if not is_harm_shown(data, judged.accept(point.max_harm), goal)]
    return replace(known, max_harm=max(kept, key=lambda point: point.saving).max_harm if kept else 0.0)


def adapt_trust(known: TrustModel, data: CalibrationSet, goal: float = HARM_GOAL) -> TrustModel:
    """Trust of another model, adapted to starts that are too few for a fit of their own, if that saves more.

    Fine-tuning changes the errors that the network expects of itself. A kept guard then refuses useful predictions,
    or accepts harmful ones. So its coefficients are fitted with those of the parent as the mean of a Gaussian prior
    (maximum a posteriori). Its threshold is moved to keep harm within the goals. It replaces the kept guard
    (`keep_trust`) if it saves more on these starts, by `MARGIN`; never for fewer than `MIN_PAIRS` starts, to which
    any guard could be fitted.
    """
    kept = keep_trust(known, data, goal)
    if known.saving is None or len(data.after) < MIN_PAIRS:
        return kept
    mean = (np.array(known.harm), np.array(known.saving))
    spread = np.full(data.logs.shape[1], PARENT_SLOPE)
    spread[0] = PARENT_INTERCEPT
    flags, ones = find_harmed(data.before, data.after), np.ones(len(data.after))
    harm = fit_odds(data.logs, flags, ones, (mean[0], 1 / spread**2))
    savings = measure_savings(data.before, data.after) - data.logs @ mean[1]
    weighted = data.logs / SAVING_NOISE**2
    change = np.linalg.solve(weighted.T @ data.logs + np.diag(1 / spread**2), weighted.T @ savings)
    own = replace(known, harm=tuple(harm.tolist()), saving=tuple((mean[1] + change).tolist()))
    adapted = keep_trust(own, data, goal)
    judged = judge_by(own, data)
    limits = [limit for limit in np.unique(judged.harm) if is_harm_within(data, judged.accept(limit), goal)]
    guards = [adapted, *(replace(own, max_harm=min(float(limit), MOST_HARM)) for limit in limits)]
    best = max(guards, key=lambda guard: measure_gain(guard, data))
    gain = measure_gain(kept, data)
    return best if measure_gain(best, data) > gain + MARGIN * abs(gain) else kept


def measure_gain(trust: TrustModel, data: CalibrationSet) -> float:
    """Saving of a guard on the starts: sum of ln(error of the start / error of what is served)."""
    accepted = judge_by(trust, data).accept(trust.max_harm)
    return float(measure_savings(data.before, data.after)[accepted].sum())


def is_harm_shown(data: CalibrationSet, accepted: NDArray[np.bool_], goal: float = HARM_GOAL) -> bool:
    """Whether the number of harmed starts is significantly above the goals (5 %).

    Better starts have a goal of their own; each kind is a one-sided binomial test. A fifth of them are minima, which
    nothing can improve: fewer than `MIN_PAIRS` show where these fell, not what a screen would meet.
    """
    original, better = _count_harmed(data, accepted, goal)
    kinds = [original, better] if better[1] >= MIN_PAIRS else [original]
    return any(binom.sf(k - 1, n, allowed) < SHOWN for k, n, allowed in kinds)


def is_harm_within(data: CalibrationSet, accepted: NDArray[np.bool_], goal: float = HARM_GOAL) -> bool:
    """Whether the goals are kept as `measure_threshold` states them: of n starts of which k are harmed (k+1)/(n+1)."""
    return all((k + 1) / (n + 1) <= allowed for k, n, allowed in _count_harmed(data, accepted, goal) if n)


def _count_harmed(data: CalibrationSet, accepted: NDArray[np.bool_], goal: float) -> list[tuple[int, int, float]]:
    """Harmed ones, all, and the goal, of the original and of the better starts."""
    harmed, near = accepted & find_harmed(data.before, data.after), np.char.endswith(data.sources, NEAR)
    return [(int(harmed[kind].sum()), int(kind.sum()), allowed) for kind, allowed in ((~near, goal), (near, NEAR_GOAL))]


def describe_trust(trust: TrustModel) -> dict[str, Any]:
    """The entry of a calibration that `TrustModel.from_calibration` reads."""
    values = {name: value for name, value in asdict(trust).items() if value is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def judge_by(trust: TrustModel, data: CalibrationSet) -> Judgement:
    """Expectations of a calibrated guard for the starts."""
    return judge_starts(data, np.array(trust.harm), np.array(trust.saving) if trust.saving else None)


def calibrate(
    predictor: Predictor,
    pairs: PairSet,
    options: PredictOptions | None = None,
    parent: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The calibration to store with a model: its trust, the number of starts of the fit, and the share refused.

    A third of the pairs is used a second time, from better starts, which also occur in screens.

    Parameters
    ----------
    parent
        Calibration of the model that training began with. Its trust is kept, or adapted (`adapt_trust`), if there
        are fewer than `MIN_STARTS` starts, and fewer than in its own fit: a guard fitted to tens of starts
        accepts almost everything.
    """
    better = vary_starts(pairs.select(range(0, len(pairs), 3)))
    data = collect(predictor, join_pairs([pairs, better]), options)
    trust, n_fitted = fit_trust(data), len(data.after)
    known = TrustModel.from_calibration(parent or {})
    n_known = int((parent or {}).get("n_fitted", (parent or {}).get("n_pairs", 0)))
    if known is not None and known.signals == trust.signals and n_fitted < min(MIN_STARTS, n_known):
        trust, n_fitted = adapt_trust(known, data), n_known
    return {
        "adapted": known is not None and n_fitted == n_known and trust.harm != known.harm,
        "trust": describe_trust(trust),
        "n_fitted": n_fitted,
        "n_pairs": len(data.after),
        "refused": float(1 - judge_by(trust, data).accept(trust.max_harm).mean()),
    }
