"""Documents of FHI-aims and JDFTx after atomate2's schemas, and of CP2K and ABINIT as their real runs left them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from dft_documents import aims_output, jdftx_output
from task_documents import MINIMUM, build_salt, vasp_output

from e3relax_flows.core.errors import EngineError, StartUnknownError
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


RECORDED = json.loads((Path(__file__).resolve().parents[1] / "files" / "abinit_documents.json").read_text())


@pytest.mark.parametrize(
    ("place", "kind", "ionic", "electronic", "volumes", "energy"),
    [
        (0, "predicted", 7, 31, (40.132, 40.910), -230.25117),
        (1, "control", 10, 42, (46.026, 40.902), -230.25117),
    ],
)
def test_real_relaxations_of_abinit_are_read(place, kind, ionic, electronic, volumes, energy):
    record = RECORDED[place]
    assert record["metadata"]["start_kind"] == kind
    document = record["output"]
    assert find_form(document).code == "ABINIT"
    result = TaskReader().read(document)
    assert (result.code, result.functional, result.converged) == ("ABINIT", "PBE", True)
    assert (result.n_ionic_steps, result.n_electronic_steps) == (ionic, electronic)
    assert (result.initial.volume, result.relaxed.volume) == pytest.approx(volumes, abs=1e-3)
    assert result.energy == pytest.approx(energy, abs=1e-4)
    assert result.free == Freedom()
    assert result.wall_time_s > 1


def test_what_abinit_leaves_free_and_its_restarts_are_seen():
    document = copy.deepcopy(RECORDED[0]["output"])
    arguments = document["input"]["abinit_input"]["abi_args"]

    def change(**values):
        changed = copy.deepcopy(document)
        kept = [pair for pair in arguments if pair[0] not in values]
        changed["input"]["abinit_input"]["abi_args"] = [*kept, *([name, value] for name, value in values.items())]
        return changed

    expected = {0: (False, False), 1: (True, False), 2: (True, True), 3: (False, True)}
    for optcell, (volume, shape) in expected.items():
        free = TaskReader().read(change(optcell=optcell)).free
        assert (free.volume, free.shape) == (volume, shape), optcell
    assert TaskReader().read(change(optcell=0, ionmov=0)) is None  # a static
    with pytest.raises(StartUnknownError, match="was restarted by atomate2, and where it began is not in its document"):
        TaskReader().read(change(irdwfk=1))
    unconverged = document | {"state": "unconverged"}
    assert not TaskReader().read(unconverged).converged


def test_abinit_is_counted_by_its_output(tmp_path):
    output = tmp_path / "run.abo"
    output.write_text(ABINIT_OUTPUT)
    pytest.importorskip("abipy", reason="the job's module needs it: pip install 'atomate2[abinit]'")
    from e3relax_flows.engines.abinit_jobs import count_abinit_steps

    assert count_abinit_steps(output) == {"n_ionic_steps": 2, "n_electronic_steps": 5, "wall_time_s": 64.3}
    assert count_abinit_steps(tmp_path / "none") == {}


ABINIT_OUTPUT = """
--- Iteration: ( 1/40) Internal Cycle: (1/1)
--------------------------------------------------------------------------------

     iter   Etot(hartree)      deltaE(h)  residm     vres2
 ETOT  1  -8.4398425265846    -8.440E+00 4.129E-03 5.519E+00
 ETOT  2  -8.4461241412301    -6.282E-03 2.131E-07 1.353E-01
 ETOT  3  -8.4461614313014    -3.729E-05 6.231E-06 6.120E-03

--- Iteration: ( 2/40) Internal Cycle: (1/1)
 ETOT  1  -8.4476425265846    -8.440E+00 4.129E-03 5.519E+00
 ETOT 12  -8.4491241412301    -6.282E-03 2.131E-07 1.353E-01
+Overall time at end (sec) : cpu=         60.1  wall=         64.3
"""
