"""Model folders on disk: find, list, verify and write them, without torch.

A model is a folder with `config.json`, `weights.safetensors` and `card.md`. Its id is the first 16 hex digits
of the sha256 of the canonical JSON of the configuration followed by the bytes of the weights.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from e3relax_flows.core.errors import ModelError
from e3relax_flows.core.ids import ID_LENGTH

BUNDLED = Path(__file__).parent.parent / "weights"
ALIASES = {"default": "base"}
FORMAT_VERSION = 1
MODEL_ID = re.compile(f"[0-9a-f]{{{ID_LENGTH}}}")
MODEL_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
MIN_DIGITS = 8  # of an id that is abbreviated
CONFIG_FILE, WEIGHTS_FILE, CARD_FILE = "config.json", "weights.safetensors", "card.md"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelFolder:
    """A model on disk whose files are complete."""

    path: Path
    name: str
    model_id: str
    config: dict[str, Any]

    @property
    def functionals(self) -> list[str]:
        """Functionals whose minima it predicts; empty if its configuration does not state them."""
        return [str(name) for name in self.config.get("functionals") or []]


def identify_model(config: dict[str, Any], weights: bytes) -> str:
    """Id of a model from its configuration and the bytes of its weights file."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode() + b"\0" + weights).hexdigest()[:ID_LENGTH]


def read_model_folder(path: Path) -> ModelFolder:
    """Read a folder's configuration and hash its weights.

    Raises
    ------
    ModelError
        When a file is missing, unreadable or of a newer format.
    """
    try:
        config = json.loads((path / CONFIG_FILE).read_text())
        weights = (path / WEIGHTS_FILE).read_bytes()
    except (OSError, ValueError) as error:
        message = f"{path} is not a model folder ({error}); it needs {CONFIG_FILE} and {WEIGHTS_FILE}"
        raise ModelError(message) from error
    version = config.get("format_version") if isinstance(config, dict) else None
    if version != FORMAT_VERSION:
        raise ModelError(
            f"{path}: format version {version!r}, this release reads {FORMAT_VERSION}; "
            "update with: pip install -U e3relax-flows"
        )
    return ModelFolder(path, path.name, identify_model(config, weights), config)


def list_model_folders(models_dir: Path | None = None) -> list[ModelFolder]:
    """The bundled models and those imported into `models_dir`.

    Raises
    ------
    ModelError
        When one of them is incomplete.
    """
    return [read_model_folder(path) for path in list_model_paths(models_dir)]


def list_model_paths(models_dir: Path | None = None) -> list[Path]:
    """Folders of the bundled models and of those in `models_dir`, complete or not."""
    roots = [BUNDLED] + ([models_dir] if models_dir and models_dir.is_dir() else [])
    return sorted(path.parent for root in roots for path in root.glob(f"*/{CONFIG_FILE}"))


def find_model(spec: str, models_dir: Path | None = None) -> ModelFolder:
    """Find a model by alias ("default"), name ("base"), model id (8 digits or more) or path of its folder.

    Raises
    ------
    ModelError
        When no model or more than one model matches `spec`.
    """
    if is_model_folder(spec):
        return read_model_folder(Path(spec))
    found = match_folders(ALIASES.get(spec, spec), models_dir)
    if len({folder.model_id for folder in found}) == 1:
        return found[0]
    paths = list_model_paths(models_dir)
    what = "is ambiguous among" if found else "is none of the"
    raise ModelError(
        f"model {spec!r} {what} {len(paths)} known models ({', '.join(path.name for path in paths)}); "
        "run `e3relax models list`"
    )


def is_model_folder(spec: str) -> bool:
    """Whether a model is named by the path of its folder."""
    return (Path(spec) / CONFIG_FILE).exists()


def is_bundled_name(spec: str) -> bool:
    """Whether this is the name of a model that comes with the package."""
    return MODEL_NAME.fullmatch(spec) is not None and (BUNDLED / spec).is_dir()


def is_model_id(spec: str) -> bool:
    """Whether this may be a model's id or the beginning of one, of 8 digits or more."""
    return re.fullmatch(f"[0-9a-f]{{{MIN_DIGITS},{ID_LENGTH}}}", spec) is not None


def match_folders(spec: str, models_dir: Path | None = None) -> list[ModelFolder]:
    """Models of the name `spec`; if there are none, those whose id begins with it (8 digits or more).

    Raises
    ------
    ModelError
        When one of them is incomplete, or its folder is named by the id of another model.
    """
    paths = list_model_paths(models_dir)
    # only those of the name are read: other models may be large, or broken
    found = [read_listed_folder(path) for path in paths if path.name == spec]
    if not found and is_model_id(spec):
        possible = [path for path in paths if path.name.startswith(spec) or not MODEL_ID.fullmatch(path.name)]
        found = [folder for folder in map(read_listed_folder, possible) if folder.model_id.startswith(spec)]
    return found


def read_listed_folder(path: Path) -> ModelFolder:
    """Read one of `list_model_paths`.

    Raises
    ------
    ModelError
        When it is incomplete, or its folder is named by the id of another model.
    """
    if not MODEL_ID.fullmatch(path.name):
        return read_model_folder(path)
    advice = "run `e3relax models import FOLDER` with an intact copy, or remove that folder"
    try:
        folder = read_model_folder(path)
    except ModelError as error:
        raise ModelError(f"{error}; {advice}") from error
    if folder.model_id != path.name:
        raise ModelError(
            f"{path} is named by a model's id, but its files make model {folder.model_id}: they are damaged or were "
            f"changed; {advice}"
        )
    return folder


def write_model_folder(folder: Path, files: dict[str, bytes], replace: bool = False) -> bool:
    """Write a model folder atomically: it appears complete or not at all.

    Parameters
    ----------
    folder
        Where it is written.
    files
        Contents by name.
    replace
        Replace the present folder.

    Returns
    -------
    is_written
        False when a folder exists that must not be replaced, or another process wrote it first.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    # one level deeper than models lie, so that an unfinished one is never listed
    workshop = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder.parent))
    try:
        draft = workshop / folder.name
        draft.mkdir()
        for name, content in files.items():
            with (draft / name).open("wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        _sync_folder(draft)
        if replace:
            with suppress(FileNotFoundError):
                folder.rename(workshop / "replaced")
        if folder.exists():
            return False
        try:
            draft.rename(folder)
        except OSError:
            if folder.exists():  # another process wrote it first
                return False
            raise
        _sync_folder(folder.parent)
        logger.info("folder %s: written", folder)
        return True
    finally:
        shutil.rmtree(workshop, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    """Make the entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
