"""PrerelaxMaker where atomate2's flows take a relax maker: VASP double relaxations, elastic constants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from atomate2.ase.jobs import EmtRelaxMaker
from atomate2.forcefields.flows.elastic import ElasticMaker
from atomate2.utils.testing.vasp import monkeypatch_vasp
from atomate2.vasp.flows.core import DoubleRelaxMaker
from atomate2.vasp.flows.elastic import ElasticMaker as VaspElasticMaker
from atomate2.vasp.flows.mp import MPGGADoubleRelaxMaker
from atomate2.vasp.jobs.core import RelaxMaker
from jobflow import Flow, JobStore
from maggma.stores import MemoryStore
from monty.json import MontyDecoder
from pymatgen.core import Lattice, Structure

from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.prerelax.predict import PrerelaxMaker
from e3relax_flows.testing import EMT_LATTICES, TablePredictor

SHARED_VASP = Path(__file__).resolve().parents[2].parent / "shared" / "vasp"
SILICON_VOLUME = 20.0  # Å³ per atom, what the table predicts
# Cauchy's relation does not hold for EMT; its bulk modulus of copper is 134 GPa in ASE's own tests
COPPER_BULK_MODULUS, BULK_MODULUS_TOLERANCE = 134.0, 10.0


@pytest.fixture
def silicon() -> Structure:
    return Structure(
        Lattice([[0, 2.73, 2.73], [2.73, 0, 2.73], [2.73, 2.73, 0]]), ["Si", "Si"], [[0, 0, 0], [0.25, 0.25, 0.25]]
    )


@pytest.fixture
def silicon_predictor(predictor: TablePredictor) -> TablePredictor:
    predictor.volumes = {"Si": SILICON_VOLUME}
    return predictor


@pytest.fixture
def replay_vasp(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """atomate2's mock: it checks the inputs and copies recorded outputs in place of a run."""
    if not SHARED_VASP.is_dir():
        pytest.skip(f"recorded VASP runs are not at {SHARED_VASP}")
    yield from monkeypatch_vasp(monkeypatch, SHARED_VASP, nelect=8)


def run(flow: Flow, root: Path) -> tuple[dict[str, Any], list[str]]:
    """Outputs by job name, and the names in the order of running; a failure fails the test with its traceback."""
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    names: list[str] = []
    local = run_flow_locally(flow, store, root, lambda report: names.append(report.name))
    assert not local.failures, local.failures[0].traceback
    outputs = {
        document["name"]: MontyDecoder().process_decoded(document["output"])
        for document in store.query({}, sort={"index": 1}, load=True)
    }
    return outputs, names


def make_double_relaxation() -> DoubleRelaxMaker:
    return DoubleRelaxMaker(relax_maker1=PrerelaxMaker())


def test_as_first_relaxation_of_a_double_relaxation(
    fake_vasp: Path,  # noqa: ARG001
    silicon_predictor: TablePredictor,
    silicon: Structure,
    tmp_path: Path,
) -> None:
    outputs, names = run(make_double_relaxation().make(silicon), tmp_path)
    assert names == ["e3r predict 1", "relax 2"]
    assert silicon_predictor.n_predicted == 1
    start = outputs["relax 2"].orig_inputs.structure
    assert start.volume == pytest.approx(2 * SILICON_VOLUME, rel=1e-5)
    assert start.volume == pytest.approx(outputs["e3r predict 1"].prediction.structure.volume, rel=1e-5)
    assert outputs["relax 2"].structure.volume != pytest.approx(start.volume, rel=1e-3)


def test_a_refused_prediction_starts_vasp_from_the_initial_structure(
    fake_vasp: Path,  # noqa: ARG001
    silicon_predictor: TablePredictor,
    silicon: Structure,
    tmp_path: Path,
) -> None:
    silicon_predictor.refused = {"Si"}
    outputs, _ = run(make_double_relaxation().make(silicon), tmp_path)
    assert outputs["relax 2"].orig_inputs.structure.volume == pytest.approx(silicon.volume, rel=1e-5)


def test_in_front_of_a_materials_project_relaxation(
    fake_vasp: Path,  # noqa: ARG001
    silicon_predictor: TablePredictor,
    silicon: Structure,
    tmp_path: Path,
) -> None:
    predict = PrerelaxMaker().make(silicon)
    flow = MPGGADoubleRelaxMaker().make(predict.output.structure, prev_dir=predict.output.dir_name)
    outputs, names = run(Flow([predict, flow]), tmp_path)
    assert names == ["e3r predict", "MP GGA relax 1", "MP GGA relax 2"]
    assert outputs["MP GGA relax 1"].orig_inputs.structure.volume == pytest.approx(2 * SILICON_VOLUME, rel=1e-5)
    assert silicon_predictor.n_predicted == 1


@pytest.mark.usefixtures("silicon_predictor")
def test_double_relaxation_of_recorded_runs(replay_vasp: Any, silicon: Structure, tmp_path: Path) -> None:
    checks = {"relax 2": {"incar_settings": ["NSW", "ISIF", "ENCUT"], "check_inputs": ["incar", "potcar"]}}
    replay_vasp({"relax 2": "Si_double_relax/relax_2"}, checks)
    outputs, names = run(make_double_relaxation().make(silicon), tmp_path)
    assert names == ["e3r predict 1", "relax 2"]
    assert outputs["relax 2"].output.energy == pytest.approx(-10.84, abs=0.05)


@pytest.mark.usefixtures("silicon_predictor")
def test_materials_project_relaxation_of_recorded_runs(replay_vasp: Any, silicon: Structure, tmp_path: Path) -> None:
    paths = {f"MP GGA relax {i}": f"Si_mp_gga_relax/GGA_Relax_{i}" for i in (1, 2)}
    checks = {"incar_settings": ["NSW", "ISMEAR"], "check_inputs": ["incar", "potcar"]}
    replay_vasp(paths, dict.fromkeys(paths, checks))
    predict = PrerelaxMaker().make(silicon)
    flow = MPGGADoubleRelaxMaker().make(predict.output.structure, prev_dir=predict.output.dir_name)
    outputs, names = run(Flow([predict, flow]), tmp_path)
    assert names == ["e3r predict", "MP GGA relax 1", "MP GGA relax 2"]
    assert outputs["MP GGA relax 2"].output.energy == pytest.approx(-10.84, abs=0.05)


@pytest.mark.slow
def test_as_bulk_relaxation_of_elastic_constants(predictor: TablePredictor, tmp_path: Path) -> None:
    predictor.volumes = {"Cu": EMT_LATTICES["Cu"] ** 3 / 4}
    copper = Structure(Lattice([[0, 1.9, 1.9], [1.9, 0, 1.9], [1.9, 1.9, 0]]), ["Cu"], [[0, 0, 0]])
    maker = ElasticMaker(
        bulk_relax_maker=PrerelaxMaker(),
        elastic_relax_maker=EmtRelaxMaker(name="EMT relax", relax_cell=False, relax_kwargs={"fmax": 0.001}),
    )
    outputs, names = run(maker.make(copper), tmp_path)
    assert names[0] == "e3r predict"
    assert predictor.n_predicted == 1
    document = outputs["fit_elastic_tensor"]
    assert document.structure.lattice.a == pytest.approx(EMT_LATTICES["Cu"] / 2**0.5)
    assert document.derived_properties.k_vrh == pytest.approx(COPPER_BULK_MODULUS, abs=BULK_MODULUS_TOLERANCE)


@pytest.mark.slow
@pytest.mark.usefixtures("fake_vasp")
def test_as_bulk_relaxation_of_elastic_constants_with_vasp(
    silicon_predictor: TablePredictor, silicon: Structure, tmp_path: Path
) -> None:
    """The deformations are made from the predicted structure, and VASP starts from these."""
    maker = VaspElasticMaker(
        bulk_relax_maker=PrerelaxMaker(),
        elastic_relax_maker=RelaxMaker(name="elastic relax"),
        generate_elastic_deformations_kwargs={"strain_magnitudes": [0.01]},
    )
    outputs, names = run(maker.make(silicon), tmp_path)
    assert names[0] == "e3r predict"
    relaxations = {name: document for name, document in outputs.items() if name.startswith("elastic relax")}
    assert len(relaxations) == sum(name.startswith("elastic relax") for name in names) > 0
    assert silicon_predictor.n_predicted == 1
    for document in relaxations.values():
        assert document.orig_inputs.structure.volume == pytest.approx(2 * SILICON_VOLUME, rel=0.05)
