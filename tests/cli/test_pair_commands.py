"""`e3relax data build`, `import`, `export` and `show` on real files and stores."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write as write_frames
from fake_vasp_program import relaxed_volume
from jobflow import JobStore
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor
from task_documents import MINIMUM, build_salt, job_document, vasp_output

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.engines import get_engine
from e3relax_flows.ledger.store import open_prediction_store, save_predictions
from e3relax_flows.pairs.store import find_pairs, iter_pairs, open_pair_stores
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.schemas.pairs import PairDoc
from e3relax_flows.schemas.predictions import PredictionDoc, PredictOptions, Verdict
from e3relax_flows.stores.opening import open_job_store
from e3relax_flows.stores.sqlite import SQLiteStore
from e3relax_flows.train.dataset import load_pairs

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "vasp"
RAW, RELAXED = build_salt(5.9), build_salt(MINIMUM)


@pytest.fixture
def jobs(settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[JobStore]:
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "absent.yaml"))
    with open_job_store(settings) as store:
        yield store


def list_pairs(settings: E3RelaxSettings) -> list[PairDoc]:
    with open_pair_stores(settings) as stores:
        return list(iter_pairs(stores.pairs))


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def distorted(seed: int) -> tuple[Structure, Structure]:
    """A low-symmetry pair whose numbers have all their digits."""
    random = np.random.default_rng(seed)
    lattice = Lattice(4.5 * np.eye(3) + 0.4 * random.normal(size=(3, 3)))
    fractions = np.array([[0, 0, 0], [0.5, 0.5, 0.1], [0.3, 0.8, 0.6], [0.9, 0.2, 0.5]]) + 0.02 * random.normal(
        size=(4, 3)
    )
    initial = Structure(lattice, ["Na", "Cl", "K", "Br"], fractions)
    moved = fractions + 0.03 * random.normal(size=(4, 3))
    return initial, Structure(lattice.matrix @ (np.eye(3) + 0.05 * random.normal(size=(3, 3))), initial.species, moved)


def test_build_reads_the_job_store_once(e3relax: Callable[..., Any], settings: E3RelaxSettings, jobs: JobStore) -> None:
    documents = [
        job_document(vasp_output(build_salt(5.7 + 0.1 * n), RELAXED), f"v-{n}", hosts=[f"f-{n}"]) for n in range(3)
    ]
    documents.append(job_document(vasp_output(RAW, RELAXED, state="failed"), "v-9", hosts=["f-9"]))
    jobs.docs_store.update(documents, key=["uuid", "index"])
    dry = e3relax("data", "build", "--dry-run")
    assert (dry.code, dry.stdout.strip()) == (0, "would be 3 new; 1 left out (unconverged: 1); 0 pairs in the store")
    done = e3relax("data", "build", "--source", "salts", "--json")
    assert json.loads(done.stdout) == {"counts": {"new": 3, "unconverged": 1}, "n_pairs": 3, "dry_run": False}
    again = e3relax("data", "build")
    assert again.stdout.strip() == "nothing new; 3 pairs in the store"
    assert {pair.source for pair in list_pairs(settings)} == {"salts"}
    shown = json.loads(e3relax("data", "show", "--json").stdout)
    assert shown == {
        "n_pairs": 3,
        "n_superseded": 0,
        "pairs": [{"source": "salts", "functional": "PBE", "start_kind": "raw", "is_dft": True, "n": 3}],
        "left_out": {"unconverged": 1},
    }
    table = e3relax("data", "show").stdout
    assert "salts" in table
    assert "left out, unconverged: 1" in table


def test_build_reads_a_described_store_and_tells_of_what_is_unreadable(
    e3relax: Callable[..., Any],
    tmp_path: Path,
    settings: E3RelaxSettings,  # noqa: ARG001
) -> None:
    path = tmp_path / "tasks.sqlite"
    with SQLiteStore(path, "outputs", key="uuid") as store:
        broken = vasp_output(RAW, RELAXED, structure=None, output__structure=None)
        store.update([job_document(vasp_output(RAW, RELAXED), "v-1"), job_document(broken, "v-2")])
    spec = tmp_path / "jobflow.yaml"
    spec.write_text(
        f"JOB_STORE:\n  docs_store:\n    type: SQLiteStore\n    path: {path}\n    collection_name: outputs\n"
    )
    done = e3relax("data", "build", "--tasks", spec)
    assert (done.code, done.stdout.strip()) == (1, "1 new; 1 left out (unreadable: 1); 1 pairs in the store")
    assert e3relax("data", "build", "--tasks", "none").stdout.strip() == "nothing new; 1 pairs in the store"
    for content, words in (("- 1", "not describe a store"), ("{type: Nothing}", "store type 'Nothing' is unknown")):
        spec.write_text(content)
        wrong = e3relax("data", "build", "--tasks", spec)
        assert wrong.code == 2
        assert words in wrong.stderr
    assert e3relax("data", "build", "--tasks", tmp_path / "no.yaml").code == 2


def test_one_pair_is_shown_by_the_beginning_of_its_id(
    e3relax: Callable[..., Any], settings: E3RelaxSettings, tmp_path: Path
) -> None:
    initial, relaxed = distorted(1)
    entry = {
        "initial": initial.as_dict(),
        "relaxed": relaxed.as_dict(),
        "functional": "PBE",
        "id": "one",
        "energy": -9.5,
    }
    assert e3relax("data", "import", write_json(tmp_path / "one.json", entry)).code == 0
    (pair,) = list_pairs(settings)
    text = e3relax("data", "show", pair.pair_id[:6]).stdout
    assert pair.pair_id in text
    assert f"{initial.volume:.3f} to {relaxed.volume:.3f}" in text
    assert "-9.500000 eV" in text
    document = json.loads(e3relax("data", "show", pair.pair_id, "--json").stdout)
    assert PairDoc.model_validate(document) == pair
    for wrong in ("zzzzzz", pair.pair_id[:2]):
        assert "no pair begins" in e3relax("data", "show", wrong).stderr


def test_pairs_come_back_the_same_after_export_and_import(
    e3relax: Callable[..., Any], settings: E3RelaxSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = []
    for seed in range(6):
        initial, relaxed = distorted(seed)
        entries.append(
            {"initial": initial.as_dict(), "relaxed": relaxed.as_dict(), "id": f"x-{seed}", "functional": "PBE"}
        )
    entries[3] |= {"functional": "r2SCAN", "functional_path": ["PBEsol", "r2SCAN"]}
    entries[4] |= {"is_dft": False, "functional": "CHGNet"}
    entries[5] |= {"free": {"volume": False, "shape": True, "sites": True}}
    first = e3relax("data", "import", write_json(tmp_path / "all.json", entries), "--source", "mine")
    assert (first.code, first.stdout.strip()) == (0, "6 new, 0 unchanged; 6 pairs in the store")
    before = {pair.pair_id: pair for pair in list_pairs(settings)}
    path = tmp_path / "out" / "pairs.jsonl.gz"
    assert e3relax("data", "export", path).stdout.strip() == f"6 pairs: {path}"
    content = load_pairs([path])
    assert sorted(content.ids) == sorted(before)
    assert sorted(content.functionals) == ["CHGNet", "PBE", "PBE", "PBE", "PBE", "r2SCAN"]
    assert content.groups[content.ids.index(content.ids[0])] == before[content.ids[0]].prototype

    same = e3relax("data", "import", path)
    assert same.stdout.strip() == "0 new, 0 unchanged; 6 left out (duplicate: 6); 6 pairs in the store"
    monkeypatch.setenv("E3RELAX_DATA_DIR", str(tmp_path / "elsewhere"))
    assert e3relax("data", "import", path).stdout.strip() == "6 new, 0 unchanged; 6 pairs in the store"
    assert e3relax("data", "import", path).stdout.strip() == "0 new, 6 unchanged; 6 pairs in the store"
    elsewhere = settings.model_copy(update={"DATA_DIR": tmp_path / "elsewhere"})
    after = {pair.pair_id: pair for pair in list_pairs(elsewhere)}
    ignored = {"origin_id", "last_updated"}
    assert {id: pair.model_dump(exclude=ignored) for id, pair in after.items()} == {
        id: pair.model_dump(exclude=ignored) for id, pair in before.items()
    }
    again = tmp_path / "again.jsonl.gz"
    e3relax("data", "export", again)
    assert sorted(gzip.decompress(again.read_bytes()).splitlines()) == sorted(
        gzip.decompress(path.read_bytes()).splitlines()
    )


def test_export_takes_what_is_asked_for(e3relax: Callable[..., Any], settings: E3RelaxSettings, tmp_path: Path) -> None:  # noqa: ARG001
    entries = []
    for seed, (functional, is_dft) in enumerate([("PBE", True), ("PBEsol", True), ("CHGNet", False)]):
        initial, relaxed = distorted(seed)
        entries.append(
            {"initial": initial.as_dict(), "relaxed": relaxed.as_dict(), "functional": functional, "is_dft": is_dft}
        )
    e3relax("data", "import", write_json(tmp_path / "all.json", entries))
    path = tmp_path / "x.jsonl"
    for options, functionals in (
        ((), {"PBE", "PBEsol", "CHGNet"}),
        (("--dft-only",), {"PBE", "PBEsol"}),
        (("--functional", "PBE", "--functional", "CHGNet"), {"PBE", "CHGNet"}),
        (("--max-atoms", 3), set()),
        (("--start", "predicted"), set()),
        (("--source", "import", "--start", "raw", "--fully-free"), {"PBE", "PBEsol", "CHGNet"}),
    ):
        assert e3relax("data", "export", path, *options).code == 0
        assert {json.loads(line)["functional"] for line in path.read_text().splitlines()} == functionals
    planned = e3relax("data", "export", tmp_path / "never.jsonl", "--dft-only", "--dry-run")
    assert (planned.code, planned.stdout.strip()) == (0, f"2 pairs would be written to {tmp_path / 'never.jsonl'}")
    said = json.loads(e3relax("data", "export", path, "--dft-only", "--json").stdout)
    assert said == {"n_pairs": 2, "file": str(path), "written": True}
    assert not (tmp_path / "never.jsonl").exists()
    assert "ends in .jsonl" in e3relax("data", "export", tmp_path / "x.csv").stderr
    assert "--start 'cooked' is unknown" in e3relax("data", "export", path, "--start", "cooked").stderr


def test_import_takes_every_form_and_says_what_it_cannot(
    e3relax: Callable[..., Any], settings: E3RelaxSettings, tmp_path: Path
) -> None:
    (first, end), (second, last) = distorted(1), distorted(2)
    folder = tmp_path / "data"
    folder.mkdir()
    line = {
        "id": "l-1", "source": "lines", "functional": "PBE+U", "numbers": [11, 17, 19, 35], "start": "substitution",
        "initial": {"lattice": first.lattice.matrix.tolist(), "frac": first.frac_coords.tolist()},
        "relaxed": {"lattice": end.lattice.matrix.tolist(), "frac": end.frac_coords.tolist()},
    }  # fmt: skip
    short = {**line, "numbers": [11, 17], "id": "l-2"}
    lines = [json.dumps(line), "not json", json.dumps({"id": "l-3"}), json.dumps(short), ""]
    (folder / "a.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    write_json(folder / "b.json", {"k-1": {"initial_structure": second.as_dict(), "final_structure": last.as_dict()}})
    write_json(folder / "c.json", [second.as_dict(), end.as_dict()])
    frames = [AseAtomsAdaptor.get_atoms(structure) for structure in (first, second, last)]
    rest = {"forces": np.full((4, 3), 0.01), "stress": np.zeros(6)}
    frames[2].calc = SinglePointCalculator(frames[2], energy=-12.25, **rest)
    write_frames(folder / "d.extxyz", frames)
    frames[2].calc = SinglePointCalculator(frames[2], energy=-12.0, forces=np.full((4, 3), 0.5))
    write_frames(folder / "e.extxyz", frames)
    write_frames(folder / "f.extxyz", frames[:1])
    (folder / "g.json").write_text('{"initial": ')
    done = e3relax("data", "import", folder, tmp_path / "none", "--functional", "PBEsol")
    assert done.code == 1
    assert done.stdout.strip() == (
        "4 new, 0 unchanged; 7 left out (not_a_relaxation: 1, unconverged: 1, unreadable: 5); 4 pairs in the store"
    )
    assert len(done.stderr.strip().splitlines()) == 7
    for words in (
        "unreadable: " + str(folder / "a.jsonl.gz") + " line 2: cannot be read",
        "a.jsonl.gz line 3: not a pair (keys ['id'])",
        "a.jsonl.gz line 4: (4, 3) coordinates for 2 atoms",
        "a force of 0.87 eV/Å is left",
        "1 frame",
        "g.json: cannot be read",
        "there is no such file or folder",
    ):
        assert words in done.stderr
    pairs = {pair.id: pair for pair in list_pairs(settings)}
    assert set(pairs) == {"l-1", "k-1", None, "d"}
    assert {pair.functional for pair in pairs.values()} == {"PBEsol"}
    assert (pairs["l-1"].source, pairs["k-1"].source) == ("lines", "import")
    assert (pairs["d"].energy, pairs["d"].n_ionic_steps) == (-12.25, 3)
    assert pairs["d"].initial.volume == pytest.approx(first.volume)
    assert pairs["d"].relaxed.volume == pytest.approx(last.volume)


def test_a_functional_that_nobody_names_is_not_guessed(e3relax: Callable[..., Any], tmp_path: Path) -> None:
    path = write_json(tmp_path / "c.json", [RAW.as_dict(), RELAXED.as_dict()])
    done = e3relax("data", "import", path)
    assert done.code == 1
    assert "does not name the functional" in done.stderr
    assert e3relax("data", "import", path, "--functional", "MACE", "--not-dft").code == 0
    assert json.loads(e3relax("data", "show", "--json").stdout)["pairs"] == [
        {"source": "import", "functional": "MACE", "start_kind": "raw", "is_dft": False, "n": 1}
    ]


def test_an_initial_structure_that_was_predicted_is_refused(
    e3relax: Callable[..., Any], settings: E3RelaxSettings, tmp_path: Path
) -> None:
    predicted = build_salt(5.65)
    with open_prediction_store(settings) as store:
        prediction = PredictionDoc(
            prediction_id="p-1", structure_id="s-1", initial=RAW, structure=predicted, verdict=Verdict.ACCEPT,
            model_id="m", options=PredictOptions(),
        )  # fmt: skip
        save_predictions(store, [prediction])
    path = write_json(tmp_path / "c.json", [predicted.as_dict(), RELAXED.as_dict()])
    done = e3relax("data", "import", path, "--functional", "PBE")
    assert done.code == 1
    assert "start_unknown" in done.stderr
    assert "the predicted one of p-1" in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("fake_vasp")
def test_folders_of_vasp_runs_are_read_and_joined(
    e3relax: Callable[..., Any], settings: E3RelaxSettings, jobs: JobStore, tmp_path: Path
) -> None:
    symbols = ["Na", "Cl"] * 4
    target = relaxed_volume(symbols)
    sites = list(product((0, 0.5), repeat=3))
    start = Structure(Lattice.cubic((1.1 * target) ** (1 / 3)), symbols, sites)
    root = tmp_path / "runs"
    assert run_flow_locally(get_engine("vasp").make(start), jobs, root).failures == []
    mended = get_engine("vasp-single")
    mended.maker.input_set_generator.user_incar_settings["NSW"] = 4
    start.scale_lattice(1.5 * target)
    assert run_flow_locally(mended.make(start), jobs, root).failures == []
    runs = sorted(root.iterdir())
    assert len(runs) == 3
    bare = root / "z-cut"
    shutil.copytree(runs[0], bare)
    (whole,) = bare.glob("vasprun*")
    text = gzip.decompress(whole.read_bytes())
    whole.unlink()
    (bare / "vasprun.xml").write_bytes(text[: len(text) // 2])
    done = e3relax("data", "import", root, "--source", "cluster")
    assert done.code == 1
    assert done.stdout.strip() == "2 new, 0 unchanged; 1 left out (unreadable: 1); 2 pairs in the store"
    assert "z-cut/vasprun.xml cannot be read" in done.stderr
    pairs = sorted(list_pairs(settings), key=lambda pair: pair.initial.volume)
    assert [pair.initial.volume / target for pair in pairs] == pytest.approx([1.1, 1.5], rel=1e-6)
    assert [pair.relaxed.volume / target for pair in pairs] == pytest.approx([1, 1], rel=2e-3)
    assert [len(pair.dir_names) for pair in pairs] == [2, 1]
    assert [(pair.functional, pair.code, pair.free.is_full) for pair in pairs] == [("PBEsol", "VASP", True)] * 2
    # the same runs are in the job store: they are the same pairs
    built = e3relax("data", "build")
    assert built.stdout.strip() == "nothing new; 2 left out (duplicate: 2); 2 pairs in the store"
    # without the original POSCAR of the run that custodian fixed, its start is not known
    for file in runs[2].glob("POSCAR.orig*"):
        file.unlink()
    again = e3relax("data", "import", runs[2])
    assert "custodian fixed the run" in again.stderr


@pytest.mark.skipif(not RECORDED.is_dir(), reason=f"recorded VASP runs are not at {RECORDED}")
def test_recorded_folders_are_imported(e3relax: Callable[..., Any], settings: E3RelaxSettings) -> None:
    done = e3relax("data", "import", RECORDED / "Si_mp_gga_relax")
    assert done.stdout.strip() == "1 new, 0 unchanged; 1 left out (not_a_relaxation: 1); 1 pairs in the store"
    (pair,) = list_pairs(settings)
    assert (pair.initial.volume, pair.relaxed.volume) == pytest.approx((40.3295, 40.9167), abs=1e-3)
    assert (pair.functional, pair.n_ionic_steps, pair.n_electronic_steps) == ("PBE", 4, 28)
    with open_pair_stores(settings) as stores:
        assert list(find_pairs(stores.pairs, [pair.pair_id])) == [pair.pair_id]
