from __future__ import annotations

import numpy as np
import pytest
from fake_networks import Contraction
from pymatgen.core import Lattice, Structure

from e3relax_flows import PredictOptions, Predictor
from e3relax_flows.core.errors import ConfigError, ModelError
from e3relax_flows.predict.constraints import resolve_constraints
from e3relax_flows.predict.opinions import Judge
from e3relax_flows.predict.polish import PolishError, PolishRule, count_steps, relax_shortly
from e3relax_flows.schemas.predictions import Constraints

pytest.importorskip("chgnet")
TRUST = {
    "signals": ["residual"],
    "error": [np.log(0.1), 0.0],
    "harm": [-2.0, 0.0],
    "saving": [0.3, 0.0],
    "interval": [-1.0, 1.0],
    "coverage": 0.9,
    "max_harm": 0.2,
}
CALIBRATION = {
    "trust": TRUST,
    "second_opinions": {"CHGNet-0.3.0": {"harm": [0.0, 1.0, 0.0], "saving": [0.3, 0.0, 0.0], "max_harm": 0.2}},
    "polish": {"CHGNet-0.3.0": {"steps": 4, "min_error": 0.09}},
}


def rock_salt(edge: float = 5.2) -> Structure:
    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    return cell.get_primitive_structure()


@pytest.fixture(scope="module")
def loaded() -> Judge:
    return Judge("chgnet", "cpu")


@pytest.fixture(autouse=True)
def judge(loaded, monkeypatch) -> Judge:
    """The potential, loaded once for all tests."""
    monkeypatch.setattr("e3relax_flows.predict.predictor.Judge", lambda *_: loaded)
    return loaded


def predict(structure, calibration=CALIBRATION, **fields):
    options = {"passes": 1, "stop_below": 0.0, "second_opinion": "chgnet"} | fields
    return Predictor(Contraction(fraction=0.02), "m-1", calibration, "cpu").predict([structure], **options)[0]


def test_a_few_steps_go_downhill_and_keep_the_space_group(judge):
    salt = rock_salt()
    prediction = predict(salt, polish=3)
    assert (prediction.verdict, prediction.n_polish_steps) == ("accept", 3)
    before, after = judge.measure([prediction.structure, prediction.polished])
    assert after.energy < before.energy - 0.005
    assert prediction.polished.get_space_group_info(symprec=1e-4)[1] == 225
    assert prediction.polished.volume > prediction.structure.volume  # it was compressed
    assert prediction.initial == salt
    assert prediction.served is prediction.polished
    assert prediction.is_polished


def test_constraints_are_kept():
    salt = rock_salt(5.4) * (2, 1, 1)
    salt.translate_sites([1], [0.0, 0.0, 0.03])
    held = predict(salt, polish=2, constraints=Constraints(fix_cell=True, fixed_atoms=(0,)), symmetry="free")
    assert np.array_equal(held.polished.lattice.matrix, salt.lattice.matrix)
    assert np.array_equal(held.polished.frac_coords[0], salt.frac_coords[0])
    assert not np.allclose(held.polished.frac_coords[1], held.structure.frac_coords[1], atol=1e-5)


def test_what_a_word_holds_of_the_cell_no_step_changes():
    """A compressed, sheared cell has forces in both directions that are held."""
    salt = rock_salt(5.3)
    sheared = Structure(salt.lattice.matrix @ (np.eye(3) + 0.02 * np.eye(3, k=1)), salt.species, salt.frac_coords)
    sheared.translate_sites([1], [0.0, 0.0, 0.02])
    cells = {}
    for free in ("all", "shape", "volume", "sites"):
        made = predict(sheared, polish=3, symmetry="free", constraints=Constraints(free=free))
        assert 1 <= made.n_polish_steps <= 3, free  # fewer where the forces that are left vanish
        cells[free] = (made.structure.lattice.matrix, made.polished.lattice.matrix)
    strains = {free: np.linalg.solve(before, after) for free, (before, after) in cells.items()}
    volumes = {free: np.linalg.det(strain) for free, strain in strains.items()}
    shapes = {free: strain / volumes[free] ** (1 / 3) for free, strain in strains.items()}
    assert abs(volumes["all"] - 1) > 1e-2
    assert np.abs(shapes["all"] - np.eye(3)).max() > 1e-3
    assert volumes["shape"] == pytest.approx(1.0, abs=1e-6)
    assert np.abs(shapes["shape"] - np.eye(3)).max() > 1e-3
    assert abs(volumes["volume"] - 1) > 1e-2
    assert shapes["volume"] == pytest.approx(np.eye(3), abs=1e-6)
    assert np.array_equal(*cells["sites"])


def test_a_left_handed_cell_moves_as_its_mirror_image_does(judge):
    structure = rock_salt(5.3)
    structure.translate_sites([1], [0.02, 0.0, 0.01])
    matrix = structure.lattice.matrix[[1, 0, 2]]
    mirrored = Structure(Lattice(matrix), structure.species, structure.frac_coords[:, [1, 0, 2]])
    freedom = resolve_constraints(structure, Constraints())
    positions, lattice, n_steps = relax_shortly(judge, structure, freedom, 2)
    other, swapped, n_other = relax_shortly(judge, mirrored, freedom, 2)
    assert n_steps == n_other == 2
    assert np.linalg.det(matrix) * np.linalg.det(structure.lattice.matrix) < 0
    assert swapped[[1, 0, 2]] == pytest.approx(lattice, abs=2e-3)
    assert other == pytest.approx(positions, abs=2e-3)


def test_refused_predictions_are_not_polished():
    refused = CALIBRATION | {"trust": TRUST | {"harm": [2.0, 0.0]}}
    prediction = predict(rock_salt(), refused, polish=2)
    assert (prediction.verdict, prediction.polished, prediction.n_polish_steps) == ("refuse", None, 0)
    assert prediction.served is prediction.initial


def test_the_rule_decides_by_the_expected_error():
    rule = PolishRule.from_calibration(CALIBRATION, "CHGNet-0.3.0")
    assert rule == PolishRule(4, 0.09)
    assert [count_steps("auto", rule, error) for error in (0.05, 0.09, 0.2, None)] == [0, 4, 4, 0]
    assert [count_steps(3, None, None), count_steps(0, rule, 0.2)] == [3, 0]
    assert predict(rock_salt(), polish="auto").n_polish_steps == 4  # 0.1 Å are expected
    strict = CALIBRATION | {"polish": {"CHGNet-0.3.0": {"steps": 4, "min_error": 0.11}}}
    left = predict(rock_salt(), strict, polish="auto")
    assert (left.polished, left.served) == (None, left.structure)
    with pytest.raises(ConfigError, match=r"model m-1 .*CHGNet-0\.3\.0; .*polish=5"):
        predict(rock_salt(), CALIBRATION | {"polish": {}}, polish="auto")
    with pytest.raises(ModelError, match=r"CHGNet-0\.3\.0 .*ValueError\(.*'no'"):
        predict(rock_salt(), CALIBRATION | {"polish": {"CHGNet-0.3.0": {"steps": "no"}}}, polish="auto")


def test_a_move_longer_than_the_rule_believes_is_not_served():
    """0.1 Å are expected; the compressed crystal moves further than a tenth of that, and not 20 times as far."""
    assert PolishRule(4, 0.0, 2.0).find_limit(0.1) == pytest.approx(0.2)
    assert (PolishRule(4, 0.0).find_limit(0.1), PolishRule(4, 0.0, 2.0).find_limit(None)) == (None, None)
    found = {}
    for limit in (0.1, 20.0):
        rule = {"steps": 4, "min_error": 0.0, "max_move": limit}
        found[limit] = predict(rock_salt(), CALIBRATION | {"polish": {"CHGNet-0.3.0": rule}}, polish="auto")
    assert (found[20.0].n_polish_steps, found[0.1].n_polish_steps) == (4, 0)
    assert found[0.1].served is found[0.1].structure
    assert "not polished: CHGNet-0.3.0 moves it by 0." in found[0.1].message
    assert "limit is 0.010 Å" in found[0.1].message
    # a number of steps is asked for without a rule
    rule = {"CHGNet-0.3.0": {"steps": 4, "min_error": 0.0, "max_move": 0.1}}
    assert predict(rock_salt(), CALIBRATION | {"polish": rule}, polish=2).n_polish_steps == 2


@pytest.mark.parametrize("polish", [3, "auto"])
def test_steps_without_a_potential_are_refused(polish):
    with pytest.raises(ConfigError, match=f"polish .*{polish!r} .*--second-opinion chgnet"):
        predict(rock_salt(), polish=polish, second_opinion=None)
    with pytest.raises(ConfigError, match=r"polish\..*\(got -1\)"):
        predict(rock_salt(), polish=-1)


def test_a_potential_that_runs_away_leaves_the_prediction_as_it_is(judge, monkeypatch):
    monkeypatch.setattr("e3relax_flows.predict.polish.MAX_VOLUME_RATIO", 1.001)
    prediction = predict(rock_salt(), polish=5)
    assert (prediction.verdict, prediction.polished) == ("accept", None)
    assert "not polished: CHGNet-0.3.0 diverges from it" in prediction.message
    freedom = resolve_constraints(rock_salt(), Constraints())
    lonely = Structure(Lattice.cubic(30), ["He"], [[0, 0, 0]])
    with pytest.raises(PolishError, match=r"CHGNet-0\.3\.0 .*ValueError: ") as caught:
        relax_shortly(judge, lonely, freedom, 1)
    assert caught.value.failed
    assert not prediction.second_opinion.failed


def test_a_potential_without_an_opinion_makes_no_steps():
    salt = Structure(Lattice.cubic(3.3), ["Cm", "N"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    prediction = predict(salt, polish=2)
    assert (prediction.verdict, prediction.polished, prediction.n_polish_steps) == ("accept", None, 0)
    assert "not polished: CmN: CHGNet-0.3.0 was not trained on Cm" in prediction.message
    assert not prediction.second_opinion.failed


def test_a_potential_that_cannot_be_loaded_costs_its_opinion_and_its_steps_alone(monkeypatch):
    class Broken(Judge):
        @property
        def calculator(self):
            raise OSError("no such weights")

    monkeypatch.setattr("e3relax_flows.predict.predictor.Judge", lambda *_: Broken("chgnet", "cpu"))
    prediction = predict(rock_salt(), polish=2)
    assert (prediction.verdict, prediction.polished) == ("accept", None)
    assert prediction.second_opinion.message == "CHGNet-0.3.0 failed on it: OSError: no such weights"
    assert prediction.second_opinion.failed


def test_steps_that_fail_are_tried_again_the_next_time(monkeypatch):
    def fail(*_arguments):
        raise PolishError("CHGNet-0.3.0 failed on it: RuntimeError: out of memory", failed=True)

    monkeypatch.setattr("e3relax_flows.predict.items.relax_shortly", fail)
    prediction = predict(rock_salt(), polish=2)
    assert (prediction.polished, prediction.second_opinion.failed) == (None, True)
    assert prediction.second_opinion.energy_change is not None


def test_numbers_of_the_potential_that_are_not_finite_are_the_potentials(monkeypatch):
    def lose_all(optimizer, **_options):
        yield optimizer.atoms.atoms.positions.fill(np.nan)  # those of the filter

    monkeypatch.setattr("ase.optimize.BFGS.irun", lose_all)
    monkeypatch.setattr("ase.optimize.BFGS.nsteps", 1, raising=False)
    prediction = predict(rock_salt(), polish=1)
    assert prediction.polished is None
    assert "not polished: CHGNet-0.3.0 gives numbers that are not finite" in prediction.message


def test_options_that_do_not_polish_have_the_ids_they_had():
    assert {"second_opinion", "polish"}.isdisjoint(PredictOptions().model_dump())
    asked = PredictOptions(second_opinion="chgnet", polish="auto")
    assert asked.model_dump()["polish"] == "auto"
    assert PredictOptions.model_validate(asked.model_dump(mode="json")) == asked
