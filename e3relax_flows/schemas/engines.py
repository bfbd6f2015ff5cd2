"""Configuration of an engine in a file: the path of a maker or a name, with settings."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class EngineSpec(BaseModel):
    """An engine by the path of a jobflow maker; `get_engine` builds it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    maker: str = Field(description="module:Class of a maker, such as atomate2.cp2k.jobs.core:CellOptMaker")
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="fields of the maker; a value may itself be module:Class, {class: module:Class, settings: {...}}, "
        "or the fields to change in what the maker holds already",
    )
    powerups: dict[str, Any] = Field(
        default_factory=dict, description="functions of the code's powerups in atomate2, with their arguments"
    )
    name: str | None = Field(None, description="name in documents and tables; none: the path")

    def __str__(self) -> str:
        return self.name or self.maker
