"""`e3relax predict` on real files: what it writes, prints and returns."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows import PredictOptions, Predictor
from e3relax_flows.cli.options import parse_constraints
from e3relax_flows.cli.prediction_files import LINES_FILE, PredictionWriter
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.predictions import Prediction, Verdict

ODD = Path(__file__).parents[1] / "files" / "odd"
POSITION_TOLERANCE = 1e-4  # Å; what a CIF's digits lose


@pytest.fixture
def folder(tmp_path, wurtzite):
    """Three inputs, of which the second cannot be predicted and the third cannot be read."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    wurtzite.copy(site_properties={}).to_file(str(folder / "a.cif"))
    disordered = Structure(Lattice.cubic(4), [{"Fe": 0.5, "Ni": 0.5}], [[0, 0, 0]])
    disordered.to_file(str(folder / "b.cif"))
    (folder / "c.cif").write_text("not a crystal")
    return folder


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_in_the_order_of_the_input_and_errors_cost_nothing_else(e3relax, small_model, folder, tmp_path):
    result = e3relax("predict", folder, "--model", small_model, "--device", "cpu", "--out", tmp_path / "out")
    assert result.code == 1
    lines = read_lines(tmp_path / "out" / LINES_FILE)
    assert [line["id"] for line in lines] == ["a", "b", "c"]
    assert [line["verdict"] for line in lines] == ["accept", "error", "error"]
    assert lines[1]["reasons"] == ["disordered"]
    assert lines[2]["reasons"] == ["unreadable"]
    assert "1 accepted, 0 refused, 2 without prediction" in result.stdout
    assert "Traceback" not in result.stderr


def test_structure_is_that_of_the_predictor_and_the_cif_is_the_same_crystal(e3relax, small_model, wurtzite, tmp_path):
    wurtzite.to_file(str(tmp_path / "one.json"))
    result = e3relax("predict", tmp_path / "one.json", "--model", small_model, "--passes", 1, "--out", tmp_path / "out")
    assert result.code == 0
    (line,) = read_lines(tmp_path / "out" / LINES_FILE)
    structure = Structure.from_dict(line["structure"])
    (expected,) = Predictor.load(str(small_model), "cpu").predict([wurtzite], PredictOptions(passes=1))
    np.testing.assert_allclose(structure.lattice.matrix, expected.structure.lattice.matrix, atol=1e-6)
    np.testing.assert_allclose(structure.frac_coords, expected.structure.frac_coords, atol=1e-6)
    assert structure.site_properties["magmom"] == [1.0, -1.0, 0.0, 0.5]
    assert abs(line["volume_ratio"] - 1) > 1e-4  # the network does move it
    with pytest.warns(UserWarning, match="rounded to ideal values"):  # 1/3 has no end
        cif = Structure.from_file(tmp_path / "out" / line["cif"])
    assert cif.volume == pytest.approx(structure.volume, rel=1e-5)
    np.testing.assert_allclose(cif.distance_matrix, structure.distance_matrix, atol=POSITION_TOLERANCE)


def test_what_a_parser_warned_of_stands_in_the_message(e3relax, small_model, tmp_path):
    """Without operations of symmetry pymatgen takes P1, where the file says nothing else."""
    cell = "".join(f"_cell_length_{axis} 4.1\n" for axis in "abc")
    cell += "".join(f"_cell_angle_{angle} 90\n" for angle in ("alpha", "beta", "gamma"))
    loop = "loop_\n" + "".join(f"_atom_site_{name}\n" for name in ("label", "fract_x", "fract_y", "fract_z"))
    (tmp_path / "a.cif").write_text(f"data_a\n{cell}{loop}Cs1 0 0 0\nCl1 0.5 0.5 0.5\n")
    for odd in ("hd.cif", "question.cif"):
        shutil.copy(ODD / odd, tmp_path / odd)
    result = e3relax("predict", tmp_path, "--model", small_model, "--json")
    good, hd, question = (json.loads(line) for line in result.stdout.splitlines())
    assert good["verdict"] == "accept"
    assert good["message"].endswith("a.cif: No _symmetry_equiv_pos_as_xyz type key found. Defaulting to P1.")
    assert "D1 (D1+, 0.5), H1 (H1+, 0.5) are at one point" in hd["message"]
    assert "site D1 has no coordinates" in question["message"]
    planned = e3relax("predict", tmp_path, "--model", small_model, "--dry-run")
    assert "warning: a: " in planned.stderr
    assert "Defaulting to P1" in planned.stderr


def test_held_atoms_of_ase_stay_and_other_constraints_are_refused(e3relax, small_model, wurtzite, tmp_path):
    ase_io = pytest.importorskip("ase.io")
    from ase.constraints import FixBondLengths, FixScaled

    atoms = wurtzite.copy(site_properties={}).to_ase_atoms()
    held, bound = atoms.copy(), atoms.copy()
    held.set_constraint(FixScaled([0, 2], (True, False, True)))
    bound.set_constraint(FixBondLengths([[0, 1]]))
    ase_io.write(tmp_path / "held.traj", held)
    ase_io.write(tmp_path / "bound.traj", bound)
    result = e3relax("predict", tmp_path, "--model", small_model, "--symmetry", "free", "--json")
    refused, kept = (json.loads(line) for line in result.stdout.splitlines())
    assert (refused["id"], refused["verdict"]) == ("bound", "error")
    assert "the constraint FixBondLengths cannot be kept; remove it with atoms.set_constraint()" in refused["message"]
    before, after = (Structure.from_dict(kept[side]).frac_coords for side in ("initial", "structure"))
    assert np.array_equal(after[np.ix_([0, 2], [0, 2])], before[np.ix_([0, 2], [0, 2])])
    assert np.abs(after - before)[[1, 3]].max() > 1e-6


def test_json_prints_lines_and_nothing_else(e3relax, small_model, folder):
    result = e3relax("predict", folder, "--model", small_model, "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c"]
    assert lines[0]["structure"]["@class"] == "Structure"
    assert lines[0]["initial"]["lattice"]["a"] == pytest.approx(3.19, abs=1e-4)
    assert result.code == 1


def test_constraints_hold(e3relax, small_model, wurtzite, tmp_path):
    wurtzite.to_file(str(tmp_path / "one.json"))
    result = e3relax(
        *("predict", tmp_path / "one.json", "--model", small_model, "--symmetry", "free", "--json"),
        *("--constrain", "fix-cell", "--constrain", "fix-atoms=0,2-3"),
    )
    line = json.loads(result.stdout)
    assert line["volume_ratio"] == 1
    structure = Structure.from_dict(line["structure"])
    np.testing.assert_allclose(structure.frac_coords[[0, 2, 3]], wurtzite.frac_coords[[0, 2, 3]], atol=1e-12)
    assert result.code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "e3relax models list"),
        (["--constrain", "fix-everything"], "known: fix-cell, free=shape, free=volume, vacuum-a"),
        (["--symmetry", "perhaps"], "symmetry: Input should be 'keep' or 'free' (got 'perhaps')"),
        (["--passes", "0"], "--passes"),
        (["--colour"], "No such option"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_code_2(e3relax, folder, arguments, message):
    result = e3relax("predict", folder, *arguments)
    assert result.code == 2
    assert message in " ".join(result.stderr.replace("│", "").split())
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_an_output_folder_that_cannot_be_made_is_one_message(e3relax, small_model, folder, tmp_path):
    (tmp_path / "file").write_text("")
    result = e3relax("predict", folder, "--model", small_model, "--out", tmp_path / "file" / "out")
    assert result.code == 2
    assert f"error: {tmp_path / 'file' / 'out'}: Not a directory" in result.stderr


def test_labels_that_repeat_give_no_warning(tmp_path, wurtzite):
    structure = wurtzite.copy().add_oxidation_state_by_element({"Al": 3, "N": -3})
    with PredictionWriter(tmp_path) as writer:  # warnings are errors in tests
        writer.write(Prediction(id="ions", verdict=Verdict.ACCEPT, model_id="none", structure=structure))
    text = (tmp_path / "ions.cif").read_text()
    assert "Al3+" in text
    assert "N3-" in text


def test_debug_gives_the_exception(e3relax, folder):
    with pytest.raises(ConfigError, match="fix-everything"):
        e3relax("--debug", "predict", folder, "--constrain", "fix-everything")


def test_words_of_constraints():
    assert parse_constraints(["vacuum-c", "fix-atoms=3,0-2", "fix-atoms=7"]) == {
        "vacuum_axis": "c",
        "fixed_atoms": (0, 1, 2, 3, 7),
    }
    with pytest.raises(ConfigError, match=r"--constrain vacuum-a .*vacuum-b"):
        parse_constraints(["vacuum-a", "vacuum-b"])


def test_names_of_cif_files_are_plain_and_not_shared(tmp_path, wurtzite):
    ids = ["../etc/Zn O", "A", "a", "a.cif", "", "x" * 300]
    with PredictionWriter(tmp_path / "out") as writer:
        for id in ids:
            writer.write(Prediction(id=id, structure=wurtzite, verdict=Verdict.ACCEPT, model_id="m"))
    names = [line["cif"] for line in read_lines(tmp_path / "out" / LINES_FILE)]
    assert names == ["etc_Zn_O.cif", "A.cif", "a_2.cif", "a_3.cif", "AlN.cif", "x" * 100 + ".cif"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.cif")) == sorted(names)


def test_an_interrupted_run_leaves_the_lines_of_the_one_before(tmp_path, wurtzite):
    prediction = Prediction(id="old", structure=wurtzite, verdict=Verdict.ACCEPT, model_id="m")
    with PredictionWriter(tmp_path) as writer:
        writer.write(prediction)

    def interrupt() -> None:
        with PredictionWriter(tmp_path) as writer:
            writer.write(prediction.model_copy(update={"id": "new"}))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert [line["id"] for line in read_lines(tmp_path / LINES_FILE)] == ["old"]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    broken = Structure(Lattice.cubic(4), ["Fe"], [[float("nan"), 0, 0]])
    with PredictionWriter(tmp_path) as writer:
        writer.write(Prediction(id="x", initial=broken, verdict=Verdict.ERROR, model_id="m", score=float("inf")))
    (line,) = read_lines(tmp_path / LINES_FILE)
    assert line["initial"]["sites"][0]["abc"] == [None, 0.0, 0.0]
    assert line["score"] is None
    assert line["cif"] is None


def test_reasons_are_codes_in_the_table_and_sentences_below_it(e3relax, small_model, folder):
    result = e3relax("predict", folder, "--model", small_model, "--device", "cpu")
    table, _, messages = result.stdout.partition("without prediction.")
    assert "disordered" in table
    assert "only ordered structures" not in table
    assert sum("only ordered structures" in line and line.startswith("b: ") for line in messages.splitlines()) == 1


def test_predictions_without_the_second_opinion_that_was_asked_for_are_counted(e3relax, tmp_path):
    pytest.importorskip("chgnet")
    for name, metal, edge in (("known", "Mg", 4.2), ("unknown", "Cm", 5.0)):
        structure = Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), [metal, "N"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        structure.get_primitive_structure().to_file(str(tmp_path / f"{name}.cif"))
    result = e3relax("predict", tmp_path, "--second-opinion", "chgnet")
    assert result.code == 0
    said = " ".join(result.stderr.split())
    assert "1 of 2 have no second opinion, and the guard judged alone; the first: CmN: CHGNet-0.3.0 was not" in said
    assert "second opinion" not in e3relax("predict", tmp_path / "known.cif", "--second-opinion", "chgnet").stderr
