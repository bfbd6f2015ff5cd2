from __future__ import annotations

import numpy as np
import pytest

from e3relax_flows.core.savings import find_harmed, measure_savings
from e3relax_flows.predict.trust import SIGNALS, TrustModel, take_logs
from e3relax_flows.train import calibrate as calibrate_module
from e3relax_flows.train.calibrate import (
    MIN_PAIRS,
    MIN_STARTS,
    NEAR_GOAL,
    CalibrationSet,
    Judgement,
    adapt_trust,
    balance_sources,
    calibrate,
    choose_max_harm,
    describe_trust,
    find_harm,
    find_interval,
    find_quantile,
    fit_guard,
    fit_odds,
    fit_trust,
    is_harm_shown,
    judge_by,
    judge_starts,
    judge_unseen,
    keep_trust,
    measure_gain,
    measure_threshold,
    trace_thresholds,
    vary_starts,
)
from e3relax_flows.train.dataset import load_pairs


def make_data(seed, n=4000, sources=("a", "b")):
    """Errors that scatter by e^±0.5 about the residual, starts that are off by what was moved and as much again."""
    rng = np.random.default_rng(seed)
    residual, moved = np.exp(rng.normal(-3, 0.7, n)), np.exp(rng.normal(-2.5, 1.0, n))
    after = (residual + 1e-3) * np.exp(rng.normal(0, 0.5, n))
    before = moved * np.exp(rng.normal(0, 0.5, n))
    rows = [{"residual": r, "displacement": m} for r, m in zip(residual, moved, strict=True)]
    names = ("residual", "displacement")
    return CalibrationSet(take_logs(rows, names), names, before, after, rng.choice(sources, n))


def test_trust_covers_new_data_of_the_same_kind_and_knows_the_risk():
    trust = fit_trust(make_data(0))
    new = make_data(1)
    expected = [trust.expect({"residual": np.exp(a) - 1e-3, "displacement": np.exp(b) - 1e-3}) for _, a, b in new.logs]
    low, high = np.array([e.low for e in expected]), np.array([e.high for e in expected])
    assert np.mean((low <= new.after) & (new.after <= high)) == pytest.approx(0.9, abs=0.02)
    assert np.mean(new.after <= [e.error for e in expected]) == pytest.approx(0.5, abs=0.03)
    risk, harmed = np.array([e.harm for e in expected]), find_harmed(new.before, new.after)
    for lower, upper in ((0.0, 0.1), (0.1, 0.4), (0.4, 0.7), (0.7, 1.0)):
        inside = (risk >= lower) & (risk < upper)
        assert harmed[inside].mean() == pytest.approx(risk[inside].mean(), abs=0.05)
    savings = measure_savings(new.before, new.after)
    said = np.array([e.saving for e in expected])
    assert np.mean(said) == pytest.approx(np.mean(savings), abs=0.05)
    for lower, upper in ((-2, -0.5), (-0.5, 0.5), (0.5, 2)):
        inside = (said >= lower) & (said < upper)
        assert savings[inside].mean() == pytest.approx(said[inside].mean(), abs=0.15)
    accepted = (risk <= trust.max_harm) & (said > 0)
    assert 0.2 < accepted.mean() < 0.9
    assert (harmed & accepted).mean() < 0.04
    assert harmed.mean() > 0.2
    # of what an oracle saves, who sees the errors
    assert savings[accepted].sum() > 0.7 * np.maximum(savings, 0).sum()


def test_threshold_saves_most_among_those_that_keep_the_goal():
    data = make_data(2)
    curve = trace_thresholds(data, judge_starts(data, *fit_guard(data)))
    best, bold = choose_max_harm(curve, 0.03), choose_max_harm(curve, 1.0)
    assert best < bold
    kept = [point for point in curve if max(point.harmed.values()) <= 0.03]
    assert max(kept, key=lambda point: point.saving).max_harm == best
    assert max(curve, key=lambda point: point.saving).max_harm == bold
    strictest = min(max(point.harmed.values()) for point in curve)
    (least,) = {max(p.harmed.values()) for p in curve if p.max_harm == choose_max_harm(curve, -1.0)}
    assert least == strictest
    assert [point.accepted for point in curve] == sorted(point.accepted for point in curve)
    assert curve[-1].accepted < 1.0  # nothing is to be saved by the others


def test_rare_sources_have_no_say():
    data = make_data(3, n=300)
    rare = data._replace(sources=np.where(np.arange(300) < 49, "rare", "common"))
    curve = trace_thresholds(rare, Judgement(np.linspace(0, 1, 300), np.ones(300)))
    assert all(point.harmed.keys() == {"common"} for point in curve)


def test_sources_too_small_for_a_say_have_one_together():
    data = make_data(3, n=60, sources=("a", "b"))
    judged, harmed = Judgement(np.linspace(0, 1, 60), np.ones(60)), find_harmed(data.before, data.after)
    curve = trace_thresholds(data, judged)
    assert curve[-1].harmed == {"all": pytest.approx((harmed.sum() + 1) / 61)}
    limit = choose_max_harm(curve, 0.03)
    assert np.mean(judged.accept(limit) & harmed) <= 0.03
    assert limit < choose_max_harm(curve, 1.0)


def test_a_kept_threshold_is_only_ever_lowered():
    """By few pairs of another kind: none to complain of, and some that the model makes worse."""
    known = fit_trust(make_data(0))
    few = make_data(5, n=60)
    fine = few._replace(after=np.minimum(few.after, 0.9 * few.before))
    assert keep_trust(known, fine) == known
    bad = few._replace(after=2.0 * few.before + 0.02)
    kept = keep_trust(known, bad)
    assert (kept.harm, kept.error, kept.interval) == (known.harm, known.error, known.interval)
    judged = judge_by(known, bad)
    before, after = (measure_threshold(bad, judged, trust.max_harm) for trust in (known, kept))
    assert before.harmed["all"] == pytest.approx((judged.accept(known.max_harm).sum() + 1) / 61)
    assert after.harmed["all"] < 0.05 < before.harmed["all"]
    assert kept.max_harm < known.max_harm


def test_a_guard_that_became_too_strict_is_adapted_and_one_that_is_right_is_kept():
    """After fine-tuning the network expects twice the errors; 80 starts show that these are what they were."""
    known, few, new = fit_trust(make_data(0)), make_data(5, n=80), make_data(6)
    kept = adapt_trust(known, few)
    assert abs(measure_gain(kept, new) / measure_gain(known, new) - 1) < 0.1

    def shift(data):
        logs = data.logs.copy()
        logs[:, 1] += np.log(2.0)  # the residual
        return data._replace(logs=logs)

    adapted = adapt_trust(known, shift(few))
    assert (adapted.error, adapted.interval, adapted.signals) == (known.error, known.interval, known.signals)
    strict, best = measure_gain(known, shift(new)), measure_gain(known, new)
    assert strict < 0.8 * best
    assert measure_gain(adapted, shift(new)) > strict + 0.4 * (best - strict)
    few_starts = shift(make_data(5, n=MIN_PAIRS - 1))  # these can fit anything
    assert adapt_trust(known, few_starts) == keep_trust(known, few_starts)
    harmed = judge_by(adapted, shift(new)).accept(adapted.max_harm) & find_harmed(new.before, new.after)
    assert harmed.mean() < 0.05
    assert adapted.max_harm <= 0.5


def test_a_guard_is_not_adapted_to_starts_that_are_harmed():
    known, few = fit_trust(make_data(0)), make_data(5, n=60)
    bad = few._replace(after=2.0 * few.before + 0.02)
    adapted = adapt_trust(known, bad)
    assert not judge_by(adapted, bad).accept(adapted.max_harm).any()


@pytest.mark.parametrize(
    ("n", "n_harmed", "n_near", "is_shown"),
    [
        (20, 0, 0, False),
        (20, 2, 0, False),  # 12 % of the guards that harm 3 % harm as many
        (20, 3, 0, True),  # 2 % of them
        (40, 12, 20, False),  # the last twenty are better starts, too few to count
        (80, 8, 60, False),  # 10 % of the guards that harm 8 % of the better starts
        (80, 10, 60, True),  # 2 %
    ],
)
def test_a_few_harmed_starts_show_nothing(n, n_harmed, n_near, is_shown):
    data = make_data(10, n=n)
    near = np.arange(n) >= n - n_near
    after = np.where(np.arange(n) >= n - n_harmed, 2.0 * data.before + 0.1, 0.5 * data.before)
    data = data._replace(after=after, sources=np.where(near, "a (near)", "a"))
    assert is_harm_shown(data, np.full(n, True)) == is_shown


@pytest.mark.parametrize(
    ("n_starts", "n_known", "is_kept"),
    [
        (MIN_STARTS - 1, 4000, True),
        (MIN_STARTS, 4000, False),  # enough to be fitted to
        (60, 40, False),  # the parent's is of fewer still
        (60, None, False),  # trained from nothing
    ],
)
def test_few_validation_pairs_keep_the_guard_of_the_parent(config_file, monkeypatch, n_starts, n_known, is_kept):
    pairs, starts = load_pairs([config_file.parent / "val.jsonl.gz"]), []
    data = make_data(6, n=n_starts)

    def collect(_, given, __):
        starts.extend(given.sources)
        return data

    monkeypatch.setattr(calibrate_module, "collect", collect)
    trust = fit_trust(make_data(0))
    parent = n_known and {"trust": describe_trust(trust), "n_pairs": n_known}
    found = calibrate(None, pairs, parent=parent)
    assert len(starts) == 24 + 8  # a third of them again, from better starts
    assert found["n_pairs"] == n_starts
    assert found["n_fitted"] == (n_known if is_kept else n_starts)
    assert (tuple(found["trust"]["error"]) == trust.error) == is_kept  # harm and saving may be adapted
    final = TrustModel.from_calibration(found)
    assert found["refused"] == pytest.approx(1 - np.mean(judge_by(final, data).accept(final.max_harm)))
    if is_kept:
        grandchild = calibrate(None, pairs, parent=found)
        assert (grandchild["n_fitted"], grandchild["trust"]["harm"]) == (n_known, found["trust"]["harm"])


def test_a_guard_of_other_signals_is_not_kept(config_file, monkeypatch):
    monkeypatch.setattr(calibrate_module, "collect", lambda *_: make_data(6, n=60))
    other = {**describe_trust(fit_trust(make_data(0))), "signals": ["residual", "strain"]}
    found = calibrate(
        None, load_pairs([config_file.parent / "val.jsonl.gz"]), parent={"trust": other, "n_fitted": 4000}
    )
    assert (found["n_fitted"], found["trust"]["signals"]) == (60, ["residual", "displacement"])


def test_calibrations_of_earlier_releases_are_read_and_kept():
    """Any worsening was harm then, and nothing else was looked at."""
    entry = describe_trust(fit_trust(make_data(0)))
    del entry["saving"]
    old = TrustModel.from_calibration({"trust": entry})
    assert old.saving is None
    assert old.expect({"residual": 0.1, "displacement": 0.2}).saving is None
    data = make_data(5, n=60)
    assert judge_by(old, data).accept(1.0).all()
    assert adapt_trust(old, data._replace(after=0.5 * data.before)) == old


def test_a_source_is_judged_by_what_was_fitted_without_it():
    """One source is harmed where the signals promise the contrary: seen it is refused, unseen it is not."""
    honest, false = make_data(7), make_data(8, n=400, sources=("false",))
    false = false._replace(before=0.3 * false.after, sources=np.where(np.arange(400) < 100, "false (near)", "false"))
    data = CalibrationSet(
        np.vstack([honest.logs, false.logs]),
        honest.signals,
        *(np.concatenate([getattr(honest, name), getattr(false, name)]) for name in ("before", "after", "sources")),
    )
    unseen, seen = judge_unseen(data), judge_starts(data, *fit_guard(data))
    is_false = np.char.startswith(data.sources, "false")
    alone = judge_starts(false, *fit_guard(honest))
    assert unseen.harm[is_false] == pytest.approx(alone.harm)
    assert unseen.saving[is_false] == pytest.approx(alone.saving)
    assert unseen.harm[is_false].mean() < seen.harm[is_false].mean() - 0.05
    alone = honest.take(honest.sources == "a")  # one source cannot be left out
    assert judge_unseen(alone).harm == pytest.approx(judge_starts(alone, *fit_guard(alone)).harm)
    curve = trace_thresholds(data, unseen)  # no threshold keeps the goal: the strictest is the nearest
    assert choose_max_harm(curve, 0.03) == curve[0].max_harm
    assert curve[0].harmed["false"] > 0.03


def test_better_starts_have_a_goal_of_their_own():
    data = make_data(9, n=1000)
    near = data._replace(sources=np.where(np.arange(1000) < 500, "a (near)", "a"))
    judged = Judgement(np.linspace(0, 1, 1000), np.ones(1000))
    point = measure_threshold(near, judged, 1.0)
    assert point.harmed.keys() == {"a", "better starts"}
    own = point.harmed["a"] - 0.03
    assert point.exceed(0.03) == pytest.approx(max(own, point.harmed["better starts"] - NEAR_GOAL))


def test_the_interval_covers_every_source():
    """Errors of one source scatter twice as far; where it is too small for a say, it is covered as the others are."""
    rng = np.random.default_rng(3)
    rest = np.concatenate([rng.normal(0, 0.5, 3000), rng.normal(0, 1.0, 600)])
    sources = np.array(["calm"] * 3000 + ["wild"] * 600)
    low, high = find_interval(rest, sources)
    held = (rest >= low) & (rest <= high)
    assert held[3000:].mean() == pytest.approx(0.9, abs=0.01)
    assert held[:3000].mean() > 0.99
    few = slice(0, 3049)
    low, high = find_interval(rest[few], sources[few])
    assert (low, high) == (find_quantile(rest[:3000], 0.05), find_quantile(rest[:3000], 0.95))


def test_every_source_counts_the_same():
    sources = np.array(["a"] * 60 + ["b"] * 20 + ["a (near)"] * 15 + ["b (near)"] * 5)
    weights = balance_sources(sources)
    assert weights.mean() == pytest.approx(1.0)
    sums = [weights[sources == "a"].sum(), weights[sources == "b"].sum(), weights[80:].sum()]
    assert sums == pytest.approx([100 / 3] * 3)
    # an even chance in "a", never in "b": what counts the same in sum has a quarter's chance
    flags, logs = np.arange(80) < 30, np.ones((80, 1))
    chance = find_harm(logs, fit_odds(logs, flags, balance_sources(sources[:80])))
    assert chance == pytest.approx(0.25, abs=1e-3)


def test_conformal_quantiles():
    values = np.arange(1.0, 100.0)  # 99 values: ranks are exact
    assert find_quantile(values, 0.95) == 95.0
    assert find_quantile(values, 0.05) == 5.0
    assert find_quantile(np.array([1.0, 2.0]), 0.95) == 2.0


def test_odds_that_separate_stay_finite():
    logs = np.column_stack([np.ones(40), np.linspace(-1, 1, 40)])
    weights = fit_odds(logs, logs[:, 1] > 0, np.ones(40))
    assert np.isfinite(weights).all()
    assert find_harm(logs, weights)[[0, -1]] == pytest.approx([0.0, 1.0], abs=0.2)
    assert np.isfinite(fit_odds(logs, np.zeros(40, dtype=bool), np.ones(40))).all()


def test_trust_survives_a_file():
    trust = fit_trust(make_data(4))
    assert TrustModel.from_calibration({"trust": describe_trust(trust)}) == trust
    assert TrustModel.from_calibration({}) is None
    assert trust.expect({"residual": 0.1}) is None
    assert set(trust.signals) <= SIGNALS.keys()


def test_better_starts(config_file):
    pairs = load_pairs([config_file.parent / "val.jsonl.gz"])
    better = vary_starts(pairs)
    assert better.ids == pairs.ids
    assert {source.removesuffix(" (near)") for source in better.sources} == set(pairs.sources)
    for index in range(len(pairs)):
        pair, near = pairs[index], better[index]
        assert np.array_equal(near.relaxed_lattice, pair.relaxed_lattice)
        is_relaxed = np.allclose(near.initial_lattice, pair.relaxed_lattice, atol=1e-12) and np.allclose(
            near.initial_fractions, pair.relaxed_fractions, atol=1e-12
        )
        assert is_relaxed == (index % 5 == 0)
        off = np.linalg.norm(near.initial_lattice - pair.relaxed_lattice)
        assert off <= max(0.31 * np.linalg.norm(pair.initial_lattice - pair.relaxed_lattice), 0.2) + 0.05
