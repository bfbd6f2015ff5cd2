"""Engines by name, for the command line and configuration files; nothing heavy is imported to list them."""

from __future__ import annotations

import importlib
import inspect
import os
import shlex
import shutil
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, ValidationError, validate_call

from e3relax_flows.core.errors import EngineError, MissingDependencyError
from e3relax_flows.engines.base import Engine
from e3relax_flows.engines.potential_table import CHGNET, MACE, SEVENNET, Family

if TYPE_CHECKING:
    from e3relax_flows.engines.potentials import Potential

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


def _potential(family: Family, checkpoint: str, note: str) -> _Entry:
    weights = family.checkpoints[checkpoint]
    download = f"; then download {weights.url} to ~/.cache/{weights.weights}" if weights.url else ""
    return _Entry(
        f"{weights.label} potential, {note}; not DFT",
        "e3relax_flows.engines.mlip:PotentialConfig",
        is_dft=False,
        packages=(family.package, "ase"),
        install=family.install + download,
        preset=(("potential", family.name), ("checkpoint", checkpoint)),
    )


_REGISTRY: dict[str, _Entry] = {
    "chgnet": _potential(CHGNET, "0.3.0", "weights in its package"),
    "chgnet-r2scan": _potential(CHGNET, "r2scan", "r2SCAN, weights in its package"),
    "sevennet": _potential(SEVENNET, "7net-l3i5", "weights in its package"),
    "sevennet-0": _potential(SEVENNET, "7net-0", "weights in its package"),
    "mace-mp-0": _potential(MACE, "mp-0-medium", "weights to be downloaded"),
    "mace-mpa-0": _potential(MACE, "mpa-0-medium", "weights to be downloaded"),
    "mlip": _Entry(
        "any potential by the settings potential and checkpoint; not DFT",
        "e3relax_flows.engines.mlip:PotentialConfig",
        is_dft=False,
        packages=("ase",),
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
        When the name or a setting is unknown, or a value cannot be used.
    MissingDependencyError
        When a package of the engine is not installed.

    Examples
    --------
    >>> engine = get_engine("mlip", potential="CHGNet", checkpoint="r2scan", fmax=0.05)
    >>> engine.describe().label
    'CHGNet-r2SCAN'
    """
    entry = _REGISTRY.get(name)
    if entry is None:
        nearest = get_close_matches(name, _REGISTRY, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise EngineError(f"engine {name!r} is unknown; {hint}known: {', '.join(_REGISTRY)}")
    if missing := entry.list_missing():
        raise MissingDependencyError(
            f"engine {name!r} needs {', '.join(map(repr, missing))}, which is not installed; "
            f"install it with: {entry.describe_installation()}"
        )
    engine = _build(name, entry, settings)
    engine.settings = settings
    return engine


def _build(name: str, entry: _Entry, settings: dict[str, Any]) -> Engine:
    """Call the builder of an engine with settings that it knows and whose values fit."""
    module, function = entry.builder.split(":")
    builder = getattr(importlib.import_module(module), function)
    preset = {"name": name, **dict(entry.preset)}
    known = [key for key in inspect.signature(builder).parameters if key not in preset]
    if unknown := sorted(set(settings) - set(known)):
        nearest = get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise EngineError(
            f"engine {name!r} has no setting {', '.join(map(repr, unknown))}; {hint}known: {', '.join(known) or 'none'}"
        )
    try:
        if isinstance(builder, type):
            made = builder(**preset, **settings)
        else:
            made = validate_call(config=ConfigDict(arbitrary_types_allowed=True))(builder)(**preset, **settings)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise EngineError(f"engine {name!r} cannot be built with these settings: {wrong}") from error
    return made if isinstance(made, Engine) else made.build()


def list_potentials() -> list[str]:
    """Names of the engines that are one potential."""
    return [name for name, entry in _REGISTRY.items() if "potential" in dict(entry.preset)]


def get_potential(name: str) -> Potential:
    """Find a potential by the name of an engine that relaxes with it, or by a name that `find_potential` knows.

    Raises
    ------
    EngineError
        When the engine is no potential, or the name is unknown.
    """
    from e3relax_flows.engines.potentials import find_potential

    entry = _REGISTRY.get(name)
    preset = dict(entry.preset) if entry is not None else {}
    if entry is not None and "potential" not in preset:
        raise EngineError(f"engine {name!r} is not one potential; known: {', '.join(list_potentials())}")
    return find_potential(preset.get("potential", name), preset.get("checkpoint"))


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
