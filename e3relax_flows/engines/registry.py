"""Engines by name, for the command line and configuration files; nothing heavy is imported to list them."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shlex
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from pydantic import ConfigDict, ValidationError, validate_call

from e3relax_flows.core.errors import EngineError, MissingDependencyError
from e3relax_flows.engines.base import Engine
from e3relax_flows.engines.makers import build_maker_engine, is_maker_path
from e3relax_flows.engines.potential_table import CHGNET, MACE, SEVENNET, Family
from e3relax_flows.schemas.engines import EngineSpec

if TYPE_CHECKING:
    from e3relax_flows.engines.potentials import Potential

VASP_COMMAND = "ATOMATE2_VASP_CMD"
GROUP = "e3relax_flows.engines"  # of entry points of engines in other packages
NAME = re.compile(r"[A-Za-z][\w-]*")


@dataclass(frozen=True)
class EngineInfo:
    """Description of an engine without loading it."""

    name: str
    description: str
    is_dft: bool
    available: bool
    hint: str  # what to type, or to set, where it is not available


@dataclass(frozen=True)
class EngineEntry:
    """An engine with a name: how it is built, and what it needs.

    Attributes
    ----------
    description
        One line for `e3relax doctor`.
    builder
        Called with the user's settings, or its path "module:function"; it returns an Engine, or a pydantic model
        with `build`. A parameter `name` gets the name.
    is_dft
        False for potentials.
    packages
        What must be importable.
    install
        What to type where a package is missing.
    preset
        Settings that belong to the name and that users cannot set.

    Examples
    --------
    An engine whose package may be missing:

    >>> from e3relax_flows import EngineEntry
    >>> entry = EngineEntry("my code", "my_package.engines:build", packages=("absent_package",))
    >>> entry.list_missing()
    ['absent_package']
    """

    description: str
    builder: str | Callable[..., Any]
    is_dft: bool = True
    packages: tuple[str, ...] = ()
    install: str = ""
    preset: tuple[tuple[str, Any], ...] = ()
    command: str = ""  # environment variable of the code's command, where that is all it needs

    def list_missing(self) -> list[str]:
        """Packages that are not installed."""
        return [package for package in self.packages if find_spec(package) is None]

    def load_builder(self) -> Callable[..., Any]:
        """The function that is called with the settings."""
        if callable(self.builder):
            return self.builder
        module, _, function = self.builder.partition(":")
        return cast("Callable[..., Any]", getattr(importlib.import_module(module), function))


def _vasp(description: str, maker: str) -> EngineEntry:
    builder = "e3relax_flows.engines.vasp:build_vasp"
    return EngineEntry(description, builder, preset=(("maker", maker),), command=VASP_COMMAND)


def _potential(family: Family, checkpoint: str, note: str) -> EngineEntry:
    weights = family.checkpoints[checkpoint]
    download = f"; then download {weights.url} to ~/.cache/{weights.weights}" if weights.url else ""
    return EngineEntry(
        f"{weights.label} potential, {note}; not DFT",
        "e3relax_flows.engines.mlip:PotentialConfig",
        is_dft=False,
        packages=(family.package, "ase"),
        install=family.install + download,
        preset=(("potential", family.name), ("checkpoint", checkpoint)),
    )


_REGISTRY: dict[str, EngineEntry] = {
    "chgnet": _potential(CHGNET, "0.3.0", "weights in its package"),
    "chgnet-r2scan": _potential(CHGNET, "r2scan", "r2SCAN, weights in its package"),
    "sevennet": _potential(SEVENNET, "7net-l3i5", "weights in its package"),
    "sevennet-0": _potential(SEVENNET, "7net-0", "weights in its package"),
    "mace-mp-0": _potential(MACE, "mp-0-medium", "weights to be downloaded"),
    "mace-mpa-0": _potential(MACE, "mpa-0-medium", "weights to be downloaded"),
    "mlip": EngineEntry(
        "any potential by the settings potential and checkpoint; not DFT",
        "e3relax_flows.engines.mlip:PotentialConfig",
        is_dft=False,
        packages=("ase",),
        install="pip install 'e3relax-flows[mlip]'",
    ),
    "gpaw": EngineEntry(
        "GPAW, PBE, plane waves: DFT without a licence",
        "e3relax_flows.engines.gpaw:GpawConfig",
        packages=("gpaw", "ase"),
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
    "vasp-matpes": EngineEntry(
        "VASP, one PBE relaxation, then MatPES PBE and r2SCAN statics",
        "e3relax_flows.engines.vasp:build_matpes",
        command=VASP_COMMAND,
    ),
}


def list_engines() -> list[EngineInfo]:
    """Describe every engine; of our own none is imported, of other packages their declarations.

    Examples
    --------
    The engines that are DFT:

    >>> from e3relax_flows import list_engines
    >>> "gpaw" in [engine.name for engine in list_engines() if engine.is_dft]
    True
    """
    own = [_describe(name, entry) for name, entry in _REGISTRY.items()]
    return [*own, *(_describe_point(name, point) for name, point in _find_entry_points().items())]


def register_engine(name: str, entry: EngineEntry, overwrite: bool = False) -> None:
    """Register an engine by name, for `get_engine`, the command line and files, until this process ends.

    A package registers it permanently with an entry point of the group `e3relax_flows.engines`, whose object is an
    EngineEntry, a builder or an Engine class.

    Parameters
    ----------
    name
        A word of letters, digits and hyphens.
    entry
        How it is built.
    overwrite
        Whether an engine of that name may be replaced.

    Raises
    ------
    EngineError
        When the name is taken or is not a word.

    Examples
    --------
    >>> from e3relax_flows import EngineEntry, get_engine, register_engine
    >>> from e3relax_flows.testing import EmtEngine
    >>> register_engine("emt", EngineEntry("effective medium theory; not DFT", EmtEngine, is_dft=False), overwrite=True)
    >>> get_engine("emt").label
    'EMT'
    """
    if not NAME.fullmatch(name):
        raise EngineError(f"{name!r} cannot be the name of an engine; use letters, digits and hyphens, such as my-code")
    if not overwrite and (name in _REGISTRY or name in _find_entry_points()):
        raise EngineError(f"there is an engine {name!r} already; give overwrite=True, or another name")
    _REGISTRY[name] = entry


def unregister_engine(name: str) -> None:
    """Remove a name that `register_engine` added; unknown names are ignored."""
    _REGISTRY.pop(name, None)
    if name in _BUILT_IN:
        _REGISTRY[name] = _BUILT_IN[name]


def get_engine(name: str | EngineSpec, **settings: Any) -> Engine:
    """Build an engine by name, or by the path of any maker.

    Parameters
    ----------
    name
        One of `list_engines()`; or `module:Class` of a jobflow maker; or the same with its settings as an EngineSpec.
    **settings
        Arguments of the engine's builder, such as `fmax` of "chgnet" and "gpaw"; with a path, fields of the maker, and
        `powerups`.

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
    if isinstance(name, EngineSpec):
        given = {**name.settings, **({"powerups": name.powerups} if name.powerups else {})}
        return _build_by_path(name.maker, {**given, **settings}, name.name)
    if is_maker_path(name):
        return _build_by_path(name, settings, None)
    entry = find_entry(name)
    if missing := entry.list_missing():
        raise MissingDependencyError(
            f"engine {name!r} needs {', '.join(map(repr, missing))}, which is not installed; "
            f"install it with: {entry.install or 'pip install ' + ' '.join(missing)}"
        )
    engine = _build(name, entry, settings)
    engine.settings = settings
    return engine


def find_entry(name: str) -> EngineEntry:
    """Entry of a name.

    Raises
    ------
    EngineError
        When it is unknown, or the package that declares it cannot be loaded.
    """
    if name in _REGISTRY:
        return _REGISTRY[name]
    points = _find_entry_points()
    if name in points:
        return _load_point(name, points[name])
    known = [*_REGISTRY, *points]
    nearest = get_close_matches(name, known, n=1)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise EngineError(
        f"engine {name!r} is unknown; {hint}known: {', '.join(known)}, or the path of a maker, module:Class"
    )


def _find_entry_points() -> dict[str, EntryPoint]:
    """Engines that installed packages declare; a name of ours stays ours."""
    return {point.name: point for point in entry_points(group=GROUP) if point.name not in _REGISTRY}


def _load_point(name: str, point: EntryPoint) -> EngineEntry:
    try:
        found = point.load()
    except Exception as error:  # another package's code
        raise EngineError(
            f"engine {name!r} of package {_name_package(point)} cannot be loaded ({type(error).__name__}: {error})"
        ) from error
    if isinstance(found, EngineEntry):
        return found
    if not callable(found):
        raise EngineError(
            f"entry point {name!r} of package {_name_package(point)} is {type(found).__name__}; it must be an "
            "EngineEntry, a function that builds an Engine, or an Engine class"
        )
    text = (inspect.getdoc(found) or name).splitlines()[0].rstrip(".")
    return EngineEntry(text, found, is_dft=bool(getattr(found, "is_dft", True)))


def _name_package(point: EntryPoint) -> str:
    return point.dist.name if point.dist is not None else point.value


def _build_by_path(path: str, settings: dict[str, Any], name: str | None) -> Engine:
    fields = {key: value for key, value in settings.items() if key != "powerups"}
    engine = build_maker_engine(
        EngineSpec(maker=path, settings=fields, powerups=settings.get("powerups") or {}, name=name)
    )
    engine.settings = settings
    return engine


def _build(name: str, entry: EngineEntry, settings: dict[str, Any]) -> Engine:
    """Call the builder of an engine with settings that it knows and whose values fit."""
    builder = entry.load_builder()
    accepted = inspect.signature(builder).parameters
    preset = {**({"name": name} if "name" in accepted else {}), **dict(entry.preset)}
    known = [key for key in accepted if key not in preset]
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
        When the engine is not a potential, or the name is unknown.
    """
    from e3relax_flows.engines.potentials import find_potential

    entry, known = _REGISTRY.get(name), list_potentials()
    preset = dict(entry.preset) if entry is not None else {}
    if entry is not None and "potential" not in preset:
        raise EngineError(f"engine {name!r} is not one potential; known: {', '.join(known)}")
    try:
        return find_potential(preset.get("potential", name), preset.get("checkpoint"))
    except EngineError as error:
        nearest = get_close_matches(name.lower(), known, n=1)
        if entry is not None or not nearest:
            raise
        raise EngineError(
            f"potential {name!r} is unknown; did you mean {nearest[0]}? known: {', '.join(known)}, a force field of "
            "atomate2, or an ASE calculator as module:Class"
        ) from error


def recall_settings(engine: Engine) -> dict[str, Any] | None:
    """Settings with which `get_engine` builds this engine by its name; None if it was built or changed by code."""
    names = (*_REGISTRY, *_find_entry_points())
    if engine.settings is None or not (engine.name in names or is_maker_path(engine.name)):
        return None
    same = get_engine(engine.name, **engine.settings).engine_id == engine.engine_id
    return engine.settings if same else None


def _describe(name: str, entry: EngineEntry) -> EngineInfo:
    hint = ""
    if missing := entry.list_missing():
        hint = entry.install or f"pip install {' '.join(missing)}"
    elif entry.command:
        command = os.path.expandvars(os.environ.get(entry.command, "vasp_std"))
        if not any(shutil.which(word) for word in shlex.split(command)[-1:]):
            hint = (
                f"no {command!r} on this machine; where jobs run, set {entry.command} and pymatgen's PMG_VASP_PSP_DIR"
            )
    return EngineInfo(name, entry.description, entry.is_dft, not hint, hint)


def _describe_point(name: str, point: EntryPoint) -> EngineInfo:
    try:
        info = _describe(name, _load_point(name, point))
    except EngineError as error:
        return EngineInfo(name, f"declared by package {_name_package(point)}", True, False, str(error))
    return replace(info, description=f"{info.description} (package {_name_package(point)})")


_BUILT_IN = dict(_REGISTRY)
