"""An engine: any jobflow maker that relaxes a structure, and the reader of its documents."""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jobflow import Flow, Job, Maker, OutputReference
from monty.json import MSONable
from pymatgen.core import Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.ids import hash_content
from e3relax_flows.schemas.outcomes import RelaxationResult

VOLATILE_KEYS = ("@version", "device")  # neither changes what is computed


@dataclass
class Engine(MSONable, ABC):
    """A relaxation code with its settings, held as a value by the makers of flows.

    An engine is a field of our makers, so that jobflow's `update_kwargs` and powerups reach `maker` in it.

    Parameters
    ----------
    name
        The name in documents, in tables and on the command line.
    maker
        A jobflow maker with `make(structure)` or `make(structure, prev_dir=None)` that gives a job or a flow.

    Examples
    --------
    A custom engine is a dataclass that can read the documents of its maker's jobs:

    >>> from dataclasses import dataclass, field
    >>> from typing import ClassVar
    >>> from atomate2.ase.jobs import LennardJonesRelaxMaker
    >>> from e3relax_flows import Engine, read_ase_documents
    >>> @dataclass
    ... class LennardJones(Engine):
    ...     name: str = "lj"
    ...     maker: LennardJonesRelaxMaker = field(default_factory=LennardJonesRelaxMaker)
    ...     is_dft: ClassVar[bool] = False
    ...     code: ClassVar[str] = "LJ"
    ...
    ...     def read(self, documents):
    ...         return read_ase_documents(documents, self.code, "LJ (not DFT)", is_dft=False)
    >>> LennardJones().label
    'LJ'
    """

    name: str
    maker: Maker
    # arguments of `get_engine` besides the name, for the record; None: built by code, or read from a document
    settings: dict[str, Any] | None = field(default=None, init=False, repr=False, compare=False)

    is_dft: ClassVar[bool]
    code: ClassVar[str]
    relaxes_chunks: ClassVar[bool] = False  # whether many structures are relaxed in one job, see `engines.chunks`

    @property
    def engine_id(self) -> str:
        """Content id of class and settings; name, device and the versions of packages are not part of it.

        Raises
        ------
        ContentError
            When a setting of the maker has no canonical form, such as a function.
        """
        return hash_content(self.describe_content(), f"engine {self.name!r}")

    def describe_content(self) -> dict[str, Any]:
        """Class and settings, without entries that do not change results."""
        content: dict[str, Any] = _strip_volatile(self.as_dict())
        content.pop("name", None)
        return content

    @property
    def label(self) -> str:
        """Name of the code in results, or the versioned name of the weights of a potential."""
        return self.code

    @property
    def functional(self) -> str | None:
        """Functional in whose minimum the relaxation ends; None if it is not known before the relaxation."""
        return None

    def make(self, structure: Structure | OutputReference, prev_dir: str | Path | None = None) -> Flow:
        """Build the flow that relaxes `structure`; its jobs keep the names that their maker gives them.

        Raises
        ------
        EngineError
            When the code cannot treat the structure.
        """
        if isinstance(structure, Structure):
            self.check(structure)
        # a copy, because makers write into themselves while their jobs run
        maker = copy.deepcopy(self.maker)
        made = maker.make(structure) if prev_dir is None else maker.make(structure, prev_dir=prev_dir)
        return made if isinstance(made, Flow) else Flow([made], output=made.output, name=made.name)

    def check(self, structure: Structure) -> None:
        """Raise EngineError when the code cannot treat `structure`; engines without limits accept all."""

    def collect_outputs(self, flow: Flow) -> list[OutputReference]:
        """References to the documents of the flow's calculations, in order; jobs that only tidy up have none."""
        return [job.output for job in iterate_jobs(flow) if job.maker is not None]

    @abstractmethod
    def read(self, documents: list[Any]) -> RelaxationResult:
        """Turn the documents of one flow into one result, in the site order that the code used.

        Parameters
        ----------
        documents
            What `collect_outputs` refers to, in its order: pydantic objects or dictionaries, None where a job
            left no document. A result with a missing document is unconverged.

        Raises
        ------
        EngineError
            When no relaxation can be read from the documents.
        """


def iterate_jobs(flow: Flow | Job) -> Iterator[Job]:
    """Jobs of a flow and of the flows in it, in the order of listing; of a job itself."""
    if isinstance(flow, Job):
        yield flow
        return
    for node in flow.jobs:
        yield from iterate_jobs(node)


def get_entry(document: Any, *path: str) -> Any:
    """The entry at `path` in dictionaries and objects; None if one is missing."""
    for key in path:
        if document is None:
            return None
        document = document.get(key) if isinstance(document, Mapping) else getattr(document, key, None)
    return document


def read_structure(document: Any, *path: str) -> Structure | None:
    """Structure at `path` of a document, from an object or its dictionary; None where it is missing."""
    value = get_entry(document, *path)
    if value is None or isinstance(value, Structure):
        return value
    if not isinstance(value, Mapping) or "sites" not in value:
        raise EngineError(f"{'.'.join(path)} is not a structure but {type(value).__name__}: the document is incomplete")
    return Structure.from_dict(dict(value))


def read_plain(document: Any, *path: str) -> Any:
    """Entry at `path`, an enumeration as its value (a dictionary may hold it as {"value": ...})."""
    value = get_entry(document, *path)
    if isinstance(value, Mapping) and "value" in value:
        return value["value"]
    return getattr(value, "value", value)


def _strip_volatile(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _strip_volatile(value) for key, value in content.items() if key not in VOLATILE_KEYS}
    if isinstance(content, list | tuple):
        return [_strip_volatile(value) for value in content]
    if isinstance(content, set | frozenset):
        return sorted(map(_strip_volatile, content), key=str)
    # a function written as text would hold its address in memory; lambdas and inner functions have no name of their own
    is_named = inspect.isroutine(content) and "<" not in content.__qualname__
    return f"{content.__module__}:{content.__qualname__}" if is_named else content
