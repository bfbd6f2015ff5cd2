from __future__ import annotations

import numpy as np
import pytest
from made_halides import make_pairs, write_pairs
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.judging.assess import assess_pairs, collect_evaluation, is_possible
from e3relax_flows.schemas.datasets import HoldoutDoc, identify_holdout
from e3relax_flows.schemas.models import identify_evaluation
from e3relax_flows.schemas.predictions import GuardLimits, Prediction, PredictOptions, Reason, Verdict
from e3relax_flows.train.dataset import load_pairs
from e3relax_flows.train.evaluate import evaluate_pairs

OPTIONS = PredictOptions()


class ScriptedPredictor:
    """Has the face of `Predictor`; a function makes structure, verdict and reasons of each initial structure."""

    model_id = "m-1"
    device = "cpu"

    def __init__(self, script):
        self.script = script

    def predict(self, structures, options, ids, on_progress=None):  # noqa: ARG002
        return [self._predict(structure, name) for structure, name in zip(structures, ids, strict=True)]

    def _predict(self, initial, name):
        structure, verdict, reasons = self.script(initial, name)
        message = f"{name}: {verdict}" if reasons else None
        return Prediction(
            id=name, initial=initial, structure=structure, verdict=verdict, reasons=reasons, message=message,
            model_id=self.model_id,
        )  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return load_pairs([write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl.gz", make_pairs(0, 12))])


@pytest.fixture
def holdout(pairs):
    return HoldoutDoc(
        holdout_id=identify_holdout(pairs.ids), name="alkali", group_by="chemical_system", groups=["LiF"],
        pair_ids=sorted(pairs.ids),
    )  # fmt: skip


def relax(pairs):
    """A script that knows the answer, and refuses what it predicts for one pair."""

    def script(initial, name):  # noqa: ARG001
        pair = pairs[pairs.ids.index(name)]
        structure = Structure(pair.relaxed_lattice, pair.numbers.tolist(), pair.relaxed_fractions)
        if name == pairs.ids[3]:
            structure.scale_lattice(structure.volume * 1.1**3)
            return structure, Verdict.REFUSE, [Reason.HARM]
        if name == pairs.ids[4]:
            return None, Verdict.ERROR, [Reason.FAILED]
        return structure, Verdict.ACCEPT, []

    return script


def test_rows_hold_the_errors_of_the_predictions_themselves(pairs):
    rows = assess_pairs(ScriptedPredictor(relax(pairs)), pairs, OPTIONS)
    assert [row.pair_id for row in rows] == pairs.ids
    assert [row.group for row in rows] == pairs.groups
    assert {row.stratum for row in rows} == {"halides"}
    assert (rows[0].displacement, rows[0].strain, rows[0].volume) == pytest.approx((0, 0, 0), abs=1e-9)
    assert rows[0].identity_strain > 0.01
    refused, failed = rows[3], rows[4]
    assert refused.verdict is Verdict.REFUSE
    assert refused.strain == pytest.approx(3**0.5 * np.log(1.1))
    assert refused.valid
    assert (failed.displacement, failed.strain, failed.volume, failed.valid) == (None, None, None, False)
    assert failed.identity_volume > 0
    assert "error" in failed.message


def test_rows_agree_with_the_evaluation(pairs):
    predictor = ScriptedPredictor(relax(pairs))
    rows = assess_pairs(predictor, pairs, OPTIONS)
    evaluation, _ = evaluate_pairs(predictor, pairs, OPTIONS)
    strains = [row.identity_strain if row.strain is None else row.strain for row in rows]
    assert evaluation.predicted["all"]["strain"] == pytest.approx(np.mean(strains))
    assert evaluation.identity["all"]["displacement"] == pytest.approx(
        np.mean([row.identity_displacement for row in rows])
    )
    assert evaluation.refused["all"] == pytest.approx(np.mean([row.verdict != Verdict.ACCEPT for row in rows]))


def test_chunks_are_joined_whatever_their_order(pairs, holdout):
    predictor = ScriptedPredictor(relax(pairs))
    whole = assess_pairs(predictor, pairs, OPTIONS)
    chunks = [assess_pairs(predictor, pairs.select(places), OPTIONS) for places in (range(7, 12), range(7))]
    document = collect_evaluation(chunks, "m-1", holdout, OPTIONS, "cpu")
    assert document.rows == sorted(whole, key=lambda row: row.pair_id)
    assert document.evaluation_id == identify_evaluation("m-1", holdout.holdout_id, OPTIONS)
    for spoiled, message in (
        (chunks[:1], " 5 rows .* 12 pairs: 7 "),
        ([*chunks, chunks[0]], r" 17 rows .* 12 pairs: 0 .*\(none\), 0 .*\(none\), 5 "),
        ([*chunks, [whole[0].model_copy(update={"pair_id": "else"})]], r", 1 \w+ \w+ \(else\)"),
    ):
        with pytest.raises(ConfigError, match=message):
            collect_evaluation(spoiled, "m-1", holdout, OPTIONS)


def predict(structure, reasons=(), verdict=Verdict.REFUSE):
    return Prediction(structure=structure, verdict=verdict, reasons=list(reasons), model_id="m")


def test_what_is_a_possible_crystal():
    salt = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    close = Structure(salt.lattice, salt.species, [[0, 0, 0], [0.1, 0.1, 0.1]])
    small, huge, exploded = (Structure(Lattice.cubic(a), salt.species, salt.frac_coords) for a in (2.5, 7.6, 40.0))
    sheared = Structure(Lattice([[4.1, 0, 0], [20, 4.1, 0], [0, 0, 4.1]]), salt.species, salt.frac_coords)
    infinite = Structure(salt.lattice, salt.species, [[0, 0, 0], [np.nan, 0.5, 0.5]])
    flat = Structure(np.array([[4.1, 0, 0], [4.1, 0, 0], [0, 0, 4.1]]), salt.species, salt.frac_coords)
    for structure in (close, small, huge, exploded, sheared, infinite, flat, None):
        assert not is_possible(predict(structure), salt)
        assert not is_possible(predict(structure, verdict=Verdict.ACCEPT), salt)
    assert is_possible(predict(salt, verdict=Verdict.ACCEPT), salt)
    # trust does not count, nor do limits of the user's that are tighter
    for reason in (Reason.HARM, Reason.UNTRAINED, Reason.SCORE, Reason.VOLUME):
        assert is_possible(predict(salt, [reason]), salt)
    for reason in (Reason.NOT_FINITE, Reason.DETERMINANT, Reason.FAILED):
        assert not is_possible(predict(salt, [reason]), salt)


def test_looser_limits_make_nothing_possible(pairs):
    def collapse(initial, name):  # noqa: ARG001
        structure = initial.copy()
        structure.scale_lattice(initial.volume * 0.05)
        return structure, Verdict.ACCEPT, []

    loose = PredictOptions(guards=GuardLimits(min_distance=0, min_volume_ratio=0, max_strain=10))
    rows = assess_pairs(ScriptedPredictor(collapse), pairs, loose)
    assert {row.valid for row in rows} == {False}
    assert {row.verdict for row in rows} == {Verdict.ACCEPT}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_an_error(pairs, bad):
    def script(initial, name):  # noqa: ARG001
        fractions = initial.frac_coords.copy()
        fractions[0, 0] = bad
        return Structure(initial.lattice, initial.species, fractions), Verdict.ACCEPT, []

    row = assess_pairs(ScriptedPredictor(script), pairs.select([0]), OPTIONS)[0]
    assert (row.displacement, row.verdict, row.valid) == (None, Verdict.ERROR, False)
    assert "not finite" in row.message
