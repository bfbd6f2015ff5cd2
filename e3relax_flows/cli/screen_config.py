"""What a screen or a list of candidates is told, read from YAML; unknown keys are refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from e3relax_flows.candidates.ranking import Ranking
from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.candidates.sources import FileSource, Source, read_sources, resolve_paths
from e3relax_flows.cli.options import describe_validation
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.schemas.predictions import PredictOptions
from e3relax_flows.schemas.screens import ScreenLimits


class CandidatesConfig(BaseModel):
    """Where candidates come from, and which are the most promising."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: list[str] = Field(default_factory=list, description="files and folders of structures")
    sources: list[Source] = Field(default_factory=list, description="databases, stores and substitutions")
    ranking: Ranking | None = Field(None, description="most promising first; none: in the order of the sources")

    @model_validator(mode="after")
    def _has_candidates(self) -> Self:
        if not self.inputs and not self.sources:
            raise ValueError("no candidates; give inputs, sources, or both")
        return self

    def read(self, settings: E3RelaxSettings) -> Iterator[ReadItem]:
        """Candidates of the inputs and then of the sources, one by one; see `read_sources`."""
        files: list[Source] = []
        if self.inputs:
            files.append(FileSource(type="files", paths=[Path(path) for path in self.inputs]))
        yield from read_sources([*files, *self.sources], settings)


class ScreenConfig(CandidatesConfig):
    """A screen; the fields of the same name of `ScreenMaker` say more."""

    engine: str = Field(description="name of the engine, see `e3relax doctor`")
    engine_settings: dict[str, Any] = Field(default_factory=dict, description="what the engine's builder takes")
    name: str = Field("screen", description="name of the screen, in documents and on the page")
    model: str = Field("default", description="alias, name, id or folder of a model")
    device: str = Field("auto", description="torch device")
    options: PredictOptions = Field(default_factory=PredictOptions, description="how to predict")
    control: float = Field(0.1, ge=0, le=1, description="fraction of candidates relaxed from the initial structure")
    paired_controls: bool = Field(True, description="relax controls from their prediction, too")
    on_refuse: Literal["initial", "skip", "fail"] = Field("initial", description="what follows a refused prediction")
    seed: int = Field(0, description="seed of the drawing of controls")
    chunk_size: int = Field(200, ge=1, description="structures per prediction job")
    limits: ScreenLimits = Field(default_factory=ScreenLimits, description="budget, and candidates at work at once")
    retry_failed: bool = Field(False, description="try outcomes again that failed before")
    one_launch: bool | None = Field(
        None, description="on FireWorks, a candidate's calculations in one launch; none: where the engine is no DFT"
    )
    out: Path = Field(Path("runs/screen"), description="folder of the page, the table and the jobs' own folders")


Config = TypeVar("Config", bound=CandidatesConfig)


def load_screen_config(path: Path, **overrides: Any) -> ScreenConfig:
    """Read a YAML file; relative paths in it are taken from its folder, those of `overrides` from the working one.

    Raises
    ------
    ConfigError
        When the file cannot be read, a key is unknown or a value cannot be used.
    """
    changes = {key: value for key, value in overrides.items() if value is not None}
    return make_config(ScreenConfig, _read_yaml(path) | changes, str(path))


def load_candidates_config(path: Path) -> CandidatesConfig:
    """Read a YAML file of candidates, or of a screen, whose candidates are then meant.

    Raises
    ------
    ConfigError
        As `load_screen_config`.
    """
    raw = _read_yaml(path)
    return make_config(ScreenConfig if "engine" in raw else CandidatesConfig, raw, str(path))


def make_screen_config(fields: dict[str, Any], origin: str) -> ScreenConfig:
    """Check the fields of a screen; see `make_config`."""
    return make_config(ScreenConfig, fields, origin)


def make_config(kind: type[Config], fields: dict[str, Any], origin: str) -> Config:
    """Check the fields of a configuration.

    Raises
    ------
    ConfigError
        When a key is unknown or a value cannot be used; `origin` says where they came from.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        known = [*kind.model_fields, *(f"limits.{name}" for name in ScreenLimits.model_fields)]
        is_unknown = any(item["type"] == "extra_forbidden" for item in error.errors())
        keys = f"; known keys: {', '.join(known)}" if is_unknown else ""
        raise ConfigError(f"{origin}: {describe_validation(error, known)}{keys}") from error


def _read_yaml(path: Path) -> dict[str, Any]:
    """Raw entries, with their relative paths taken from the folder of the file."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file; configs/screen.yaml is one to copy") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds {type(raw).__name__}, not keys and values; see configs/screen.yaml")
    if isinstance(raw.get("inputs"), list):
        raw["inputs"] = [os.path.normpath(path.parent / str(item)) for item in raw["inputs"]]
    if isinstance(raw.get("sources"), list):
        raw["sources"] = resolve_paths(raw["sources"], path.parent)
    if isinstance(raw.get("out"), str):
        raw["out"] = os.path.normpath(path.parent / raw["out"])
    if isinstance(raw.get("ranking"), dict):
        files = {key: raw["ranking"][key] for key in ("file", "entries") if isinstance(raw["ranking"].get(key), str)}
        raw["ranking"] = raw["ranking"] | {key: os.path.normpath(path.parent / name) for key, name in files.items()}
    return raw
