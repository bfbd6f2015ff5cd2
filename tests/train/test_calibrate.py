from __future__ import annotations

import numpy as np
import pytest

from e3relax_flows.predict.trust import SIGNALS, TrustModel, take_logs
from e3relax_flows.train import calibrate as calibrate_module
from e3relax_flows.train.calibrate import (
    MIN_STARTS,
    CalibrationSet,
    balance_sources,
    calibrate,
    choose_max_harm,
    find_harm,
    find_quantile,
    fit_odds,
    fit_trust,
    keep_trust,
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


def describe_trust(trust):
    return {name: getattr(trust, name) for name in ("signals", "error", "harm", "interval", "coverage", "max_harm")}


def test_trust_covers_new_data_of_the_same_kind_and_knows_the_risk():
    trust = fit_trust(make_data(0))
    new = make_data(1)
    expected = [trust.expect({"residual": np.exp(a) - 1e-3, "displacement": np.exp(b) - 1e-3}) for _, a, b in new.logs]
    low, high = np.array([e.low for e in expected]), np.array([e.high for e in expected])
    assert np.mean((low <= new.after) & (new.after <= high)) == pytest.approx(0.9, abs=0.02)
    assert np.mean(new.after <= [e.error for e in expected]) == pytest.approx(0.5, abs=0.03)
    risk, harmed = np.array([e.harm for e in expected]), new.after > new.before
    for lower, upper in ((0.0, 0.1), (0.1, 0.4), (0.4, 0.7), (0.7, 1.0)):
        inside = (risk >= lower) & (risk < upper)
        assert harmed[inside].mean() == pytest.approx(risk[inside].mean(), abs=0.05)
    accepted = risk <= trust.max_harm
    assert 0.2 < accepted.mean() < 0.9
    assert (harmed & accepted).mean() < 0.04
    assert harmed.mean() > 0.2


def test_threshold_saves_most_among_those_that_keep_the_goal():
    data = make_data(2)
    curve = trace_thresholds(
        data, find_harm(data.logs, fit_odds(data.logs, data.after > data.before, np.ones(len(data.after))))
    )
    best, bold = choose_max_harm(curve, 0.03), choose_max_harm(curve, 1.0)
    assert best < bold
    kept = [point for point in curve if max(point.harmed.values()) <= 0.03]
    assert max(kept, key=lambda point: point.saving).max_harm == best
    assert max(curve, key=lambda point: point.saving).max_harm == bold
    assert choose_max_harm(curve, -1.0) == curve[0].max_harm
    assert [point.accepted for point in curve] == sorted(point.accepted for point in curve)
    assert curve[-1].accepted == 1.0


def test_rare_sources_have_no_say():
    data = make_data(3, n=300)
    rare = data._replace(sources=np.where(np.arange(300) < 49, "rare", "common"))
    curve = trace_thresholds(rare, np.linspace(0, 1, 300))
    assert all(point.harmed.keys() == {"common"} for point in curve)


def test_sources_too_small_for_a_say_have_one_together():
    data = make_data(3, n=60, sources=("a", "b"))
    harm = np.linspace(0, 1, 60)
    curve = trace_thresholds(data, harm)
    assert curve[-1].harmed == {"all": pytest.approx(np.mean(data.after > data.before))}
    limit = choose_max_harm(curve, 0.03)
    assert np.mean((harm <= limit) & (data.after > data.before)) <= 0.03
    assert limit < choose_max_harm(curve, 1.0)


def test_a_kept_threshold_is_only_ever_lowered():
    """By few pairs of another kind: none to complain of, and some that the model makes worse."""
    known = fit_trust(make_data(0))
    few = make_data(5, n=60)
    fine = few._replace(after=np.minimum(few.after, 0.9 * few.before))
    assert keep_trust(known, fine) == known
    bad = few._replace(after=2.0 * few.before)
    kept = keep_trust(known, bad)
    assert (kept.harm, kept.error, kept.interval) == (known.harm, known.error, known.interval)
    harm = find_harm(bad.logs, np.array(known.harm))
    before, after = (measure_threshold(bad, harm, trust.max_harm) for trust in (known, kept))
    assert before.harmed["all"] == pytest.approx(np.mean(harm <= known.max_harm))
    assert after.harmed["all"] < 0.05 < before.harmed["all"]
    assert kept.max_harm < known.max_harm


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
    assert (tuple(found["trust"]["harm"]) == trust.harm) == is_kept
    harm = find_harm(data.logs, np.array(found["trust"]["harm"]))
    assert found["refused"] == pytest.approx(np.mean(harm > found["trust"]["max_harm"]))
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
