"""`e3relax models calibrate`, and what its second opinions are for."""

from __future__ import annotations

import json

import pytest
from made_halides import make_pairs, write_pairs

from e3relax_flows.core.model_folders import find_model

pytest.importorskip("chgnet")


@pytest.mark.slow
def test_a_calibrated_second_opinion_is_asked_and_shown(e3relax, small_model, tmp_path):
    rows = make_pairs(3, 40)
    pairs, folder = write_pairs(tmp_path / "pairs.jsonl.gz", rows), tmp_path / "judged"
    poscar = tmp_path / "POSCAR"
    poscar.write_text("NaCl\n1.0\n0 2.7 2.7\n2.7 0 2.7\n2.7 2.7 0\nNa Cl\n1 1\ndirect\n0 0 0\n0.5 0.5 0.5\n")
    asked = ("predict", poscar, "--second-opinion", "chgnet", "--json")

    refused = e3relax(*asked, "--model", small_model)
    assert refused.code == 2
    assert "is not calibrated for second opinions of CHGNet-0.3.0" in refused.stderr
    assert "e3relax models calibrate" in refused.stderr

    command = ("models", "calibrate", small_model, folder, "--pairs", pairs, "--second-opinion", "chgnet", "--json")
    plan = json.loads(e3relax(*command, "--dry-run").stdout)
    assert (plan["pairs"], plan["second_opinions"]) == (40, ["CHGNet-0.3.0"])
    assert not folder.exists()
    made = json.loads(e3relax(*command).stdout)
    entry = made["calibration"]["second_opinions"]["CHGNet-0.3.0"]
    assert entry["n_pairs"] == 40
    assert find_model(str(folder)).functionals == ["PBE"]
    assert entry["harm"][2] > 0 > entry["saving"][2]  # a gain of energy speaks for a prediction

    prediction = json.loads(e3relax(*asked, "--model", folder).stdout)
    assert prediction["model_id"] == made["model_id"]
    opinion = prediction["second_opinion"]
    assert opinion["potential"] == "CHGNet-0.3.0"
    assert opinion["energy_change"] is not None
    alone = json.loads(e3relax(*asked[:2], "--json", "--model", folder).stdout)
    assert alone["second_opinion"] is None
    assert alone["harm_probability"] != prediction["harm_probability"]

    again = tmp_path / "again"
    kept = json.loads(e3relax("models", "calibrate", folder, again, "--pairs", pairs, "--keep-guard", "--json").stdout)
    assert kept["calibration"] == made["calibration"]
    assert kept["model_id"] == made["model_id"]


def test_an_unknown_potential_is_refused_before_anything_is_read(e3relax, tmp_path):
    for command in (("predict", tmp_path / "nowhere"), ("evaluate", tmp_path / "nowhere.jsonl")):
        result = e3relax(*command, "--second-opinion", "chgnett")
        assert result.code == 2
        assert "potential 'chgnett' is unknown" in result.stderr
