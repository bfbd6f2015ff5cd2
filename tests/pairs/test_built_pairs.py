"""Pairs of what real flows leave in real stores: screens, predictions in atomate2's slots, VASP runs, restarts."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_vasp_program import count_steps, relaxed_volume
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure
from pymatgen.io.vasp import Poscar

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.engines import get_engine
from e3relax_flows.engines.task_reader import TaskReader
from e3relax_flows.ledger.store import open_outcome_store, open_prediction_store
from e3relax_flows.pairs.builder import PairBuilder
from e3relax_flows.pairs.store import find_records, iter_pairs, open_pair_store, open_record_store
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.prerelax.predict import PrerelaxMaker
from e3relax_flows.schemas.pairs import PairDoc
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.stores.opening import build_store, open_job_store
from e3relax_flows.testing import EMT_LATTICES, EmtEngine, TablePredictor

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "vasp"


@pytest.fixture
def jobs(settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[JobStore]:
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "absent.yaml"))
    with open_job_store(settings) as store:
        yield store


def build(settings: E3RelaxSettings, jobs: JobStore, outcomes: bool = True, **options: Any) -> dict[str, int]:
    with (
        open_pair_store(settings) as pairs,
        open_record_store(settings) as records,
        open_prediction_store(settings) as predictions,
        open_outcome_store(settings) as outcome_store,
    ):
        more = {"outcomes": outcome_store} if outcomes else {}
        tasks = build_store({"type": "MemoryStore"}, settings, "tasks", "uuid")
        tasks.connect()
        tasks.update(list(jobs.query({}, load=False)), key=["uuid", "index"])
        builder = PairBuilder(pairs, records, tasks, TaskReader(), predictions=predictions, **more, **options)
        builder.connect()
        builder.update_targets([builder.process_item(item) for item in builder.get_items()])
        return dict(builder.counts)


def list_pairs(settings: E3RelaxSettings) -> list[PairDoc]:
    with open_pair_store(settings) as store:
        return list(iter_pairs(store))


def make_fcc(element: str, stretch: float = 1.04) -> Structure:
    a = EMT_LATTICES[element] * stretch / 2
    return Structure(Lattice([[0, a, a], [a, 0, a], [a, a, 0]]), [element], [[0, 0, 0]])


def interleaved_salt(factor: float) -> Structure:
    """Rock salt at `factor` times the fake VASP's volume, its sites written Na Cl Na Cl ..."""
    symbols = ["Na", "Cl"] * 4
    edge = (factor * relaxed_volume(symbols)) ** (1 / 3)
    cations = [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    sites = [site for cation in cations for site in (cation, [cation[0] + 0.5, cation[1], cation[2]])]
    return Structure(Lattice.cubic(edge), symbols, sites)


def test_a_screen_gives_each_pair_once_whichever_store_tells_of_it(
    settings: E3RelaxSettings, predictor: TablePredictor, jobs: JobStore, tmp_path: Path
) -> None:
    metals = ["Al", "Cu", "Ag"]
    maker = ScreenMaker(engine=EmtEngine(), control=1.0, paired_controls=True, chunk_size=2)
    run = run_flow_locally(maker.make([make_fcc(e) for e in metals], metals), jobs, tmp_path / "run")
    assert run.failures == []
    assert build(settings, jobs) == {"new": 6}
    pairs = list_pairs(settings)
    assert sorted((pair.id, pair.start_kind) for pair in pairs) == sorted(
        (metal, kind) for metal in metals for kind in ("predicted", "control")
    )
    for pair in pairs:
        assert pair.initial.volume == pytest.approx(make_fcc(pair.id).volume, rel=1e-9)
        assert pair.relaxed.volume == pytest.approx(EMT_LATTICES[pair.id] ** 3 / 4, rel=0.01)
        assert pair.model_id == (predictor.model_id if pair.start_kind == "predicted" else None)
        assert (pair.functional, pair.is_dft, pair.source, pair.prototype) == ("EMT", False, "screen", "A_cF4_225_a")
        assert pair.free.is_full
    assert build(settings, jobs) == {}
    # the job documents alone tell the same, so that nothing comes twice
    assert build(settings, jobs, outcomes=False) == {"duplicate": 6}
    assert len(list_pairs(settings)) == 6


@pytest.mark.usefixtures("predictor")
def test_the_job_store_alone_gives_the_same_pairs(settings: E3RelaxSettings, jobs: JobStore, tmp_path: Path) -> None:
    maker = ScreenMaker(engine=EmtEngine(), control=0)
    run_flow_locally(maker.make([make_fcc("Cu"), make_fcc("Ag")], ["Cu", "Ag"]), jobs, tmp_path / "run")
    assert build(settings, jobs, outcomes=False) == {"new": 2}
    first = {pair.id: pair for pair in list_pairs(settings)}
    assert {pair.start_kind for pair in first.values()} == {"predicted"}
    assert build(settings, jobs) == {"duplicate": 2}
    elsewhere = settings.model_copy(update={"PAIR_STORE": {"type": "SQLiteStore", "path": str(tmp_path / "x.sqlite")}})
    assert build(elsewhere, jobs) == {"new": 2}
    second = {pair.id: pair for pair in list_pairs(elsewhere)}
    assert {id: pair.pair_id for id, pair in first.items()} == {id: pair.pair_id for id, pair in second.items()}
    with open_record_store(elsewhere) as records:
        assert records.collection_name == "pairs_records"
        assert find_records(records, [second["Cu"].origin_id])[second["Cu"].origin_id].reason is None


@pytest.mark.usefixtures("fake_vasp")
def test_a_prediction_in_the_place_of_the_first_relaxation_is_found(
    settings: E3RelaxSettings,
    predictor: TablePredictor,
    jobs: JobStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from atomate2.vasp.flows.core import DoubleRelaxMaker

    monkeypatch.setitem(predictor.volumes, "Na", 1.02 * relaxed_volume(["Na", "Cl"]) / 2)
    start = interleaved_salt(1.2)
    flow = DoubleRelaxMaker(relax_maker1=PrerelaxMaker()).make(start)
    run_flow_locally(flow, jobs, tmp_path / "run")
    assert build(settings, jobs) == {"new": 1}
    (pair,) = list_pairs(settings)
    assert (pair.start_kind, pair.model_id, pair.functional) == ("predicted", predictor.model_id, "PBEsol")
    assert pair.initial.volume == pytest.approx(start.volume, rel=1e-9)
    assert pair.relaxed.volume == pytest.approx(relaxed_volume(["Na", "Cl"] * 4), rel=1e-3)
    assert [site.specie.symbol for site in pair.relaxed] == ["Na", "Cl"] * 4
    assert pair.n_ionic_steps == count_steps(interleaved_salt(1.02)) < count_steps(start)


@pytest.mark.usefixtures("fake_vasp", "predictor")
def test_two_runs_that_sort_the_sites_and_a_restart_give_the_true_start(
    settings: E3RelaxSettings, jobs: JobStore, tmp_path: Path
) -> None:
    double = get_engine("vasp-mp-gga").make(interleaved_salt(1.1))
    single = get_engine("vasp-single")
    single.maker.input_set_generator.user_incar_settings["NSW"] = 4  # so that custodian restarts it
    held = get_engine("vasp-single")
    held.maker.input_set_generator.user_incar_settings["ISIF"] = 4
    flows = [double, single.make(interleaved_salt(1.5)), held.make(interleaved_salt(1.3))]
    assert run_flow_locally(Flow(flows), jobs, tmp_path / "run").failures == []
    assert build(settings, jobs, source="oxides") == {"new": 3}
    pairs = sorted(list_pairs(settings), key=lambda pair: pair.initial.volume)
    target = relaxed_volume(["Na", "Cl"] * 4)
    assert [pair.initial.volume / target for pair in pairs] == pytest.approx([1.1, 1.3, 1.5], rel=1e-6)
    assert [pair.relaxed.volume / target for pair in pairs] == pytest.approx([1, 1, 1], rel=2e-3)
    assert [len(pair.job_uuids) for pair in pairs] == [2, 1, 1]
    assert [pair.free.is_full for pair in pairs] == [True, False, True]
    assert [pair.functional for pair in pairs] == ["PBE", "PBEsol", "PBEsol"]
    # a pair has the order of the code, as nothing tells the order of the user
    assert [site.specie.symbol for site in pairs[0].initial] == ["Na"] * 4 + ["Cl"] * 4
    assert {pair.source for pair in pairs} == {"oxides"}
    assert {pair.prototype for pair in pairs} == {"AB_cF8_225_a_b"}
    assert build(settings, jobs) == {}


@pytest.mark.skipif(not RECORDED.is_dir(), reason=f"recorded VASP runs are not at {RECORDED}")
@pytest.mark.parametrize(
    ("name", "folders", "volumes", "n_steps"),
    [
        (
            "vasp-mp-gga",
            {"MP GGA relax 1": "Si_mp_gga_relax/GGA_Relax_1", "MP GGA relax 2": "Si_mp_gga_relax/GGA_Relax_2"},
            (40.3295, 40.9167),
            4,
        ),
        (
            "vasp",
            {"relax 1": "Si_double_relax/relax_1", "relax 2": "Si_double_relax/relax_2"},
            (40.8883, 40.8883),
            2,
        ),
    ],
)
def test_recorded_runs_give_one_pair_and_the_second_build_nothing(
    settings: E3RelaxSettings,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
    folders: dict[str, str],
    volumes: tuple[float, float],
    n_steps: int,
) -> None:
    from atomate2.utils.testing.vasp import monkeypatch_vasp

    with gzip.open(RECORDED / next(iter(folders.values())) / "inputs" / "POSCAR.gz", "rt") as file:
        start = Poscar.from_str(file.read()).structure
    monkeypatch.chdir(tmp_path)
    jobs = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    for set_folders in monkeypatch_vasp(monkeypatch, RECORDED, nelect=8):
        set_folders(folders, {job: {"check_inputs": ("kpoints", "potcar"), "incar_settings": ()} for job in folders})
        flow = get_engine(name).make(start)
        run_locally(flow, store=jobs, create_folders=True, raise_immediately=True, log=False)
    assert build(settings, jobs) == {"new": 1}
    (pair,) = list_pairs(settings)
    assert (pair.initial.volume, pair.relaxed.volume) == pytest.approx(volumes, abs=1e-3)
    assert (pair.functional, pair.n_ionic_steps, len(pair.job_uuids)) == ("PBE", n_steps, 2)
    assert (pair.formula, pair.prototype, pair.start_kind) == ("Si", "A_cF8_227_a", "raw")
    before = list_pairs(settings)
    assert build(settings, jobs) == {}
    assert list_pairs(settings) == before
    assert build(settings, jobs, rebuild=True) == {"unchanged": 1}
