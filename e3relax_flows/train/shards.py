"""Shards: pairs as tensors in safetensors files, read with numpy alone and verified by their hash.

A shard is a file `pairs-00003-of-00012.safetensors`. Tensors: `numbers` uint8 [n_atoms], `counts` int32 [n_pairs],
`fractions` float64 [2, n_atoms, 3] and `lattices` float64 [2, n_pairs, 3, 3] (initial, relaxed; Å), and for each of
`sources`, `functionals` and `groups` the indices int32 [n_pairs] of the names in a table. Metadata, under the key
`e3relax_pairs`, is JSON: format version, ids, tables of names, content hash.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as save_tensors

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.train.pairs import PairSet, identify_pairs

SHARD_FORMAT = 1
METADATA_KEY = "e3relax_pairs"
TABLES = ("sources", "functionals", "groups")
SUFFIX = ".safetensors"


def write_shards(pairs: PairSet, folder: Path, size: int = 10_000) -> list[Path]:
    """Write pairs, in order, as shards of `size` pairs into `folder`; return their paths.

    Coordinates keep all their bits. Every file is written atomically.

    Raises
    ------
    ConfigError
        When shards are in the folder already.
    """
    if found := sorted(folder.glob(f"*{SUFFIX}")):
        raise ConfigError(f"{folder} holds {found[0].name} already; choose another folder, or remove it first")
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(pairs), size)
    paths = []
    for number, start in enumerate(starts):
        part = pairs.select(range(start, min(start + size, len(pairs))))
        path = folder / f"pairs-{number:05d}-of-{len(starts):05d}{SUFFIX}"
        temporary = path.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.write(_pack_shard(part))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        paths.append(path)
    return paths


def _pack_shard(pairs: PairSet) -> bytes:
    tensors: dict[str, NDArray[Any]] = {
        "numbers": pairs.numbers.astype(np.uint8),
        "counts": pairs.sizes.astype(np.int32),
        "fractions": np.ascontiguousarray(pairs.fractions, dtype=np.float64),
        "lattices": np.ascontiguousarray(pairs.lattices, dtype=np.float64),
    }
    tables: dict[str, list[str]] = {}
    for name in TABLES:
        table, indices = np.unique(np.array(getattr(pairs, name), dtype=object), return_inverse=True)
        tables[name] = [str(word) for word in table]
        tensors[name] = indices.astype(np.int32)
    metadata = {
        "format_version": SHARD_FORMAT,
        "hash": identify_pairs(pairs),
        "tables": tables,
        "ids": pairs.ids,
    }
    return save_tensors(tensors, {METADATA_KEY: json.dumps(metadata, separators=(",", ":"))})


def read_shard(path: Path) -> PairSet:
    """Read and verify one shard.

    Raises
    ------
    ConfigError
        When the file is missing, not a shard, of another format version, or damaged.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = json.loads((file.metadata() or {})[METADATA_KEY])
            version = metadata["format_version"]
            if version != SHARD_FORMAT:
                raise ConfigError(
                    f"{path}: shard format {version!r}, this release reads {SHARD_FORMAT}; write it again"
                )
            tensors = {name: file.get_tensor(name) for name in ("numbers", "counts", "fractions", "lattices", *TABLES)}
        names = {name: [metadata["tables"][name][index] for index in tensors[name]] for name in TABLES}
        pairs = PairSet(
            metadata["ids"],
            names["sources"],
            np.concatenate([[0], np.cumsum(tensors["counts"], dtype=np.int64)]),
            tensors["numbers"].astype(np.int64),
            tensors["fractions"],
            tensors["lattices"],
            names["functionals"],
            names["groups"],
        )
        stated, actual = metadata["hash"], identify_pairs(pairs)
    except (OSError, SafetensorError, KeyError, ValueError, IndexError, TypeError) as error:
        raise ConfigError(f"{path} is not a shard of pairs ({error}); repeat `e3relax data shards`") from error
    if stated != actual:
        raise ConfigError(f"{path} is damaged: its hash is {actual}, not {stated}; write it again")
    return pairs


def list_shards(folder: Path) -> list[Path]:
    """Paths of all shards of a folder, in order.

    Raises
    ------
    ConfigError
        When there are none, or one of them is missing.
    """
    paths = sorted(folder.glob(f"pairs-*{SUFFIX}"))
    if not paths:
        raise ConfigError(f"{folder} holds no shards (pairs-*{SUFFIX}); make them with `e3relax data shards`")
    n_shards = int(paths[0].stem.rpartition("-")[2]) if paths[0].stem.rpartition("-")[2].isdigit() else 0
    expected = [f"pairs-{number:05d}-of-{n_shards:05d}{SUFFIX}" for number in range(n_shards)]
    if missing := sorted(set(expected) ^ {path.name for path in paths}):
        raise ConfigError(
            f"{folder} should hold {n_shards} shards, but these are missing or do not belong to them: "
            f"{_shorten(missing)}; copy the whole folder again"
        )
    return paths


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
