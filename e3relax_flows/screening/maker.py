"""ScreenMaker: predict many structures in chunks, relax each candidate once, and collect the results."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from jobflow import Flow, Maker, job
from pymatgen.core import Structure

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.candidates.spool import pack_structure, unpack_structure
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.engines.base import Engine
from e3relax_flows.ledger.claims import open_claim_store
from e3relax_flows.prerelax.judges import check_judge
from e3relax_flows.prerelax.predict import PrerelaxMaker
from e3relax_flows.prerelax.starts import OnRefuse, Served, StartRules, merge_arms
from e3relax_flows.schemas.outcomes import DEFAULT_CONTROL
from e3relax_flows.schemas.screens import DEFAULT_CHUNK_SIZE, DEFAULT_NAME
from e3relax_flows.screening.in_flow import (
    REGISTER_JOB,
    dispatch_chunk,
    plan_screen,
    register_flow,
    summarize_screen,
)
from e3relax_flows.screening.jobs import predict_chunk
from e3relax_flows.screening.store import open_screen_stores


@dataclass
class ScreenMaker(Maker):
    """Screen candidates: predict in chunks, find duplicates, relax the others, and collect the outcomes.

    `make` gives a flow; `e3relax screen`, `run_screen` and `--submit` do the same without one. Both write the screen
    into the store, so that `e3relax screen status`, `table` and `report` show either. The jobs of the flow are
    `e3r register`, `e3r predict` per chunk, `e3r plan`, `e3r dispatch` per chunk, which replaces itself by one
    `e3r claim` per relaxation, which replaces itself by the flow of the engine, and `e3r summary`, whose `ScreenDoc`
    is the output. A failure affects only its candidate or chunk. Results in the stores are not
    computed again, and candidates that another flow relaxes are not relaxed twice.

    Parameters
    ----------
    name
        Name of the flow and of the screen; another name is another screen.
    prerelax
        How to predict; None: default options, and `served` is initial.
    engine
        Engine of the relaxations, such as `get_engine("chgnet")`.
    on_refuse
        After a refused prediction: relax from the initial structure, skip the candidate, or count it as failed.
    control
        Fraction of the accepted candidates that are relaxed from their initial structure, so that the savings are
        measured; drawn from the structure's id. Short for `arms={"initial": ...}`.
    arms
        Fraction of the candidates that are also relaxed from another start than the served one: initial, predicted,
        polished. They are measured in pairs; see `StartRules`. If given, these are all the arms.
    paired_controls
        Whether a control is also relaxed from its prediction, so that savings are measured in pairs.
    served
        Start of every candidate: predicted, or initial, where predictions serve the arms only.
    seed
        Of the drawing.
    chunk_size
        Structures per prediction job.
    deduplicate
        Whether to find equal predictions by StructureMatcher, of which only the first is relaxed.
    retry_failed
        Whether outcomes that failed before are tried again.
    order
        Order in which the candidates of a chunk are relaxed: as given, or the smallest change by the prediction
        first (change), since those are the most likely to be good. FireWorks runs them in any order.
    one_launch
        On FireWorks, whether all calculations of a candidate run in one launch, which needs a third of the overhead
        of a firework for each, and waits in a queue once. None: for engines that are not DFT.
        Used by screens without a flow, such as `e3relax screen run`; `make` builds a job for each calculation.

    Examples
    --------
    `run_screen(maker, structures, ids, settings, folder)` runs it here, and `make` gives its flow:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import ScreenMaker
    >>> from e3relax_flows.testing import EmtEngine
    >>> copper = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.7), ["Cu"], [[0, 0, 0]])
    >>> maker = ScreenMaker(engine=EmtEngine(), control=0.2)
    >>> [job.name for job, _ in maker.make([copper], ["copper"]).iterflow()]
    ['e3r register', 'e3r predict', 'e3r plan', 'e3r dispatch', 'e3r summary']
    """

    opens: ClassVar = (open_screen_stores, open_claim_store)  # before a submission

    name: str = DEFAULT_NAME
    prerelax: PrerelaxMaker = field(default_factory=PrerelaxMaker)
    engine: Engine = field(kw_only=True)
    on_refuse: OnRefuse = "initial"
    control: float = DEFAULT_CONTROL
    paired_controls: bool = True
    seed: int = 0
    chunk_size: int = DEFAULT_CHUNK_SIZE
    deduplicate: bool = True
    retry_failed: bool = False
    order: Literal["given", "change"] = "given"
    one_launch: bool | None = None
    arms: Mapping[str, float] | None = None
    served: Served = "predicted"

    def __post_init__(self) -> None:
        if self.prerelax is None:
            self.prerelax, self.served = PrerelaxMaker(), "initial"
        options = self.prerelax.options
        if self.rules.arms.get("polished") and options.polish == 0:
            raise ConfigError(
                "arms have polished, and predictions are not polished; ask for it with second_opinion and polish"
            )
        check_judge(options.second_opinion, self.engine)
        if self.order not in ("given", "change"):
            raise ConfigError(f"order is {self.order!r}; it can be 'given' or 'change'")
        if self.chunk_size < 1:
            raise ConfigError(f"chunk_size is {self.chunk_size}; it is a number of structures, 200 for example")

    def make(self, structures: Sequence[Any], ids: Sequence[str] | None = None, model: str | None = None) -> Flow:
        """Build the flow.

        Parameters
        ----------
        structures
            Initial structures; other values become candidates with an error.
        ids
            The user's names for them, each once; None: formula and number.
        model
            Instead of the prerelax maker's own; it may be a reference to the output of another job.

        Raises
        ------
        ConfigError
            When there are no structures, or the ids are too few or not unique.
        """
        names = _check_ids(structures, ids)
        numbers = range(-(-len(names) // self.chunk_size))
        register = self.register(self.name, names, [_pack(structure) for structure in structures], model)
        predicts = [predict_chunk(register.output, number) for number in numbers]
        plan = plan_screen(register.output, [predict.output for predict in predicts])
        dispatches = [dispatch_chunk(plan.output, number) for number in numbers]
        summary = summarize_screen(register.output, [dispatch.output for dispatch in dispatches])
        return Flow([register, *predicts, plan, *dispatches, summary], output=summary.output, name=self.name)

    # jobflow gives the maker in a job the job's name, so the screen's own name travels as an argument

    @job(name=REGISTER_JOB)
    def register(self, screen_name: str, names: list[str], packed: list[Any], model: str | None) -> str:
        """Write the screen into the store, or find it there and requeue unfinished candidates; return its id.

        Parameters
        ----------
        screen_name
            Name of the screen.
        names
            Ids of the candidates.
        packed
            Their structures, as text if they were known when the flow was built.
        model
            Instead of the prerelax maker's own.
        """
        prerelax = replace(self.prerelax, model=model or self.prerelax.model)
        maker = replace(self, name=screen_name, prerelax=prerelax)
        items = [_unpack(name, item) for name, item in zip(names, packed, strict=True)]
        return register_flow(maker, items)

    @property
    def rules(self) -> StartRules:
        """Rules for the starts of relaxations."""
        arms = merge_arms(self.control, self.arms)
        return StartRules(self.on_refuse, arms, self.paired_controls, self.seed, self.served)

    @property
    def relaxes_in_one_launch(self) -> bool:
        """Value of `one_launch` for this engine."""
        return not self.engine.is_dft if self.one_launch is None else self.one_launch


def _pack(structure: Any) -> Any:
    """A structure as short text, of which thousands fit into one job; other values are not changed."""
    return base64.b64encode(pack_structure(structure)).decode() if isinstance(structure, Structure) else structure


def _unpack(name: str, item: Any) -> ReadItem:
    """A candidate in the form of candidates from files; a value that is not a structure has an error."""
    structure = unpack_structure(base64.b64decode(item)) if isinstance(item, str) else item
    if isinstance(structure, Structure):
        return ReadItem(name, structure, None)
    return ReadItem(name, None, f"{name}: {type(structure).__name__} is not a structure; give pymatgen's Structure")


def _check_ids(structures: Sequence[Any], ids: Sequence[str] | None) -> list[str]:
    """Return the ids of the structures, each once."""
    if not structures:
        raise ConfigError("there are no structures to screen; give at least one")
    if ids is None:
        return [
            f"{s.composition.reduced_formula if isinstance(s, Structure) else 'item'}-{i}"
            for i, s in enumerate(structures)
        ]
    if len(ids) != len(structures):
        raise ConfigError(f"{len(structures)} structures but {len(ids)} ids; give one id per structure")
    seen: set[str] = set()
    for name in ids:
        if not isinstance(name, str):
            raise ConfigError(f"id {name!r} is of type {type(name).__name__}; ids are strings, write str({name!r})")
        if name in seen:
            raise ConfigError(f"id {name!r} is given twice; ids name the candidates, so each must be unique")
        seen.add(name)
    return list(ids)
