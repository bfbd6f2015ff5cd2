"""A screen with a real network, small and untrained, from its model folder to the stores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from jobflow import JobStore
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.store import find_outcomes, find_predictions, open_stores
from e3relax_flows.model.files import save_model
from e3relax_flows.model.network import E3RelaxH2, E3RelaxH2Config
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.predict.predictor import Predictor
from e3relax_flows.prerelax.predict import PrerelaxMaker
from e3relax_flows.schemas.predictions import PredictOptions
from e3relax_flows.schemas.screens import ScreenDoc
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.testing import EMT_LATTICES, EmtEngine

TINY = E3RelaxH2Config(
    n_layers=1, n_scalars=8, n_vectors=4, n_tensors=2, n_densities=2, n_hidden=8, n_radial=4, l_max=1
)
OPTIONS = PredictOptions(passes=1)


def test_predictions_of_a_network_are_stored_relaxed_and_found_again(
    settings: E3RelaxSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models_dir = settings.DATA_DIR / "models"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        folder = save_model(models_dir / "tiny", E3RelaxH2(TINY), "for this test")
    structures = [
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(1.03 * EMT_LATTICES[element]), [element], [[0, 0, 0]])
        for element in ("Cu", "Ag")
    ] + [Structure(Lattice.cubic(4), [{"Cu": 0.5, "Ag": 0.5}], [[0, 0, 0]])]
    direct = Predictor.load("tiny", device="cpu", models_dir=models_dir).predict(structures, OPTIONS)
    assert direct[0].structure is not None
    assert direct[0].volume_ratio != 1.0

    maker = ScreenMaker(
        engine=EmtEngine(), control=0, prerelax=PrerelaxMaker(model="tiny", device="cpu", options=OPTIONS)
    )
    flow = maker.make(structures, ["Cu", "Ag", "disordered"])
    jobs = JobStore(MemoryStore())
    assert run_flow_locally(flow, jobs, tmp_path / "run").failures == []
    screen = ScreenDoc.model_validate(jobs.get_output(flow.output.uuid))
    assert [row.verdict for row in screen.candidates] == ["accept", "accept", "error"]
    assert screen.counts == {"successful": 2, "error": 1}
    assert "disordered" in screen.candidates[2].reasons
    with open_stores(settings) as stores:
        predictions = find_predictions(stores.predictions, [str(row.prediction_id) for row in screen.candidates])
        outcomes = find_outcomes(stores.outcomes)
    assert len(predictions) == len(outcomes) == 2
    for row, prediction in zip(screen.candidates[:2], direct[:2], strict=True):
        stored = predictions[str(row.prediction_id)]
        assert stored.model_id == folder.model_id == row.model_id
        assert stored.structure is not None
        assert prediction.structure is not None
        # the batch of the job is another than that of the direct call
        assert stored.structure.volume == pytest.approx(prediction.structure.volume, rel=1e-5)
        assert stored.score == pytest.approx(prediction.score, abs=1e-5)
        result = outcomes[row.outcomes[0].outcome_id].result
        assert result is not None
        assert result.initial.volume == pytest.approx(stored.structure.volume, rel=1e-6)

    monkeypatch.setattr(Predictor, "predict", lambda *_, **__: pytest.fail("predicted again"))
    again = maker.make(structures[:2], ["Cu", "Ag"])
    assert run_flow_locally(again, jobs, tmp_path / "run").failures == []
    assert ScreenDoc.model_validate(jobs.get_output(again.output.uuid)).counts == {"successful": 2}
