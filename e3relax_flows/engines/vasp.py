"""VASP through any maker or flow of atomate2, and the reader of its task documents."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, cast

from jobflow import Flow, Maker, OutputReference
from jobflow.core.maker import recursive_call
from pydantic import NonNegativeInt
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.ids import hash_content
from e3relax_flows.core.notes import record_warnings
from e3relax_flows.engines.ase_documents import Free
from e3relax_flows.engines.base import iterate_jobs
from e3relax_flows.engines.dft import AtomateEngine
from e3relax_flows.engines.vasp_continue import add_continuation, is_continuation, list_documents
from e3relax_flows.engines.vasp_documents import read_vasp_documents
from e3relax_flows.engines.vasp_functionals import VaspRun, name_functional, tidy_settings
from e3relax_flows.schemas.outcomes import RelaxationResult

ISIF = {"shape": 4, "volume": 8, "sites": 2}  # besides the atoms


@dataclass
class VaspEngine(AtomateEngine):
    """VASP with the settings of an atomate2 maker.

    If a VASP maker does not define how to treat a run that did not converge, its `stop_children_kwargs` are set
    so that the document is kept and the flow continues: a second relaxation continues the first, and the job that
    collects the documents finds the last one unconverged. (With atomate2's own default the job fails and
    no document is stored; with `handle_unsuccessful=True` it is stored, but nothing after it runs.)

    Parameters
    ----------
    continuations
        How often the last relaxation is continued from its end where it used up its steps; the result sums the steps.

    Raises
    ------
    EngineError
        When the maker, or one in it, is of another code.

    Notes
    -----
    Materials Project input sets sort the sites by element: `read` gives VASP's order.

    Examples
    --------
    Any maker of atomate2 with its own settings:

    >>> from atomate2.vasp.jobs.core import RelaxMaker
    >>> from e3relax_flows import VaspEngine
    >>> engine = VaspEngine.from_maker(RelaxMaker(), name="my-vasp")
    >>> engine.name, engine.label, engine.is_dft
    ('my-vasp', 'VASP', True)
    """

    continuations: int = 0

    is_dft: ClassVar[bool] = True
    code: ClassVar[str] = "VASP"

    def __post_init__(self) -> None:
        """Refuse makers of other codes; let unconverged runs keep their documents."""
        super().__post_init__()
        self.maker = _keep_unconverged(self.maker)

    @property
    def engine_id(self) -> str:
        """As of every engine; an engine without continuations keeps the id from before continuations existed."""
        content = self.describe_content()
        if not self.continuations:
            content.pop("continuations")
        return hash_content(content, f"engine {self.name!r}")

    @property
    def functional(self) -> str | None:
        """That of the last relaxation, from the input set that its maker writes for silicon."""
        silicon = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]])
        inputs = [read_input_set(job.maker, silicon) for job in iterate_jobs(self.make(silicon))]
        relaxations = [run for run in inputs if run is not None and run.get("NSW")]
        return name_functional(relaxations[-1])[0] if relaxations else None

    def make(self, structure: Structure | OutputReference, prev_dir: str | Path | None = None) -> Flow:
        """Build the flow, and the job that continues it if necessary."""
        flow = super().make(structure, prev_dir)
        return add_continuation(flow, self.continuations) if self.continuations else flow

    def collect_outputs(self, flow: Flow) -> list[OutputReference]:
        """References to the documents of the flow's calculations, and to those of continuations."""
        return [job.output for job in iterate_jobs(flow) if job.maker is not None or is_continuation(job)]

    def read(self, documents: list[Any]) -> RelaxationResult:
        """Read emmet task documents, as `read_vasp_documents` does."""
        return read_vasp_documents(list_documents(documents))


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


def read_input_set(maker: Maker | None, structure: Structure) -> VaspRun | None:
    """What a maker of a VASP job would write for a structure, without POTCARs; None where it has no input set."""
    generator: Any = getattr(maker, "input_set_generator", None)
    if not hasattr(generator, "get_input_set"):
        return None
    with record_warnings():
        incar = generator.get_input_set(structure, potcar_spec=True).incar
    potcars = str(getattr(generator, "user_potcar_functional", None) or "")
    return VaspRun(asked=tidy_settings(incar), run_type=potcars.partition("_")[0] or None)


def build_vasp(name: str, maker: str | Maker, free: Free = "all", continuations: NonNegativeInt = 0) -> VaspEngine:
    """Engine of an atomate2 maker, given as such or by its path below `atomate2`; `free` is what may change."""
    built = _load(maker)() if isinstance(maker, str) else maker
    return VaspEngine(name=name, maker=_hold(built, free), continuations=continuations)


def build_matpes(name: str, free: Free = "all") -> VaspEngine:
    """Materials Project PBE(+U) relaxation followed by the MatPES single points; `free` is what may change."""
    return VaspEngine(name=name, maker=_hold(RelaxStaticMaker(), free))


def _hold(maker: Maker, free: Free) -> Maker:
    """The maker with the ISIF that leaves only `free` to change."""
    if free == "all":
        return maker
    from atomate2.vasp.powerups import update_user_incar_settings

    return update_user_incar_settings(maker, {"ISIF": ISIF[free]})


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
