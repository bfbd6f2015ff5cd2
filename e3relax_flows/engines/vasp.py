"""VASP through any maker or flow of atomate2, and the reader of its task documents."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, cast

from jobflow import Flow, Maker, OutputReference
from jobflow.core.maker import recursive_call
from pymatgen.core import Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.engines.base import Engine, get_entry, read_plain, read_structure
from e3relax_flows.schemas.outcomes import RelaxationResult

# emmet's task types of runs that move atoms; "Deformation" is a relaxation in a fixed cell
RELAXATIONS = ("Structure Optimization", "Deformation")
# emmet's run type where INCAR leaves the functional to the POTCAR, which is PBE in all of atomate2's sets
POTCAR_FUNCTIONAL = {"GGA": "PBE"}


@dataclass
class VaspEngine(Engine):
    """VASP with the settings of an atomate2 maker.

    Where a VASP maker does not say how to treat a run that did not converge, its `stop_children_kwargs` are set
    so that the document is kept and the flow goes on: a second relaxation carries on from the first, and whoever
    collects the documents sees that the last one is unconverged. (With atomate2's own default the job fails and
    no document is stored; with `handle_unsuccessful=True` it is stored, but nothing after it runs.)

    Materials Project input sets sort the sites by element: `read` gives VASP's order.
    """

    is_dft: ClassVar[bool] = True
    code: ClassVar[str] = "VASP"

    def __post_init__(self) -> None:
        """Let unconverged runs keep their documents."""
        self.maker = _keep_unconverged(self.maker)

    @classmethod
    def from_maker(cls, maker: Maker, name: str | None = None) -> VaspEngine:
        """Engine of any atomate2 VASP maker, job or flow; its name is the maker's unless one is given."""
        return cls(name=name or maker.name, maker=maker)

    def read(self, documents: list[Any]) -> RelaxationResult:
        """Read emmet task documents: true start, last relaxation, summed steps.

        The energy is that of the last document with the functional of the last relaxation, so that a static run
        with another functional does not lend its energy to a structure it did not relax.
        """
        found = [document for document in documents if document is not None]
        relaxations = [document for document in found if _is_relaxation(document)]
        if not relaxations:
            raise EngineError(
                f"none of {len(documents)} VASP documents is a finished relaxation "
                f"(found: {', '.join(str(read_plain(d, 'task_type')) for d in found) or 'no document'}); "
                "read the error of the first job of the flow"
            )
        if documents[0] is None:
            raise EngineError(
                "the document of the first VASP run is missing, so the start of the relaxation is unknown"
            )
        last = relaxations[-1]
        functional = _name_functional(last)
        relaxed = read_structure(last, "structure") or read_structure(last, "output", "structure")
        if relaxed is None:
            raise EngineError(f"the VASP document of {get_entry(last, 'dir_name')} holds no relaxed structure")
        alike = [document for document in found if _name_functional(document) == functional]
        return RelaxationResult(
            initial=_read_start(relaxations[0]),
            relaxed=relaxed,
            energy=get_entry(alike[-1], "output", "energy"),
            n_ionic_steps=_add([_count_ionic_steps(document) for document in relaxations]),
            n_electronic_steps=_add([_count_electronic_steps(document) for document in relaxations]),
            converged=len(found) == len(documents) and read_plain(last, "state") == "successful",
            wall_time_s=_add([_read_wall_time(document) for document in relaxations]),
            dir_name=get_entry(last, "dir_name"),
            code=self.code,
            functional=functional,
            is_dft=True,
        )


@dataclass
class RelaxStaticMaker(Maker):
    """Relax, then run single points on the relaxed structure, such as MatPES's with two functionals.

    Parameters
    ----------
    name
        Name of the flow.
    relax_maker
        Any maker whose output has `structure`.
    static_maker
        Any maker of single points.
    """

    name: str = "optimise then single points"
    relax_maker: Maker = field(default_factory=lambda: _load("vasp.flows.mp.MPGGADoubleRelaxMaker")())
    static_maker: Maker = field(default_factory=lambda: _load("vasp.flows.matpes.MatPesStaticFlowMaker")())

    def make(self, structure: Structure | OutputReference, prev_dir: str | Path | None = None) -> Flow:
        """Build the flow; the single points start from scratch because their functional may be another."""
        relaxation = self.relax_maker.make(structure, prev_dir=prev_dir)
        statics = self.static_maker.make(relaxation.output.structure)
        return Flow([relaxation, statics], output=relaxation.output, name=self.name)


def build_vasp(name: str, maker: str | Maker) -> VaspEngine:
    """Engine of an atomate2 maker, given as such or by its path below `atomate2`."""
    return VaspEngine(name=name, maker=_load(maker)() if isinstance(maker, str) else maker)


def build_matpes(name: str) -> VaspEngine:
    """Materials Project PBE(+U) relaxation followed by the MatPES single points."""
    return VaspEngine(name=name, maker=RelaxStaticMaker())


def _load(path: str) -> type[Maker]:
    module, name = f"atomate2.{path}".rsplit(".", 1)
    return getattr(import_module(module), name)


def _keep_unconverged(maker: Maker) -> Maker:
    def amend(nested: Maker) -> Maker:
        kwargs = getattr(nested, "stop_children_kwargs", None)
        if kwargs is None or "handle_unsuccessful" in kwargs:
            return nested
        content = nested.as_dict()
        content["stop_children_kwargs"] = {**kwargs, "handle_unsuccessful": False}
        return cast(Maker, type(nested).from_dict(content))

    return recursive_call(maker, amend, nested=True)


def _is_relaxation(document: Any) -> bool:
    return str(read_plain(document, "task_type")).endswith(RELAXATIONS)


def _read_start(document: Any) -> Structure:
    """POSCAR as the job wrote it (.orig), else the first frame of the oldest calculation of the document."""
    calculations = get_entry(document, "calcs_reversed") or [None]
    candidates = (
        (document, ("orig_inputs", "structure")),
        (calculations[-1], ("input", "structure")),
        (document, ("input", "structure")),
    )
    for source, path in candidates:
        if (structure := read_structure(source, *path)) is not None:
            return structure
    raise EngineError(f"the VASP document of {get_entry(document, 'dir_name')} does not hold its initial structure")


def _count_ionic_steps(document: Any) -> int | None:
    return _add(
        [
            len(steps) if (steps := get_entry(calculation, "output", "ionic_steps")) else _count_cycles(calculation)
            for calculation in get_entry(document, "calcs_reversed") or []
        ]
    )


def _count_cycles(calculation: Any) -> int | None:
    """Ionic steps by their SCF cycles, for documents whose frames were stored elsewhere."""
    cycles = get_entry(calculation, "output", "num_electronic_steps")
    return len(cycles) if cycles else None


def _count_electronic_steps(document: Any) -> int | None:
    counts: list[int | None] = []
    for calculation in get_entry(document, "calcs_reversed") or []:
        cycles = get_entry(calculation, "output", "num_electronic_steps")
        steps = get_entry(calculation, "output", "ionic_steps") or []
        counts.append(sum(cycles) if cycles else _add([_count_scf(step) for step in steps]))
    return _add(counts)


def _count_scf(step: Any) -> int | None:
    number = get_entry(step, "num_electronic_steps")
    steps = get_entry(step, "electronic_steps")
    return number if number is not None else (len(steps) if steps else None)


def _read_wall_time(document: Any) -> float | None:
    return get_entry(document, "run_stats", "overall", "elapsed_time") or None


def _name_functional(document: Any) -> str | None:
    """Usual name of the functional, with +U where there is one."""
    run_type = read_plain(document, "run_type")
    if run_type is None:
        return None
    base, *rest = str(run_type).split("+")
    return "+".join([POTCAR_FUNCTIONAL.get(base, base), *rest])


def _add(values: list[Any]) -> Any:
    """Sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
