"""Pairs read from lines of JSON and from shards."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.text_files import open_text
from e3relax_flows.model.elements import MAX_Z
from e3relax_flows.train.pairs import UNKNOWN, Array, Pair, PairSet, join_pairs, list_elements
from e3relax_flows.train.shards import list_shards, read_shard

__all__ = ["Pair", "PairSet", "iter_pair_rows", "list_elements", "load_pairs", "read_pair_lines"]

FORM = '{"id", "numbers", "initial": {"lattice", "frac"}, "relaxed": {"lattice", "frac"}}'


def iter_pair_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a pair file, one JSON object a line, gzipped or not.

    Raises
    ------
    ConfigError
        When the file cannot be read or a line is not a pair.
    """
    required = {"id", "numbers", "initial", "relaxed"}
    try:
        with open_text(path) as lines:
            for line_number, line in enumerate(lines, 1):
                row = json.loads(line)
                missing = sorted(required - row.keys()) if isinstance(row, dict) else sorted(required)
                if missing:
                    raise ConfigError(f"{path} line {line_number}: no {', '.join(missing)}; a pair is {FORM}")
                yield row
    except (OSError, EOFError, ValueError, zlib.error) as error:  # a cut or damaged gzip file raises any of these
        raise ConfigError(f"{path}: {error}; it must be a .jsonl or .jsonl.gz file of pairs, or shards") from error


def read_pair_lines(path: Path, on_read: Callable[[int], object] | None = None) -> PairSet | None:
    """Read one file of lines; None if it has no lines. `on_read` is called for each pair, with a 1.

    Raises
    ------
    ConfigError
        When the file cannot be read or an entry is not a pair.
    """
    names: dict[str, list[str]] = {"id": [], "source": [], "functional": [], "group": []}
    pairs: list[Pair] = []
    for row in iter_pair_rows(path):
        try:
            pairs.append(_parse_pair(row))
        except (KeyError, TypeError, ValueError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ConfigError(f"{path}: pair {row['id']!r}: {what}; a pair is {FORM}") from error
        if on_read is not None:
            on_read(1)
        for key, values in names.items():
            values.append(str(row["id"]) if key == "id" else str(row.get(key) or UNKNOWN))
    if not pairs:
        return None
    return PairSet(
        names["id"],
        names["source"],
        np.concatenate([[0], np.cumsum([len(pair.numbers) for pair in pairs])]),
        np.concatenate([pair.numbers for pair in pairs]),
        np.stack(
            [
                np.concatenate([pair.initial_fractions for pair in pairs]),
                np.concatenate([pair.relaxed_fractions for pair in pairs]),
            ]
        ),
        np.stack([[pair.initial_lattice for pair in pairs], [pair.relaxed_lattice for pair in pairs]]),
        names["functional"],
        names["group"],
    )


def _parse_pair(row: dict[str, Any]) -> Pair:
    numbers = np.asarray(row["numbers"], dtype=np.int64)
    if numbers.ndim != 1 or not len(numbers) or numbers.min() < 1 or numbers.max() > MAX_Z:
        raise ValueError(f"numbers {row['numbers']!r} are not a list of atomic numbers, 1 to {MAX_Z}")
    sides: list[Array] = []
    for name in ("initial", "relaxed"):
        frac, lattice = (np.asarray(row[name][key], dtype=float) for key in ("frac", "lattice"))
        if frac.shape != (len(numbers), 3) or lattice.shape != (3, 3):
            raise ValueError(
                f"{name} has {frac.shape} coordinates and a {lattice.shape} lattice for {len(numbers)} atoms"
            )
        sides += [frac, lattice]
    return Pair(numbers, *sides)


def load_pairs(paths: Sequence[Path], on_read: Callable[[int], object] | None = None) -> PairSet:
    """Read pairs into memory, in order, from files of lines, shards and folders of shards.

    Parameters
    ----------
    paths
        Files and folders.
    on_read
        Called with the number of newly read pairs.

    Raises
    ------
    ConfigError
        When a file cannot be read, an entry is not a pair, shards are missing or damaged, or there are no pairs.

    Examples
    --------
    >>> import json
    >>> from pathlib import Path
    >>> from e3relax_flows import load_pairs
    >>> initial, relaxed = (
    ...     {"lattice": [[a, 0, 0], [0, a, 0], [0, 0, a]], "frac": [[0, 0, 0], [0.5, 0.5, 0.5]]} for a in (4.2, 4.1)
    ... )
    >>> row = {"id": "CsCl", "source": "mine", "numbers": [55, 17], "initial": initial, "relaxed": relaxed}
    >>> Path("pairs.jsonl").write_text(json.dumps(row)) > 0
    True
    >>> pairs = load_pairs([Path("pairs.jsonl")])
    >>> len(pairs), pairs.ids, pairs.sizes.tolist()
    (1, ['CsCl'], [2])
    """
    parts: list[PairSet] = []
    for path in map(Path, paths):
        if path.is_dir() or path.suffix == ".safetensors":
            for shard in list_shards(path) if path.is_dir() else [path]:
                parts.append(read_shard(shard))
                if on_read is not None:
                    on_read(len(parts[-1]))
        elif (lines := read_pair_lines(path, on_read)) is not None:
            parts.append(lines)
    if not parts:
        raise ConfigError(f"no pairs in {', '.join(map(str, paths))}")
    return join_pairs(parts)
