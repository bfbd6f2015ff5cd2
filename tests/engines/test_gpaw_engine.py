"""GpawEngine: settings that follow the structure, and a real DFT relaxation of silicon."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.engines import get_engine
from e3relax_flows.engines.gpaw import GpawEngine
from e3relax_flows.engines.gpaw_settings import (
    check_datasets,
    choose_cutoff,
    choose_kpoints,
    prepare_magmoms,
)

ROCK_SALT = [[0, 0, 0], [0.5, 0.5, 0.5]]


def rock_salt(cation: str, anion: str, edge: float) -> Structure:
    cell = Structure.from_spacegroup("Fm-3m", Lattice.cubic(edge), [cation, anion], ROCK_SALT)
    return cell.get_primitive_structure()


def silicon(edge: float = 5.43) -> Structure:
    return Structure.from_spacegroup("Fd-3m", Lattice.cubic(edge), ["Si"], [[0, 0, 0]]).get_primitive_structure()


def perovskite(edge: float = 3.91) -> Structure:
    return Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(edge), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    )


def test_cutoff_is_that_of_the_hardest_element():
    assert choose_cutoff(silicon()) == 400.0
    assert choose_cutoff(rock_salt("Na", "Cl", 5.7)) == 400.0
    assert choose_cutoff(rock_salt("Mg", "O", 4.2)) == 800.0
    assert choose_cutoff(rock_salt("Fe", "S", 5.0)) == 600.0
    assert choose_cutoff(rock_salt("Pd", "S", 5.0)) == 500.0


def test_kpoints_are_dense_enough_and_follow_the_cell():
    assert choose_kpoints(silicon()) == [5, 5, 5]
    assert choose_kpoints(perovskite()) == [4, 4, 4]
    stretched = silicon().copy()
    stretched.make_supercell([1, 1, 2])
    assert choose_kpoints(stretched)[2] == 3
    aluminium = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.05), ["Al"], [[0, 0, 0]])
    assert choose_kpoints(aluminium) == [6, 6, 6]
    assert choose_kpoints(aluminium.get_primitive_structure()) == [11, 11, 11]


@pytest.mark.parametrize("symbol", ["Tc", "Po", "At", "Fr", "Ra", "U"])
def test_elements_without_a_dataset_are_refused_before_anything_runs(symbol):
    with pytest.raises(EngineError, match=rf"^{symbol}O: .*PBE.* {symbol} \("):
        check_datasets(rock_salt(symbol, "O", 5.0))


def test_moments_keep_their_sign_and_vectors_are_refused():
    iron = Structure(Lattice.cubic(2.87), ["Fe", "Fe"], ROCK_SALT)
    prepared, polarized = prepare_magmoms(iron.copy(site_properties={"magmom": [2.2, -2.2]}))
    assert (prepared.site_properties["magmom"], polarized) == ([2.2, -2.2], True)
    prepared, polarized = prepare_magmoms(iron.copy(site_properties={"magmom": [0.0, None]}))
    assert ("magmom" in prepared.site_properties, polarized) == (False, False)
    with pytest.raises(EngineError, match="holds vectors"):
        prepare_magmoms(iron.copy(site_properties={"magmom": [[0, 0, 2.2], [0, 0, 1.0]]}))


def test_document_without_scf_counts_has_no_electronic_steps():
    from e3relax_flows.engines.gpaw_jobs import GpawRelaxMaker, count_scf_iterations

    structure = silicon().as_dict()
    document = {
        "input": {"mol_or_struct": structure},
        "structure": structure,
        "output": {"energy": -10.7, "n_steps": 4, "elapsed_time": 2.0},
        "state": "failed",
    }
    result = GpawEngine("gpaw", GpawRelaxMaker()).read([document])
    assert (result.n_ionic_steps, result.n_electronic_steps, result.converged) == (3, None, False)
    assert count_scf_iterations("no_such_file.txt") == []


def test_scf_iterations_are_counted_in_the_output(tmp_path):
    from e3relax_flows.engines.gpaw_jobs import count_scf_iterations

    output = tmp_path / "gpaw.txt"
    output.write_text("iter:  12\nConverged in 12 steps\n...\n  Converged in 7 steps\nnot Converged in 9 steps\n")
    assert count_scf_iterations(output) == [12, 7]


def test_silicon_relaxes_with_real_dft(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("gpaw", reason="GPAW is not installed (extra gpaw)")
    monkeypatch.chdir(tmp_path)
    start = silicon()
    start.apply_strain(0.03)
    start = Structure(start.lattice.matrix[[1, 0, 2]], start.species, start.frac_coords[:, [1, 0, 2]])  # other hand
    engine = get_engine("gpaw", k_length=12.0)
    flow, store = engine.make(start), JobStore(MemoryStore())
    run_locally(flow, store=store, create_folders=True, raise_immediately=True, log=False)
    document = engine.collect_outputs(flow)[0].resolve(store)
    result = engine.read([document])
    assert result.converged
    assert result.relaxed.volume == pytest.approx(40.9, abs=0.4)  # PBE, Å^3 of two atoms
    assert result.initial.volume == pytest.approx(start.volume)
    assert np.allclose(result.initial.lattice.matrix, start.lattice.matrix)
    assert 2 <= result.n_ionic_steps <= 5
    assert document.n_scf_cycles == result.n_ionic_steps
    assert result.n_electronic_steps >= 3 * result.n_ionic_steps
    assert result.wall_time_s > 0
    assert (result.code, result.functional, result.is_dft) == ("GPAW", "PBE", True)
    assert document.settings["mode"]["ecut"] == 400.0
    text = next(Path(result.dir_name).glob("gpaw.txt")).read_text()
    assert text.count("Converged in") == result.n_ionic_steps


class SymmetryAnalysisBug(Exception):  # noqa: N818
    """Named as GPAW's own, which it raises when operations that hold within its tolerance are no group."""


def test_operations_that_are_no_group_are_left_out(monkeypatch, tmp_path):
    pytest.importorskip("gpaw")
    from ase.calculators.emt import EMT

    from e3relax_flows.engines import gpaw_jobs

    class Picky(EMT):
        def calculate(self, *_args, **_kwargs):
            raise SymmetryAnalysisBug("Sorry!")

    asked = []

    def build(_structure, settings):
        asked.append(dict(settings))
        return EMT() if settings.get("symmetry") == "off" else Picky()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpaw_jobs, "build_calculator", build)
    copper = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])
    engine = get_engine("gpaw", calculator_kwargs={"symmetry": {"tolerance": 1e-3}})
    flow = engine.make(copper)
    store = JobStore(MemoryStore())
    run_locally(flow, store=store, raise_immediately=True, log=False)
    documents = [reference.resolve(store) for reference in engine.collect_outputs(flow)]
    assert engine.read(documents).converged
    assert [settings["symmetry"] for settings in asked] == [{"tolerance": 1e-3}, "off"]
    assert documents[0].settings["symmetry"] == "off"


def test_the_functional_is_known_before_anything_runs():
    from e3relax_flows.engines.gpaw_jobs import GpawRelaxMaker

    assert GpawEngine(name="gpaw", maker=GpawRelaxMaker()).functional == "PBE"
    assert GpawEngine(name="gpaw", maker=GpawRelaxMaker(calculator_kwargs={"xc": "PBEsol"})).functional == "PBEsol"


@pytest.mark.parametrize(
    ("name", "datasets"),
    [("PBE", "PBE"), ("RPBE", "RPBE"), ("vdW-DF2", "revPBE"), ("PBE0", "PBE"), ("pyPBEsol", "PBE")],
)
def test_datasets_are_those_of_the_functional_if_there_are_any(name, datasets):
    pytest.importorskip("gpaw")
    from e3relax_flows.engines.gpaw_jobs import choose_datasets

    for xc in (name, {"name": name}):
        assert choose_datasets(xc, silicon()).functional(collinear=True).get_setup_name() == datasets


def test_another_functional_takes_the_datasets_of_pbe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """GPAW has no datasets of PBEsol, whose silicon is smaller than PBE's (5.43 and 5.47 Å)."""
    pytest.importorskip("gpaw")
    monkeypatch.chdir(tmp_path)
    edges = {}
    for name in ("pyPBEsol", "PBE"):  # the one that GPAW has without libxc
        engine = get_engine("gpaw", calculator_kwargs={"xc": name, "kpts": {"size": [3, 3, 3], "gamma": True}})
        store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
        flow = engine.make(silicon(5.45))
        run_locally(flow, store=store, raise_immediately=True, log=False)
        result = engine.read([reference.resolve(store) for reference in engine.collect_outputs(flow)])
        assert result.converged
        edges[name] = (4 * result.relaxed.volume) ** (1 / 3)
    assert edges["PBE"] - edges["pyPBEsol"] == pytest.approx(0.035, abs=0.012)
