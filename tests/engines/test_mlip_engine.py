"""MlipEngine: CHGNet through atomate2's force-field job, its limits and its cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from monty.json import jsanitize
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.engines import Engine, get_engine

pytest.importorskip("chgnet")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Engine, Structure], list[Any]]:
    """Documents of an engine's flow, run with a store that has no additional stores."""
    monkeypatch.chdir(tmp_path)

    def run_engine(engine: Engine, structure: Structure) -> list[Any]:
        store = JobStore(MemoryStore())
        flow = engine.make(structure)
        run_locally(flow, store=store, create_folders=True, raise_immediately=True, log=False)
        return [reference.resolve(store) for reference in engine.collect_outputs(flow)]

    return run_engine


def rock_salt(edge: float) -> Structure:
    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    primitive = cell.get_primitive_structure()
    primitive.translate_sites([1], [0.02, 0.0, 0.01])
    return primitive


def swap_axes(structure: Structure) -> Structure:
    return Structure(structure.lattice.matrix[[1, 0, 2]], structure.species, structure.frac_coords[:, [1, 0, 2]])


def test_left_handed_cell_relaxes_as_its_right_handed_twin(run):
    engine = get_engine("chgnet")
    one = rock_salt(5.9)
    other = swap_axes(one)
    assert np.linalg.det(one.lattice.matrix) * np.linalg.det(other.lattice.matrix) < 0
    result, twin = (engine.read(run(engine, structure)) for structure in (one, other))
    assert result.converged
    assert twin.converged
    assert result.relaxed.volume == pytest.approx(46.0, rel=0.03)
    assert twin.relaxed.volume == pytest.approx(result.relaxed.volume, rel=1e-6)
    assert twin.n_ionic_steps == result.n_ionic_steps > 2
    assert np.allclose(twin.initial.lattice.matrix, other.lattice.matrix)
    offsets = twin.initial.frac_coords - other.frac_coords
    assert np.allclose(offsets, np.round(offsets), atol=1e-9)
    assert np.allclose(twin.relaxed.lattice.matrix, result.relaxed.lattice.matrix[[1, 0, 2]], atol=1e-5)


def test_result_is_labelled_as_not_dft_and_counts_evaluations(run):
    engine = get_engine("chgnet")
    document = run(engine, rock_salt(5.7))[0]
    result = engine.read([document])
    energies = [step.energy for step in document.output.ionic_steps]
    assert energies[-1] == energies[-2], "the last geometry is recorded twice"
    assert len(set(energies)) == result.n_ionic_steps == len(energies) - 1
    assert (result.code, result.functional, result.is_dft) == ("CHGNet-0.3.0", "CHGNet-0.3.0 (not DFT)", False)
    assert result.n_electronic_steps is None
    assert result.energy == pytest.approx(-7.3, abs=0.2)  # two atoms, with the Materials Project's anion correction
    again = engine.read([jsanitize(document, strict=True)])
    assert again.model_dump(exclude={"initial", "relaxed"}) == result.model_dump(exclude={"initial", "relaxed"})
    assert again.relaxed.volume == pytest.approx(result.relaxed.volume, rel=1e-9)


def test_time_limit_gives_an_unconverged_result(run):
    engine = get_engine("chgnet", time_limit_s=0.0)
    start = rock_salt(6.5)
    result = engine.read(run(engine, start))
    assert not result.converged
    assert result.n_ionic_steps == 1
    assert result.relaxed.volume == pytest.approx(start.volume)


def test_step_limit_gives_an_unconverged_result(run):
    engine = get_engine("chgnet", steps=2)
    result = engine.read(run(engine, rock_salt(6.5)))
    assert (result.converged, result.n_ionic_steps) == (False, 3)


def test_cell_that_flies_apart_is_unconverged_and_keeps_its_last_sound_geometry(run):
    engine = get_engine("chgnet")
    engine.maker.max_strain = 0.03
    result = engine.read(run(engine, rock_salt(6.5)))
    assert not result.converged
    assert abs(np.log(result.relaxed.volume / rock_salt(6.5).volume)) < 3 * 0.03


def test_elements_that_chgnet_never_saw_are_refused():
    lattice = Lattice.cubic(5.0)
    with pytest.raises(EngineError, match=r"RaF2: CHGNet-0.3.0 .*Ra;"):
        get_engine("chgnet").make(
            Structure.from_spacegroup("Fm-3m", lattice, ["Ra", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]])
        )


def test_optimizer_that_is_unknown_is_named(run):
    engine = get_engine("chgnet")
    engine.maker.optimizer_kwargs = {"optimizer": "Newton"}
    with pytest.raises(EngineError, match=r"optimizer 'Newton' .*: FIRE, BFGS"):
        run(engine, rock_salt(5.7))


def test_missing_and_broken_documents_are_errors_that_say_so():
    engine = get_engine("chgnet")
    with pytest.raises(EngineError, match=r"CHGNet-0\.3\.0 job .*jobflow"):
        engine.read([None])
    with pytest.raises(EngineError, match=r"CHGNet-0\.3\.0 document of x .* initial"):
        engine.read([{"dir_name": "x", "output": {"n_steps": 3}}])
    structure = rock_salt(5.7).as_dict()
    broken = {"input": {"mol_or_struct": structure}, "structure": structure, "output": {"energy": float("nan")}}
    with pytest.raises(EngineError, match=r"CHGNet-0\.3\.0 .* nan eV"):
        engine.read([broken])
