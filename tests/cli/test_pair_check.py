"""`e3relax data check`: pairs of an older release that would not be made today, and what was made with them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write as write_frames
from jobflow import JobStore
from task_documents import MINIMUM, build_salt, job_document, vasp_output

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.pairs.dataset_store import open_dataset_stores, save_dataset, save_holdout
from e3relax_flows.pairs.store import iter_pairs, open_pair_stores
from e3relax_flows.registry.store import open_model_store
from e3relax_flows.schemas.datasets import DatasetDoc, HoldoutDoc, identify_dataset, identify_holdout
from e3relax_flows.schemas.models import ModelDoc
from e3relax_flows.schemas.pairs import PairDoc
from e3relax_flows.stores.opening import dump_document, open_job_store

RELAXED = build_salt(MINIMUM)
# what the documents of six calculations say; an older release made a PBE pair of each
CONDITIONS: tuple[dict[str, Any], ...] = (
    {},
    {"PSTRESS": 500.0},
    {"IVDW": 12},
    {"EFIELD": 0.1},
    {"IMAGES": 5},
    {},
)


@pytest.fixture
def jobs(settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[JobStore]:
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "absent.yaml"))
    with open_job_store(settings) as store:
        yield store


@pytest.fixture
def older_pairs(e3relax: Callable[..., Any], settings: E3RelaxSettings, jobs: JobStore) -> dict[str, PairDoc]:
    """Pairs by calculation, as an older release left them."""

    def write(conditions: tuple[dict[str, Any], ...]) -> None:
        outputs = [
            vasp_output(build_salt(5.7 + 0.1 * n), RELAXED, input__incar={"ISIF": 3} | more)
            for n, more in enumerate(conditions)
        ]
        documents = [job_document(output, f"v-{n}", hosts=[f"f-{n}"]) for n, output in enumerate(outputs)]
        jobs.docs_store.update(documents, key=["uuid", "index"])

    write(({},) * len(CONDITIONS))
    assert e3relax("data", "build").code == 0
    write(CONDITIONS)  # the release did not read these
    with open_pair_stores(settings) as stores:
        pairs = {pair.origin_id: pair for pair in iter_pairs(stores.pairs)}
        broken = dump_document(pairs["v-5"])
        broken["energy"] = math.nan
        stores.pairs.update([broken])
    return pairs


def make_model(model_id: str, **more: Any) -> ModelDoc:
    content = {"name": f"name-{model_id}", "kind": "e3relax_h2", "weights_sha256": "0", "n_bytes": 1}
    return ModelDoc(model_id=model_id, **content, **more)


def save_users(settings: E3RelaxSettings, train: list[str], val: list[str]) -> tuple[str, str]:
    """A dataset of these pairs and one of others, a holdout, and models; gives the ids of both datasets."""
    docs = [
        DatasetDoc(dataset_id=identify_dataset(*ids), train=ids[0], val=ids[1], group_by="prototype", val_fraction=0.1)
        for ids in ((train, val), (["other"], ["else"]))
    ]
    with open_dataset_stores(settings) as stores:
        for doc in docs:
            save_dataset(stores, doc)
        holdout = HoldoutDoc(
            holdout_id=identify_holdout(train[:1]), name="first", group_by="prototype", groups=["P"], pair_ids=train[:1]
        )
        save_holdout(stores, holdout)
    first, other = (doc.dataset_id for doc in docs)
    models = [
        make_model("1" * 16, dataset_id=first),
        make_model("2" * 16, parent_id="1" * 16),
        make_model("3" * 16, parent_id="2" * 16),
        make_model("4" * 16, dataset_id=other),
    ]
    with open_model_store(settings) as store:
        store.update([dump_document(model) for model in models])
    return first, other


def test_pairs_with_other_labels_are_counted_and_replaced(
    e3relax: Callable[..., Any], settings: E3RelaxSettings, older_pairs: dict[str, PairDoc]
) -> None:
    ids = {origin: pair.pair_id for origin, pair in older_pairs.items()}
    dataset, _ = save_users(settings, [ids["v-1"], ids["v-0"]], [ids["v-3"]])
    done = e3relax("data", "check", "--json")
    assert done.code == 1, done.stderr
    report = json.loads(done.stdout)
    assert (report["n_pairs"], report["n_compared"], report["n_not_found"], report["n_wrong"]) == (6, 6, 0, 5)
    assert report["reasons"] == {"conditions": 2, "relabelled": 2, "unreadable": 1}
    rows = {row["origin_id"]: row for row in report["pairs"]}
    assert set(rows) == {"v-1", "v-2", "v-3", "v-4", "v-5"}
    assert rows["v-1"]["message"] == "functional: PBE at 50 GPa today, PBE in the store"
    assert "EFIELD = 0.1: an electric field" in rows["v-3"]["message"]
    assert (report["datasets"], report["holdouts"]) == ({dataset: 2}, {"first": 1})
    assert [model["model_id"] for model in report["models"]] == [str(n) * 16 for n in (1, 2, 3)]
    with open_pair_stores(settings) as stores:  # nothing was written
        assert {pair.pair_id for pair in iter_pairs(stores.pairs)} == set(ids.values())

    text = e3relax("data", "check").stdout
    for words in (
        "6 pairs, 6 compared with their calculations",
        "5 would not be made today (conditions: 2, relabelled: 2, unreadable: 1)",
        f"{ids['v-1']}  relabelled: functional: PBE at 50 GPa today",
        f"dataset {dataset} lists 2 of them",
        "holdout first lists 1 of them",
        f"model name-1111111111111111 (1111111111111111) was trained on dataset {dataset}",
        "model name-2222222222222222 (2222222222222222) was started from the weights of such a model",
        "nothing was changed; --apply",
    ):
        assert words in text
    assert "4" * 16 not in text


def test_apply_moves_them_once_and_a_build_brings_none_back(
    e3relax: Callable[..., Any], settings: E3RelaxSettings, older_pairs: dict[str, PairDoc]
) -> None:
    done = e3relax("data", "check", "--apply", "--json")
    assert (done.code, json.loads(done.stdout)["dry_run"]) == (0, False)
    with open_pair_stores(settings) as stores:
        current = {pair.origin_id: pair.functional for pair in iter_pairs(stores.pairs)}
        everything = {pair.pair_id: pair.superseded_by for pair in iter_pairs(stores.pairs, {})}
        records = {raw["origin_id"]: raw for raw in stores.records.query({})}
    assert current == {"v-0": "PBE", "v-1": "PBE at 50 GPa", "v-2": "PBE+D3-BJ", "v-5": "PBE"}
    assert everything[older_pairs["v-3"].pair_id] == "left_out:conditions"
    assert everything[older_pairs["v-1"].pair_id] == records["v-1"]["pair_id"]
    assert records["v-4"]["reason"] == "conditions"
    shown = json.loads(e3relax("data", "show", "--json").stdout)
    assert shown["left_out"] == {"conditions": 2}
    again = e3relax("data", "check", "--json")
    assert (again.code, json.loads(again.stdout)["n_wrong"]) == (0, 0)
    assert "all of them would be made today" in e3relax("data", "check").stdout
    assert e3relax("data", "build", "--rebuild").stdout.strip().startswith("6 unchanged")
    assert json.loads(e3relax("data", "check", "--json").stdout)["n_wrong"] == 0


def test_without_its_calculation_a_pair_is_looked_at_alone(
    e3relax: Callable[..., Any], settings: E3RelaxSettings, older_pairs: dict[str, PairDoc], tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    assert e3relax("data", "export", out).stderr.strip().startswith("1 pairs with numbers that are not finite")
    assert len(out.read_text().splitlines()) == len(older_pairs) - 1
    report = json.loads(e3relax("data", "check", "--tasks", "none", "--apply", "--json").stdout)
    assert (report["n_compared"], report["n_not_found"], report["reasons"]) == (0, 6, {"unreadable": 1})
    assert report["pairs"][0]["message"] == "a number is not finite: energy = nan"
    with open_pair_stores(settings) as stores:
        assert len(list(iter_pairs(stores.pairs))) == 5
        assert stores.records.query_one({"origin_id": "v-5"})["reason"] == "unreadable"


def test_a_prediction_that_is_in_no_store_makes_no_finding(
    e3relax: Callable[..., Any], older_pairs: dict[str, PairDoc], jobs: JobStore
) -> None:
    """A store that is not there today is no reason to leave pairs out."""
    output = vasp_output(build_salt(5.7), RELAXED)
    named = job_document(output, "v-0", hosts=["f-0"], metadata={"prediction_id": "p", "start_kind": "predicted"})
    jobs.docs_store.update([named], key=["uuid", "index"])
    report = json.loads(e3relax("data", "check", "--json").stdout)
    assert report["not_checked"] == {"start_unknown": 1}
    assert older_pairs["v-0"].pair_id not in {row["pair_id"] for row in report["pairs"]}


def test_imported_files_and_folders_are_read_again(
    e3relax: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fake_vasp_program
    from pymatgen.io.vasp import Poscar

    folder = tmp_path / "in" / "run"
    folder.mkdir(parents=True)
    with monkeypatch.context() as context:
        context.chdir(folder)
        Poscar(build_salt()).write_file("POSCAR")
        Path("INCAR").write_text("IBRION = 2\nNSW = 50\nISIF = 3\n")
        fake_vasp_program.main()
    frames = [bulk("NaCl", "rocksalt", a) for a in (5.9, 5.65)]
    write_frames(tmp_path / "in" / "moves.extxyz", frames)
    entries = [
        {"initial": build_salt(a).as_dict(), "relaxed": RELAXED.as_dict(), "id": str(a)} for a in (6.0, 6.1, 6.2)
    ]
    path = tmp_path / "in" / "pairs.json"
    path.write_text(json.dumps(entries))
    options = ("--functional", "PBEsol", "--converged")
    assert e3relax("data", "import", tmp_path / "in", *options).stdout.strip().startswith("5 new")
    first = e3relax("data", "check", "--json", "--tasks", "none")
    report = json.loads(first.stdout)
    # the folder says PBE, whatever was stated; the trajectory does not show that it ended; the entries are as stated
    assert {row["origin_id"]: row["reason"] for row in report["pairs"]} == {
        str(folder): "relabelled",
        str(tmp_path / "in" / "moves.extxyz"): "unconverged",
    }
    assert report["n_compared"] == 5

    entries[1]["converged"] = "false"
    entries[2]["relaxed"] = build_salt(5.5).as_dict()
    path.write_text(json.dumps(entries))
    reasons = {
        row["origin_id"]: row["reason"] for row in json.loads(e3relax("data", "check", "--json").stdout)["pairs"]
    }
    assert (reasons[f"{path} entry 2"], reasons[f"{path} entry 3"]) == ("unconverged", "relabelled")
    assert f"{path} entry 1" not in reasons


def test_the_spelling_of_a_name_makes_no_finding(
    e3relax: Callable[..., Any], settings: E3RelaxSettings, jobs: JobStore
) -> None:
    jobs.docs_store.update([job_document(vasp_output(build_salt(), RELAXED, run_type="PBESol"), "v-1")], key=["uuid"])
    assert e3relax("data", "build").code == 0
    with open_pair_stores(settings) as stores:
        raw = stores.pairs.query_one({})
        stores.pairs.remove_docs({})
        raw |= {"functional": "PBESol", "functional_path": ["PBESol"], "pair_id": "0123456789abcdef"}
        stores.pairs.update([{key: value for key, value in raw.items() if key != "_id"}])
    assert json.loads(e3relax("data", "check", "--json").stdout)["n_wrong"] == 0
    assert json.loads(e3relax("data", "show", "--json").stdout)["pairs"][0]["functional"] == "PBEsol"
    assert np.isfinite(json.loads(e3relax("data", "show", "0123", "--json").stdout)["energy"])
