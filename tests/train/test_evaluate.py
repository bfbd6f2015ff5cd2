from __future__ import annotations

import gzip
import json
from types import SimpleNamespace

import numpy as np
import pytest
from pymatgen.core import Structure

from e3relax_flows import Predictor
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.predictions import Prediction, PredictOptions, Verdict
from e3relax_flows.schemas.training import load_train_config
from e3relax_flows.train.dataset import Pair, load_pairs
from e3relax_flows.train.evaluate import evaluate_pairs, measure_predictions, write_predictions
from e3relax_flows.train.export import export_model
from e3relax_flows.train.loop import train_model
from e3relax_flows.train.metrics import combine_errors, measure_pair


@pytest.mark.slow
def test_trained_exported_and_evaluated(config_file, tmp_path):
    config = load_train_config(config_file)
    folder = export_model(train_model(config), config.out / "tiny")
    assert export_model(train_model(config), config.out / "tiny").model_id == folder.model_id
    assert folder.config["calibration"]["n_pairs"] == 24 + 8
    assert folder.functionals == ["PBE"]
    assert folder.config["calibration"]["elements"] == [3, 9, 11, 17, 19, 35]
    predictor = Predictor.load(str(folder.path), "cpu")
    assert predictor.model_id == folder.model_id
    pairs = load_pairs(config.data.val)
    evaluation, predictions = evaluate_pairs(predictor, pairs, PredictOptions(passes=1))
    assert evaluation.n_pairs == evaluation.predicted["all"]["n"] == 24
    assert evaluation.predicted["all"]["volume"] < 0.8 * evaluation.identity["all"]["volume"]
    names = {"all", "small", "large"}
    assert evaluation.identity.keys() == evaluation.served.keys() == evaluation.refused.keys() == names
    whole = sum(evaluation.predicted[s]["strain"] * evaluation.predicted[s]["n"] for s in ("small", "large")) / 24
    assert evaluation.predicted["all"]["strain"] == pytest.approx(whole)

    write_predictions(tmp_path / "predictions.jsonl", predictions, pairs)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == pairs.ids
    structure = Structure.from_dict(rows[3]["structure"])
    assert list(structure.atomic_numbers) == pairs[3].numbers.tolist()
    assert structure.lattice.matrix == pytest.approx(predictions[3].structure.lattice.matrix)


def test_harm_saving_and_what_is_served(config_file, tmp_path):
    """Five predictions of known quality: what they save, what they harm, and where DFT would start."""
    pairs = load_pairs(load_train_config(config_file).data.val).select(range(5))
    # of the way to the relaxed structure; beyond 2 it is further from it than the initial one
    shares, accepted = [0.5, 1.0, -0.02, -0.5, -0.5], [True, False, True, True, False]
    made = iter(zip(shares, accepted, strict=True))

    def predict(starts, *_, **__):
        for index, start in enumerate(starts):
            share, accept = next(made)
            lattice = start.lattice.matrix + share * (pairs[index].relaxed_lattice - start.lattice.matrix)
            structure = Structure(lattice, start.species, start.frac_coords)
            verdict = Verdict.ACCEPT if accept else Verdict.REFUSE
            yield Prediction(initial=start, structure=structure, verdict=verdict, model_id="made")

    predictor = SimpleNamespace(model_id="made", predict=lambda *a, **k: list(predict(*a, **k)))
    evaluation, predictions = evaluate_pairs(predictor, pairs, PredictOptions())
    assert evaluation.refused["all"] == pytest.approx(0.4)
    assert evaluation.harmed["all"] == pytest.approx(0.4)
    assert evaluation.materially_harmed["all"] == pytest.approx(0.2)
    before, after = (
        combine_errors(np.array(errors))
        for errors in (
            [measure_pair(p.initial_fractions, p.initial_lattice, p) for p in map(pairs.__getitem__, range(5))],
            measure_predictions(predictions, pairs),
        )
    )
    gains = np.log(np.maximum(before, 0.005) / np.maximum(after, 0.005))
    assert gains[1] > gains[0] > 0.3
    assert evaluation.saving["all"] == pytest.approx((gains[0] + gains[2] + gains[3]) / (gains[0] + gains[1]))

    write_predictions(tmp_path / "predictions.jsonl", predictions, pairs)
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    for row, prediction, accept in zip(rows, predictions, accepted, strict=True):
        assert row["verdict"] == ("accept" if accept else "refuse")
        served = prediction.structure if accept else prediction.initial
        assert Structure.from_dict(row["served"]).lattice.matrix == pytest.approx(served.lattice.matrix)


def test_metrics_of_a_known_deformation():
    lattice, fractions = 4.0 * np.eye(3), np.array([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    pair = Pair(np.array([55, 17]), fractions, lattice, fractions, lattice)
    moved = np.array([[0.0, 0, 0], [0.55, 0.5, 0.5]])
    displacement, strain, volume = measure_pair(moved, lattice * 1.1, pair)
    assert displacement == pytest.approx(0.1)  # 0.2 Å between the two, halved by removing the drift
    assert strain == pytest.approx(3**0.5 * np.log(1.1))
    assert volume == pytest.approx(1.1**3 - 1)
    turned = lattice @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    assert measure_pair(fractions + np.array([0.3, 0.7, 1.9]), turned, pair) == pytest.approx((0, 0, 0), abs=1e-12)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"id": "a"}\n', "line 1: no initial, numbers, relaxed"),
        ("not json\n", r"pairs\.jsonl: .* \.jsonl or \.jsonl\.gz"),
        ("[1]\n", "line 1: no id"),
        ('{"id": "a", "numbers": [1], "initial": {}, "relaxed": {}}\n', "pair 'a': no 'frac';"),
        ('{"id": "a", "numbers": ["H"], "initial": {}, "relaxed": {}}\n', "pair 'a'"),
        ('{"id": "a", "numbers": [119], "initial": {}, "relaxed": {}}\n', "1 to 118"),
        ('{"id": "a", "numbers": [1], "initial": {"lattice": [[1,0,0],[0,1,0],[0,0,1]], "frac": [[0,0]]}, '
         '"relaxed": {"lattice": [], "frac": []}}\n', "pair 'a'"),
        ("", "no pairs"),
    ],
)  # fmt: skip
def test_bad_pair_files_say_where(tmp_path, text, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_pairs([path])
    with pytest.raises(ConfigError, match="nowhere"):
        load_pairs([tmp_path / "nowhere.jsonl"])


def test_a_cut_gzip_file_is_refused(tmp_path):
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "a"}\n')[:15])
    with pytest.raises(ConfigError, match=r"pairs\.jsonl\.gz: .* end-of-stream .* \.jsonl or \.jsonl\.gz"):
        load_pairs([path])
