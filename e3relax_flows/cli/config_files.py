"""Configuration files of screens, candidates, campaigns and retrainings; unknown keys are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from e3relax_flows.candidates.sources import resolve_paths
from e3relax_flows.cli.options import describe_validation
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.campaigns import CampaignConfig
from e3relax_flows.schemas.candidates import CandidatesConfig
from e3relax_flows.schemas.retraining import RetrainConfig
from e3relax_flows.schemas.screens import ScreenConfig, ScreenLimits

Config = TypeVar("Config", bound=BaseModel)


def load_screen_config(path: Path, **overrides: Any) -> ScreenConfig:
    """Read a YAML file; relative paths in it are taken from its folder, those of `overrides` from the working one.

    Overrides of `options` replace the fields that they name; the others stay as in the file.

    Raises
    ------
    ConfigError
        When the file cannot be read, a key is unknown or a value cannot be used.
    """
    changes = {key: value for key, value in overrides.items() if value is not None}
    raw = _read_yaml(path)
    if isinstance(raw.get("options"), dict) and "options" in changes:
        changes["options"] = raw["options"] | changes["options"]
    return make_config(ScreenConfig, raw | changes, str(path))


def load_candidates_config(path: Path) -> CandidatesConfig:
    """Read a YAML file of candidates, or the candidates of a screen file.

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
        When a key is unknown or a value cannot be used; `origin` is their source, for the message.
    """
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        limits = ScreenLimits.model_fields if "limits" in kind.model_fields else ()
        known = [*kind.model_fields, *(f"limits.{name}" for name in limits)]
        is_unknown = any(item["type"] == "extra_forbidden" for item in error.errors())
        keys = f"; known keys: {', '.join(known)}" if is_unknown else ""
        raise ConfigError(f"{origin}: {describe_validation(error, known)}{keys}") from error


def load_campaign_config(path: Path) -> CampaignConfig:
    """Read a YAML file; relative paths in it are taken from its folder, and become absolute.

    Raises
    ------
    ConfigError
        As `load_screen_config`.
    """
    return make_config(CampaignConfig, _read_yaml(path.absolute(), "configs/campaign.yaml"), str(path))


def load_retrain_config(path: Path) -> RetrainConfig:
    """Read a YAML file.

    Raises
    ------
    ConfigError
        As `load_screen_config`.
    """
    return make_config(RetrainConfig, _read_yaml(path, "configs/retrain.yaml"), str(path))


def _read_yaml(path: Path, example: str = "configs/screen.yaml") -> dict[str, Any]:
    """Raw entries, with their relative paths taken from the folder of the file."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file; {example} is an example") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds {type(raw).__name__}, not keys and values; see {example}")
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
