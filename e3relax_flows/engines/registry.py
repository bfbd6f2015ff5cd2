"""Engines by name, for the command line and configuration files; nothing heavy is imported to list them."""

from __future__ import annotations

import importlib
import inspect
import os
import shlex
import shutil
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from e3relax_flows.core.errors import EngineError, MissingDependencyError
from e3relax_flows.engines.base import Engine

VASP_COMMAND = "ATOMATE2_VASP_CMD"


@dataclass(frozen=True)
class EngineInfo:
    """What is known of an engine without loading it."""

    name: str
    description: str
    is_dft: bool
    available: bool
    hint: str  # what to type, or to set, where it is not available


@dataclass(frozen=True)
class _Entry:
    """One engine of the registry: where its builder is, and which packages of which extra it needs."""

    description: str
    builder: str  # module:function, called with the user's settings
    is_dft: bool = True
    packages: tuple[str, ...] = ()
    extra: str = ""
    install: str = ""
    preset: tuple[tuple[str, str], ...] = ()

    def list_missing(self) -> list[str]:
        return [package for package in self.packages if find_spec(package) is None]

    def describe_installation(self) -> str:
        return self.install or f"pip install 'e3relax-flows[{self.extra}]'"


def _vasp(description: str, maker: str) -> _Entry:
    return _Entry(description, "e3relax_flows.engines.vasp:build_vasp", preset=(("maker", maker),))


_REGISTRY: dict[str, _Entry] = {
    "chgnet": _Entry(
        "CHGNet potential, weights in its package; not DFT",
        "e3relax_flows.engines.mlip:build_mlip",
        is_dft=False,
        packages=("chgnet", "ase"),
        extra="mlip",
    ),
    "gpaw": _Entry(
        "GPAW, PBE, plane waves: DFT without a licence",
        "e3relax_flows.engines.gpaw:build_gpaw",
        packages=("gpaw", "ase"),
        extra="gpaw",
        install="GPAW_CONFIG=$PWD/configs/gpaw_siteconfig.py pip install 'e3relax-flows[gpaw]'",
    ),
    "vasp": _vasp("VASP, two PBEsol relaxations (atomate2 DoubleRelaxMaker)", "vasp.flows.core.DoubleRelaxMaker"),
    "vasp-single": _vasp("VASP, one PBEsol relaxation (atomate2 RelaxMaker)", "vasp.jobs.core.RelaxMaker"),
    "vasp-mp-gga": _vasp("VASP, Materials Project PBE(+U), two relaxations", "vasp.flows.mp.MPGGADoubleRelaxMaker"),
    "vasp-mp-gga-static": _vasp(
        "VASP, Materials Project PBE(+U), two relaxations and a static", "vasp.flows.mp.MPGGADoubleRelaxStaticMaker"
    ),
    "vasp-mp-metagga": _vasp(
        "VASP, Materials Project PBEsol then r2SCAN relaxation", "vasp.flows.mp.MPMetaGGADoubleRelaxMaker"
    ),
    "vasp-mp-metagga-static": _vasp(
        "VASP, Materials Project PBEsol then r2SCAN relaxation and a static",
        "vasp.flows.mp.MPMetaGGADoubleRelaxStaticMaker",
    ),
    "vasp-mp24": _vasp(
        "VASP, Materials Project 2024 PBEsol then r2SCAN relaxation", "vasp.flows.mp.MP24DoubleRelaxMaker"
    ),
    "vasp-mp24-static": _vasp(
        "VASP, Materials Project 2024 PBEsol then r2SCAN relaxation and a static",
        "vasp.flows.mp.MP24DoubleRelaxStaticMaker",
    ),
    "vasp-matpes": _Entry(
        "VASP, one PBE relaxation, then MatPES PBE and r2SCAN statics", "e3relax_flows.engines.vasp:build_matpes"
    ),
}


def list_engines() -> list[EngineInfo]:
    """Describe every engine, without importing the code behind it."""
    return [_describe(name, entry) for name, entry in _REGISTRY.items()]


def get_engine(name: str, **settings: Any) -> Engine:
    """Build an engine by name.

    Parameters
    ----------
    name
        One of `list_engines()`.
    **settings
        What the engine's builder takes, such as `fmax` of "chgnet" and "gpaw".

    Raises
    ------
    EngineError
        When the name or a setting is unknown.
    MissingDependencyError
        When a package of the engine is not installed.
    """
    entry = _REGISTRY.get(name)
    if entry is None:
        raise EngineError(f"engine {name!r} is unknown; known: {', '.join(_REGISTRY)}")
    if missing := entry.list_missing():
        raise MissingDependencyError(
            f"engine {name!r} needs {', '.join(map(repr, missing))}, which is not installed; "
            f"install it with: {entry.describe_installation()}"
        )
    module, function = entry.builder.split(":")
    builder = getattr(importlib.import_module(module), function)
    preset = {"name": name, **dict(entry.preset)}
    known = [key for key in inspect.signature(builder).parameters if key not in preset]
    if unknown := sorted(set(settings) - set(known)):
        raise EngineError(
            f"engine {name!r} has no setting {', '.join(map(repr, unknown))}; known: {', '.join(known) or 'none'}"
        )
    engine: Engine = builder(**preset, **settings)
    engine.settings = settings
    return engine


def recall_settings(engine: Engine) -> dict[str, Any] | None:
    """Settings with which `get_engine` builds this engine by its name; None where it was built or changed by code."""
    if engine.settings is None or engine.name not in _REGISTRY:
        return None
    same = get_engine(engine.name, **engine.settings).engine_id == engine.engine_id
    return engine.settings if same else None


def _describe(name: str, entry: _Entry) -> EngineInfo:
    if entry.packages:
        available = not entry.list_missing()
        hint = entry.describe_installation()
    else:
        command = os.path.expandvars(os.environ.get(VASP_COMMAND, "vasp_std"))
        available = any(shutil.which(word) for word in shlex.split(command)[-1:])
        hint = f"no {command!r} on this machine; where jobs run, set {VASP_COMMAND} and pymatgen's PMG_VASP_PSP_DIR"
    return EngineInfo(name, entry.description, entry.is_dft, available, "" if available else hint)
