"""What a screen is told: inputs, engine, controls; read from YAML, unknown keys refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from e3relax_flows.cli.options import describe_validation
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.predictions import PredictOptions


class ScreenConfig(BaseModel):
    """A screen; the fields of the same name of `ScreenMaker` say more."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: list[str] = Field(min_length=1, description="files and folders of structures")
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
    retry_failed: bool = Field(False, description="try outcomes again that failed before")
    out: Path = Field(Path("runs/screen"), description="folder of the page, the table and the jobs' own folders")


def load_screen_config(path: Path, **overrides: Any) -> ScreenConfig:
    """Read a YAML file; relative paths in it are taken from its folder, those of `overrides` from the working one.

    Raises
    ------
    ConfigError
        When the file cannot be read, a key is unknown or a value cannot be used.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds {type(raw).__name__}, not keys and values; see configs/screen.yaml")
    if isinstance(raw.get("inputs"), list):
        raw["inputs"] = [os.path.normpath(path.parent / str(item)) for item in raw["inputs"]]
    if isinstance(raw.get("out"), str):
        raw["out"] = os.path.normpath(path.parent / raw["out"])
    return make_screen_config(raw | {key: value for key, value in overrides.items() if value is not None}, str(path))


def make_screen_config(fields: dict[str, Any], origin: str) -> ScreenConfig:
    """Check the fields of a screen.

    Raises
    ------
    ConfigError
        When a key is unknown or a value cannot be used; `origin` says where they came from.
    """
    try:
        return ScreenConfig.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(
            f"{origin}: {describe_validation(error)}; known keys: {', '.join(ScreenConfig.model_fields)}"
        ) from error
