"""Open text files, compressed or not; their first bytes determine the compression and the encoding."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from e3relax_flows.core.errors import E3RelaxError

COMPRESSIONS = (".gz", ".bz2", ".xz", ".z")
HEAD = 6  # bytes that show how a file is packed
# by the first bytes, since names may be misleading
PACKED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
    b"\x1f\x9d": lambda path: _unpack_by(["gzip", "-dc"], path),  # of compress, which wrote .Z
    b"\x28\xb5\x2f\xfd": lambda path: _unpack_by(["zstd", "-dc"], path),
}


def open_binary(path: Path) -> IO[bytes]:
    """Open a file for its bytes, unpacked where it is packed.

    Raises
    ------
    E3RelaxError
        When the program that unpacks it is not installed.
    """
    with path.open("rb") as stream:
        head = stream.read(HEAD)
    opener = next((opener for mark, opener in PACKED.items() if head.startswith(mark)), None)
    return path.open("rb") if opener is None else opener(path)


def open_text(path: Path) -> IO[str]:
    """Open a text file: unpacked, in the encoding of its byte-order mark, which is left out; UTF-8 without one.

    Raises
    ------
    E3RelaxError
        As `open_binary`.
    """
    return io.TextIOWrapper(open_binary(path), encoding=_find_encoding(path))


def cut_compression(name: str) -> str:
    """A name without the suffix of the compression."""
    return next((name[: -len(ending)] for ending in COMPRESSIONS if name.lower().endswith(ending)), name)


@contextmanager
def unpack_file(path: Path, is_text: bool = True) -> Iterator[Path]:
    """A file in the form that parsers expect: unpacked UTF-8 text without a byte-order mark.

    That is the file itself, or a copy in a folder for the time of the `with`, which has its name without the ending of
    the compression.
    """
    with path.open("rb") as stream:
        is_packed = any(stream.peek(HEAD)[:HEAD].startswith(mark) for mark in PACKED)
    if not is_packed and not (is_text and _find_encoding(path) != "utf-8"):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="e3relax_") as folder:
        copy = Path(folder) / cut_compression(path.name)
        if is_text:
            with open_text(path) as source, copy.open("w", encoding="utf-8") as target:
                shutil.copyfileobj(source, target)
        else:
            with open_binary(path) as packed, copy.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        yield copy


def _find_encoding(path: Path) -> str:
    with open_binary(path) as stream:
        return json.detect_encoding(stream.read(4))


def _unpack_by(command: list[str], path: Path) -> IO[bytes]:
    """What a program writes that unpacks a file."""
    try:
        with path.open("rb") as stream:
            done = subprocess.run(command, stdin=stream, capture_output=True, check=True)
    except FileNotFoundError as error:
        raise E3RelaxError(f"{path}: {command[0]} is needed to unpack it; install it, or unpack the file") from error
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip()
        raise E3RelaxError(f"{path} cannot be unpacked ({reason}); is it whole?") from error
    return io.BytesIO(done.stdout)
