"""Submit flows: to this machine, to a FireWorks launchpad, to jobflow-remote; checked first, never twice."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jobflow import Flow, Job
from jobflow.core.flow import get_flow
from monty.json import MontyEncoder

from e3relax_flows.core.errors import ConfigError, ContentError
from e3relax_flows.core.ids import hash_content
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.claims import hold_submission
from e3relax_flows.places.checks import (
    Problem,
    check_job_store,
    check_launchpad,
    check_potcars,
    check_remote_project,
    check_remote_store,
    check_sizes,
    check_stores,
    list_job_documents,
)
from e3relax_flows.places.kinds import FIREWORKS, LOCAL, PLACES, REMOTE, WITH_WORKERS, PlaceKind, PlaceName, find_kind
from e3relax_flows.places.launchpad import Placed, add_workflows, convert_flow, find_placed, open_launchpad
from e3relax_flows.places.local import JobReport, LocalRun, run_flow_locally
from e3relax_flows.places.remote import LOST, open_remote
from e3relax_flows.places.roles import assign_roles
from e3relax_flows.stores.opening import open_job_store

logger = logging.getLogger(__name__)


@dataclass
class Submission:
    """Result of a submission."""

    where: PlaceName
    n_jobs: int = 0  # now submitted, or run
    added: list[str] = field(default_factory=list)  # content ids of the flows that were submitted now
    known: dict[str, Placed] = field(default_factory=dict)  # flows that were submitted before, by content id
    warnings: list[str] = field(default_factory=list)
    hint: str = ""  # command that shows its state
    run: LocalRun | None = None  # of local flows

    def describe(self) -> str:
        """One line for the user."""
        parts = []
        if self.added:
            parts.append(f"{self.n_jobs} jobs in {len(self.added)} flows {'run' if self.run else 'submitted'}")
        if self.known:
            states = sorted({placed.state for placed in self.known.values()})
            parts.append(f"{len(self.known)} flows had been submitted before ({', '.join(states)})")
        return "; ".join([*parts, *([f"see: {self.hint}"] if self.hint else [])])


def submit(
    flow: Flow | Job,
    where: PlaceName = "local",
    *,
    settings: E3RelaxSettings | None = None,
    samples: Sequence[Flow | Job] = (),
    out: Path = Path("runs/jobs"),
    on_job_finished: Callable[[JobReport], None] | None = None,
) -> Submission:
    """Run a flow here, or submit it, after all checks have passed.

    A flow is not submitted again while an unfinished one of equal content is at the place.

    Parameters
    ----------
    flow
        Any flow; its jobs get the workers of their roles.
    where
        "local": run now, in this process. "fireworks": the launchpad of `lpad`, as FireWorks' own configuration
        names it. "remote": jobflow-remote's current project. Workers read their stores from their own
        configuration, so that no secret is written into a job.
    settings
        None: read now.
    samples
        Flows like those that jobs of the flow will make, such as `engine.make(structure)`; checked, not submitted.
    out
        Folder of the jobs' folders of a local run.
    on_job_finished
        Called after each job of a local run.

    Raises
    ------
    ConfigError
        When a check fails; the message has all of them, with what to type. Nothing was submitted.
    StoreError
        When a store or the launchpad cannot be reached.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import isolate_stores, submit
    >>> from e3relax_flows.testing import EmtEngine
    >>> copper = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.7), ["Cu"], [[0, 0, 0]])
    >>> settings = isolate_stores(Path(tempfile.mkdtemp()))
    >>> submit(EmtEngine().make(copper), "local", settings=settings).where
    'local'
    """
    flow = get_flow(flow)
    if find_kind(where).is_here:
        return _run_here(flow, settings or load_settings(), samples, out, on_job_finished)
    return submit_many({identify_flow(flow): flow}, where, settings=settings, samples=samples, again=True)


def submit_many(
    flows: Mapping[str, Flow],
    where: PlaceName,
    *,
    settings: E3RelaxSettings | None = None,
    samples: Sequence[Flow | Job] = (),
    again: bool = False,
) -> Submission:
    """Submit the flows that are not at the place; repeated after an interruption, it adds the missing ones.

    Parameters
    ----------
    flows
        By content id, from `identify_flow`.
    where
        "fireworks" or "remote".
    settings
        None: read now.
    samples
        As in `submit`.
    again
        Whether workflows that are completed are submitted once more.

    Raises
    ------
    ConfigError, StoreError
        As `submit`.

    Examples
    --------
    `submit_many({identify_flow(flow): flow for flow in flows}, "fireworks")` submits; this process has no workers:

    >>> from e3relax_flows import E3RelaxError, submit_many
    >>> try:
    ...     submit_many({}, "local")
    ... except E3RelaxError as error:
    ...     print(error)
    'local' is not a place; known: fireworks, remote
    """
    place = find_kind(check_place(where, WITH_WORKERS))
    settings = settings or load_settings()
    # the caller's flows are not changed
    flows = {content_id: copy.deepcopy(flow) for content_id, flow in flows.items()}
    for flow in flows.values():
        assign_roles(flow, settings.WORKERS, place)
    problems = check_flows([*flows.values(), *samples], place, settings)
    submit_to = {FIREWORKS: _submit_to_fireworks, REMOTE: _submit_to_remote}[place]
    return submit_to(flows, settings, problems, samples, again)


def check_place(where: str, allowed: Sequence[PlaceName] = PLACES) -> PlaceName:
    """The place of a name.

    Raises
    ------
    ConfigError
        When it is not a place.
    """
    place = next((place for place in allowed if place == where), None)
    if place is None:
        raise ConfigError(f"{where!r} is not a place; known: {', '.join(allowed)}")
    return place


def check_flows(flows: Sequence[Flow | Job], place: PlaceKind, settings: E3RelaxSettings) -> list[Problem]:
    """Problems of submitting flows that do not depend on the flows at the place."""
    return [
        *check_stores(settings, place, flows),
        *check_job_store(settings, place, flows),
        *check_potcars(place, flows),
    ]


def identify_flow(flow: Flow | Job) -> str:
    """Content id of a flow: its jobs with makers and arguments, without random names.

    Raises
    ------
    ContentError
        When an argument cannot be written.

    Examples
    --------
    Flows of equal content have equal ids, so that none is submitted twice:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import identify_flow
    >>> from e3relax_flows.testing import EmtEngine
    >>> copper = Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]])
    >>> identify_flow(EmtEngine().make(copper)) == identify_flow(EmtEngine().make(copper))
    True
    """
    try:
        text = json.dumps(get_flow(copy.deepcopy(flow)).as_dict(), cls=MontyEncoder, sort_keys=True)
    except TypeError as error:
        raise ContentError(f"flow {flow.name!r} cannot be written ({error}); give its jobs lists, not sets") from error
    # in the order in which they appear, which is that of the content
    content = json.loads(text)
    names: dict[str, str] = {}
    _collect_uuids(content, names)
    return hash_content(_replace_uuids(content, names))


def _collect_uuids(content: Any, names: dict[str, str]) -> None:
    if isinstance(content, dict):
        # jobs in the order of listing; hosts are flows around them
        for value in (content.get("uuid"), *_as_list(content.get("hosts"))):
            if isinstance(value, str):
                names.setdefault(value, f"#{len(names)}")
        for value in content.values():
            _collect_uuids(value, names)
    elif isinstance(content, list):
        for value in content:
            _collect_uuids(value, names)


def _replace_uuids(content: Any, names: dict[str, str]) -> Any:
    if isinstance(content, dict):
        return {key: _replace_uuids(value, names) for key, value in content.items() if key != "@version"}
    if isinstance(content, list):
        return [_replace_uuids(value, names) for value in content]
    return names.get(content, content) if isinstance(content, str) else content


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def judge_problems(problems: Sequence[Problem], is_first: bool = True) -> list[str]:
    """Messages of those problems that are only warnings.

    Parameters
    ----------
    problems
        Of the checks.
    is_first
        Whether nothing of this was submitted before; otherwise some warnings are not repeated.

    Raises
    ------
    ConfigError
        When there are others, with what to type against each.
    """
    for problem in problems:
        logger.info("check %s: %s", "failed" if problem.is_fatal else "warns", problem.message)
    fatal = [problem.message for problem in problems if problem.is_fatal]
    if fatal:
        raise ConfigError("nothing was submitted: " + "\n".join(fatal))
    return [problem.message for problem in problems if is_first or not problem.is_first_only]


def _run_here(
    flow: Flow,
    settings: E3RelaxSettings,
    samples: Sequence[Flow | Job],
    out: Path,
    on_job_finished: Callable[[JobReport], None] | None,
) -> Submission:
    problems = check_flows([flow, *samples], LOCAL, settings)
    submission = Submission("local", warnings=judge_problems(problems), added=[identify_flow(flow)])
    with open_job_store(settings) as store:
        submission.run = run_flow_locally(flow, store, out, on_job_finished)
    submission.n_jobs = submission.run.n_finished + len(submission.run.failures)
    return submission


def _submit_to_fireworks(
    flows: Mapping[str, Flow],
    settings: E3RelaxSettings,
    problems: list[Problem],
    samples: Sequence[Flow | Job],  # noqa: ARG001 - its job store is checked as that of jobflow
    again: bool,
) -> Submission:
    judge_problems(problems)
    with hold_submission(settings), open_launchpad("--submit fireworks") as pad:
        placed = {key: known for key, known in find_placed(pad, list(flows)).items() if known.is_whole}
        known = {key: item for key, item in placed.items() if not (again and item.state == "COMPLETED")}
        workflows = {key: convert_flow(flow, key) for key, flow in flows.items() if key not in known}
        documents: dict[str, list[dict[str, Any]]] = {}
        for firework in (firework for workflow in workflows.values() for firework in workflow.fws):
            documents.setdefault(f"job {firework.name!r}", []).append(firework.to_db_dict())
        warnings = judge_problems([*problems, *check_launchpad(pad, settings.WORKERS), *check_sizes(documents)])
        now = add_workflows(pad, workflows)
    logger.info("launchpad: %d workflows added, %d were there", len(now), len(known))
    every = {**known, **now}
    first = min(number for item in every.values() for number in item.fw_ids) if every else 0
    return Submission(
        "fireworks",
        n_jobs=sum(len(item.fw_ids) for item in now.values()),
        added=list(now),
        known=known,
        warnings=warnings,
        hint=f"lpad get_wflows -i {first} -d more" if len(every) == 1 else "lpad report",
    )


def _submit_to_remote(
    flows: Mapping[str, Flow],
    settings: E3RelaxSettings,
    problems: list[Problem],
    samples: Sequence[Flow | Job],
    again: bool,
) -> Submission:
    with hold_submission(settings), open_remote("--submit remote") as place:
        place.release_lost_claims(settings)
        for flow in flows.values():
            problems += check_sizes(list_job_documents(flow))
        problems += check_remote_store(place.project, [*flows.values(), *samples])
        warnings = judge_problems([*problems, *check_remote_project(place.project, settings.WORKERS)])
        gone = (LOST, "STOPPED", "COMPLETED") if again else (LOST, "STOPPED")
        known = {key: flow for key, flow in place.find_placed(list(flows)).items() if flow.state not in gone}
        new = {key: flow for key, flow in flows.items() if key not in known}
        ids = [place.send(flow, key, settings.WORKERS) for key, flow in new.items()]
    logger.info("jobflow-remote: %d flows sent, %d were there", len(new), len(known))
    first = ids[0][0] if ids else None
    hint = "jf flow list" if first is None else f"jf flow list -did {first}"
    return Submission("remote", sum(map(len, ids)), list(new), known, warnings, hint)
