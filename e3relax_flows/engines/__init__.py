"""DFT codes and potentials as values that flows can hold."""

from e3relax_flows.engines.base import Engine
from e3relax_flows.engines.registry import EngineInfo, get_engine, list_engines

__all__ = ["Engine", "EngineInfo", "get_engine", "list_engines"]
