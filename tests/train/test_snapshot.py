from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from made_halides import make_pairs
from pymatgen.core import Structure

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.pairs import PairDoc, PairStart
from e3relax_flows.train.dataset import load_pairs
from e3relax_flows.train.pairs import identify_pairs
from e3relax_flows.train.snapshot import MANIFEST_FILE, pack_pairs, read_manifest, verify_snapshot, write_snapshot


def make_docs(seed: int, n: int) -> list[PairDoc]:
    docs = []
    for row in make_pairs(seed, n):
        sides = [Structure(row[side]["lattice"], row["numbers"], row[side]["frac"]) for side in ("initial", "relaxed")]
        docs.append(
            PairDoc(
                pair_id=row["id"],
                origin_id=f"job-{row['id']}",
                initial=sides[0],
                relaxed=sides[1],
                start_kind=PairStart.RAW,
                source=row["source"],
                functional=row["functional"],
                code="VASP",
                is_dft=True,
                formula=row["group"],
                chemical_system=row["group"],
                prototype="AB_221",
                n_atoms=2,
            )
        )
    return docs


@pytest.fixture(scope="module")
def splits():
    return {"train": pack_pairs(make_docs(0, 20)), "val": pack_pairs(make_docs(1, 5))}


@pytest.fixture
def folder(splits, tmp_path):
    write_snapshot(tmp_path / "runs" / "snapshot", splits, "d-1", shard_size=8)
    return tmp_path / "runs" / "snapshot"


def test_packed_pairs_are_the_documents_in_the_order_asked_for():
    docs = make_docs(0, 9)
    ids = [docs[place].pair_id for place in (4, 2, 7)]
    pairs = pack_pairs(iter(docs + docs[:3]), ids, "prototype")
    assert pairs.ids == ids
    assert pairs.sources == [docs[place].source for place in (4, 2, 7)]
    assert pairs.functionals == ["PBE"] * 3
    assert pairs.groups == ["AB_221"] * 3
    assert pairs[1].numbers.tolist() == list(docs[2].initial.atomic_numbers)
    assert np.array_equal(pairs[2].relaxed_lattice, docs[7].relaxed.lattice.matrix)
    assert np.array_equal(pairs[2].initial_fractions, docs[7].initial.frac_coords)
    everything = pack_pairs(docs + docs[:3])
    assert everything.ids == [doc.pair_id for doc in docs]
    assert everything.groups[0] == docs[0].chemical_system
    with pytest.raises(ConfigError, match=r"1 of 2 pairs .* gone; .*PAIR_STORE"):
        pack_pairs(docs, [docs[0].pair_id, "gone"])
    with pytest.raises(ConfigError, match=r"\(e3relax data build, e3relax data import\)"):
        pack_pairs([])


def test_a_snapshot_is_read_back_to_the_bit(splits, folder):
    manifest = verify_snapshot(folder)
    assert manifest == read_manifest(folder)
    assert manifest.dataset_id == "d-1"
    assert {name: split.n_pairs for name, split in manifest.splits.items()} == {"train": 20, "val": 5}
    assert len(manifest.splits["train"].files) == 3
    for name, pairs in splits.items():
        again = load_pairs([folder / name])
        assert identify_pairs(again) == identify_pairs(pairs) == manifest.splits[name].content
        assert again.groups == pairs.groups
    assert [path.name for path in folder.parent.iterdir()] == ["snapshot"]


def test_a_snapshot_written_twice_is_the_first_one(splits, folder):
    before = (folder / MANIFEST_FILE).stat().st_mtime_ns
    assert write_snapshot(folder, splits, "d-1") == read_manifest(folder)
    assert (folder / MANIFEST_FILE).stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"/snapshot .* d-1, not dataset d-2;"):
        write_snapshot(folder, splits, "d-2")
    with pytest.raises(ConfigError, match=r"/snapshot .* d-1, not these splits of it;"):
        write_snapshot(folder, splits | {"val": splits["train"]}, "d-1")


def test_only_whole_snapshots_appear(splits, tmp_path, monkeypatch):
    target = tmp_path / "snapshot"
    monkeypatch.setattr("e3relax_flows.train.snapshot._write_manifest", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_snapshot(target, splits, "d-1")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    target.mkdir()
    write_snapshot(target, splits, "d-1")
    verify_snapshot(target)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not a snapshot and not empty"):
        write_snapshot(tmp_path / "other", splits, "d-1")
    for name in ("../train", "", "a b"):
        with pytest.raises(ConfigError, match=rf"^'{name}' .* _, such as train"):
            write_snapshot(tmp_path / "new", {name: splits["train"]}, "d-1")


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "train" / "pairs-00001-of-00003.safetensors").unlink(), "00003.safetensors is missing; copy"),
        (lambda f: flip_bit(f / "val" / "pairs-00000-of-00001.safetensors"), r" sha256 .*e3relax ret"),
        (
            lambda f: (f / "val" / "pairs-00000-of-00001.safetensors").write_bytes(b"half"),
            r" 4 bytes, not \d+;",
        ),
        (
            lambda f: shutil.copy(f / "val" / "pairs-00000-of-00001.safetensors", f / "train" / "more.safetensors"),
            r"/train/more\.safetensors .*e3relax retrain",
        ),
        (lambda f: (f / MANIFEST_FILE).unlink(), r"manifest\.json .*\(FileNotFoundError: "),
        (lambda f: (f / MANIFEST_FILE).write_text('{"format_version": 1}'), "is not a snapshot's manifest"),
        (lambda f: (f / MANIFEST_FILE).write_text("[]"), r"manifest\.json .*\(TypeError: "),
        (lambda f: (f / MANIFEST_FILE).write_text("{"), r"manifest\.json .*\(JSONDecodeError: "),
        (lambda f: (f / MANIFEST_FILE).write_text('{"format_version": 9}'), r"format 9, .* 1; .*pip install"),
    ],
)  # fmt: skip
def test_damage_is_found(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ConfigError, match=message):
        verify_snapshot(folder)


@pytest.mark.parametrize(
    "file", ["../outside.safetensors", "/etc/passwd", "train/../../outside.safetensors", "val/notes.txt", "train"]
)
def test_a_manifest_names_no_files_elsewhere(folder, file):
    (folder.parent / "outside.safetensors").write_bytes(b"")
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    files = manifest["splits"]["train"]["files"]
    files[file] = next(iter(files.values()))
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=rf"manifest\.json .*'{file}', .*/train; "):
        verify_snapshot(folder)


def test_a_link_out_of_the_folder_is_refused(folder):
    shard = folder / "train" / "pairs-00000-of-00003.safetensors"
    shard.rename(folder.parent / "outside.safetensors")
    shard.symlink_to(folder.parent / "outside.safetensors")
    with pytest.raises(ConfigError, match=r"manifest\.json .*'train/pairs-00000-of-00003\.safetensors', .*/train; "):
        verify_snapshot(folder)
    # the folder itself may be reached through one
    shard.unlink()
    (folder.parent / "outside.safetensors").rename(shard)
    (folder.parent / "link").symlink_to(folder)
    assert verify_snapshot(folder.parent / "link").dataset_id == "d-1"


def test_a_training_node_needs_nothing_else(folder):
    code = (
        "import sys; from pathlib import Path\n"
        "from e3relax_flows.train.snapshot import verify_snapshot\n"
        "from e3relax_flows.train.dataset import load_pairs\n"
        f"folder = Path({str(folder)!r})\n"
        "print(verify_snapshot(folder).dataset_id, len(load_pairs([folder / 'train'])))\n"
        "print([name for name in ('torch', 'pymatgen', 'maggma', 'pydantic') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "d-1 20\n[]\n"
