"""Content ids: the same content has the same id on every machine, and the id depends on every value in it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import reprlib
from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from e3relax_flows.core.errors import ContentError

if TYPE_CHECKING:
    from pymatgen.core import Structure

ID_LENGTH = 16
LENGTH_DIGITS = 5
FRACTION_DIGITS = 6
OXIDATION_DIGITS = 2  # of an oxidation state in pymatgen's name of a species
EXACT = 1e-8
VERSION_KEY = "@version"  # of the package that wrote an object, which is not its content
ARRAY = ("numpy", "array")  # module and class of an array that monty has written
REMEDY = "give numbers, strings, lists, dictionaries, NumPy arrays or MSONable objects there, or leave it out"


def hash_content(content: Any, name: str = "content") -> str:
    """First 16 hex digits of the sha256 of the canonical form of `content`, written as JSON.

    Parameters
    ----------
    content
        See `canonicalize`.
    name
        What it is, for messages.

    Raises
    ------
    ContentError
        When a value in it has no canonical form.

    Examples
    --------
    >>> from e3relax_flows import hash_content
    >>> hash_content({"a": 1, "b": 2.0}) == hash_content({"b": 2.0, "a": 1}), len(hash_content("POSCAR"))
    (True, 16)
    """
    return _hash(canonicalize(content, name))


def canonicalize(value: Any, path: str = "content", digits: int | None = None, versions: bool = True) -> Any:
    """The canonical form of a value: JSON types only, with no value left out.

    Numbers and arrays of NumPy are those of Python, tuples are lists, keys of dictionaries are their JSON texts.
    NaN and the infinities are ordinary values, and all NaN are equal. Enumerations become their texts, paths
    too; pydantic models and objects with `as_dict` (MSONable) become their dictionaries.

    Parameters
    ----------
    value
        Anything.
    path
        Where it is, for messages.
    digits
        To which floats are rounded; None: not at all.
    versions
        Whether dictionaries keep the versions of packages in them; those of objects are always left out.

    Raises
    ------
    ContentError
        When it, or a value in it, is anything else, such as a set, a function or a complex number.
    """
    if value is None or isinstance(value, Enum):
        return None if value is None else _write_enum(value)
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if digits is None else round(float(value), digits)
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        return str.__str__(text) if isinstance(text, str) else _refuse(value, path)
    if isinstance(value, np.ndarray):
        value = value.tolist()
        if not isinstance(value, list):  # the only number of an array without dimensions
            return canonicalize(value, path, digits, versions)
    if isinstance(value, list | tuple):
        return [canonicalize(item, f"{path}[{index}]", digits, versions) for index, item in enumerate(value)]
    if not isinstance(value, Mapping):
        value, versions = _describe_object(value, path), False
    elif not versions and (value.get("@module"), value.get("@class")) == ARRAY:
        return canonicalize(value.get("data"), path, digits, versions)
    return _write_keys(value, path, digits, versions)


def identify_structure(structure: Structure) -> str:
    """Id of a structure as it is written: lattice (1e-5 Å), sites in order, charge and site properties.

    Two descriptions of the same crystal (another origin, another cell) have different ids: a prediction
    belongs to one list of sites. Equivalent crystals are found with pymatgen's StructureMatcher instead.

    Raises
    ------
    ContentError
        When a property of a site has no canonical form.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import identify_structure
    >>> salt = Structure(Lattice.cubic(4.0), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    >>> identify_structure(salt) == identify_structure(salt.copy())
    True
    """
    fractions = [[round(float(x) % 1.0, FRACTION_DIGITS) % 1.0 for x in site.frac_coords] for site in structure]
    content: dict[str, Any] = {
        "lattice": [[round(float(x), LENGTH_DIGITS) + 0.0 for x in row] for row in structure.lattice.matrix],
        "species": [_write_site(site) for site in structure],
        "fractions": fractions,
        "charge": canonicalize(structure.charge or 0, "charge"),
        "properties": canonicalize(structure.site_properties, "site_properties", FRACTION_DIGITS, versions=False),
    }
    if not all(structure.lattice.pbc):
        content["pbc"] = [bool(is_periodic) for is_periodic in structure.lattice.pbc]
    return _hash(content)


def draw_uniform(seed: int, key: str) -> float:
    """A number in [0, 1) that depends only on `seed` and `key`.

    Examples
    --------
    The smallest numbers make a sample; that of another size begins with the same keys.

    >>> from e3relax_flows import draw_uniform
    >>> sorted(["Cu", "Ag", "Au"], key=lambda key: draw_uniform(0, key))[:2]
    ['Au', 'Ag']
    """
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return math.ldexp(int.from_bytes(digest[:8], "big"), -64)


def _hash(plain: Any) -> str:
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]


def _write_keys(value: Mapping[Any, Any], path: str, digits: int | None, versions: bool) -> dict[str, Any]:
    """A dictionary with its keys as JSON writes them."""
    written: dict[str, Any] = {}
    for key, item in value.items():
        name = canonicalize(key, f"{path}, key {key!r}")
        if isinstance(name, list | dict):
            _refuse(key, f"{path}, key {key!r}")
        name = name if isinstance(name, str) else json.dumps(name)
        if name in written:
            raise ContentError(f"{path} has two keys that are written {name!r}; rename one of them")
        if versions or name != VERSION_KEY:
            written[name] = canonicalize(item, f"{path}[{key!r}]", digits, versions)
    return written


def _write_enum(value: Enum) -> Any:
    """A member as JSON writes it where it is a string or a number, or its text where that is its own."""
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind.__str__(value) if kind is str else kind(value)
    text = str(value)
    is_own = [str(member) for member in type(value)].count(text) <= 1
    return text if is_own else f"{type(value).__name__}.{value.name}"


def _describe_object(value: Any, path: str) -> Mapping[str, Any]:
    """The dictionary of an object that has one."""
    kind = type(value)
    if hasattr(kind, "model_fields"):  # of pydantic, which training nodes do without
        fields = {name: getattr(value, name) for name in kind.model_fields} | (value.model_extra or {})
        return fields | {"@module": kind.__module__, "@class": kind.__name__}
    if callable(getattr(type(value), "as_dict", None)):
        try:
            content = value.as_dict()
        except NotImplementedError:  # of an MSONable whose attributes are not those of its constructor
            content = None
        if isinstance(content, Mapping):
            return content
    return _refuse(value, path)


def _refuse(value: Any, path: str) -> Any:
    what = f"{type(value).__name__} {reprlib.repr(value)}"
    raise ContentError(f"{path} is {what}, which has no canonical form, so an id cannot depend on its value; {REMEDY}")


def _write_site(site: Any) -> Any:
    """Species of a site, by their names where a name is complete."""
    names = [(_write_species(species), float(share)) for species, share in site.species.items()]
    if site.is_ordered:
        return names[0][0]
    if all(isinstance(name, str) and float(f"{share:.3}") == share for name, share in names):
        return site.species_string
    shares = [[name, round(share, FRACTION_DIGITS)] for name, share in names]
    return sorted(shares, key=lambda item: json.dumps(item, sort_keys=True))


def _write_species(species: Any) -> Any:
    """A species by pymatgen's name, or with its values where the name rounds its charge or its spin is not a number."""
    charge, spin = (
        canonicalize(getattr(species, key, None), f"{key} of {species}", versions=False)
        for key in ("oxi_state", "spin")
    )
    name = str(species).partition(",spin=")[0]
    is_rounded = charge is not None and abs(charge - round(charge, OXIDATION_DIGITS)) > EXACT
    if is_rounded or not isinstance(spin, int | float | None):
        return {"species": name, "oxi_state": charge, "spin": spin}
    return name if spin is None else f"{name},{spin=}"
