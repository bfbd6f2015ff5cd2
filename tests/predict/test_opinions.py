from __future__ import annotations

import numpy as np
import pytest
from fake_networks import Contraction
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from e3relax_flows import GuardLimits, PredictOptions, Predictor
from e3relax_flows.core.errors import ConfigError, EngineError, MissingDependencyError, ModelError
from e3relax_flows.engines import registry
from e3relax_flows.predict.opinions import Judge
from e3relax_flows.predict.trust import Expectation, OpinionModel, find_log_odds, weigh_energy
from e3relax_flows.schemas.predictions import SecondOpinion, identify_prediction

TRUST = {
    "signals": ["residual"],
    "error": [np.log(0.1), 0.0],
    "harm": [-2.0, 0.0],  # a probability of 0.12, whatever the crystal
    "saving": [0.3, 0.0],
    "interval": [-1.0, 1.0],
    "coverage": 0.9,
    "max_harm": 0.2,
}
# a gain of energy halves the odds for every unit, a loss doubles them
OPINION = {"harm": [0.0, 1.0, np.log(2.0)], "saving": [0.3, 0.0, -0.1], "max_harm": 0.2}
SALT = Structure(Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def rock_salt(edge: float, elements=("Na", "Cl")) -> Structure:
    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), elements, [[0, 0, 0], [0.5, 0.5, 0.5]])
    return cell.get_primitive_structure()


@pytest.fixture(scope="module")
def judge() -> Judge:
    pytest.importorskip("chgnet")
    return Judge("chgnet", "cpu")


def test_single_points_in_batches_are_those_of_one_at_a_time(judge):
    structures = [rock_salt(edge) for edge in (5.0, 5.69, 6.5)] + [rock_salt(4.2, ("Mg", "O")) * (2, 1, 1)]
    structures[1].translate_sites([0], [0.02, 0.0, 0.01])
    together = judge.measure(structures)
    for structure, point in zip(structures, together, strict=True):
        (alone,) = judge.measure([structure])
        assert point == pytest.approx(alone, abs=2e-4)
    energies = [point.energy for point in together]
    assert energies[1] < min(energies[0], energies[2])  # the middle one is near the minimum
    assert together[1].force > 0.05 > 0.01 > together[0].force
    assert together[0].stress > 10 * together[1].stress


def test_units_are_those_of_the_calculator(judge):
    """eV/Å and eV/Å³, as ASE has them."""
    structure = rock_salt(5.3)
    structure.translate_sites([0], [0.03, 0.0, 0.0])
    atoms = AseAtomsAdaptor.get_atoms(structure, msonable=False)
    atoms.calc = judge.calculator
    (point,) = judge.measure([structure])
    assert point.energy == pytest.approx(atoms.get_potential_energy() / 2, abs=1e-5)
    assert point.force == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max(), rel=1e-3)
    assert point.stress == pytest.approx(np.linalg.norm(atoms.get_stress(voigt=False)), rel=1e-3)
    assert judge._evaluate_one(structure) == pytest.approx(point, rel=1e-3)


@pytest.mark.slow
def test_sevennet_judges_in_batches_with_the_numbers_of_its_calculator():
    pytest.importorskip("sevenn")
    judge = Judge("sevennet-0", "cpu")
    structures = [rock_salt(5.3), rock_salt(4.2, ("Mg", "O")) * (2, 1, 1), rock_salt(5.0, ("Cm", "N"))]
    structures[0].translate_sites([0], [0.03, 0.0, 0.0])
    *together, unknown = judge.measure(structures)
    sheared = structures[1].copy().apply_strain([0.02, -0.01, 0.0])
    found = []
    for calculator in (judge.calculator, judge.potential.load("cpu")):
        judge.calculator = calculator
        for structure, point in zip(structures, together, strict=False):
            assert judge._evaluate_one(structure) == pytest.approx(point, rel=2e-3, abs=2e-5)
        atoms = AseAtomsAdaptor.get_atoms(sheared, msonable=False)
        atoms.calc = calculator
        found.append((atoms.get_stress(), atoms.get_forces()))
    (own_stress, own_forces), (stress, forces) = found
    assert own_stress == pytest.approx(stress, abs=1e-5)
    assert own_forces == pytest.approx(forces, abs=1e-4)
    assert np.abs(stress).max() > 0.01
    assert "SevenNet-0-11Jul2024 was not trained on Cm" in unknown.message
    assert not unknown.failed
    (opinion,) = judge.compare([(structures[0], rock_salt(5.69))])
    assert opinion.potential == "SevenNet-0-11Jul2024"
    assert opinion.energy_change < 0


def test_a_left_handed_cell_is_the_same_crystal(judge):
    structure = Structure(Lattice.from_parameters(3.9, 4.1, 5.0, 80, 85, 95), ["Ga", "N"], [[0, 0, 0], [0.4, 0.5, 0.6]])
    matrix = structure.lattice.matrix[[1, 0, 2]]
    mirrored = Structure(Lattice(matrix), structure.species, structure.frac_coords[:, [1, 0, 2]])
    assert np.linalg.det(matrix) < 0
    right, left = judge.measure([structure, mirrored])
    assert left == pytest.approx(right, abs=1e-4)


def test_a_failure_costs_the_others_nothing(judge):
    unknown, lonely = rock_salt(5.0, ("Cm", "N")), Structure(Lattice.cubic(30), ["He"], [[0, 0, 0]])
    good = rock_salt(5.69)
    opinions = judge.compare([(good, good), (unknown, unknown), (good, rock_salt(5.0)), (good, lonely)])
    assert [opinion.potential for opinion in opinions] == ["CHGNet-0.3.0"] * 4
    assert opinions[0].energy_change == pytest.approx(0.0, abs=1e-5)
    assert "CHGNet-0.3.0 was not trained on Cm" in opinions[1].message
    assert opinions[2].energy_change > 0.05
    assert opinions[3].energy_change is None
    assert "failed on it" in opinions[3].message


def test_what_is_not_installed_or_not_known_is_refused(monkeypatch):
    with pytest.raises(EngineError, match=r"'chgnett' .* chgnet\?"):
        Judge("chgnett")
    with pytest.raises(EngineError, match=r"engine 'gpaw' .*: chgnet, "):
        Judge("gpaw")
    monkeypatch.setattr("e3relax_flows.engines.potentials.find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'e3relax-flows\[mlip\]'"):
        Judge("chgnet")


class Oracle:
    """A judge that says what it was told to."""

    label = "oracle"

    def __init__(self, *changes):
        self.changes = changes

    def compare(self, pairs):
        assert len(pairs) == len(self.changes)
        return [
            SecondOpinion(potential="oracle", energy_change=change, message="no idea" if change is None else None)
            for change in self.changes
        ]


def predict(structures, oracle, monkeypatch, calibration=None):
    monkeypatch.setattr("e3relax_flows.predict.predictor.Judge", lambda *_: oracle)
    calibration = calibration or {"trust": TRUST, "second_opinions": {"oracle": OPINION}}
    predictor = Predictor(Contraction(fraction=0.5), "m-1", calibration, "cpu")
    return predictor.predict(structures, PredictOptions(passes=1, stop_below=0.0, second_opinion="oracle"))


def test_the_opinion_joins_the_probability(monkeypatch):
    lower, higher, silent = predict([SALT] * 3, Oracle(-0.05, 0.05, None), monkeypatch)
    weighed = weigh_energy(-0.05, lower.move)
    assert weighed == pytest.approx(np.arcsinh(-0.5 / lower.move**2))
    for prediction, sign in ((lower, 1), (higher, -1)):
        odds = np.exp(-2.0) * 2.0 ** (sign * weighed)
        assert prediction.harm_probability == pytest.approx(odds / (1 + odds))
        assert prediction.expected_saving == pytest.approx(0.3 - 0.1 * sign * weighed)
        assert prediction.expected_error == pytest.approx(0.1)
    assert (lower.verdict, higher.verdict) == ("accept", "refuse")
    assert higher.reasons == ["harm"]
    assert higher.second_opinion.energy_change == 0.05
    # without an opinion the guard judges alone
    assert silent.harm_probability == pytest.approx(1 / (1 + np.exp(2.0)))
    assert (silent.verdict, silent.second_opinion.message) == ("accept", "no idea")
    assert dict(higher.summarize().facts)["second opinion"] == "oracle"
    assert dict(silent.summarize().facts)["second opinion"] == "none: no idea"


def test_only_predictions_are_judged(monkeypatch):
    found = predict(["no structure", SALT], Oracle(0.0), monkeypatch)
    assert [each.second_opinion is None for each in found] == [True, False]


def test_a_model_that_is_not_calibrated_for_it_says_what_to_type(monkeypatch):
    message = r"oracle \(calibrated: none\); .*: e3relax models calibrate m-1 "
    with pytest.raises(ConfigError, match=message):
        predict([SALT], Oracle(0.0), monkeypatch, {"trust": TRUST})
    damaged = {"trust": TRUST, "second_opinions": {"oracle": OPINION | {"harm": [1.0]}}}
    with pytest.raises(ModelError, match=r"oracle .*ValueError\('three "):
        predict([SALT], Oracle(0.0), monkeypatch, damaged)


def test_revision_keeps_what_it_is_not_asked_for():
    model = OpinionModel((0.0, 1.0, 0.0), (0.0, -1.0, 0.0), 0.2)
    alone = Expectation(0.1, 0.05, 0.3, 0.25, 0.4)
    revised = model.revise(alone, -0.1, 0.3)
    assert revised[:3] == alone[:3]
    assert (revised.harm, revised.saving) == (pytest.approx(0.25), pytest.approx(np.log(3.0)))
    assert find_log_odds(0.0) == pytest.approx(-find_log_odds(1.0), rel=1e-3)
    assert np.isfinite(model.revise(alone._replace(harm=0.0), 1e6, 0.0)).all()


def test_options_without_a_second_opinion_are_what_they_were():
    """So that predictions in stores, and what was joined with them, are found again."""
    options = PredictOptions()
    assert "second_opinion" not in options.model_dump(mode="json")
    assert PredictOptions.model_validate_json(options.model_dump_json()) == options
    asked = PredictOptions(second_opinion="chgnet", guards=GuardLimits(max_harm=0.3))
    assert PredictOptions.model_validate(asked.model_dump(mode="json")) == asked
    assert identify_prediction("s", "m", options) != identify_prediction("s", "m", asked)


def test_presets_that_are_potentials_are_found_by_name():
    names = registry.list_potentials()
    assert {"chgnet", "sevennet"} <= set(names)
    assert "gpaw" not in names
    assert [registry.get_potential(name).label for name in ("chgnet", "sevennet")] == ["CHGNet-0.3.0", "SevenNet-l3i5"]
    assert registry.get_potential("CHGNet").label == "CHGNet-0.3.0"
