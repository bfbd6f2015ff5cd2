"""Snapshots: the pairs of a dataset as shards with a manifest of hashes, for a training node without a database.

A snapshot is a folder with `manifest.json` and a folder of shards for each split. The manifest is JSON: format version,
dataset id, and for each split the number of pairs, the hash of their content and, by path from the folder, the sha256
and the size of each shard. Needs numpy and safetensors alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.train.pairs import PairSet, identify_pairs
from e3relax_flows.train.shards import SUFFIX, write_shards

if TYPE_CHECKING:
    from e3relax_flows.schemas.datasets import GroupBy
    from e3relax_flows.schemas.pairs import PairDoc

SNAPSHOT_FORMAT = 1
MANIFEST_FILE = "manifest.json"
REMEDY = "copy the whole folder again, or remove it and run again what wrote it (e3relax retrain)"


@dataclass(frozen=True)
class ShardFile:
    """Hash and size of a shard."""

    sha256: str
    n_bytes: int


@dataclass(frozen=True)
class Split:
    """One split of a snapshot; `files` by path from the folder, with slashes."""

    n_pairs: int
    content: str  # `identify_pairs` of the whole split
    files: dict[str, ShardFile]


@dataclass(frozen=True)
class Manifest:
    """Contents of a snapshot."""

    dataset_id: str
    splits: dict[str, Split]


def pack_pairs(
    docs: Iterable[PairDoc], ids: Sequence[str] | None = None, group_by: GroupBy = "chemical_system"
) -> PairSet:
    """Arrays of pairs, from documents read one after another.

    Parameters
    ----------
    docs
        In any order; those that are not in `ids` are skipped.
    ids
        Required pair ids, in this order; None: all, in the order of `docs`.
    group_by
        Kind of the groups.

    Raises
    ------
    ConfigError
        When pairs of `ids` are not among the documents, or there are no pairs.
    """
    wanted = None if ids is None else set(ids)
    kept: dict[str, int] = {}
    names: dict[str, list[str]] = {"source": [], "functional": [], group_by: []}
    numbers, fractions, lattices = [], [], []
    for doc in docs:
        if doc.pair_id in kept or (wanted is not None and doc.pair_id not in wanted):
            continue
        kept[doc.pair_id] = len(kept)
        for field, values in names.items():
            values.append(getattr(doc, field))
        sides = (doc.initial, doc.relaxed)
        numbers.append(np.array(doc.initial.atomic_numbers, dtype=np.int64))
        fractions.append(np.stack([side.frac_coords for side in sides]).astype(np.float64))
        lattices.append(np.stack([side.lattice.matrix for side in sides]).astype(np.float64))
    if missing := [name for name in ids or () if name not in kept]:
        raise ConfigError(
            f"{len(missing)} of {len(ids or ())} pairs are not in the store, such as {missing[0]}; they were removed, "
            "or it is another store: check PAIR_STORE and DATA_DIR, or build the dataset again"
        )
    if not kept:
        raise ConfigError("there are no pairs to pack; build or import some (e3relax data build, e3relax data import)")
    pairs = PairSet(
        list(kept),
        names["source"],
        np.concatenate([[0], np.cumsum([len(part) for part in numbers], dtype=np.int64)]),
        np.concatenate(numbers),
        np.concatenate(fractions, axis=1),
        np.stack(lattices, axis=1),
        names["functional"],
        names[group_by],
    )
    return pairs if ids is None else pairs.select([kept[name] for name in ids])


def write_snapshot(folder: Path, splits: Mapping[str, PairSet], dataset_id: str, shard_size: int = 10_000) -> Manifest:
    """Write splits as shards into a new folder, which is written atomically.

    A folder that holds the same snapshot already is verified and left as it is.

    Raises
    ------
    ConfigError
        When the folder holds something else, or a split has no pairs or a name that cannot be a folder.
    """
    for name, pairs in splits.items():
        if not name.isidentifier():
            raise ConfigError(f"{name!r} cannot be the name of a split; use letters, digits and _, such as train")
        if not len(pairs):
            raise ConfigError(f"the split {name!r} has no pairs; leave it out")
    if (folder / MANIFEST_FILE).exists():
        return _accept_same(folder, splits, dataset_id)
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not a snapshot and not empty; choose another folder, or remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".{folder.name}-{uuid4().hex}"
    try:
        content = {name: _write_split(temporary, name, pairs, shard_size) for name, pairs in sorted(splits.items())}
        manifest = Manifest(dataset_id, content)
        _write_manifest(temporary / MANIFEST_FILE, manifest)
        try:
            temporary.replace(folder)
        except OSError:
            if not (folder / MANIFEST_FILE).exists():
                raise
            return _accept_same(folder, splits, dataset_id)  # another process has written it at the same moment
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a snapshot; its shards are not checked.

    Raises
    ------
    ConfigError
        When there is no manifest, it is of another format version or damaged, or names files outside of the folder.
    """
    path = folder / MANIFEST_FILE
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
        version = raw["format_version"]
        if version != SNAPSHOT_FORMAT:
            raise ConfigError(
                f"{path}: snapshot format {version!r}, this release reads {SNAPSHOT_FORMAT}; update with: "
                "pip install -U e3relax-flows, or remove the folder and run e3relax retrain again"
            )
        splits = {
            name: Split(
                int(split["n_pairs"]),
                str(split["content"]),
                {file: ShardFile(str(row["sha256"]), int(row["n_bytes"])) for file, row in split["files"].items()},
            )
            for name, split in raw["splits"].items()
        }
        manifest = Manifest(str(raw["dataset_id"]), splits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is not a snapshot's manifest ({type(error).__name__}: {error}); {REMEDY}") from error
    for name, split in manifest.splits.items():
        _check_paths(folder, name, split)
    return manifest


def verify_snapshot(folder: Path) -> Manifest:
    """Check that every file of a snapshot is there and has the hash that the manifest states.

    Raises
    ------
    ConfigError
        When a file is missing, damaged or too many, besides the reasons of `read_manifest`.
    """
    manifest = read_manifest(folder)
    for name, split in manifest.splits.items():
        for file, stated in split.files.items():
            path = folder / file
            if not path.is_file():
                raise ConfigError(f"{path} is missing; {REMEDY}")
            if path.stat().st_size != stated.n_bytes or (found := _hash_file(path)) != stated.sha256:
                what = f"{path.stat().st_size} bytes, not {stated.n_bytes}"
                if path.stat().st_size == stated.n_bytes:
                    what = f"its sha256 is {found[:16]}..., not {stated.sha256[:16]}..."
                raise ConfigError(f"{path} is damaged: {what}; {REMEDY}")
        present = {f"{name}/{path.name}" for path in (folder / name).glob(f"*{SUFFIX}")}
        if extra := sorted(present - split.files.keys()):
            raise ConfigError(f"{folder / extra[0]} does not belong to the snapshot; remove it, or {REMEDY}")
    return manifest


def _accept_same(folder: Path, splits: Mapping[str, PairSet], dataset_id: str) -> Manifest:
    manifest = verify_snapshot(folder)
    stated = {name: split.content for name, split in manifest.splits.items()}
    if manifest.dataset_id != dataset_id or stated != {name: identify_pairs(pairs) for name, pairs in splits.items()}:
        found = f"dataset {manifest.dataset_id}"
        wanted = f"dataset {dataset_id}" if manifest.dataset_id != dataset_id else "these splits of it"
        raise ConfigError(
            f"{folder} holds another snapshot already, of {found}, not {wanted}; choose "
            "another folder, or remove it first"
        )
    return manifest


def _write_split(folder: Path, name: str, pairs: PairSet, shard_size: int) -> Split:
    paths = write_shards(pairs, folder / name, shard_size)
    files = {f"{name}/{path.name}": ShardFile(_hash_file(path), path.stat().st_size) for path in paths}
    return Split(len(pairs), identify_pairs(pairs), files)


def _write_manifest(path: Path, manifest: Manifest) -> None:
    with path.open("w") as file:
        json.dump({"format_version": SNAPSHOT_FORMAT} | asdict(manifest), file, indent=1, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_paths(folder: Path, name: str, split: Split) -> None:
    """Refuse files that are not shards in the split's own folder, by their names or through links."""
    root = folder.resolve()
    for file in split.files:
        path = PurePosixPath(file)
        inside = path.parts == (name, path.name) and name.isidentifier() and (root / file).resolve() == root / file
        if not inside or path.suffix != SUFFIX:
            raise ConfigError(f"{folder / MANIFEST_FILE} names {file!r}, not a shard in {folder / name}; {REMEDY}")
