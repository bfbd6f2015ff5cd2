"""Structures from the responses of OPTIMADE servers (optimade.org), kept as files of JSON or JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pymatgen.core import Element, Structure
from pymatgen.io.optimade import OptimadeStructureAdapter

from e3relax_flows.candidates.formats import find_difference
from e3relax_flows.candidates.items import MARK, ReadItem
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.text_files import COMPRESSIONS, cut_compression, open_text

PATTERNS = tuple(f"*{kind}{packed}" for kind in (".json", ".jsonl") for packed in ("", *COMPRESSIONS))
INCOMPLETE = {"assemblies", "implicit_atoms", "site_attachments"}  # features of structures
HEADER = "x-optimade"  # key of the first line of OPTIMADE's JSON lines


def read_optimade(paths: Iterable[Path]) -> Iterator[ReadItem]:
    """Structures of responses one by one; ids are those of the database.

    A JSON file is one page of a response (of /structures or /structures/ID), a JSON lines file holds one resource per
    line after its header. Resources of other types are skipped.

    Raises
    ------
    ConfigError
        When a path is missing or its folder holds no such files.
    """
    for path in paths:
        for file in _list_files(path.expanduser()):
            yield from _read_file(file)


def convert_resource(resource: dict[str, Any]) -> Structure:
    """Structure of one resource of type "structures", in its order of sites.

    Raises
    ------
    ValueError
        When it is not a crystal with one element on each site.
    """
    attributes = {key: value for key, value in (resource.get("attributes") or {}).items() if value is not None}
    if attributes.get("dimension_types", [1, 1, 1]) != [1, 1, 1]:
        raise ValueError(f"it is periodic along {attributes['dimension_types']} of its vectors, not along three")
    for field in ("lattice_vectors", "cartesian_site_positions", "species_at_sites"):
        if not attributes.get(field):
            raise ValueError(f"its {field!r} is missing; ask the server for it in response_fields")
        if (path := _find_null(attributes[field], field)) is not None:
            raise ValueError(f"its {path} is null; leave it out, or complete it")
    if missing := sorted(INCOMPLETE & set(attributes.get("structure_features", []))):
        raise ValueError(f"it has {', '.join(missing)}, so that its sites are not its atoms; leave it out")
    _check_sites(attributes)
    # the adapter uses the names of species as elements, without their definitions
    if (path := _find_null(attributes.get("species", []), "species")) is not None:
        raise ValueError(f"its {path} is null; leave it out, or complete it")
    elements = {species["name"]: _name_element(species) for species in attributes.get("species", [])}
    at_sites = [elements.get(name, name) for name in attributes["species_at_sites"]]
    if unknown := sorted({name for name in at_sites if not Element.is_valid_symbol(name)}):
        raise ValueError(f"its 'species' do not define {', '.join(unknown)}; ask for them in response_fields")
    core = {
        "lattice_vectors": attributes["lattice_vectors"],
        "cartesian_site_positions": attributes["cartesian_site_positions"],
        "dimension_types": [1, 1, 1],
        "species_at_sites": at_sites,
        "nsites": len(at_sites),
    }
    structure = OptimadeStructureAdapter.get_structure({"id": resource.get("id"), "attributes": core})
    formula = attributes.get("chemical_formula_reduced")
    if formula and (difference := find_difference(structure, formula)):
        raise ValueError(f"{difference}; ask the server again")
    return structure


def _check_sites(attributes: Mapping[str, Any]) -> None:
    """Refuse atoms without sites of their own, and missing sites.

    Raises
    ------
    ValueError
        With the entry of the resource.
    """
    attached = [species["name"] for species in attributes.get("species", []) if species.get("attached")]
    if attached:
        raise ValueError(f"atoms without sites are attached to {', '.join(attached)}; give them positions")
    n_sites, sites = attributes.get("nsites"), attributes["species_at_sites"]
    if n_sites not in (None, len(sites)):
        raise ValueError(f"it states {n_sites} sites and gives {len(sites)}; ask the server again")


def _name_element(species: dict[str, Any]) -> str:
    for field in ("chemical_symbols", "concentration"):
        if not species.get(field) or None in species[field]:
            raise ValueError(f"the {field!r} of its species {species['name']!r} is missing; leave it out")
    symbols, concentrations = species["chemical_symbols"], species["concentration"]
    if len(symbols) != 1 or abs(concentrations[0] - 1) > 1e-6 or symbols[0] in ("vacancy", "X"):
        content = ", ".join(f"{x:g} {symbol}" for symbol, x in zip(symbols, concentrations, strict=True))
        raise ValueError(f"its species {species['name']!r} is {content}; only ordered structures can be relaxed")
    return symbols[0]


def _find_null(value: Any, path: str) -> str | None:
    """Path of the first null in a nested list."""
    if not isinstance(value, list):
        return path if value is None else None
    found = (_find_null(item, f"{path}[{index}]") for index, item in enumerate(value))
    return next((name for name in found if name is not None), None)


def _list_files(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for pattern in PATTERNS for file in path.glob(pattern))
        if not files:
            raise ConfigError(
                f"{path}: no {', '.join(PATTERNS)} in this folder; keep the responses of the server there"
            )
        return files
    if not path.exists():
        raise ConfigError(f"{path}: there is no such file or folder of OPTIMADE responses")
    return [path]


def _read_file(path: Path) -> Iterator[ReadItem]:
    name = cut_compression(path.name).removesuffix(".jsonl").removesuffix(".json")
    try:
        if ".jsonl" in path.suffixes:
            with open_text(path) as stream:
                for number, line in enumerate(stream, start=1):
                    if line.strip():
                        yield from read_resource(json.loads(line.lstrip(MARK)), f"{name}-{number}", path)
            return
        with open_text(path) as stream:
            content = json.load(stream)
    except (OSError, ValueError, EOFError) as error:
        yield ReadItem(name, None, f"{path}: {error}; keep the responses of the server unchanged")
        return
    yield from read_response(content, name, path)


def is_response(content: Any) -> bool:
    """Whether a JSON document is a page of an OPTIMADE server, or one of its resources or headers."""
    if not isinstance(content, dict):
        return False
    meta, data = content.get("meta"), content.get("data")
    first = data[0] if isinstance(data, list) and data else data
    return (
        (isinstance(meta, dict) and "api_version" in meta)
        or HEADER in content
        or any(isinstance(each, dict) and _is_resource(each) for each in (content, first))
    )


def _is_resource(content: dict[str, Any]) -> bool:
    attributes = content.get("attributes")
    return isinstance(attributes, dict) and (content.get("type") == "structures" or "species_at_sites" in attributes)


def read_response(content: Any, name: str, path: Path) -> Iterator[ReadItem]:
    """Structures of a page, or of one resource."""
    if isinstance(content, dict) and _is_resource(content):
        yield from read_resource(content, name, path)
        return
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list | dict):
        failures = content.get("errors") if isinstance(content, dict) else None
        what = f"the server answered with errors: {failures}" if failures else "it has no `data`"
        yield ReadItem(name, None, f"{path}: {what}; ask for .../v1/structures?filter=...")
        return
    for number, resource in enumerate(data if isinstance(data, list) else [data], start=1):
        yield from read_resource(resource, f"{name}-{number}", path)


def read_resource(resource: Any, fallback_id: str, path: Path | str) -> Iterator[ReadItem]:
    """The structure of one resource; the header and other types give none."""
    if isinstance(resource, dict) and (HEADER in resource or (resource.get("type") or "structures") != "structures"):
        return
    id = str(resource.get("id") or fallback_id) if isinstance(resource, dict) else fallback_id
    if not isinstance(resource, dict):
        yield ReadItem(id, None, f"{path}, {id}: it is {json.dumps(resource)[:40]}, not a resource")
        return
    try:
        yield ReadItem(id, convert_resource(resource), None)
    except Exception as error:  # the boundary between entries: servers may send anything
        reason = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        yield ReadItem(id, None, f"{path}, {id}: {reason}")
