"""Engines of any maker by its path: classes are checked before they are built, and nothing else is called."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from jobflow import Maker
from monty.json import MSONable

from e3relax_flows.core.errors import EngineError, MissingDependencyError
from e3relax_flows.engines.base import Engine
from e3relax_flows.engines.codes import find_codes, name_class
from e3relax_flows.schemas.engines import EngineSpec

PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*:[A-Za-z_]\w*(\.\w+)*")
ENGINES = {
    "VASP": "e3relax_flows.engines.vasp:VaspEngine",
    "CP2K": "e3relax_flows.engines.dft:Cp2kEngine",
    "ABINIT": "e3relax_flows.engines.dft:AbinitEngine",
    "FHI-aims": "e3relax_flows.engines.dft:AimsEngine",
    "JDFTx": "e3relax_flows.engines.dft:JdftxEngine",
    "GPAW": "e3relax_flows.engines.gpaw:GpawEngine",
    "potential": "e3relax_flows.engines.mlip:MlipEngine",
    "ASE": "e3relax_flows.engines.mlip:AseEngine",
}
POWERUPS = {"VASP": "vasp", "CP2K": "cp2k", "ABINIT": "abinit"}
PLAIN = (bool, int, float, str)


def is_maker_path(name: str) -> bool:
    """Whether the name of an engine is the path of a class."""
    return PATH.fullmatch(name) is not None


def build_maker_engine(spec: EngineSpec) -> Engine:
    """Engine of the maker that `spec` names.

    Raises
    ------
    EngineError
        When a path does not lead to a maker, a field is unknown, a value does not fit, or the code is not supported.
    MissingDependencyError
        When a package is not installed.
    """
    where = spec.maker
    kind = _load(spec.maker, (Maker,), "a jobflow maker", "engine")
    maker = _make(kind, spec.settings, where)
    codes = find_codes(maker)
    if len(codes) != 1:
        found = ", ".join(codes) or "none"
        raise EngineError(
            f"{where}: its code is not known ({found}); known: {', '.join(ENGINES)}; for another code extend Engine "
            "and register it (docs/howto/engines.md)"
        )
    (code,) = codes
    if code not in ENGINES:
        raise EngineError(f"{where}: documents of {code} are not read; known: {', '.join(ENGINES)}")
    for word, arguments in spec.powerups.items():
        maker = _apply_powerup(maker, code, word, arguments)
    module, name = ENGINES[code].split(":")
    engine: Engine = getattr(importlib.import_module(module), name)(name=spec.name or spec.maker, maker=maker)
    return engine


def _make(kind: type, settings: Mapping[str, Any], where: str) -> Any:
    """An object of a checked class, with its settings checked and nested objects built."""
    known = _list_fields(kind)
    _check_names(settings, known, where)
    base = _make_plain(kind, where)
    values = {key: _make_value(value, getattr(base, key, None), f"{where}.{key}") for key, value in settings.items()}
    try:
        return kind(**values)
    except (TypeError, ValueError) as error:
        raise EngineError(f"{where} cannot be made with {', '.join(values) or 'no settings'}: {error}") from error


def _make_plain(kind: type, where: str) -> Any:
    """An object with the defaults of its class; None if a field has no default."""
    if is_dataclass(kind) and any(
        field.init and field.default is MISSING and field.default_factory is MISSING for field in fields(kind)
    ):
        return None
    try:
        return kind()
    except ImportError as error:
        raise _describe_missing(where, error) from error
    except (TypeError, ValueError):
        return None


def _make_value(value: Any, present: Any, where: str) -> Any:
    """Value of a setting: itself, an object by its path, or the present object with some fields changed."""
    if isinstance(value, str) and is_maker_path(value) and not isinstance(present, str):
        return _make(_load(value, (Maker, MSONable), "a maker or MSONable class", where), {}, value)
    if isinstance(value, Mapping):
        if any(str(key).startswith("@") for key in value):
            raise EngineError(f"{where}: keys with @ are not settings; give {{class: module:Class, settings: {{...}}}}")
        path = value.get("class", value.get("maker"))
        if isinstance(path, str) and set(value) <= {"class", "maker", "settings"} and is_maker_path(path):
            kind = _load(path, (Maker, MSONable), "a maker or MSONable class", where)
            return _make(kind, value.get("settings") or {}, path)
        if isinstance(present, Maker | MSONable):
            return _change(present, value, where)
    _check_value(value, present, where)
    return copy.deepcopy(value)


def _change(present: Any, settings: Mapping[str, Any], where: str) -> Any:
    """A copy of the object in a field, with some of its own fields changed."""
    known = _list_fields(type(present))
    _check_names(settings, known, f"{where} ({name_class(type(present))})")
    changed = copy.deepcopy(present)
    for key, value in settings.items():
        setattr(changed, key, _make_value(value, getattr(present, key, None), f"{where}.{key}"))
    return changed


def _check_names(settings: Mapping[str, Any], known: list[str], where: str) -> None:
    for name in settings:
        if name not in known:
            nearest = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            raise EngineError(f"{where} has no field {name!r}; {hint}known: {', '.join(known)}")


def _check_value(value: Any, present: Any, where: str) -> None:
    """Refuse a word where a number or a group of keys is expected; integers are accepted as floats."""
    kind = type(present)
    if value is None or present is None or hasattr(value, "as_dict"):
        return
    if isinstance(present, Mapping) and isinstance(value, PLAIN):
        raise EngineError(f"{where}: {value!r} was given where keys and values are expected")
    if kind not in (bool, int, float):
        return
    accepted: tuple[type, ...] = (int, float) if kind is float else (kind,)
    if type(value) not in accepted:
        raise EngineError(f"{where}: {value!r} was given where {kind.__name__} is expected (usual: {present!r})")


def _list_fields(kind: type) -> list[str]:
    if is_dataclass(kind):
        return [field.name for field in fields(kind) if field.init]
    return [name for name in inspect.signature(kind).parameters if name not in ("args", "kwargs", "self")]


def _load(path: str, kinds: tuple[type, ...], what: str, where: str) -> type:
    """The class of a path, when it is one of `kinds`."""
    if not is_maker_path(path):
        raise EngineError(f"{where}: {path!r} is not a path; write module:Class")
    module, _, name = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise _describe_missing(path, error) from error
    for part in name.split("."):
        if not hasattr(found, part):
            nearest = get_close_matches(part, _list_classes(found, kinds), n=1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            known = ", ".join(_list_classes(found, kinds)) or "none"
            raise EngineError(f"{where}: {module} has no {name!r}; {hint}known: {known}")
        found = getattr(found, part)
    if not (isinstance(found, type) and issubclass(found, kinds)):
        raise EngineError(f"{where}: {path} is not {what}; nothing was called")
    return found


def _list_classes(module: Any, kinds: tuple[type, ...]) -> list[str]:
    """Names of classes that a module defines."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, kinds) and value.__module__ == getattr(module, "__name__", "")
    ]


def _describe_missing(path: str, error: ImportError) -> Exception:
    missing = getattr(error, "name", None) or ""
    module = path.partition(":")[0]
    if missing and (module == missing or module.startswith(f"{missing}.")):
        return EngineError(f"module {missing!r} of {path} was not found; is it spelt correctly, and installed?")
    extra = next((word for word in ("abinit", "aims", "jdftx", "cp2k") if f"atomate2.{word}" in path), None)
    hint = f"pip install 'atomate2[{extra}]'" if extra in ("abinit", "aims") else f"pip install {missing}"
    return MissingDependencyError(
        f"{path} needs {missing!r}, which is not installed ({error}); install it with: {hint}"
    )


def _apply_powerup(maker: Maker, code: str, word: str, arguments: Any) -> Maker:
    """A copy of the maker that a powerup of atomate2 changed."""
    if code not in POWERUPS:
        raise EngineError(f"atomate2 has no powerups for {code}; give the fields of the maker in settings")
    module = importlib.import_module(f"atomate2.{POWERUPS[code]}.powerups")
    known = [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and next(iter(inspect.signature(value).parameters), "") == "flow"
    ]
    if word not in known:
        nearest = get_close_matches(word, known, n=1)
        hint = f"did you mean {nearest[0]}? " if nearest else ""
        raise EngineError(f"{module.__name__} has no powerup {word!r}; {hint}known: {', '.join(known)}")
    function = getattr(module, word)
    accepted = [name for name in inspect.signature(function).parameters if name not in ("flow", "class_filter")]
    named = isinstance(arguments, Mapping) and set(arguments) <= set(accepted)
    return function(maker, **arguments) if named else function(maker, arguments)
