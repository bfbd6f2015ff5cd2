from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from made_evaluations import Plot, change_rows, find

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.judging.gate import MANY_LOOKS, judge
from e3relax_flows.schemas.models import Decision, EvaluationDoc, GateDoc, GateLimits, identify_gate
from e3relax_flows.schemas.predictions import PredictOptions, Verdict

LIMITS = GateLimits(n_resamples=2000)
ANY_HARM = GateLimits(n_resamples=2000, max_harmed=1.0)


@pytest.fixture(scope="module")
def incumbent() -> EvaluationDoc:
    return Plot("old").evaluate()


@pytest.fixture(scope="module")
def better() -> EvaluationDoc:
    return Plot("new", 0.9).evaluate()


def test_a_better_challenger_is_promoted_with_its_numbers(better, incumbent):
    gate = judge(better, incumbent, LIMITS, 1)
    assert gate.decision is Decision.PROMOTE
    total = find(gate, "all")
    assert (total.n, total.n_groups) == (240, 60)
    errors = [np.mean([row.displacement + 2.5 * row.strain for row in doc.rows]) for doc in (better, incumbent)]
    assert (total.challenger, total.incumbent) == pytest.approx(errors)
    assert total.change == pytest.approx(errors[0] / errors[1] - 1)
    assert total.low < total.change < total.high < 0
    assert total.change == pytest.approx(-0.1, abs=0.02)
    assert total.high - total.low < 0.06
    assert total.identity_low < -0.4
    assert len(gate.reasons) == 2
    assert gate.reasons[1].startswith("all (240 pairs in 60 groups): 0.0% served materially worse than before")
    assert f"change {total.change:+.1%} (95%: {total.low:+.1%} to {total.high:+.1%}): better" in gate.reasons[0]
    assert gate.gate_id == identify_gate(["e-new-h-1", "e-old-h-1"], LIMITS)
    names = {each.name for each in gate.comparisons if each.judged}
    strata = {"source: gpaw", "source: vasp", *(f"stratum: {n}" for n in
              ("oxides", "halides", "pnictides", "chalcogenides"))}  # fmt: skip
    assert names == {"all", "served: all"} | strata | {f"served: {name}" for name in strata}
    assert GateDoc.model_validate_json(gate.model_dump_json()) == gate


def test_the_verdict_does_not_depend_on_the_order_of_rows(better, incumbent):
    shuffled = incumbent.model_copy(update={"rows": incumbent.rows[::-1]})
    one, two = judge(better, incumbent, LIMITS, 1), judge(better, shuffled, LIMITS, 1)
    assert one.comparisons == two.comparisons
    other = judge(better, incumbent, LIMITS.model_copy(update={"seed": -1}), 1)
    assert find(other, "all").low != find(one, "all").low
    assert find(other, "all").low == pytest.approx(find(one, "all").low, abs=0.01)


def test_a_tie_is_kept(incumbent):
    twin = incumbent.model_copy(update={"model_id": "twin"})
    gate = judge(twin, incumbent, LIMITS, 1)
    assert gate.decision is Decision.KEEP
    assert (find(gate, "all").low, find(gate, "all").high) == (0, 0)
    assert "not shown to be better by more than the margin of 0.0%" in gate.reasons[0]


def test_the_margin_must_be_passed_by_the_bound(better, incumbent):
    high = find(judge(better, incumbent, LIMITS, 1), "all").high
    for margin, decision in ((-high * 0.9, Decision.PROMOTE), (-high * 1.1, Decision.KEEP)):
        gate = judge(better, incumbent, LIMITS.model_copy(update={"margin": margin}), 1)
        assert gate.decision is decision


def test_a_worse_challenger_is_rejected(incumbent):
    gate = judge(Plot("new", 1.05).evaluate(), incumbent, LIMITS, 1)
    assert gate.decision is Decision.REJECT
    assert gate.reasons[0].endswith(": worse")
    assert find(gate, "all").low > 0


def test_noise_is_kept_not_judged(incumbent):
    rng = np.random.default_rng(3)
    noisy = incumbent.model_copy(update={"model_id": "noisy"})
    factors = np.exp(0.6 * rng.normal(size=240))
    noisy = noisy.model_copy(
        update={
            "rows": [
                row.model_copy(update={"displacement": row.displacement * f / 1.2, "strain": row.strain * f / 1.2})
                for row, f in zip(noisy.rows, factors, strict=True)
            ]
        }
    )
    gate = judge(noisy, incumbent, ANY_HARM, 1)
    assert gate.decision is Decision.KEEP
    assert find(gate, "all").low < 0 < find(gate, "all").high


@pytest.mark.parametrize("stratum", ["pnictides", "gpaw"])
def test_one_bad_stratum_stops_a_challenger_whose_mean_is_better(incumbent, stratum):
    gate = judge(Plot("new", 0.7, factors={stratum: 2.0}).evaluate(), incumbent, ANY_HARM, 1)
    assert find(gate, "all").high < 0
    assert gate.decision is Decision.REJECT
    assert f": {stratum} (40 pairs" in gate.reasons[0]
    assert gate.reasons[0].endswith("worse by more than the tolerance of 5.0%")
    assert "better by more than the margin" in gate.reasons[-2]


def test_a_stratum_within_the_tolerance_counts_as_equal(incumbent):
    challenger = Plot("new", 0.8, factors={"halides": 1.32}).evaluate()
    gate = judge(challenger, incumbent, LIMITS, 1)
    halides = find(gate, "stratum: halides")
    assert 0 < halides.low < halides.change < LIMITS.tolerance
    assert gate.decision is Decision.PROMOTE
    strict = judge(challenger, incumbent, LIMITS.model_copy(update={"tolerance": 0.02}), 1)
    assert strict.decision is Decision.REJECT


def test_a_sign_that_one_of_many_strata_shows_by_chance_does_not_reject(better, incumbent):
    """Worse at 95 %, not at 95 % for all strata together: not promoted, and not rejected."""
    rng = np.random.default_rng(5)
    places = [index for index, row in enumerate(better.rows) if row.stratum == "pnictides"]
    factors = dict(zip(places, np.exp(0.45 + 1.1 * rng.normal(size=len(places))), strict=True))
    rows = [
        row.model_copy(update={"displacement": row.displacement * f, "strain": row.strain * f})
        for row, f in ((row, factors.get(index, 0.8)) for index, row in enumerate(better.rows))
    ]
    found = set()
    for scale in np.linspace(0.5, 1.6, 23):
        scaled = [
            row.model_copy(update={"displacement": row.displacement * scale, "strain": row.strain * scale})
            if index in factors
            else row
            for index, row in enumerate(rows)
        ]
        gate = judge(better.model_copy(update={"rows": scaled}), incumbent, ANY_HARM, 1)
        low = find(gate, "stratum: pnictides").low
        found.add((gate.decision, low > 0))
        if gate.decision is Decision.KEEP and low > 0:
            assert "by chance, perhaps, as it is one of several strata" in gate.reasons[0]
            assert "better by more than the margin" in gate.reasons[-2]
    assert found == {(Decision.PROMOTE, False), (Decision.KEEP, True), (Decision.REJECT, True)}


def test_small_strata_are_reported_and_judged_together(incumbent):
    names = {index: f"rare-{index % 4}" for index in range(40)}
    old, new = (
        doc.model_copy(
            update={
                "rows": [
                    row.model_copy(update={"stratum": names.get(index, row.stratum)})
                    for index, row in enumerate(doc.rows)
                ]
            }
        )
        for doc in (incumbent, Plot("new", 0.8).evaluate())
    )
    gate = judge(new, old, LIMITS, 1)
    assert gate.decision is Decision.PROMOTE
    assert [find(gate, f"stratum: rare-{k}").judged for k in range(4)] == [False] * 4
    assert find(gate, "stratum: (the small ones together)").n == 40
    # ten pairs of one of them may be worse without a judgement, all of them may not
    few = change_rows(new, range(0, 40, 4), displacement=0.12)
    gate = judge(few, old, LIMITS, 1)
    assert gate.decision is Decision.PROMOTE
    assert find(gate, "stratum: rare-0").low > LIMITS.tolerance
    many = change_rows(new, range(40), displacement=0.12)
    gate = judge(many, old, LIMITS, 1)
    assert gate.decision is Decision.REJECT
    assert "stratum: (the small ones together) (40 pairs" in gate.reasons[0]
    alone = judge(new, old, LIMITS.model_copy(update={"min_stratum": 41}), 1)
    assert not find(alone, "stratum: pnictides").judged


def test_fewer_possible_crystals_are_rejected(better, incumbent):
    gate = judge(change_rows(better, [7], valid=False), incumbent, LIMITS, 1)
    assert gate.decision is Decision.REJECT
    assert gate.reasons[0] == "239 of 240 predictions are possible crystals, of the incumbent's 240: fewer"
    broken = change_rows(incumbent, [3, 9], valid=False)
    assert judge(change_rows(better, [7], valid=False), broken, LIMITS, 1).decision is Decision.PROMOTE


def test_a_network_that_is_worse_than_the_identity_is_rejected():
    """Also where the incumbent is worse still."""
    old, new = (Plot(name, factor).evaluate() for name, factor in (("old", 2.6), ("new", 2.2)))
    gate = judge(new, old, LIMITS, 1)
    assert find(gate, "all").high < 0
    assert gate.decision is Decision.REJECT
    assert "worse than the initial structures" in gate.reasons[0]
    assert judge(Plot("new", 1.7).evaluate(), old, LIMITS, 1).decision is Decision.PROMOTE


def test_in_a_stratum_worse_than_the_identity_the_guards_may_refuse():
    old = Plot("old", factors={"pnictides": 3.0}).evaluate()
    new = Plot("new", 0.8, factors={"pnictides": 3.5}).evaluate()
    gate = judge(new, old, LIMITS, 1)
    assert gate.decision is Decision.REJECT
    assert gate.reasons[0].startswith("served: stratum: pnictides (40 pairs")
    refused = [index for index, row in enumerate(new.rows) if row.stratum == "pnictides"]
    guarded = judge(change_rows(new, refused, verdict=Verdict.REFUSE), old, LIMITS, 1)
    assert guarded.decision is Decision.PROMOTE
    served = find(guarded, "served: stratum: pnictides")
    assert served.challenger == served.identity
    assert find(guarded, "stratum: pnictides").challenger > served.identity


def test_refusing_more_is_no_way_to_pass(incumbent):
    """The predictions are better, but what is served has become worse."""
    gate = judge(Plot("new", 0.9, accepted=False).evaluate(), incumbent, LIMITS, 1)
    assert find(gate, "all").high < 0
    assert gate.decision is Decision.REJECT
    assert gate.reasons[0].startswith("served: all")
    # nor is refusing what is bad: the predictions themselves are judged
    worse = Plot("new", 1.1, accepted=False).evaluate()
    assert judge(worse, Plot("old", accepted=False).evaluate(), LIMITS, 1).decision is Decision.REJECT


def test_forgetting(better, incumbent):
    old = Plot("old", holdout_id="h-0").evaluate()

    def ask(factor, limits=LIMITS, **factors):
        new = Plot("new", factor, factors=factors, holdout_id="h-0").evaluate()
        return judge(better, incumbent, limits, 1, (new, old))

    equal = ask(1.02)
    assert equal.decision is Decision.PROMOTE
    assert 0 < find(equal, "original: all").change < find(equal, "original: all").high <= 0.05
    assert equal.original_holdout_id == "h-0"
    assert equal.gate_id == identify_gate(["e-new-h-1", "e-old-h-1", "e-new-h-0", "e-old-h-0"], LIMITS)
    assert "original: all (240 pairs" in equal.reasons[1]
    unclear = ask(1.045, GateLimits(n_resamples=2000, min_stratum=201))
    assert unclear.decision is Decision.KEEP
    assert unclear.reasons[0].startswith("original: all")
    assert "not shown to be within the tolerance of 5.0%" in unclear.reasons[0]
    assert [each.name for each in unclear.comparisons if each.judged] == [
        "all", "served: all", "original: all", "original: served: all"
    ]  # fmt: skip
    forgotten = ask(1.12)
    assert forgotten.decision is Decision.REJECT
    assert "forgotten, beyond the tolerance of 5.0%" in forgotten.reasons[0]
    assert ask(1.12, GateLimits(n_resamples=2000, tolerance=0.2)).decision is Decision.PROMOTE
    part = ask(0.9, oxides=1.3)
    assert part.decision is Decision.REJECT
    assert part.reasons[0].startswith("original: stratum: oxides")


def drop(doc: EvaluationDoc, n: int) -> EvaluationDoc:
    return doc.model_copy(update={"rows": doc.rows[n:]})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda new, old: (drop(new, 1), old), "1 pairs are in one evaluation only: p0000"),
        (lambda new, old: (drop(new, 240), drop(old, 240)), "the holdout has 0 pairs, at least 20 are needed"),
        (lambda new, old: (drop(new, 225), drop(old, 225)), "the holdout has 15 pairs"),
        (lambda new, old: (new.model_copy(update={"rows": [*new.rows, new.rows[0]]}), old), "1 rows occur twice"),
        (lambda new, old: (new.model_copy(update={"holdout_id": "h-2"}), old), "differ in holdout: 'h-2' and 'h-1'"),
        (
            lambda new, old: (new.model_copy(update={"options": PredictOptions(passes=3)}), old),
            "the evaluations differ in options",
        ),
        (
            lambda new, old: (change_rows(new, [4], displacement=None), old),
            "1 predictions of model new have no error: p0004",
        ),
        (lambda new, old: (new, change_rows(old, [4], strain=None)), "1 predictions of model old have no error"),
        (lambda new, old: (new, change_rows(old, [4], strain=float("nan"))), "1 errors of the incumbent are not fin"),
        (lambda new, old: (change_rows(new, [4], source="else"), old), "1 pairs differ between the evaluations"),
        (lambda new, old: (change_rows(new, [4], identity_strain=0.5), old), "1 pairs differ between the evaluations"),
        (lambda new, old: (change_rows(new, [4], identity_strain=float("nan")), old), "1 pairs differ between"),
        (
            lambda new, old: tuple(
                change_rows(doc, range(240), displacement=None, strain=None, verdict=Verdict.ERROR, valid=False)
                for doc in (new, old)
            ),
            "neither model has a single prediction",
        ),
    ],
)
def test_what_cannot_be_compared_is_incomplete(better, incumbent, spoil, message):
    gate = judge(*spoil(better, incumbent), LIMITS, 1)
    assert gate.decision is Decision.INCOMPLETE
    assert message in gate.reasons[0]
    assert gate.comparisons == []
    whole = (better, incumbent)
    on_original = judge(*whole, LIMITS, 1, spoil(*whole))
    assert on_original.decision is Decision.INCOMPLETE
    assert on_original.reasons[0].startswith("original: ")


def test_the_original_must_be_of_the_same_models(better, incumbent):
    gate = judge(better, incumbent, LIMITS, 1, (Plot("other").evaluate(), incumbent))
    assert gate.decision is Decision.INCOMPLETE
    assert gate.reasons == ["original: the evaluations are of models other and old"]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_challenger_that_is_not_finite_is_rejected(better, incumbent, value):
    gate = judge(change_rows(better, [4, 5], displacement=value), incumbent, LIMITS, 1)
    assert gate.decision is Decision.REJECT
    assert gate.reasons == ["2 errors of the challenger are not finite: p0004, p0005"]


def test_a_pair_without_prediction_counts_as_the_initial_structure(better, incumbent):
    gone = {"displacement": None, "strain": None, "verdict": Verdict.ERROR, "valid": False}
    gate = judge(change_rows(better, [4], **gone), change_rows(incumbent, [4], **gone), LIMITS, 1)
    assert gate.decision is Decision.PROMOTE
    row = better.rows[4]
    shift = row.identity_displacement + 2.5 * row.identity_strain - row.displacement - 2.5 * row.strain
    full = judge(better, incumbent, LIMITS, 1)
    assert find(gate, "all").challenger == pytest.approx(find(full, "all").challenger + shift / 240)
    lost = judge(change_rows(better, range(0, 240, 2), **gone), incumbent, LIMITS, 1)
    assert lost.decision is Decision.REJECT


def test_many_looks_are_said(better, incumbent):
    assert len(judge(better, incumbent, LIMITS, MANY_LOOKS - 1).reasons) == 2
    gate = judge(better, incumbent, LIMITS, 20)
    assert gate.n_looks == 20
    assert "20 challengers were judged on this holdout" in gate.reasons[-1]
    assert "about 40%" in gate.reasons[-1]  # 1 - 0.975^20
    assert gate.decision is Decision.PROMOTE
    with pytest.raises(ConfigError, match="n_looks is 0"):
        judge(better, incumbent, LIMITS, 0)


def test_judging_needs_no_torch():
    code = "import sys, e3relax_flows.judging.gate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_a_gate_that_calls_the_challenger_a_candidate_is_read(better, incumbent):
    gate = judge(better, incumbent, LIMITS, 1)
    text = gate.model_dump_json()
    assert text.count('"challenger') > 3
    assert GateDoc.model_validate_json(text.replace('"challenger', '"candidate')) == gate
