"""PrerelaxFlowMaker: predict one structure, relax it with an engine, record the outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from jobflow import Flow, JobConfig, Maker, Response, job
from pymatgen.core import Structure

from e3relax_flows.core.errors import StructureError
from e3relax_flows.engines.base import Engine
from e3relax_flows.ledger.claims import open_claim_store
from e3relax_flows.ledger.store import find_outcomes, save_outcomes, save_predictions
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.prerelax.judges import check_judge
from e3relax_flows.prerelax.predict import PrerelaxMaker
from e3relax_flows.prerelax.record import join_failure
from e3relax_flows.prerelax.relax import claim_relaxation
from e3relax_flows.prerelax.starts import DISPATCH_JOB, OnRefuse, StartRules, choose_starts, is_reusable, take_start
from e3relax_flows.schemas.outcomes import OutcomeDoc, identify_outcome
from e3relax_flows.schemas.predictions import PredictionDoc, Reason


@dataclass
class PrerelaxFlowMaker(Maker):
    """Predict a structure, relax the prediction with an engine, and record the outcome.

    The output of the flow is the outcome document. If the outcome is in the store already, nothing is relaxed;
    if another flow relaxes it, the output is None.

    Parameters
    ----------
    name
        Name of the flow.
    prerelax
        How to predict.
    engine
        Engine of the relaxation, such as `get_engine("chgnet")`.
    on_refuse
        After a refused prediction: relax from the initial structure, skip (the jobs that follow the flow do not
        run, and its output is None), or fail.
    retry_failed
        Whether an outcome that failed before is tried again.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import PrerelaxFlowMaker
    >>> from e3relax_flows.testing import EmtEngine
    >>> copper = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.7), ["Cu"], [[0, 0, 0]])
    >>> flow = PrerelaxFlowMaker(engine=EmtEngine()).make(copper)
    >>> [job.name for job, _ in flow.iterflow()]
    ['e3r predict', 'e3r dispatch']
    """

    opens: ClassVar = (open_claim_store,)  # before a submission

    name: str = "e3r candidate"
    prerelax: PrerelaxMaker = field(default_factory=PrerelaxMaker)
    engine: Engine = field(kw_only=True)
    on_refuse: OnRefuse = "initial"
    retry_failed: bool = False

    def __post_init__(self) -> None:
        StartRules(on_refuse=self.on_refuse)
        check_judge(self.prerelax.options.second_opinion, self.engine)

    def make(self, structure: Structure, prev_dir: str | Path | None = None, model: str | None = None) -> Flow:
        """Build the flow.

        Parameters
        ----------
        structure
            The initial structure.
        prev_dir
            Accepted because atomate2's flows pass it, and not used.
        model
            Instead of the prerelax maker's own; it may be a reference to the output of another job.
        """
        predict = self.prerelax.make(structure, prev_dir=prev_dir, model=model)
        dispatch = self.dispatch(predict.output.prediction)
        return Flow([predict, dispatch], output=dispatch.output, name=self.name)

    @job(name=DISPATCH_JOB, config=JobConfig(pass_manager_config=False))
    def dispatch(self, prediction: PredictionDoc) -> OutcomeDoc | Response[Any]:
        """Replace this job by the relaxation from the start by the verdict; do nothing if its outcome is known.

        Raises
        ------
        StructureError
            When the prediction was refused and `on_refuse` is fail.
        EngineError
            When the engine cannot treat the structure; the failed outcome is stored.
        """
        starts = choose_starts(prediction, StartRules(on_refuse=self.on_refuse))
        if not starts and self.on_refuse == "fail":
            reason = prediction.reasons[0] if prediction.reasons else Reason.FAILED
            raise StructureError(reason, f"the prediction was refused: {prediction.message or reason}")
        if not starts:
            return Response(stop_children=True)
        outcome_id = identify_outcome(prediction.prediction_id, self.engine.engine_id, starts[0])
        with open_workspace() as workspace:
            # the worker that predicted may use another store
            save_predictions(workspace.predictions, [prediction])
            outcome = find_outcomes(workspace.outcomes, [outcome_id]).get(outcome_id)
            if outcome is not None and is_reusable(outcome, self.retry_failed):
                return outcome
            try:
                self.engine.check(take_start(prediction, starts[0]))
            except Exception as error:  # recorded as in a screen, and shown as a failed job
                save_outcomes(workspace.outcomes, [join_failure(self.engine, prediction, starts[0], error)], True)
                raise
        return Response(replace=claim_relaxation(self.engine, prediction, starts[0], self.retry_failed))
