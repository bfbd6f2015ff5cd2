"""CampaignMaker: generations of select, predict, label, pairs, retrain, gate and promote, until a rule ends them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from jobflow import Flow, Job, JobConfig, Maker, OnMissing, Response, job

from e3relax_flows.campaigns.generation import (
    GATHER_JOB,
    GENERATION_JOB,
    LABEL_JOB,
    SELECT_JOB,
    begin_generation,
    enter_phase,
    gather_labels,
    plan_labels,
    predict_selected,
    score_chunk,
    select_labels,
)
from e3relax_flows.campaigns.results import (
    CONCLUDE_JOB,
    PAIRS_JOB,
    RETRAIN_JOB,
    build_label_pairs,
    conclude_generation,
    prepare_retraining,
)
from e3relax_flows.campaigns.store import find_campaign, list_scored, load_generation, open_campaign_stores
from e3relax_flows.engines.base import Engine
from e3relax_flows.ledger.claims import open_claim_store
from e3relax_flows.ledger.store import find_outcomes
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.prerelax.judges import check_judge
from e3relax_flows.prerelax.ordering import DepthFirstFlow
from e3relax_flows.prerelax.predict import PREDICT_JOB
from e3relax_flows.prerelax.relax import claim_relaxation
from e3relax_flows.retraining.maker import RetrainMaker
from e3relax_flows.schemas.campaigns import CampaignConfig, Phase
from e3relax_flows.schemas.outcomes import identify_outcome
from e3relax_flows.schemas.retraining import RetrainDoc, SnapshotDoc

# a failed job loses only its own result: the next one finds in the store what is missing; relaxations and trainings
# that are created here go to the workers of their own roles
PHASE = JobConfig(on_missing_references=OnMissing.NONE, pass_manager_config=False)
FLOW = "e3r campaign"


@dataclass
class CampaignMaker(Maker):
    """An active-learning campaign, as jobs between which only ids travel.

    A generation is `e3r generation`, which checks the stop rules and replaces itself by `e3r predict` for
    each chunk of the pool that the model in service has not scored, `e3r select`, `e3r predict` of the chosen
    candidates, `e3r label`, which replaces itself by one `e3r claim` for each relaxation and `e3r gather`, then
    `e3r pairs`, `e3r retrain`, which replaces itself by the flow of `RetrainMaker`, and `e3r conclude`, which adds
    the next generation. Between jobs only the processes of the manager are needed.

    The result of a phase is written once, under the campaign and the number of the generation: a job that is launched
    again, or a flow that is submitted again, finds it and repeats nothing. A phase does not begin when a user has
    stopped the campaign or resumed it elsewhere.

    The pool and the documents are in the campaign's store, where `register_campaign` puts them; the flow is made for
    the id that it gives.

    Parameters
    ----------
    config
        Configuration; it may be a dictionary of the fields of `CampaignConfig`.
    engine
        Engine of the labels, such as `get_engine("chgnet")`.
    retrain
        How to retrain; None: as configured.
    name
        Name of the flow.

    Examples
    --------
    >>> from e3relax_flows import CampaignConfig, CampaignMaker
    >>> from e3relax_flows.testing import EmtEngine
    >>> config = CampaignConfig(engine="emt", inputs=["pool/"], labels=16, retraining={"holdout": "mine"})
    >>> [job.name for job, _ in CampaignMaker(config=config, engine=EmtEngine()).make("an id").iterflow()]
    ['e3r generation']
    """

    opens: ClassVar = (open_campaign_stores, open_claim_store, *RetrainMaker.opens)  # before a submission

    config: CampaignConfig = field(kw_only=True)
    engine: Engine = field(kw_only=True)
    retrain: RetrainMaker | None = None
    name: str = FLOW

    def __post_init__(self) -> None:
        self.config = CampaignConfig.model_validate(self.config)
        check_judge(self.config.options.second_opinion, self.engine)
        self.retrain = self.retrain or RetrainMaker(config=self.config.retraining)

    def as_dict(self) -> dict[str, Any]:
        """Dictionary with a plain configuration, so that jobflow's `dict_mod` can change it."""
        return super().as_dict() | {"config": self.config.model_dump(mode="json")}

    def make(self, campaign_id: str, start: int = 0) -> Flow:
        """Build the flow that continues a campaign from its present state until a rule ends it.

        Parameters
        ----------
        campaign_id
            Of a registered campaign.
        start
            Number of starts and resumptions in its document; jobs of another start do nothing.
        """
        first = self.begin(campaign_id, start)
        return Flow([first], output=first.output, name=self.name)

    @job(name=GENERATION_JOB, config=PHASE)
    def begin(self, campaign_id: str, start: int) -> Response[Any]:
        """Replace this job by the jobs of the next generation; end if a rule applies."""
        with open_workspace() as workspace:
            begun = begin_generation(campaign_id, start, workspace)
            if begun is None:
                return Response(stop_children=True)
            generation, model_id = begun
            stores = workspace.get(open_campaign_stores)
            is_chosen = load_generation(stores, campaign_id, generation).select is not None
            scored = list_scored(stores, campaign_id, model_id)
            n_chunks = find_campaign(stores, campaign_id).n_chunks
        todo = [] if is_chosen else [number for number in range(n_chunks) if number not in scored]
        scores = [self.score(campaign_id, model_id, number) for number in todo]
        select = self.select(campaign_id, generation, start, [score.output for score in scores])
        predict = self.predict(campaign_id, generation, start, select.output)
        label = self.label(campaign_id, generation, start, predict.output)
        pairs = self.pair(campaign_id, generation, start, label.output)
        training = self.train(campaign_id, generation, start, pairs.output)
        end = self.conclude(campaign_id, generation, start, training.output)
        jobs: list[Flow | Job] = [*scores, select, predict, label, pairs, training, end]
        return Response(replace=Flow(jobs, output=end.output, name=f"{FLOW} {generation}"))

    @job(name=PREDICT_JOB, config=PHASE)
    def score(self, campaign_id: str, model_id: str, number: int) -> int:
        """Compute the expectations of a model for one chunk of the pool."""
        with open_workspace() as workspace:
            score_chunk(campaign_id, model_id, number, self.config, workspace)
        return number

    @job(name=SELECT_JOB, config=PHASE)
    def select(self, campaign_id: str, generation: int, start: int, after: list[int | None]) -> Any:  # noqa: ARG002
        """Choose the candidates of this generation; return their number."""
        with open_workspace() as workspace:
            result = select_labels(campaign_id, generation, start, workspace)
        return Response(stop_children=True) if result is None else len(result.selected)

    @job(name=PREDICT_JOB, config=PHASE)
    def predict(self, campaign_id: str, generation: int, start: int, after: int | None) -> Any:  # noqa: ARG002
        """Predict the chosen candidates; return the number of predictions."""
        with open_workspace() as workspace:
            result = predict_selected(campaign_id, generation, start, workspace)
        return Response(stop_children=True) if result is None else len(result.predictions)

    @job(name=LABEL_JOB, config=PHASE)
    def label(self, campaign_id: str, generation: int, start: int, after: int | None) -> Any:  # noqa: ARG002
        """Replace this job by the relaxations whose outcomes are not known."""
        with open_workspace() as workspace:
            stores = workspace.get(open_campaign_stores)
            entered = enter_phase(stores, campaign_id, generation, start, Phase.PREDICT)
            if entered is None:
                return Response(stop_children=True)
            _, document = entered
            if document.label is not None:
                return len(document.label.labels)
            engine_id = self.engine.engine_id
            planned = {
                identify_outcome(prediction.prediction_id, engine_id, kind): (prediction, kind)
                for prediction, kind in plan_labels(document, self.config, workspace)
            }
            found = find_outcomes(workspace.outcomes, planned)
        claims: list[Flow | Job] = [
            claim_relaxation(self.engine, prediction, kind)
            for name, (prediction, kind) in planned.items()
            if name not in found
        ]
        end = self.gather(campaign_id, generation, start, [claim.output for claim in claims])
        return Response(replace=DepthFirstFlow([*claims, end], output=end.output, name=f"{FLOW} labels"))

    @job(name=GATHER_JOB, config=PHASE)
    def gather(self, campaign_id: str, generation: int, start: int, after: list[Any]) -> Any:  # noqa: ARG002
        """Read the outcomes of the relaxations; return their number."""
        with open_workspace() as workspace:
            result = gather_labels(campaign_id, generation, start, self.engine.engine_id, workspace)
        return Response(stop_children=True) if result is None else len(result.labels)

    @job(name=PAIRS_JOB, config=PHASE)
    def pair(self, campaign_id: str, generation: int, start: int, after: int | None) -> Any:  # noqa: ARG002
        """Make pairs of the labels; return their number."""
        with open_workspace() as workspace:
            result = build_label_pairs(campaign_id, generation, start, workspace)
        return Response(stop_children=True) if result is None else len(result.pair_ids)

    @job(name=RETRAIN_JOB, config=PHASE)
    def train(self, campaign_id: str, generation: int, start: int, after: int | None) -> Any:  # noqa: ARG002
        """Replace this job by the retraining from all pairs in the store; its document is the output."""
        maker = self.retrain or RetrainMaker(config=self.config.retraining)
        with open_workspace() as workspace:
            prepared = prepare_retraining(campaign_id, generation, start, maker.config, workspace)
        if prepared is None:
            return Response(stop_children=True)
        if not isinstance(prepared, SnapshotDoc):
            return None
        flow = maker.make(snapshot=prepared)
        flow.update_config({"on_missing_references": OnMissing.NONE})  # so that a failure is noticed
        return Response(replace=flow)

    @job(name=CONCLUDE_JOB, config=PHASE)
    def conclude(self, campaign_id: str, generation: int, start: int, retraining: Any) -> Any:
        """Store the figures of the generation, and add the next one; return its number."""
        document = None if retraining is None else RetrainDoc.model_validate(retraining)
        with open_workspace() as workspace:
            concluded = conclude_generation(campaign_id, generation, start, document, workspace)
        if concluded is None:
            return Response(stop_children=True)
        return Response(output=generation, addition=Flow([self.begin(campaign_id, start)], name=FLOW))
