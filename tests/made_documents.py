"""Fixtures that make documents and model folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.ids import identify_structure
from e3relax_flows.core.model_folders import (
    CARD_FILE,
    CONFIG_FILE,
    FORMAT_VERSION,
    WEIGHTS_FILE,
    ModelFolder,
    read_model_folder,
)
from e3relax_flows.ledger.joining import join_outcome
from e3relax_flows.schemas.outcomes import OutcomeDoc, RelaxationResult, StartKind
from e3relax_flows.schemas.predictions import PredictionDoc, PredictOptions, Verdict, identify_prediction


@pytest.fixture
def make_prediction() -> Callable[..., PredictionDoc]:
    """Prediction of a magnetic, charged slab with everything that a structure can carry."""

    def make(name: str = "feo", length: float = 4.0) -> PredictionDoc:
        initial = Structure(
            Lattice.tetragonal(length, 4.4),
            ["Fe3+", "O2-", "Fe2+", "O2-"],
            [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.52]],
            charge=1,
            site_properties={
                "magmom": [3.5, 0.0, -3.5, 0.0],
                "selective_dynamics": [[True, True, False], [False] * 3, [True] * 3, [True] * 3],
            },
            properties={"source": name},
        )
        predicted = initial.copy()
        predicted.apply_strain([0.01, 0.01, -0.02])
        predicted.translate_sites([3], [0, 0, -0.02])
        options = PredictOptions()
        structure_id = identify_structure(initial)
        return PredictionDoc(
            prediction_id=identify_prediction(structure_id, "m-1", options),
            structure_id=structure_id,
            id=name,
            initial=initial,
            structure=predicted,
            verdict=Verdict.ACCEPT,
            score=0.01,
            model_id="m-1",
            options=options,
            metadata={"campaign": "oxides"},
        )

    return make


@pytest.fixture
def make_outcome(make_prediction) -> Callable[..., OutcomeDoc]:
    """Outcome of such a prediction: the engine sorts the sites, drops the charges and moves nothing."""

    def make(
        name: str = "feo",
        length: float = 4.0,
        kind: StartKind = StartKind.PREDICTED,
        ionic: int | None = 5,
        electronic: int | None = 50,
        converged: bool = True,
    ) -> OutcomeDoc:
        prediction = make_prediction(name, length)
        result = None
        if ionic is not None:
            start = prediction.structure if kind is StartKind.PREDICTED else prediction.initial
            begin = start.copy()
            begin.unset_charge()
            begin = begin.remove_oxidation_states().get_sorted_structure()
            result = RelaxationResult(
                initial=begin,
                relaxed=begin,
                energy=-10.0,
                n_ionic_steps=ionic,
                n_electronic_steps=electronic,
                converged=converged,
                code="TEST",
                functional="PBE",
                is_dft=True,
            )
        return join_outcome(prediction, kind, "test", "engine-1", result, None if result else "it broke")

    return make


@pytest.fixture
def make_model(tmp_path) -> Callable[..., ModelFolder]:
    """Write a model folder whose weights are `size` bytes that `seed` begins; no network can be made of it."""

    def make(name: str = "mine", seed: int = 0, size: int = 5000) -> ModelFolder:
        weights = bytes([seed]) * size
        config = {
            "format_version": FORMAT_VERSION,
            "kind": "e3relax_h2",
            "weights_sha256": hashlib.sha256(weights).hexdigest(),
            "network": {"cutoff": 5.0, "n_layers": 3, "names": ["a", None], "tiny": 1e-30},
        }
        folder = tmp_path / "made" / f"{name}-{seed}-{size}" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG_FILE).write_text(json.dumps(config))
        (folder / WEIGHTS_FILE).write_bytes(weights)
        (folder / CARD_FILE).write_text(f"# {name}\n")
        return read_model_folder(folder)

    return make
