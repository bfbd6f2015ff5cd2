"""DFT codes and potentials as values that flows can hold."""

from e3relax_flows.engines.base import Engine
from e3relax_flows.engines.registry import EngineEntry, EngineInfo, get_engine, list_engines, register_engine

__all__ = ["Engine", "EngineEntry", "EngineInfo", "get_engine", "list_engines", "register_engine"]
