"""Predictions with registered models: the id that an alias meant at that moment, and weights from a store."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import ModelError
from e3relax_flows.core.model_folders import ModelFolder, find_model
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.store import find_predictions, open_stores
from e3relax_flows.model.files import save_model
from e3relax_flows.model.network import E3RelaxH2
from e3relax_flows.prerelax.predict import predict_stored
from e3relax_flows.registry.aliases import promote, rollback
from e3relax_flows.registry.models import register_model
from e3relax_flows.schemas.predictions import PredictOptions

SIZES = {"n_layers": 1, "n_scalars": 8, "n_vectors": 4, "n_tensors": 2, "n_densities": 2, "n_hidden": 8, "l_max": 1}
OPTIONS = PredictOptions(passes=1)


def make_network(path: Path, seed: int) -> ModelFolder:
    """A network of random weights that moves cells by visible amounts."""
    network = E3RelaxH2.from_config(SIZES)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return save_model(path, network, "")


@pytest.fixture
def salt() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.8), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def predict(structure: Structure, settings: E3RelaxSettings, model: str = "default"):
    (document,), n_reused = predict_stored([structure], ["salt"], model, "cpu", OPTIONS, settings)
    return document, n_reused


def test_a_prediction_has_the_id_that_the_alias_meant(
    settings: E3RelaxSettings, tmp_path: Path, salt: Structure
) -> None:
    first, second = (register_model(make_network(tmp_path / f"net{seed}", seed), settings) for seed in (1, 2))
    with_bundled, _ = predict(salt, settings)
    promote("default", first.model_id, "a", settings=settings)
    with_first, _ = predict(salt, settings)
    promote("default", second.model_id, "b", settings=settings)
    with_second, _ = predict(salt, settings)
    rollback("default", "b is bad", settings)
    again, n_reused = predict(salt, settings)
    ids = [document.model_id for document in (with_bundled, with_first, with_second, again)]
    assert ids == [find_model("default").model_id, first.model_id, second.model_id, first.model_id]
    assert n_reused == 1
    assert again.prediction_id == with_first.prediction_id
    volumes = [document.structure.volume for document in (with_bundled, with_first, with_second)]
    assert min(abs(a - b) for a, b in zip(volumes, volumes[1:] + volumes[:1], strict=True)) > 1e-3
    with open_stores(settings) as stores:
        stored = find_predictions(
            stores.predictions, [document.prediction_id for document in (with_first, with_second)]
        )
    assert [document.model_id for document in stored.values()] == ids[1:3]


def test_a_worker_with_an_empty_cache_fetches_the_model(
    settings: E3RelaxSettings, tmp_path: Path, salt: Structure
) -> None:
    stores = {"type": "SQLiteStore", "path": str(tmp_path / "server.sqlite")}
    here = settings.model_copy(update={"MODEL_STORE": stores, "WEIGHTS_STORE": stores | {"collection_name": "weights"}})
    folder = make_network(tmp_path / "net", 1)
    register_model(folder, here)
    promote("default", folder.model_id, "a", settings=here)
    shutil.rmtree(folder.path)
    worker = here.model_copy(update={"DATA_DIR": tmp_path / "worker"})
    document, _ = predict(salt, worker)
    assert document.model_id == folder.model_id
    assert document.verdict != "error"
    by_id, n_reused = predict(salt, worker, folder.model_id[:10])
    assert (by_id.prediction_id, n_reused) == (document.prediction_id, 1)
    assert [path.name for path in (tmp_path / "worker" / "model_cache").iterdir()] == [folder.model_id]
    with pytest.raises(
        ModelError, match=r"'nets' .*\(base, net, small, small-pbesol, small-r2scan\).*`e3relax models list`"
    ):
        predict(salt, worker, "nets")
