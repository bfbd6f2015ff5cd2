"""ScreenMaker: predict many structures in chunks, relax each candidate once, and say what became of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from jobflow import CURRENT_JOB, Flow, Job, JobConfig, Maker, OnMissing, Response, job
from pymatgen.core import Structure

from e3relax_flows.candidates.ranking import measure_change, sort_by_score
from e3relax_flows.core.errors import ConfigError, E3RelaxError
from e3relax_flows.core.settings import load_settings
from e3relax_flows.engines.base import Engine
from e3relax_flows.ledger.claims import find_claims, is_live, open_claim_store
from e3relax_flows.ledger.store import find_outcomes, open_outcome_store, open_stores, save_predictions
from e3relax_flows.prerelax.judges import check_judge
from e3relax_flows.prerelax.ordering import DepthFirstFlow
from e3relax_flows.prerelax.predict import PrerelaxMaker
from e3relax_flows.prerelax.relax import claim_relaxation
from e3relax_flows.prerelax.starts import (
    DISPATCH_JOB,
    MISSING_OUTCOME,
    PLAN_JOB,
    SUMMARY_JOB,
    OnRefuse,
    StartRules,
    fill_outcomes,
    is_reusable,
    mark_claimed,
    plan_candidates,
)
from e3relax_flows.schemas.outcomes import OutcomeDoc
from e3relax_flows.schemas.predictions import PredictionDoc, Verdict
from e3relax_flows.schemas.screens import CandidateRow, ChunkDoc, ScreenDoc, count_states

# these jobs go on without what failed, and do not pin the relaxations to their own worker
COLLECTOR = JobConfig(on_missing_references=OnMissing.NONE, pass_manager_config=False)
MISSING_PLAN = "the planning job of this screen left no document; look for its error and run the screen again"


@dataclass
class ScreenMaker(Maker):
    """Screen candidates: predict in chunks, find duplicates, relax what is left, and collect the outcomes.

    The jobs are `e3r predict` per chunk, `e3r plan`, `e3r dispatch` per chunk, which replaces itself by one
    `e3r claim` per relaxation, which replaces itself by the flow of the engine, and `e3r summary`, whose `ScreenDoc`
    is the output. Whatever fails costs itself only. What is in the stores, or is being relaxed by another flow, is
    neither predicted nor relaxed again.

    Parameters
    ----------
    name
        Name of the flow and of the screen.
    prerelax
        How to predict.
    engine
        What to relax with, such as `get_engine("chgnet")`.
    on_refuse
        After a refused prediction: relax from the initial structure, skip the candidate, or count it as failed.
    control
        Fraction of the accepted candidates that are relaxed from their initial structure, so that the savings are
        measured; drawn from the structure's id.
    paired_controls
        Whether a control is relaxed from its prediction, too, so that they are measured in pairs.
    seed
        Of the drawing.
    chunk_size
        Structures per prediction job. FireWorks embeds them in a document of 16 MB at most: 200 structures of
        64 atoms take about 3 MB there.
    deduplicate
        Whether StructureMatcher looks for equal predictions, of which only the first is relaxed.
    retry_failed
        Whether outcomes that failed before are tried again.
    order
        In which order the candidates of a chunk are relaxed: as they were given, or by how little their predictions
        changed them (change), since those are the likeliest to be good. FireWorks takes them in any order.
    one_launch
        On FireWorks, whether all calculations of a candidate are done in one launch, which costs a worker a third of
        the time that a firework for each of them takes, and waits in a queue once. None: for engines that are no DFT.
        Read where the screen is in the store, as `e3relax screen run` has it; `make` builds a job for each.

    Examples
    --------
    `run_screen(maker, structures, ids, settings, folder)` runs it here, and `make` gives its flow:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import ScreenMaker
    >>> from e3relax_flows.testing import EmtEngine
    >>> copper = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.7), ["Cu"], [[0, 0, 0]])
    >>> maker = ScreenMaker(engine=EmtEngine(), control=0.2)
    >>> [job.name for job, _ in maker.make([copper], ["copper"]).iterflow()]
    ['e3r predict', 'e3r plan', 'e3r dispatch', 'e3r summary']
    """

    name: str = "e3r screen"
    prerelax: PrerelaxMaker = field(default_factory=PrerelaxMaker)
    engine: Engine = field(kw_only=True)
    on_refuse: OnRefuse = "initial"
    control: float = 0.1
    paired_controls: bool = False
    seed: int = 0
    chunk_size: int = 200
    deduplicate: bool = True
    retry_failed: bool = False
    order: Literal["given", "change"] = "given"
    one_launch: bool | None = None

    def __post_init__(self) -> None:
        StartRules(self.on_refuse, self.control, self.paired_controls, self.seed)
        check_judge(self.prerelax.options.second_opinion, self.engine)
        if self.order not in ("given", "change"):
            raise ConfigError(f"order is {self.order!r}; it can be 'given' or 'change'")
        if self.chunk_size < 1:
            raise ConfigError(f"chunk_size is {self.chunk_size}; it is a number of structures, 200 for example")

    def make(self, structures: Sequence[Any], ids: Sequence[str] | None = None, model: str | None = None) -> Flow:
        """Build the flow.

        Parameters
        ----------
        structures
            Initial structures; what is none gets a prediction with verdict error.
        ids
            The user's names for them, each once; none: formula and number.
        model
            Instead of the prerelax maker's own; a reference to the output of another job will do.

        Raises
        ------
        ConfigError
            When there are no structures, or the ids are too few or not unique.
        """
        names = _check_ids(structures, ids)
        chunks = [slice(start, start + self.chunk_size) for start in range(0, len(names), self.chunk_size)]
        predicts = [self.prerelax.make_chunk(list(structures[part]), names[part], model=model) for part in chunks]
        plan = self.plan(self.name, [names[part] for part in chunks], [predict.output for predict in predicts])
        dispatches = [self.dispatch(plan.output, predict.output) for predict in predicts]
        summary = self.summarize(plan.output, [dispatch.output for dispatch in dispatches])
        return Flow([*predicts, plan, *dispatches, summary], output=summary.output, name=self.name)

    # jobflow gives the maker in a job the job's name, so the screen's own name travels as an argument

    @job(name=PLAN_JOB, output_schema=ScreenDoc, config=COLLECTOR)
    def plan(self, screen_name: str, names: list[list[str]], chunks: list[ChunkDoc | None]) -> ScreenDoc:
        """Decide what is relaxed from where, and look up what is known of it.

        Parameters
        ----------
        screen_name
            Name of the screen.
        names
            Ids of the candidates, by chunk.
        chunks
            Outputs of the prediction jobs, None for those that failed.
        """
        predictions: list[PredictionDoc | None] = []
        for part, chunk in zip(names, chunks, strict=True):
            predictions += [None] * len(part) if chunk is None else chunk.predictions
        flat = [name for part in names for name in part]
        rows = plan_candidates(flat, predictions, self.rules, self.engine.engine_id, self.deduplicate)
        with open_stores(load_settings()) as stores:
            found = find_outcomes(stores.outcomes, [outcome.outcome_id for row in rows for outcome in row.outcomes])
        known = {key: outcome for key, outcome in found.items() if is_reusable(outcome, self.retry_failed)}
        fill_outcomes(rows, known, reused=True)
        return self._describe(screen_name, rows)

    @job(name=DISPATCH_JOB, config=COLLECTOR)
    def dispatch(self, screen: ScreenDoc | None, chunk: ChunkDoc | None) -> list[OutcomeDoc] | Response[Any]:
        """Replace this job by the planned relaxations of one chunk; the output is the list of their outcomes."""
        if screen is None:
            raise E3RelaxError(MISSING_PLAN)
        if chunk is None:
            return []
        rows = {row.id: row for row in screen.candidates}
        flows: list[Flow | Job] = []
        with open_stores(load_settings()) as stores:
            # the worker that predicted may have seen another store
            save_predictions(stores.predictions, [p for p in chunk.predictions if p.verdict != Verdict.ERROR])
            for prediction in self._sort(chunk.predictions):
                for planned in rows[str(prediction.id)].outcomes:
                    if planned.state is not None:
                        continue
                    flows.append(claim_relaxation(self.engine, prediction, planned.start_kind, self.retry_failed))
        if not flows:
            return []
        return Response(replace=DepthFirstFlow(flows, output=[flow.output for flow in flows], name=screen.name))

    @job(name=SUMMARY_JOB, output_schema=ScreenDoc, config=COLLECTOR)
    def summarize(self, screen: ScreenDoc | None, outcomes: list[list[OutcomeDoc | None] | None]) -> ScreenDoc:
        """Write the outcomes into the rows of the plan."""
        if screen is None:
            raise E3RelaxError(MISSING_PLAN)
        known = {outcome.outcome_id: outcome for group in outcomes for outcome in group or [] if outcome is not None}
        fill_outcomes(screen.candidates, known, reused=False)
        self._look_up(screen.candidates)
        fill_outcomes(screen.candidates, {}, reused=False, lost=MISSING_OUTCOME)
        return self._describe(screen.name, screen.candidates)

    def _look_up(self, rows: list[CandidateRow]) -> None:
        """Look for outcomes that other flows were to have: recorded meanwhile, or still to come."""
        missing = [outcome.outcome_id for row in rows for outcome in row.outcomes if outcome.state is None]
        if not missing:
            return
        own = CURRENT_JOB.job.hosts[-1]
        settings = load_settings()
        with open_outcome_store(settings) as outcomes, open_claim_store(settings) as claims:
            fill_outcomes(rows, find_outcomes(outcomes, missing), reused=True)
            held = [claim for claim in find_claims(claims, missing).values() if is_live(claim) and claim.flow != own]
        mark_claimed(rows, {claim.claim_id: claim.describe() for claim in held})

    def _sort(self, predictions: list[PredictionDoc]) -> list[PredictionDoc]:
        if self.order == "given":
            return predictions
        return [predictions[place] for place in sort_by_score([measure_change(one) for one in predictions])]

    @property
    def rules(self) -> StartRules:
        """Where relaxations start."""
        return StartRules(self.on_refuse, self.control, self.paired_controls, self.seed)

    @property
    def relaxes_in_one_launch(self) -> bool:
        """What `one_launch` comes to with this engine."""
        return not self.engine.is_dft if self.one_launch is None else self.one_launch

    def _describe(self, name: str, rows: list[CandidateRow]) -> ScreenDoc:
        return ScreenDoc(
            name=name,
            engine=self.engine.name,
            engine_id=self.engine.engine_id,
            model=self.prerelax.model,
            on_refuse=self.on_refuse,
            control=self.control,
            paired_controls=self.paired_controls,
            seed=self.seed,
            candidates=rows,
            counts=count_states(rows),
        )


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
            raise ConfigError(f"id {name!r} is given twice; ids name the candidates, so each must be there once")
        seen.add(name)
    return list(ids)
