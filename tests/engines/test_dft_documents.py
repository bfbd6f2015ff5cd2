"""Documents of FHI-aims and JDFTx after atomate2's schemas, and of CP2K and ABINIT as their real runs left them."""

from __future__ import annotations

import pytest
from dft_documents import aims_output, jdftx_output
from task_documents import MINIMUM, build_salt, vasp_output

from e3relax_flows.core.errors import EngineError
from e3relax_flows.engines.dft_documents import find_form, read_dft_documents
from e3relax_flows.engines.task_reader import TaskReader
from e3relax_flows.schemas.pairs import Freedom

RAW, NEAR, RELAXED = build_salt(5.9), build_salt(5.63), build_salt(MINIMUM)


def test_an_aims_relaxation_is_read():
    result = read_dft_documents([aims_output(RAW, RELAXED, n_steps=4)], "FHI-aims")
    assert (result.code, result.functional, result.is_dft, result.converged) == ("FHI-aims", "PBEsol", True, True)
    assert (result.n_ionic_steps, result.n_electronic_steps, result.energy) == (4, None, -16900.5)
    assert (result.initial.volume, result.relaxed.volume) == pytest.approx((RAW.volume, RELAXED.volume))
    assert result.free == Freedom()
    held = read_dft_documents([aims_output(RAW, RAW, relax_unit_cell="none")], "FHI-aims")
    assert held.free == Freedom(volume=False, shape=False)
    angles = read_dft_documents([aims_output(RAW, RAW, relax_unit_cell="fixed_angles")], "FHI-aims")
    assert angles.free == Freedom(shape=False)


def test_a_jdftx_relaxation_is_read():
    result = read_dft_documents([jdftx_output(RAW, RELAXED, n_steps=5)], "JDFTx")
    assert (result.code, result.functional, result.is_dft, result.converged) == ("JDFTx", "PBE", True, True)
    assert (result.n_ionic_steps, result.energy, result.wall_time_s) == (5, -410.25, 81.5)
    ionic = jdftx_output(RAW, RAW, task_type="Ionic Optimization")
    ionic["calc_outputs"]["parameters"]["converged"] = False
    result = read_dft_documents([ionic], "JDFTx")
    assert (result.converged, result.free) == (False, Freedom(volume=False, shape=False))


def test_two_relaxations_are_one_result_and_a_static_gives_its_energy():
    static = aims_output(RELAXED, RELAXED, n_steps=1)
    static["input"]["parameters"].pop("relax_geometry")
    static["output"]["energy"] = -16901.0
    documents = [aims_output(RAW, NEAR, n_steps=4), aims_output(NEAR, RELAXED, n_steps=2), static]
    result = read_dft_documents(documents, "FHI-aims")
    assert (result.n_ionic_steps, result.energy, result.converged) == (6, -16901.0, True)
    assert result.initial.volume == pytest.approx(RAW.volume)
    assert not read_dft_documents([*documents[:2], None], "FHI-aims").converged


def test_codes_are_told_apart():
    assert find_form(aims_output(RAW, RELAXED)).code == "FHI-aims"
    assert find_form(jdftx_output(RAW, RELAXED)).code == "JDFTx"
    assert find_form({"input": {"structure": {}}, "output": {}}) is None
    vasp = vasp_output(RAW, RELAXED)
    assert TaskReader().read(vasp).code == "VASP"


def test_documents_without_a_relaxation_are_errors():
    with pytest.raises(EngineError, match=r"none of 1 documents of FHI-aims is a relaxation \(1 are there\)"):
        read_dft_documents([aims_output(RAW, RAW, relax_geometry="none")], "FHI-aims")
    with pytest.raises(EngineError, match="first JDFTx run is missing"):
        read_dft_documents([None, jdftx_output(RAW, RELAXED)], "JDFTx")
    broken = aims_output(RAW, RELAXED)
    broken["output"]["energy"] = None
    with pytest.raises(EngineError, match="host:/scratch/aims has the energy None eV"):
        read_dft_documents([broken], "FHI-aims")
