"""Sources of candidates: one stream of structures from all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from e3relax_flows.candidates.aflow import read_prototypes
from e3relax_flows.candidates.builtin import build_candidates
from e3relax_flows.candidates.materials_project import MP_CACHE, read_materials_project
from e3relax_flows.candidates.optimade import read_optimade
from e3relax_flows.candidates.optimade_query import OPTIMADE_CACHE, read_optimade_servers
from e3relax_flows.candidates.reading import ReadItem, make_unique, read_structures
from e3relax_flows.candidates.store_source import read_store
from e3relax_flows.candidates.substitutions import substitute
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.schemas.candidates import (
    BuiltInSource,
    CandidatesConfig,
    FileSource,
    MaterialsProjectSource,
    OptimadeSource,
    PrototypeSource,
    Source,
    StoreSource,
    SubstitutionSource,
)


def read_sources(sources: Sequence[Source], settings: E3RelaxSettings) -> Iterator[ReadItem]:
    """Candidates of all sources one by one, in their order; an unreadable one is an item with the reason.

    Ids are those of the sources, with a number added to those that repeat. Only the ids are kept in memory.

    Raises
    ------
    E3RelaxError
        When a whole source is unavailable: no key, no response, no store.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import ScreenConfig, load_settings, read_sources
    >>> _ = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]]).to("POSCAR_copper")
    >>> config = ScreenConfig(engine="chgnet", sources=[{"type": "files", "paths": ["POSCAR_copper"]}])
    >>> [item.structure.formula for item in read_sources(config.sources, load_settings())]
    ['Cu1']
    """
    known: dict[str, int] = {}
    for source in sources:
        for item in read_source(source, settings):
            yield item._replace(id=make_unique(item.id, known))


def read_candidates(config: CandidatesConfig, settings: E3RelaxSettings) -> Iterator[ReadItem]:
    """Candidates of the inputs of a configuration and then of its sources, one by one; see `read_sources`."""
    files: list[Source] = []
    if config.inputs:
        files.append(FileSource(type="files", paths=[Path(path) for path in config.inputs]))
    yield from read_sources([*files, *config.sources], settings)


def read_source(source: Source, settings: E3RelaxSettings) -> Iterator[ReadItem]:
    """Candidates of one source."""
    if isinstance(source, SubstitutionSource):
        for parent in read_sources(source.parents, settings):
            yield from substitute(parent, source)
        return
    readers: dict[type[BaseModel], Callable[[Any], Iterator[ReadItem]]] = {
        FileSource: lambda files: read_structures(files.paths),
        OptimadeSource: lambda source: (
            read_optimade(source.paths)
            if source.query is None
            else read_optimade_servers(source.query, settings.DATA_DIR / OPTIMADE_CACHE, source.refresh)
        ),
        BuiltInSource: lambda _: (ReadItem(name, structure, None) for name, structure in build_candidates()),
        PrototypeSource: read_prototypes,
        MaterialsProjectSource: lambda query: read_materials_project(
            query, settings.DATA_DIR / MP_CACHE, refresh=query.refresh
        ),
        StoreSource: lambda source: read_store(source.store, source.criteria, source.structure, source.id, settings),
    }
    yield from readers[type(source)](source)


def resolve_paths(sources: list[Any], folder: Path) -> list[Any]:
    """Raw descriptions of sources with the relative paths in them taken from `folder`."""
    resolved = []
    for source in sources:
        if isinstance(source, dict):
            source = dict(source)
            if isinstance(source.get("paths"), list):
                source["paths"] = [str(folder / str(path)) for path in source["paths"]]
            if isinstance(source.get("parents"), list):
                source["parents"] = resolve_paths(source["parents"], folder)
        resolved.append(source)
    return resolved
