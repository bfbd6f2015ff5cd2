"""`e3relax predict` on real files: what it writes, prints and returns."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows import PredictOptions, Predictor
from e3relax_flows.cli.options import parse_constraints
from e3relax_flows.cli.prediction_files import LINES_FILE, PredictionWriter
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.predictions import Prediction, Verdict

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
        (["--constrain", "fix-everything"], "known: fix-cell, vacuum-a"),
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
    with pytest.raises(ConfigError, match="one vacuum axis"):
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
