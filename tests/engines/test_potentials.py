"""Potentials by name and checkpoint: labels, hashes, what is refused, and real relaxations with their weights."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import MontyDecoder, jsanitize
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import EngineError, MissingDependencyError
from e3relax_flows.engines import Engine, get_engine
from e3relax_flows.engines.potentials import find_potential
from e3relax_flows.engines.task_reader import TaskReader

# Å^3 of NaCl's primitive cell: PBE 46.2, r2SCAN 44.0 or a little less
PBE_VOLUME, R2SCAN_VOLUME, TOLERANCE = 46.1, 43.7, 0.01
EXPECTED = {
    ("chgnet", ""): ("CHGNet-0.3.0", "PBE(+U)", PBE_VOLUME),
    ("chgnet-r2scan", ""): ("CHGNet-r2SCAN", "r2SCAN", R2SCAN_VOLUME),
    ("sevennet", ""): ("SevenNet-l3i5", "PBE(+U)", PBE_VOLUME),
    ("sevennet-0", ""): ("SevenNet-0-11Jul2024", "PBE(+U)", PBE_VOLUME),
    ("mlip", "PBE"): ("SevenNet-MF-0-PBE", "PBE(+U)", PBE_VOLUME),
    ("mlip", "R2SCAN"): ("SevenNet-MF-0-r2SCAN", "r2SCAN", R2SCAN_VOLUME),
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine, Structure], list[Any]]:
    monkeypatch.chdir(tmp_path)

    def run_engine(engine: Engine, structure: Structure) -> list[Any]:
        store = JobStore(MemoryStore())
        flow = engine.make(structure)
        run_locally(flow, store=store, create_folders=True, raise_immediately=True, log=False)
        return [reference.resolve(store) for reference in engine.collect_outputs(flow)]

    return run_engine


def rock_salt(edge: float, move: float = 0.02) -> Structure:
    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    primitive = cell.get_primitive_structure()
    primitive.translate_sites([1], [move, 0.0, move / 2])
    return primitive


def build(name: str, modal: str = "", **settings: Any) -> Engine:
    if name.startswith("sevennet") or modal:
        pytest.importorskip("sevenn")
    if modal:
        settings |= {"potential": "SevenNet", "checkpoint": "7net-mf-0", "modal": modal}
    return get_engine(name, **settings)


@pytest.mark.parametrize(("name", "modal"), list(EXPECTED))
def test_weights_relax_to_the_volume_of_what_they_were_trained_on_and_are_named(run, name, modal):
    label, functional, volume = EXPECTED[name, modal]
    engine = build(name, modal)
    (document,) = run(engine, rock_salt(5.8))
    result = engine.read([document])
    assert result.converged
    assert result.relaxed.volume == pytest.approx(volume, rel=TOLERANCE)
    assert (result.code, result.functional, result.is_dft) == (label, f"{label} (not DFT)", False)
    potential = find_potential(result.potential.potential, result.potential.checkpoint, modal or None)
    assert result.potential.weights_hash == hashlib.sha256(potential.weights.read_bytes()).hexdigest()
    assert (result.potential.functional, result.potential.modal) == (functional, modal or None)
    assert (result.potential.device, result.potential.fix_symmetry) == ("cpu", False)
    # a pair builder sees the stored document only
    stored = TaskReader().read(jsanitize(document, strict=True))
    assert (stored.code, stored.potential) == (label, result.potential)


def test_two_checkpoints_are_never_one():
    pytest.importorskip("sevenn")
    engines = [build(*key) for key in EXPECTED] + [get_engine("chgnet", fix_symmetry=True)]
    assert len({engine.engine_id for engine in engines}) == len(EXPECTED) + 1
    assert len({engine.describe().label for engine in engines}) == len(EXPECTED)
    named = get_engine("mlip", potential="sevennet", checkpoint="7net-l3i5")
    assert named.engine_id == get_engine("sevennet").engine_id
    assert get_engine("chgnet", device="cpu").engine_id == get_engine("chgnet").engine_id


def test_engine_survives_its_document():
    engine = get_engine("chgnet-r2scan")
    again = MontyDecoder().process_decoded(jsanitize(engine.as_dict(), strict=True))
    assert again.engine_id == engine.engine_id
    assert again.describe() == engine.describe()


def test_copy_with_another_name_is_another_potential():
    pytest.importorskip("sevenn")
    maker = get_engine("chgnet").maker
    copy = dataclasses.replace(maker, force_field_name="SevenNet", checkpoint=None, weights_hash=None, functional=None)
    assert copy.describe().label == "SevenNet-0-11Jul2024"
    assert type(copy.find_potential().load()).__name__ == "EvaluatedCalculator"
    older = dataclasses.replace(maker, checkpoint="0.2.0")
    with pytest.raises(EngineError, match=r"CHGNet-0\.2\.0 .*sha256 \w+, .*"):
        older._get_calculator()


def test_weights_of_your_own_are_named_by_file_and_hash(run, tmp_path):
    bundled = find_potential("CHGNet").weights
    mine = tmp_path / "mine.pth.tar"
    shutil.copy(bundled, mine)
    engine = get_engine("mlip", potential="CHGNet", checkpoint=str(mine), functional="PBE")
    digest = hashlib.sha256(bundled.read_bytes()).hexdigest()
    result = engine.read(run(engine, rock_salt(5.8)))
    assert result.code == f"CHGNet-mine.pth-{digest[:8]}"
    assert (result.potential.functional, result.potential.checkpoint) == ("PBE", str(mine))
    assert result.relaxed.volume == pytest.approx(PBE_VOLUME, rel=TOLERANCE)
    mine.write_bytes(find_potential("CHGNet", "r2scan").weights.read_bytes())
    with pytest.raises(EngineError, match=f"CHGNet-mine.pth-.*sha256 .*{digest};"):
        run(engine, rock_salt(5.8))


def test_symmetry_is_kept_where_it_is_asked_for(run):
    wurtzite = Structure.from_spacegroup(
        "P6_3mc", Lattice.hexagonal(3.3, 5.0), ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.37]]
    )
    engine = get_engine("chgnet", fix_symmetry=True)
    result = engine.read(run(engine, wurtzite))
    assert result.potential.fix_symmetry
    assert result.relaxed.get_space_group_info()[1] == 186
    assert abs(result.relaxed.lattice.gamma - 120) < 1e-6


def test_calculator_by_path_is_named_by_it(run):
    atoms = Structure(Lattice.cubic(5.5), ["Cu"] * 4, [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    settings = {"sigma": 3.4, "epsilon": 0.0104, "rc": 10.0, "smooth": True}
    path = "ase.calculators.lj:LennardJones"
    engine = get_engine("mlip", potential=path, calculator_kwargs=settings, fmax=0.001)
    other = get_engine("mlip", potential=path, calculator_kwargs=settings | {"sigma": 3.3})
    result = engine.read(run(engine, atoms))
    assert result.code.startswith("ase.calculators.lj.LennardJones-")
    assert result.code != other.describe().label
    assert engine.engine_id != other.engine_id
    # the lattice sum of the untruncated potential has its minimum at 1.0902 sigma nearest-neighbour distance
    assert result.relaxed.lattice.a == pytest.approx(1.09 * 3.4 * np.sqrt(2), rel=0.01)


@pytest.mark.parametrize("name", ["sevennet-0", "chgnet"])
def test_atoms_out_of_reach_are_an_error_and_not_relaxed(run, name):
    engine = build(name)
    with pytest.raises((EngineError, ValueError), match=r"^ClNa: .* 5 Å|isolated atom"):
        run(engine, rock_salt(20.0))


def test_limits_hold_for_every_potential(run):
    late = build("sevennet-0", time_limit_s=0.0)
    result = late.read(run(late, rock_salt(6.5)))
    assert (result.converged, result.n_ionic_steps) == (False, 1)
    torn = build("sevennet-0", max_strain=0.03)
    result = torn.read(run(torn, rock_salt(6.5)))
    assert not result.converged
    assert abs(np.log(result.relaxed.volume / rock_salt(6.5).volume)) < 3 * 0.03
    left = rock_salt(5.8)
    left = Structure(left.lattice.matrix[[1, 0, 2]], left.species, left.frac_coords[:, [1, 0, 2]])
    engine = build("sevennet-0")
    assert engine.read(run(engine, left)).relaxed.volume == pytest.approx(PBE_VOLUME, rel=TOLERANCE)
    with pytest.raises(EngineError, match=r"SevenNet-0-11Jul2024 .*\bPo;"):
        engine.make(Structure(Lattice.cubic(3.4), ["Po"], [[0, 0, 0]]))


@pytest.mark.parametrize(
    ("name", "checkpoint", "modal", "message"),
    [
        ("SevenNett", None, None, r"'SevenNett' .* SevenNet\? .*: CHGNet, "),
        ("SevenNet", "7net-l3i6", None, r"'7net-l3i6' of SevenNet .*'7net-l3i5'\?"),
        ("SevenNet", "7net-mf-0", None, r"'7net-mf-0' of SevenNet .*None; .*: PBE, R2SCAN"),
        ("CHGNet", "0.3.0", "PBE", r"'0.3.0' of CHGNet .*'PBE'; .*: none"),
        ("MatterSim", "big", None, r"'MatterSim' .*calculator_kwargs\.NAME=big"),
    ],
)
def test_unknown_names_are_errors_with_the_nearest(name, checkpoint, modal, message):
    with pytest.raises(EngineError, match=message):
        find_potential(name, checkpoint, modal)


def test_checkpoint_given_twice_is_an_error():
    with pytest.raises(EngineError, match=r"'7net-0' .*calculator_kwargs model='7net-l3i5'"):
        find_potential("SevenNet", "7net-0", calculator_kwargs={"model": "7net-l3i5"})
    assert find_potential("SevenNet", calculator_kwargs={"model": "7net-l3i5"}).label == "SevenNet-l3i5"


def test_the_device_is_in_no_label_and_no_id():
    path, settings = "ase.calculators.lj:LennardJones", {"sigma": 3.4}
    for content in (settings, {}):
        here, there = (
            get_engine("mlip", potential=path, calculator_kwargs=content | device)
            for device in ({"device": "cuda"}, {"device": "cpu"})
        )
        plain = get_engine("mlip", potential=path, calculator_kwargs=content)
        assert here.describe().label == there.describe().label == plain.describe().label
        assert here.engine_id == there.engine_id


@pytest.mark.parametrize("path", ["os:system", "subprocess.run", "ase.build:bulk", "pathlib:Path"])
def test_only_calculators_are_called(path):
    potential = find_potential(path, calculator_kwargs={"command": "touch called"})
    with pytest.raises(EngineError, match=f"'{path.replace(':', '.')}' .*ASE calculators"):
        potential.load()


def test_weights_that_no_wheel_holds_are_asked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(EngineError, match=r"https://.*/mace_mpa_0/mace-mpa-0-medium.model .*checkpoint=FILE"):
        find_potential("MACE-MPA-0").check_installed()
    for name in ("mace-mpa-0-medium.model", "macempa0mediummodel"):
        cached = tmp_path / ".cache" / "mace" / name
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.write_bytes(b"weights")
        found = find_potential("mace_mpa_0")
        assert found.label == "MACE-MPA-0-medium"
        assert found.info.weights_hash == hashlib.sha256(b"weights").hexdigest()
        with pytest.raises(MissingDependencyError, match=r"MACE-MPA-0-medium .*'mace'.*pip install mace-torch"):
            found.check_installed()
        cached.unlink()


@pytest.mark.parametrize(
    ("free", "volume", "shape"),
    [("all", True, True), ("shape", False, True), ("volume", True, False), ("sites", False, False)],
)
def test_what_may_change_changes_and_nothing_else(run, free, volume, shape):
    start = Structure.from_spacegroup(
        "P4_2/mnm", Lattice.tetragonal(4.8, 2.8), ["Ti", "O"], [[0, 0, 0], [0.31, 0.31, 0]]
    )
    engine = get_engine("chgnet", free=free, fmax=0.05)
    result = engine.read(run(engine, start))
    assert (result.free.volume, result.free.shape, result.free.sites) == (volume, shape, True)
    assert result.converged
    assert (abs(result.relaxed.volume / start.volume - 1) > 0.005) == volume
    ratio = result.relaxed.lattice.c / result.relaxed.lattice.a / (start.lattice.c / start.lattice.a)
    assert (abs(ratio - 1) > 0.005) == shape
    assert abs(result.relaxed.volume / start.volume - 1) < 1e-6 or volume
    moved = result.relaxed.frac_coords - start.frac_coords
    assert np.abs(moved - np.round(moved)).max() > 1e-3
