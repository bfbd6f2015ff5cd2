from __future__ import annotations

import numpy as np
import pytest

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.savings import find_harmed, measure_savings
from e3relax_flows.predict.trust import OpinionModel, TrustModel, find_log_odds, weigh_energy
from e3relax_flows.schemas.predictions import Prediction, SecondOpinion, Verdict
from e3relax_flows.train.calibrate import CalibrationSet, judge_starts
from e3relax_flows.train.dataset import load_pairs
from e3relax_flows.train.opinions import OPINION_GOAL, SIGNALS, collect_opinions, describe_opinion, fit_opinion


def make_opinions(seed: int, n: int = 3000) -> CalibrationSet:
    """The guard knows little; the potential sees, with noise, whether the prediction is nearer."""
    rng = np.random.default_rng(seed)
    savings = rng.normal(0.4, 0.7, n)
    before = np.exp(rng.normal(-1.5, 0.5, n))
    log_odds, energies = -savings + rng.normal(0, 2.0, n), -4.0 * savings + rng.normal(0, 1.0, n)
    logs = np.column_stack([np.ones(n), log_odds, energies])
    return CalibrationSet(logs, SIGNALS, before, before * np.exp(-savings), rng.choice(["a", "b", "c"], n))


def test_the_fit_weighs_what_knows_more():
    data, new = make_opinions(0), make_opinions(1)
    opinion = fit_opinion(data)
    assert opinion.harm[2] > 2 * opinion.harm[1] > 0
    assert opinion.saving[2] < 2 * opinion.saving[1] < 0
    judged = judge_starts(new, np.array(opinion.harm), np.array(opinion.saving))
    accepted, savings = judged.accept(opinion.max_harm), measure_savings(new.before, new.after)
    assert (accepted & find_harmed(new.before, new.after)).mean() < OPINION_GOAL + 0.01
    assert savings[accepted].sum() > 0.93 * np.maximum(savings, 0.0).sum()
    alone = new.logs[:, 1] <= np.quantile(new.logs[:, 1], accepted.mean())
    assert savings[alone].sum() < 0.85 * np.maximum(savings, 0.0).sum()


def test_what_is_fitted_is_what_is_read_and_applied():
    """One row by hand: the coefficients of the fit and those of the prediction mean the same."""
    opinion = fit_opinion(make_opinions(2))
    entry = describe_opinion(opinion, 3000)
    assert OpinionModel.from_calibration({"second_opinions": {"p": entry}}, "p") == opinion
    assert OpinionModel.from_calibration({"second_opinions": {"p": entry}}, "q") is None
    trust = TrustModel(("residual",), (0.0, 0.0), (-1.0, 0.0), (-1.0, 1.0), 0.9, 0.2, (0.1, 0.0))
    alone = trust.expect({"residual": 0.1})
    revised = opinion.revise(alone, -0.02, 0.3)
    row = np.array([[1.0, find_log_odds(alone.harm), weigh_energy(-0.02, 0.3)]])
    data = CalibrationSet(row, SIGNALS, np.ones(1), np.ones(1), np.array(["a"]))
    judged = judge_starts(data, np.array(opinion.harm), np.array(opinion.saving))
    assert (revised.harm, revised.saving) == (pytest.approx(judged.harm[0]), pytest.approx(judged.saving[0]))


class Guarded:
    """A predictor that leaves the start where it is and moves the third one."""

    model_id = "m-1"

    def __init__(self, saving=(0.1, 0.0)):
        self.trust = TrustModel(("residual",), (0.0, 0.0), (-1.0, 0.0), (-1.0, 1.0), 0.9, 0.2, saving)

    def predict(self, starts, options, ids):
        assert options.guards.max_harm == 1.0
        assert options.second_opinion is None
        assert len(ids) == len(starts)
        for index, start in enumerate(starts):
            if index == 1:
                yield Prediction(verdict=Verdict.ERROR, model_id="m-1")
            else:
                strain = 0.1 if index == 2 else 0.0
                numbers = {"harm_probability": 0.25, "displacement": 0.02, "strain": strain}
                yield Prediction(structure=start, initial=start, verdict=Verdict.ACCEPT, model_id="m-1", **numbers)


class Potential:
    """Sees every prediction 0.03 eV per atom lower, and fails on the first."""

    def compare(self, pairs):
        return [
            SecondOpinion(potential="p", energy_change=-0.03 if index else None, message=None if index else "failed")
            for index, _ in enumerate(pairs)
        ]


def test_rows_are_those_that_have_a_prediction_and_an_opinion(config_file):
    pairs = load_pairs([config_file.parent / "val.jsonl.gz"]).select(range(4))
    predictor = Guarded()
    predictor.predict = lambda *a, **k: list(Guarded.predict(predictor, *a, **k))
    data = collect_opinions(predictor, pairs, Potential())
    assert data.sources.tolist() == pairs.sources[2:]
    assert data.logs[:, 1] == pytest.approx(np.log(0.25 / 0.75))
    assert data.logs[:, 2] == pytest.approx([weigh_energy(-0.03, 0.27), weigh_energy(-0.03, 0.02)])
    assert data.before == pytest.approx(data.after)
    predictor.trust = Guarded(saving=None).trust
    with pytest.raises(ConfigError, match=r"model m-1 .*--second-opinion, .*e3relax models calibrate"):
        collect_opinions(predictor, pairs, Potential())
