"""What users of jobflow type, `run_locally` and `submit_flow`, with our makers in their flows."""

from __future__ import annotations

import pymongo
import pytest
from jobflow import Flow, run_locally
from pymatgen.core import Lattice, Structure
from test_cluster_tutorial import Terminal, read_commands, wait_for
from test_remote_tutorial import PYTHON, leave_out_resources, remote_terminal, write_project  # noqa: F401

from e3relax_flows import PrerelaxMaker, ScreenMaker, open_workspace, outcomes_dataframe
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.screening.store import count_rows, find_screen, open_screen_stores
from e3relax_flows.testing import EMT_LATTICES, EmtEngine, TablePredictor

SUBMIT = """
from jobflow import Flow
from jobflow_remote import submit_flow
from pymatgen.core import Lattice, Structure

from e3relax_flows import PrerelaxMaker, ScreenMaker
from e3relax_flows.testing import EMT_LATTICES, EmtEngine

metal = Structure.from_spacegroup("Fm-3m", Lattice.cubic(1.03 * EMT_LATTICES["Cu"]), ["Cu"], [[0, 0, 0]])
predict = PrerelaxMaker(device="cpu").make(metal)
relax = EmtEngine().make(predict.output.structure)
submit_flow(Flow([predict, relax]))
prerelax = PrerelaxMaker(device="cpu")
submit_flow(ScreenMaker(name="plain", prerelax=prerelax, engine=EmtEngine(), control=0).make([metal], ["copper"]))
"""


def make_metal(element: str) -> Structure:
    lattice = Lattice.cubic(1.03 * EMT_LATTICES[element])
    return Structure.from_spacegroup("Fm-3m", lattice, [element], [[0, 0, 0]])


@pytest.mark.usefixtures("predictor")
def test_run_locally_of_a_screen(settings: E3RelaxSettings) -> None:
    """In jobflow's default store; the second time nothing is relaxed."""
    maker = ScreenMaker(name="plain", engine=EmtEngine(), control=0)
    for n_relaxed in (2, 0):
        flow = maker.make([make_metal("Cu"), make_metal("Ag")], ["copper", "silver"])
        responses = run_locally(flow, create_folders=True, ensure_success=True, log=False)
        outputs = [response.output for by_index in responses.values() for response in by_index.values()]
        assert sum(type(output).__name__ == "AseStructureTaskDoc" for output in outputs) == n_relaxed, outputs
        with open_screen_stores(settings) as stores:
            screen = find_screen(stores, "plain")
            assert (screen.phase, count_rows(stores, str(screen.screen_id))) == ("finished", {"successful": 2})
    with open_workspace(settings) as workspace:
        assert len(outcomes_dataframe(workspace.outcomes)) == 2


def test_run_locally_of_a_prediction_before_a_relaxation(predictor: TablePredictor) -> None:
    predict = PrerelaxMaker().make(make_metal("Cu"))
    relax = EmtEngine().make(predict.output.structure)
    responses = run_locally(Flow([predict, relax]), create_folders=True, ensure_success=True, log=False)
    first, second = (responses[each.output.uuid][1].output for each in (predict, relax))
    assert first.structure.volume == pytest.approx(4 * predictor.volumes["Cu"])
    assert second.structure.volume == pytest.approx(EMT_LATTICES["Cu"] ** 3, rel=0.01)
    assert second.input.structure.volume == pytest.approx(first.structure.volume)


def test_submit_flow_at_the_documented_workers(
    remote_terminal: Terminal,  # noqa: F811
    server: tuple[str, int],
) -> None:
    """Jobs without a worker go to the first of the page's project, and so does what replaces them."""
    terminal = remote_terminal
    write_project(terminal, is_forked=True)
    leave_out_resources(terminal.home / ".e3relax.yaml")
    reset, _, _, start, _, _ = read_commands("mkdir -p ~/.jfremote")[3:]
    terminal.type(reset)
    (terminal.clone / "plain.py").write_text(SUBMIT)
    terminal.type(f"{PYTHON} -Wignore plain.py")
    terminal.type(start)
    with pymongo.MongoClient(*server) as client:
        (name,) = [name for name in client.list_database_names() if name.startswith("e3r_remote_")]
        flows, jobs = client[name].flows, client[name].jf_jobs
        wait_for(lambda: flows.count_documents({"state": {"$in": ["COMPLETED", "FAILED"]}}) == 2, "both have ended")
        ended = {job["job"]["name"]: job["state"] for job in jobs.find({}, {"job.name": 1, "state": 1})}
        assert set(ended.values()) == {"COMPLETED"}, ended
        assert jobs.distinct("worker") == ["login"]
    shown = terminal.type("e3relax screen status plain")
    assert "flow: finished" in shown
    assert "1 successful" in shown
