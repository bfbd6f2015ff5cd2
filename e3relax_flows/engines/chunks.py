"""Relax many structures in one process, each independent of the others; weights are loaded once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from jobflow import OutputReference
from pymatgen.core import Structure

from e3relax_flows.engines.base import Engine, iterate_jobs


def relax_structures(engine: Engine, structures: Sequence[Structure]) -> Iterator[tuple[int, Any]]:
    """Relax structures in this process: index and document, or the exception that ended it; each comes once.

    A maker with a method `relax_many` relaxes them itself if that returns an iterator; for others the job of each
    structure is run here.

    Parameters
    ----------
    engine
        One with `relaxes_chunks`; its maker makes one job per structure.
    structures
        Those that the engine cannot treat come first, with an exception.
    """
    accepted = []
    for index, structure in enumerate(structures):
        try:
            engine.check(structure)
            accepted.append(index)
        except Exception as error:  # the boundary between structures
            yield index, error
    # a copy, because makers write into themselves while they run
    maker: Any = copy.deepcopy(engine.maker)
    chosen = [structures[index] for index in accepted]
    relax_many = getattr(maker, "relax_many", None)
    found = None if relax_many is None or len(chosen) < 2 else relax_many(chosen)
    for number, document in _relax_each(maker, chosen) if found is None else found:
        yield accepted[number], document


def find_large_parts(engine: Engine) -> dict[str, Any]:
    """Parts of the document of a relaxation by the additional store of its job, as in `JobStore`."""
    job = next(iterate_jobs(engine.make(OutputReference("unknown"))))
    return {store: "output" if parts is True else parts for store, parts in job._kwargs.items()}


def _relax_each(maker: Any, structures: Sequence[Structure]) -> Iterator[tuple[int, Any]]:
    """Run the jobs of the structures one after the other; the maker keeps its calculator."""
    for index, structure in enumerate(structures):
        try:
            document = type(maker).make.original(maker, structure)
        except Exception as error:  # the boundary between structures
            yield index, error
        else:
            yield index, document
