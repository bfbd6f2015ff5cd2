"""Configuration of a campaign, read from YAML; unknown keys are refused."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from e3relax_flows.candidates.sources import resolve_paths
from e3relax_flows.cli.options import describe_validation
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.schemas.campaigns import CampaignConfig


def load_campaign_config(path: Path) -> CampaignConfig:
    """Read a YAML file; relative paths in it are taken from its folder.

    Raises
    ------
    ConfigError
        When the file cannot be read, a key is unknown or a value cannot be used.
    """
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds {type(raw).__name__}, not keys and values; see configs/campaign.yaml")
    if isinstance(raw.get("inputs"), list):
        raw["inputs"] = [os.path.abspath(path.parent / str(item)) for item in raw["inputs"]]
    if isinstance(raw.get("sources"), list):
        raw["sources"] = resolve_paths(raw["sources"], path.parent.absolute())
    try:
        return CampaignConfig.model_validate(raw)
    except ValidationError as error:
        known = ", ".join(CampaignConfig.model_fields)
        raise ConfigError(
            f"{path}: {describe_validation(error)}; known keys: {known}; see configs/campaign.yaml"
        ) from error
