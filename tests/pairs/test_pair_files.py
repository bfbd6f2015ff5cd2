"""Relaxations in files: convergence that is known or not claimed, numbers that are none, words for yes and no."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixedPlane
from ase.io import write as write_frames
from ase.units import GPa
from hypothesis import given, settings
from hypothesis import strategies as st
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure
from task_documents import MINIMUM, build_salt

from e3relax_flows.core.errors import ConfigError, StoreError
from e3relax_flows.pairs.files import FilePair, Stated, describe_pair, read_pair_file, write_pair_file
from e3relax_flows.pairs.imports import import_pair
from e3relax_flows.pairs.prediction_index import PredictionIndex
from e3relax_flows.pairs.store import save_pairs
from e3relax_flows.schemas.pairs import LeftOut, PairDoc
from e3relax_flows.train.dataset import load_pairs

FIELD = Path(__file__).resolve().parents[1] / "files" / "odd"
PBE = Stated("PBE")


def read(path: Path, stated: Stated = PBE) -> FilePair:
    (item,) = read_pair_file(path, stated)
    return item


def make_frame(a: float, shift: float = 0.0) -> Atoms:
    """A MgO crystal of one cubic cell whose last atom is moved by `shift` Å."""
    positions = (
        np.array([[0, 0, 0], [1, 1, 0], [1, 0, 1], [0, 1, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]) * a / 2
    )
    positions[-1, 0] += shift
    return Atoms("Mg4O4", positions=positions, cell=[a] * 3, pbc=True)


def write_run(path: Path, ends: tuple[float, float] = (4.4, 4.25), constraint: Any = None, **results: Any) -> Path:
    """A trajectory of two frames; `results` are of the last one."""
    frames = [make_frame(ends[0], 0.1), make_frame(ends[1])]
    frames[-1].calc = SinglePointCalculator(frames[-1], **results)
    for frame in frames:
        frame.set_constraint(constraint)
    write_frames(path, frames)
    return path


@pytest.mark.parametrize(
    ("name", "reason", "words"),
    [
        ("md-ref-forces.extxyz", LeftOut.UNCONVERGED, "eV/Å is left in the last frame"),
        ("pressure-left.extxyz", LeftOut.UNCONVERGED, "a stress of 24.03 GPa is left"),
        ("nan-forces.extxyz", LeftOut.UNREADABLE, "its last frame has energy that is not a finite number"),
    ],
)
@pytest.mark.parametrize("stated", [PBE, Stated("PBE", converged=True)])
def test_trajectories_of_the_field_trial_are_no_pairs(name, reason, words, stated):
    item = read(FIELD / name, stated)
    assert (item.result, item.reason) == (None, reason)
    assert words in item.message
    assert name in item.message


REST = {"forces": np.full((8, 3), 0.01), "stress": np.full(6, 1e-4), "energy": -48.0}


@pytest.mark.parametrize(
    ("change", "stated", "words"),
    [
        ({}, PBE, None),
        ({"forces": None}, PBE, "holds no forces"),
        ({"forces": None}, Stated("PBE", converged=True), None),
        ({"stress": None}, PBE, "its cell changes, and its last frame holds no stress"),
        ({"stress": None}, Stated("PBE", converged=True), None),
        ({"forces": np.full((8, 3), 0.2)}, PBE, "a force of 0.35 eV/Å"),
        ({"forces": np.full((8, 3), 0.2)}, Stated("PBE", converged=True), "a force of 0.35 eV/Å"),
        ({"stress": [0, 0, 0, 0, 0, 0.7 * GPa]}, PBE, "a stress of 0.70 GPa"),
        ({"stress": [-20 * GPa] * 3 + [0] * 3}, PBE, "a stress of 20.00 GPa"),
        ({"stress": [-20 * GPa] * 3 + [0] * 3}, Stated("PBE at 20 GPa"), None),
    ],
)
@pytest.mark.parametrize("ending", ["extxyz", "traj"])
def test_forces_and_stress_say_whether_a_trajectory_ended(tmp_path, ending, change, stated, words):
    results = {name: value for name, value in (REST | change).items() if value is not None}
    item = read(write_run(tmp_path / f"run.{ending}", **results), stated)
    if words is None:
        assert (item.reason, item.result.energy) == (None, pytest.approx(-48.0))
        assert item.result.functional == stated.functional
    else:
        assert item.reason is LeftOut.UNCONVERGED
        assert words in item.message


def test_a_held_cell_needs_no_stress(tmp_path):
    item = read(write_run(tmp_path / "run.extxyz", (4.25, 4.25), forces=np.zeros((8, 3)), energy=-1.0))
    assert item.reason is None


@pytest.mark.parametrize("prefix", ["REF_", "dft_", "DFT-", "MACE_"])
@pytest.mark.parametrize("left", [0.01, 3.0])
def test_forces_under_other_names_count(tmp_path, prefix, left):
    frames = [make_frame(4.25, 0.1), make_frame(4.25)]
    frames[-1].arrays[f"{prefix}forces"] = np.full((8, 3), left)
    write_frames(tmp_path / "run.extxyz", frames)
    assert read(tmp_path / "run.extxyz").reason == (None if left < 0.1 else LeftOut.UNCONVERGED)


def test_the_reference_counts_before_the_potential_and_the_virial_before_nothing(tmp_path):
    frames = [make_frame(4.3, 0.1), make_frame(4.25)]
    last = frames[-1]
    last.arrays |= {"REF_forces": np.zeros((8, 3)), "mace_forces": np.ones((8, 3))}
    last.info |= {"REF_virial": -np.eye(3) * 24 * GPa * last.get_volume(), "REF_energy": -3.5}
    write_frames(tmp_path / "run.extxyz", frames)
    assert "a stress of 24.00 GPa" in read(tmp_path / "run.extxyz").message
    last.info["REF_virial"] = np.zeros((3, 3))
    write_frames(tmp_path / "run.extxyz", frames)
    assert read(tmp_path / "run.extxyz").result.energy == -3.5


def test_held_atoms_have_no_forces_and_odd_constraints_are_named(tmp_path):
    forces = np.zeros((8, 3))
    forces[0] = 5.0
    rest = REST | {"forces": forces}
    item = read(write_run(tmp_path / "held.traj", constraint=FixAtoms([0]), **rest))
    assert item.reason is None
    assert list(item.result.initial.site_properties["selective_dynamics"][0]) == [False] * 3
    item = read(write_run(tmp_path / "odd.traj", constraint=FixedPlane([0], [1, 1, 0]), **REST))
    assert item.reason is LeftOut.CONSTRAINT
    assert "FixedPlane of site 0" in item.message


def make_entry(**update: Any) -> dict[str, Any]:
    return {"initial": build_salt().as_dict(), "relaxed": build_salt(MINIMUM).as_dict(), "functional": "PBE"} | update


def import_entry(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "pairs.jsonl"
    path.write_text(text)
    (item,) = read_pair_file(path)
    return import_pair(item, PredictionIndex(None))


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        ({}, None),
        ({"converged": True}, None),
        ({"converged": "true"}, None),
        ({"converged": 1}, None),
        ({"converged": "false"}, LeftOut.UNCONVERGED),
        ({"converged": "No"}, LeftOut.UNCONVERGED),
        ({"converged": 0}, LeftOut.UNCONVERGED),
        ({"converged": None}, LeftOut.UNCONVERGED),
        ({"is_converged": False}, LeftOut.UNCONVERGED),
        ({"converged": "maybe"}, LeftOut.UNREADABLE),
        ({"converged": math.nan}, LeftOut.UNREADABLE),
        ({"forces": [[0, 0, 3.0], [0, 0, -3.0]]}, LeftOut.UNCONVERGED),
        ({"forces": [[math.nan] * 3] * 2}, LeftOut.UNCONVERGED),
        ({"energy": math.nan}, LeftOut.UNREADABLE),
        ({"energy": -math.inf}, LeftOut.UNREADABLE),
        ({"energy": "nan"}, LeftOut.UNREADABLE),
    ],
)
def test_claims_of_an_entry_are_read_as_they_are_meant(tmp_path, update, reason):
    built = import_entry(tmp_path, json.dumps(make_entry(**update)))
    assert built.record.reason == reason
    assert (built.pair is None) == (reason is not None)
    assert reason is None or "pairs.jsonl line 1" in built.record.message


def test_a_word_for_no_is_no_dft(tmp_path):
    built = import_entry(tmp_path, json.dumps(make_entry(is_dft="false", functional="CHGNet")))
    assert (built.pair.is_dft, built.pair.functional) == (False, "CHGNet")


@pytest.mark.parametrize("side", ["initial", "relaxed"])
@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("key", ["lattice", "frac"])
def test_coordinates_that_are_none_are_refused_with_their_place(tmp_path, side, number, key):
    entry = {
        "id": "x", "numbers": [11, 17], "functional": "PBE",
        "initial": {"lattice": (5 * np.eye(3)).tolist(), "frac": [[0, 0, 0], [0.5, 0.5, 0.5]]},
        "relaxed": {"lattice": (5 * np.eye(3)).tolist(), "frac": [[0, 0, 0], [0.5, 0.5, 0.5]]},
    }  # fmt: skip
    entry[side][key][0][0] = "HERE"
    text = json.dumps(entry).replace('"HERE"', number)
    built = import_entry(tmp_path, text)
    assert built.record.reason is LeftOut.UNREADABLE
    assert "pairs.jsonl line 1" in built.record.message
    with pytest.raises(ConfigError, match=r"1 pairs .*'x'; .*e3relax data check"):
        load_pairs([tmp_path / "pairs.jsonl"])


def make_pair(tmp_path: Path) -> PairDoc:
    return import_entry(tmp_path, json.dumps(make_entry())).pair


def test_no_pair_with_such_numbers_enters_a_store_or_a_file(tmp_path):
    pair = make_pair(tmp_path)
    broken = pair.model_copy(update={"energy": math.nan})
    store = MemoryStore(key="pair_id")
    store.connect()
    with pytest.raises(StoreError, match=r"PairDoc .*energy = nan "):
        save_pairs(store, [broken])
    with pytest.raises(ValueError, match="JSON compliant"):
        write_pair_file(tmp_path / "out.jsonl", [broken])
    assert not (tmp_path / "out.jsonl").exists()
    assert save_pairs(store, [pair]) == 1


numbers = st.floats(0.02, 0.98)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=4, unique=True),
    st.lists(st.floats(-0.1, 0.1), min_size=9, max_size=9),
    st.floats(-0.05, 0.05),
    st.one_of(st.none(), st.floats()),
    st.sampled_from(["PBE", "PBESol", "R2SCAN+U", "PBE-D3(BJ)", "MACE"]),
    st.sampled_from([True, "true", False, "false", None, "maybe"]),
)
def test_an_entry_gives_a_pair_that_reads_back_the_same_or_a_reason(sites, shear, shift, energy, functional, converged):
    """A line of a pair is a fixed point: written and read again it is the same pair, finite, and spelled."""
    lattice = Lattice(5 * np.eye(3) + np.reshape(shear, (3, 3)))
    species = ["Na", "Cl", "K", "Br"][: len(sites)]
    initial = Structure(lattice, species, sites)
    relaxed = Structure(lattice.scale(lattice.volume * (1 + shift)), species, np.array(sites) + shift)
    entry = {
        "initial": initial.as_dict(), "relaxed": relaxed.as_dict(), "energy": energy, "functional": functional,
        "converged": converged,
    }  # fmt: skip
    built = _import(entry)
    sound = converged in (True, "true") and (energy is None or math.isfinite(energy))
    assert (built.pair is not None) == sound
    assert (built.record.reason is None) == sound
    if built.pair is not None:
        line = json.loads(json.dumps(describe_pair(built.pair), allow_nan=False))
        again = _import(line).pair
        assert again.pair_id == built.pair.pair_id
        assert again.functional == built.pair.functional


def _import(entry: dict[str, Any]) -> Any:
    from e3relax_flows.pairs.files import _read_entry

    return import_pair(_read_entry(entry, "here", Stated()), PredictionIndex(None))
