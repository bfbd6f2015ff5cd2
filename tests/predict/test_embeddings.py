"""Embeddings of crystals: invariant, in order, NaN for what is no crystal."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fake_networks import Identity
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.model.network import E3RelaxH2
from e3relax_flows.predict.predictor import Predictor

SIZES = {"n_layers": 2, "n_scalars": 8, "n_vectors": 4, "n_tensors": 2, "n_densities": 2, "n_hidden": 8, "l_max": 2}


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(5)
    return Predictor(E3RelaxH2.from_config(SIZES), "tiny", device="cpu")


def make_salt(a: float, cation: str = "Na") -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(a), [cation, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_a_crystal_has_one_embedding_in_any_cell_and_orientation(predictor: Predictor) -> None:
    salt = make_salt(5.9)
    angle = 0.7
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    turned = Structure(salt.lattice.matrix @ rotation, salt.species[::-1], salt.frac_coords[::-1] + 0.13)
    rows = predictor.embed([salt, salt.get_primitive_structure(), turned, salt * (2, 1, 1)])
    assert rows.shape == (4, 8)
    assert np.abs(rows - rows[0]).max() < 1e-4
    assert np.abs(rows[0]).max() > 1e-2


def test_embeddings_differ_and_keep_the_order_of_the_input(predictor: Predictor) -> None:
    structures = [make_salt(5.9) * (2, 2, 1), make_salt(5.2), make_salt(5.9, "K"), make_salt(5.9)]
    rows = predictor.embed(structures)
    alone = np.concatenate([predictor.embed([structure]) for structure in structures])
    assert rows == pytest.approx(alone, abs=1e-5)
    assert np.linalg.norm(rows[1] - rows[3]) > 1e-3
    assert np.linalg.norm(rows[2] - rows[3]) > 1e-2


def test_what_is_no_crystal_has_no_embedding(predictor: Predictor) -> None:
    rows = predictor.embed([make_salt(5.9), "no structure", make_salt(5.5)])
    assert np.isnan(rows).any(axis=1).tolist() == [False, True, False]
    assert predictor.embed(["nothing"]).shape == (1, 0)


def test_a_network_without_embedding_says_so() -> None:
    with pytest.raises(ConfigError, match=r"model other .*embedding"):
        Predictor(Identity(), "other", device="cpu").embed([make_salt(5.9)])
