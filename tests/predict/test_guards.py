from __future__ import annotations

import numpy as np
import pytest
from fake_networks import Contraction, Identity, Scripted, Springs
from pymatgen.core import Lattice, Structure

from e3relax_flows import GuardLimits, PredictOptions, Predictor
from e3relax_flows.core.errors import ModelError
from e3relax_flows.predict.guards import check_cell, check_distances, check_exploded, check_score, check_trust
from e3relax_flows.predict.trust import Expectation, TrustModel
from e3relax_flows.schemas.predictions import Reason, Verdict

CUBE = 4.0 * np.eye(3)
SALT = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
LIMITS = {"min_volume_ratio": 0.4, "max_volume_ratio": 2.5, "max_strain": 0.6}


def predict(script, structure=SALT, calibration=None, **limits):
    options = PredictOptions(symmetry="free", guards=GuardLimits(**(LIMITS | limits)), passes=1)
    return Predictor(Scripted(script), "m-1", calibration, "cpu").predict([structure], options, ids=["s"])[0]


def scale(*factors):
    """A network that strains the cell along its axes once, and leaves a crystal of another size alone."""
    volume = SALT.volume

    def script(_, positions, lattice):
        if abs(np.linalg.det(lattice)) < volume * (1 - 1e-9) or abs(np.linalg.det(lattice)) > volume * (1 + 1e-9):
            return positions, lattice
        return positions * np.array(factors), lattice * np.array(factors)

    return script


def test_volume_within_and_outside():
    limits = GuardLimits(min_volume_ratio=0.5, max_volume_ratio=2.0, max_strain=5.0)
    assert check_cell(CUBE, CUBE * 1.25, limits) == []
    assert check_cell(CUBE, -CUBE * 0.8, limits) == []
    (large,), (small,) = (check_cell(CUBE, CUBE * f, limits) for f in (1.27, 0.79))
    assert large.reason == small.reason == Reason.VOLUME
    assert "2.048" in large.message
    assert "0.493" in small.message
    assert "limits 0.5 to 2" in small.message


def test_strain_is_the_largest_eigenvalue():
    limits = GuardLimits(max_strain=0.1)
    assert check_cell(CUBE, CUBE @ np.diag([np.exp(0.099), np.exp(-0.099), 1.0]), limits) == []
    (failure,) = check_cell(CUBE, CUBE @ np.diag([1.0, np.exp(-0.101), 1.0]), limits)
    assert failure.reason == Reason.STRAIN
    assert "0.101 (limit 0.1)" in failure.message


def test_distances_are_in_covalent_radii_and_periodic():
    limits = GuardLimits(min_distance=0.5)  # carbon: 0.76 Å, so pairs of 0.76 Å
    positions = np.array([[0.0, 0, 0.05], [0, 0, 3.2]])
    lattice = np.diag([4.0, 4.0, 4.0])
    assert check_distances(np.array([6, 6]), positions, lattice, limits) == []
    (failure,) = check_distances(np.array([6, 6]), positions - [[0, 0, 0.15], [0, 0, 0]], lattice, limits)
    assert failure.reason == Reason.CLOSE_ATOMS
    assert "0.70 Å" in failure.message
    assert "0.46 of the sum" in failure.message
    (own_image,) = check_distances(np.array([6]), np.zeros((1, 3)), np.diag([0.7, 4.0, 4.0]), limits)
    assert "sites 0 and 0" in own_image.message


def test_score_has_a_limit_where_the_user_sets_one():
    assert check_score(0.2, GuardLimits()) == []
    assert check_score(0.2, GuardLimits(max_score=0.3)) == []
    (failure,) = check_score(0.2, GuardLimits(max_score=0.15))
    assert failure.reason == Reason.SCORE
    assert "by 0.200 Å (limit 0.15 Å)" in failure.message


def test_harm_limit_of_the_user_wins_over_the_calibrated_one():
    trust = TrustModel.from_calibration(make_trust(max_harm=0.1))

    def check(harm, limits, saving=None):
        return check_trust(Expectation(0.1, 0.05, 0.2, harm, saving), limits, trust)

    assert check_trust(None, GuardLimits(max_harm=0.1), trust) == check_trust(None, GuardLimits(), None) == []
    assert check(0.2, GuardLimits(max_harm=0.3)) == check(0.1, GuardLimits()) == []
    (failure,) = check(0.2, GuardLimits())
    assert failure.reason == Reason.HARM
    assert "it may be further from" in failure.message
    assert "probability 0.20 (the model's calibrated limit 0.1)" in failure.message
    assert "(limit 0.15)" in check(0.2, GuardLimits(max_harm=0.15))[0].message
    assert "more than 10 % and 0.02 Å further" in check(0.2, GuardLimits(), saving=0.5)[0].message


def test_what_saves_nothing_is_refused_unless_the_user_sets_the_limit():
    trust = TrustModel.from_calibration(make_trust(max_harm=0.1))
    worse = Expectation(0.1, 0.05, 0.2, 0.05, -np.log(1.25))
    (failure,) = check_trust(worse, GuardLimits(), trust)
    assert failure.reason == Reason.NO_SAVING
    assert "expected error is 1.25 times that of the initial structure" in failure.message
    assert check_trust(worse, GuardLimits(max_harm=0.1), trust) == []
    assert check_trust(worse._replace(saving=0.01), GuardLimits(), trust) == []


def test_exploded_cells_are_beyond_any_option():
    assert check_exploded(CUBE, CUBE * 2.7) is None
    assert check_exploded(CUBE, CUBE * 2.75).reason == Reason.VOLUME
    assert check_exploded(CUBE, CUBE * 0.36).reason == Reason.VOLUME
    assert check_exploded(CUBE, CUBE @ np.diag([8.0, 1 / 8, 1])).reason == Reason.STRAIN


def test_a_refused_prediction_keeps_its_numbers_and_says_why():
    prediction = predict(scale(1.5, 1.5, 1.5))
    assert prediction.verdict == Verdict.REFUSE
    assert prediction.reasons == [Reason.VOLUME]
    assert prediction.volume_ratio == pytest.approx(3.375)
    assert prediction.structure.lattice.a == pytest.approx(6.15)
    assert prediction.strain == pytest.approx(np.log(1.5) * np.sqrt(3))
    assert prediction.score == pytest.approx(0.0, abs=1e-9)
    assert prediction.message.startswith("s: the volume becomes 3.375 times")
    assert prediction.message.endswith("start DFT from the initial structure")


def test_strain_guard_refuses():
    prediction = predict(scale(2.0, 0.75, 0.75))
    assert prediction.reasons == [Reason.STRAIN]
    assert prediction.volume_ratio == pytest.approx(1.125)
    assert predict(scale(2.0, 0.75, 0.75), max_strain=0.7).verdict == Verdict.ACCEPT


def test_close_atoms_are_judged_on_the_prediction_alone():
    close = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.25, 0.2, 0.2]])  # 0.45 of the radii

    def part(_, __, lattice):
        return np.array([[0.0, 0, 0], lattice.sum(axis=0) / 2]), lattice

    def meet(_, __, lattice):
        return np.array([[0.0, 0, 0], lattice.sum(axis=0) / 5]), lattice

    assert predict(part, close).verdict == Verdict.ACCEPT
    for structure in (close, SALT):
        prediction = predict(meet, structure)
        assert prediction.reasons == [Reason.CLOSE_ATOMS]
        assert "within 1.42 Å" in prediction.message


def make_trust(**changes):
    """ln(error) = ln(residual + 1e-3); harm is a matter of the residual alone, an even chance at 0.1 Å."""
    trust = {
        "signals": ["residual", "strain"],
        "error": [0.0, 1.0, 0.0],
        "harm": [-4.0 * np.log(0.101), 4.0, 0.0],
        "interval": [-0.5, 1.0],
        "coverage": 0.9,
        "max_harm": 0.2,
    }
    return {"trust": trust | changes}


def test_harm_guard_uses_the_calibration_of_the_model():
    salt = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    options = PredictOptions(passes=1, stop_below=0.0)
    network = Contraction(fraction=0.5)
    bare = Predictor(network, "m-1", {}, "cpu").predict([salt], options)[0]
    assert bare.verdict == Verdict.ACCEPT
    assert bare.expected_error is bare.harm_probability is None
    assert bare.signals["residual"] == bare.score
    harm = 1 / (1 + (0.101 / (bare.score + 1e-3)) ** 4)
    trusted = Predictor(network, "m-1", make_trust(max_harm=harm * 1.01), "cpu").predict([salt], options)[0]
    refused = Predictor(network, "m-1", make_trust(max_harm=harm * 0.99), "cpu").predict([salt], options)[0]
    assert (trusted.verdict, refused.verdict) == (Verdict.ACCEPT, Verdict.REFUSE)
    assert refused.reasons == [Reason.HARM]
    assert refused.harm_probability == trusted.harm_probability == pytest.approx(harm)
    assert refused.expected_error == pytest.approx(refused.score + 1e-3)
    assert refused.error_interval == pytest.approx(
        (refused.expected_error * np.exp(-0.5), refused.expected_error * np.exp(1))
    )
    assert np.array_equal(refused.structure.lattice.matrix, trusted.structure.lattice.matrix)
    saves = make_trust(max_harm=harm * 1.01, saving=[np.log(2.0), 0.0, 0.0])
    assert Predictor(network, "m-1", saves, "cpu").predict([salt], options)[0].expected_saving == pytest.approx(
        np.log(2)
    )
    all_pass = options.model_copy(update={"guards": GuardLimits(max_harm=1.0)})
    assert Predictor(network, "m-1", make_trust(max_harm=0.0), "cpu").predict([salt], all_pass)[0].verdict == "accept"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"error": [1.0]}, r"trust .*\(unknown: \[\]\)"),
        ({"signals": ["residual", "colour"]}, r"trust .*\(unknown: \['colour'\]\)"),
        ({"interval": [1.0]}, r"trust .*\(IndexError\("),
        ({"harm": "no"}, r"trust .*\(ValueError\(.*'n'"),
        ({"saving": [1.0]}, r"trust .*\(unknown: \[\]\)"),
    ],
)
def test_damaged_calibration_is_refused(changes, message):
    with pytest.raises(ModelError, match=message):
        Predictor(Contraction(), "m-1", make_trust(**changes), "cpu")


@pytest.mark.parametrize("what", ["positions", "lattice"])
def test_numbers_that_are_not_finite(what):
    def script(_, positions, lattice):
        with np.errstate(invalid="ignore"):  # 0 · ∞
            return (positions * np.nan, lattice) if what == "positions" else (positions, lattice * np.inf)

    prediction = predict(script)
    assert prediction.verdict == Verdict.REFUSE
    assert prediction.reasons == [Reason.NOT_FINITE]
    assert prediction.score is None
    assert prediction.n_passes == 0
    assert np.array_equal(prediction.structure.frac_coords, SALT.frac_coords)  # the last one that is finite
    assert "application 1" in prediction.message


def test_residual_that_is_not_finite_refuses_what_there_is():
    first = scale(1.1, 1.1, 1.1)

    def script(numbers, positions, lattice):
        moved = first(numbers, positions, lattice)
        return moved if moved[1] is not lattice else (positions * np.nan, lattice)

    prediction = predict(script)
    assert prediction.reasons == [Reason.NOT_FINITE]
    assert prediction.volume_ratio == pytest.approx(1.331)
    assert prediction.n_passes == 1
    assert "application 2" in prediction.message


@pytest.mark.parametrize("factors", [(-1.0, 1.0, 1.0), (1e-7, 1.0, 1.0), (0.0, 1.0, 1.0), (1e3, 1e2, 1e2)])
def test_determinant_that_changes_sign_or_vanishes(factors):
    def script(_, positions, lattice):
        return positions, lattice * np.array(factors)

    prediction = predict(script)
    assert prediction.verdict == Verdict.REFUSE
    assert prediction.reasons == [Reason.DETERMINANT]
    assert f"{np.prod(factors):.3g} times" in prediction.message


def test_exploded_cells_are_not_taken_further():
    predictor = Predictor(Scripted(lambda _, x, lattice: (x * 3, lattice * 3)), "m-1", {}, "cpu")
    options = PredictOptions(passes=5, guards=GuardLimits(max_volume_ratio=1e9, max_strain=1e9))
    prediction = predictor.predict([SALT], options)[0]
    assert predictor.network.batch_sizes == [1]
    assert prediction.reasons == [Reason.VOLUME]
    assert prediction.volume_ratio == pytest.approx(27.0)
    assert prediction.score is None


def test_several_reasons_are_all_said():
    prediction = predict(scale(0.42, 1.0, 1.0))
    assert prediction.reasons == [Reason.STRAIN, Reason.CLOSE_ATOMS]
    assert prediction.message.count(";") == 2


def test_every_reason_of_refusal_has_a_guard():
    """Nothing in these cases is refused without a reason, and what is fine is not refused."""
    for network in (Identity(), Springs()):
        prediction = Predictor(network, "m-1", {}, "cpu").predict([SALT])[0]
        assert (prediction.verdict, prediction.reasons, prediction.message) == (Verdict.ACCEPT, [], None)


def test_elements_that_were_not_trained_on_are_refused_unless_allowed():
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    exotic = salt.copy()
    exotic.replace_species({"Na": "Og"})
    predictor = Predictor(Contraction(fraction=0.9), "m-1", {"elements": [11, 17]}, "cpu")
    known, unknown = predictor.predict([salt, exotic])
    assert known.verdict == Verdict.ACCEPT
    assert (unknown.verdict, unknown.reasons) == (Verdict.REFUSE, [Reason.UNTRAINED])
    assert "hold almost no Og" in unknown.message
    assert unknown.volume_ratio == pytest.approx(known.volume_ratio)
    allowed = predictor.predict([exotic], PredictOptions(guards=GuardLimits(allow_untrained=True)))[0]
    assert allowed.verdict == Verdict.ACCEPT
    assert Predictor(Contraction(fraction=0.9), "m-1", {}, "cpu").predict([exotic])[0].verdict == Verdict.ACCEPT
