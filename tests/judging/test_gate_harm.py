from __future__ import annotations

import numpy as np
import pytest
from made_evaluations import Plot, change_rows

from e3relax_flows.judging.gate import judge
from e3relax_flows.schemas.models import Decision, GateDoc, GateLimits
from e3relax_flows.schemas.predictions import Verdict

LIMITS = GateLimits(n_resamples=2000)
SPREAD = range(1, 240, 4)  # one pair of each of the 60 groups, none of source gpaw


def harm(doc, indices, factor=1.101, further=0.0201):
    """Predictions further from the relaxed structure than the initial one, as much as is material or less."""
    rows = [
        row.model_copy(
            update={
                "displacement": factor * row.identity_displacement + further,
                "strain": factor * row.identity_strain,
            }
        )
        if index in set(indices)
        else row
        for index, row in enumerate(doc.rows)
    ]
    return doc.model_copy(update={"rows": rows})


def find_harm(gate, name):
    (row,) = [row for row in gate.harm if row.name == name]
    return row


@pytest.fixture(scope="module")
def incumbent():
    return Plot("old").evaluate()


@pytest.fixture(scope="module")
def better():
    return Plot("new", 0.5).evaluate()  # so that the harmed leave the mean error better


@pytest.mark.parametrize(
    ("n_new", "n_old", "decision", "text"),
    [
        (0, 0, Decision.PROMOTE, "within the limit of 5.0%"),
        (12, 0, Decision.PROMOTE, "within the limit of 5.0%"),  # 5.0 %, and significantly more than none
        (13, 0, Decision.REJECT, "harms more, beyond the limit of 5.0%"),
        (13, 10, Decision.KEEP, "not shown to be within the limit of 5.0%"),  # above the limit, by chance perhaps
        (20, 20, Decision.PROMOTE, "above the limit of 5.0%, and no more than the incumbent"),
        (20, 25, Decision.PROMOTE, "above the limit of 5.0%, and no more than the incumbent"),
        (30, 12, Decision.REJECT, "harms more, beyond the limit of 5.0%"),
    ],
)
def test_what_is_served_must_not_do_harm(better, incumbent, n_new, n_old, decision, text):
    """Although the mean error is lower and no source or family shows anything."""
    rng = np.random.default_rng(2)
    places = rng.permutation(240)
    limits = LIMITS.model_copy(update={"min_stratum": 201})  # strata are not judged
    gate = judge(harm(better, places[:n_new]), harm(incumbent, places[240 - n_old :]), limits, 1)
    row = find_harm(gate, "all")
    assert (row.n, row.n_groups) == (240, 60)
    assert (row.challenger, row.incumbent) == (n_new / 240, n_old / 240)
    assert row.low <= row.challenger - row.incumbent <= row.high
    assert (row.low > 0) == (n_new - n_old >= 12)
    (reason,) = [reason for reason in gate.reasons if "served materially worse than before" in reason]
    assert reason.startswith(f"all (240 pairs in 60 groups): {n_new / 240:.1%} served materially worse than before")
    assert reason.endswith(text)
    assert gate.decision is decision
    assert GateDoc.model_validate_json(gate.model_dump_json()) == gate


@pytest.mark.parametrize(("factor", "further"), [(1.0, 0.019), (1.099, 0.0), (1.09, 0.019)])
def test_immaterial_harm_is_counted_and_not_judged(better, incumbent, factor, further):
    """A sixth of the structures, none further than a tenth and 0.02 Å."""
    row = find_harm(gate := judge(harm(better, SPREAD[:40], factor, further), incumbent, LIMITS, 1), "all")
    assert (row.challenger, row.challenger_any, row.incumbent_any) == (0.0, 40 / 240, 0.0)
    assert gate.decision is Decision.PROMOTE
    (reason,) = [reason for reason in gate.reasons if "served materially worse" in reason]
    assert "worse at all 16.7% and 0.0%" in reason


def test_the_limit_is_the_users(better, incumbent):
    bad = harm(better, SPREAD[:24])
    for max_harmed, decision in ((0.05, Decision.REJECT), (0.15, Decision.PROMOTE), (0.0, Decision.REJECT)):
        gate = judge(bad, incumbent, LIMITS.model_copy(update={"max_harmed": max_harmed}), 1)
        assert gate.decision is decision


def test_what_is_refused_does_no_harm(better, incumbent):
    """The guards are there for it; what they refuse is counted."""
    bad, places = harm(better, SPREAD[::2]), set(SPREAD[::2])
    assert judge(bad, incumbent, LIMITS, 1).decision is Decision.REJECT
    gate = judge(change_rows(bad, places, verdict=Verdict.REFUSE), incumbent, LIMITS, 1)
    assert gate.decision is Decision.PROMOTE
    row = find_harm(gate, "all")
    assert (row.challenger, row.challenger_refused, row.incumbent_refused) == (0.0, 0.125, 0.0)
    assert "refused 12.5% and 0.0%" in gate.reasons[-1]
    gone = {"displacement": None, "strain": None, "verdict": Verdict.ERROR, "valid": False}
    both = [change_rows(doc, {3}, **gone) for doc in (better, incumbent)]
    assert find_harm(judge(*both, LIMITS, 1), "all").challenger_refused == pytest.approx(1 / 240)


def test_a_prediction_as_far_as_its_start_does_no_harm(better, incumbent):
    rows = [
        row.model_copy(update={"displacement": row.identity_displacement, "strain": row.identity_strain})
        for row in better.rows
    ]
    still = better.model_copy(update={"rows": rows})
    assert find_harm(judge(still, incumbent, LIMITS, 1), "all").challenger == 0.0


def test_harm_to_one_family_is_found_among_many_others(better, incumbent):
    """4 % of all, but a quarter of the nitrides."""
    places = [index for index, row in enumerate(better.rows) if row.stratum == "pnictides"]
    gate = judge(harm(better, places[1::4]), incumbent, LIMITS, 1)
    assert find_harm(gate, "all").challenger == 10 / 240
    assert find_harm(gate, "stratum: pnictides").challenger == 0.25
    assert gate.decision is Decision.REJECT
    assert gate.reasons[0].startswith(
        "stratum: pnictides (40 pairs in 10 groups): 25.0% served materially worse than before"
    )
    # of strata too small to be judged it is only told
    gate = judge(harm(better, places[1::4]), incumbent, LIMITS.model_copy(update={"min_stratum": 81}), 1)
    assert gate.decision is Decision.PROMOTE
    row = find_harm(gate, "stratum: pnictides")
    assert (row.challenger, row.judged) == (0.25, False)


def test_harm_on_the_original_holdout_counts_too(better, incumbent):
    old, new = (Plot(name, factor, holdout_id="h-0").evaluate() for name, factor in (("old", 1.0), ("new", 0.5)))
    gate = judge(better, incumbent, LIMITS, 1, (harm(new, SPREAD[:30]), old))
    assert gate.decision is Decision.REJECT
    assert gate.reasons[0].startswith(
        "original: all (240 pairs in 60 groups): 12.5% served materially worse than before"
    )
    assert judge(better, incumbent, LIMITS, 1, (new, old)).decision is Decision.PROMOTE


def test_judgements_of_earlier_releases_can_be_read(better, incumbent):
    content = judge(better, incumbent, LIMITS, 1).model_dump(mode="json")
    del content["harm"], content["limits"]["max_harmed"]
    old = GateDoc.model_validate(content)
    assert old.harm == []
    assert old.decision is Decision.PROMOTE
