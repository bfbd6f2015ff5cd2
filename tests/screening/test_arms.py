"""Arms of screens: candidates that are relaxed from several starts, here and in flows, with what each start saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jobflow import JobStore
from maggma.stores import MemoryStore
from pymatgen.core import Lattice, Structure

from e3relax_flows import outcomes_dataframe, savings_dataframe
from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.model_folders import CONFIG_FILE, read_model_folder
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.savings import summarize_savings
from e3relax_flows.ledger.store import find_outcomes, open_outcome_store
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.prerelax.predict import PrerelaxMaker
from e3relax_flows.report.tables import build_table, describe_arms, describe_savings
from e3relax_flows.schemas.predictions import Prediction
from e3relax_flows.schemas.screens import ScreenConfig, ScreenDoc
from e3relax_flows.screening.jobs import read_maker
from e3relax_flows.screening.local import run_screen_here
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import load_screen, open_screen_stores
from e3relax_flows.screening.watching import view_screen
from e3relax_flows.testing import EMT_LATTICES, EmtEngine, TablePredictor

METALS = ("Cu", "Ag", "Pt")
ALL_STARTS = {
    "Cu": ["polished", "control", "predicted"],
    "Ag": ["polished", "control", "predicted"],
    "Pt": ["initial", "predicted"],
}


def make_items() -> list[ReadItem]:
    items = []
    for element in METALS:
        half = EMT_LATTICES[element] * 1.05 / 2
        lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        items.append(ReadItem(element, Structure(lattice, [element], [[0, 0, 0]]), None))
    return items


@pytest.fixture
def table(settings: E3RelaxSettings, predictor: TablePredictor, monkeypatch: pytest.MonkeyPatch) -> TablePredictor:
    """Accepted predictions are polished to EMT's minimum; that of platinum is refused, though good."""
    pytest.importorskip("chgnet")
    folder = settings.DATA_DIR / "models" / "table"
    opinion = {"harm": [0, 1, 0], "saving": [0, 1, 0], "max_harm": 0.2}
    content = json.loads((folder / CONFIG_FILE).read_text())
    content["calibration"] = {"second_opinions": {"CHGNet-0.3.0": opinion}}
    (folder / CONFIG_FILE).write_text(json.dumps(content))
    predictor.model_id = read_model_folder(folder).model_id
    predict_one = predictor._predict_one

    def polish(initial: Any, name: str | None) -> Prediction:
        prediction = predict_one(initial, name)
        if prediction.verdict == "accept":
            prediction.polished, prediction.n_polish_steps = prediction.structure.copy(), 3
            prediction.polished.scale_lattice(EMT_LATTICES[prediction.structure[0].specie.symbol] ** 3 / 4)
        return prediction

    monkeypatch.setattr(predictor, "_predict_one", polish)
    predictor.refused = ("Pt",)
    return predictor


def register(settings: E3RelaxSettings, maker: ScreenMaker) -> str:
    with open_screen_stores(settings) as stores:
        return str(register_screen(stores, maker, make_items(), load_settings(MODEL="table"))[0].screen_id)


def run_here(settings: E3RelaxSettings, maker: ScreenMaker, folder: Path) -> ScreenDoc:
    screen_id = register(settings, maker)
    run_screen_here(screen_id, settings, folder)
    with open_screen_stores(settings) as stores:
        return load_screen(stores, screen_id)


def list_kinds(screen: ScreenDoc) -> dict[str, list[str]]:
    return {row.id: [str(outcome.start_kind) for outcome in row.outcomes] for row in screen.candidates}


def polish_maker(**changes: Any) -> ScreenMaker:
    prerelax = PrerelaxMaker(second_opinion="chgnet", polish=3)
    return ScreenMaker(prerelax=prerelax, engine=EmtEngine(), **changes)


@pytest.mark.slow
@pytest.mark.usefixtures("table")
def test_every_arm_is_relaxed_and_compared_here_and_in_a_flow(settings: E3RelaxSettings, tmp_path: Path) -> None:
    maker = polish_maker(arms={"initial": 1, "predicted": 1, "polished": 1})
    screen = run_here(settings, maker, tmp_path / "here")
    assert list_kinds(screen) == ALL_STARTS
    assert (screen.counts, screen.arms) == ({"successful": 3}, {"initial": 1, "predicted": 1, "polished": 1})
    with open_outcome_store(settings) as store:
        outcomes = list(find_outcomes(store).values())
        frame = outcomes_dataframe(store)
    savings = summarize_savings(outcomes)
    arms = {(arm.start.value, arm.over.value, arm.refused): arm for arm in savings.arms}
    steps = {(row["id"], row["start_kind"]): row["n_ionic_steps"] for _, row in frame.iterrows()}
    both = [("Cu", "Ag"), ("Pt",)]
    expected = {
        ("predicted", "initial", False): [steps[name, "predicted"] for name in both[0]],
        ("polished", "initial", False): [steps[name, "polished"] for name in both[0]],
        ("polished", "predicted", False): [steps[name, "polished"] for name in both[0]],
        ("predicted", "initial", True): [steps["Pt", "predicted"]],
    }
    assert set(arms) == set(expected)
    for (start, over, refused), own in expected.items():
        names, base = both[refused], {"predicted": "predicted", "initial": "initial" if refused else "control"}[over]
        ratio = sum(own) / sum(steps[name, base] for name in names)
        arm = arms[start, over, refused]
        assert (arm.ionic.n_pairs, arm.n_broken_pairs) == (len(names), 0)
        assert arm.ionic.ratio == pytest.approx(ratio)
        assert ratio < 1
    # the screen serves polished predictions, so these are what it saved; the refused one is in no such pair
    assert savings.ionic == arms["polished", "initial", False].ionic

    described = savings_dataframe(frame).reset_index().to_dict("records")
    assert [(row["start"], row["over"], row["refused"]) for row in described] == list(arms)
    assert [row["ionic"] for row in described] == [arm.ionic.ratio for arm in arms.values()]
    assert [row["ionic_low"] for row in described][:3] == [arm.ionic.low for arm in list(arms.values())[:3]]
    assert savings_dataframe(frame[frame["id"] == "Pt"])["refused"].tolist() == [True]
    assert len(savings_dataframe(frame.iloc[:0])) == 0

    lines = describe_arms(savings)
    assert lines[0].startswith("Start predicted: ")
    assert (
        f"Start predicted, though refused: {arms['predicted', 'initial', True].ionic.ratio:.0%} of the ionic"
        in lines[3]
    )
    assert "(too few for an interval: 2 pairs)" in describe_savings(savings)
    assert describe_savings(savings).startswith("From the served structure")  # some are polished
    row = next(row for row in build_table(screen, [], outcomes).rows if row.id == "Cu")
    shown = (row.steps_from_polished, row.steps_from_predicted, row.steps_from_initial)
    assert shown == tuple(steps["Cu", kind] for kind in ("polished", "predicted", "control"))
    with open_screen_stores(settings) as stores, open_outcome_store(settings) as store:
        view = view_screen(stores, store, str(screen.screen_id))
    assert (view.ionic, view.electronic) == (savings.ionic, None)

    jobs = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    jobs.connect()
    items = make_items()
    flow = maker.make([item.structure for item in items], [item.id for item in items])
    local = run_flow_locally(flow, jobs, tmp_path / "flow", None)
    again = ScreenDoc.model_validate(jobs.get_output(flow.output.uuid, load=True))
    assert (local.failures, list_kinds(again), again.counts) == ([], ALL_STARTS, screen.counts)
    assert again.screen_id == screen.screen_id


@pytest.mark.slow
@pytest.mark.usefixtures("table")
def test_a_screen_without_prediction_starts_at_the_initial_structures(
    settings: E3RelaxSettings, tmp_path: Path
) -> None:
    """Refusals do not matter to it; the arm shows what prediction would have saved."""
    maker = ScreenMaker(prerelax=None, engine=EmtEngine(), arms={"predicted": 1}, on_refuse="skip")
    assert (maker.served, maker.prerelax.model) == ("initial", "default")
    screen = run_here(settings, maker, tmp_path / "jobs")
    accepted = ["control", "predicted"]
    assert list_kinds(screen) == {"Cu": accepted, "Ag": accepted, "Pt": ["initial", "predicted"]}
    assert (screen.served, screen.control) == ("initial", 0.0)
    # its outcomes are those of the arms of another screen
    other = run_here(settings, ScreenMaker(engine=EmtEngine(), control=1), tmp_path / "other")
    reused = {(str(one.start_kind), one.reused) for row in other.candidates for one in row.outcomes}
    assert reused == {("polished", False), ("control", True), ("initial", True)}
    assert other.screen_id != screen.screen_id


@pytest.mark.usefixtures("table")
def test_the_short_form_is_the_same_screen_and_old_ones_are_read(settings: E3RelaxSettings) -> None:
    first = register(settings, ScreenMaker(engine=EmtEngine(), control=0.3))
    assert register(settings, ScreenMaker(engine=EmtEngine(), arms={"initial": 0.3})) == first
    assert register(settings, ScreenMaker(engine=EmtEngine(), arms={"initial": 0.3, "predicted": 0})) == first
    assert register(settings, ScreenMaker(engine=EmtEngine(), arms={"initial": 0.3, "predicted": 0.3})) != first
    with open_screen_stores(settings) as stores:
        raw = stores.screens.query_one({"screen_id": first})
        for name in ("arms", "served"):
            del raw[name], raw["maker"][name]
        old = ScreenDoc.model_validate(raw)
        stores.screens.update([raw])
        assert load_screen(stores, first).arms == {"initial": 0.3}
    assert (old.arms, old.served, old.described_arms) == ({"initial": 0.3}, "predicted", "initial 0.3")
    assert read_maker(old).rules.arms == {"initial": 0.3}


def test_arms_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"arms .*polished, .*second_opinion"):
        ScreenMaker(engine=EmtEngine(), arms={"polished": 0.1})
    with pytest.raises(ConfigError, match="unknown arm 'relaxed'"):
        ScreenMaker(engine=EmtEngine(), arms={"relaxed": 0.1})
    with pytest.raises(ConfigError, match=r"0\.5 .*\{'initial': 0\.1\}; .*\{initial: 0\.5\}"):
        ScreenMaker(engine=EmtEngine(), control=0.5, arms={"initial": 0.1})
    config = ScreenConfig.model_validate(
        {"inputs": ["a"], "engine": "emt", "arms": {"predicted": 0.2}, "prerelax": "none"}
    )
    assert (config.arms, config.prerelax) == ({"predicted": 0.2}, "none")
    maker = ScreenMaker.from_dict(ScreenMaker(engine=EmtEngine(), arms={"predicted": 0.2}, served="initial").as_dict())
    assert (maker.rules.arms, maker.rules.served) == ({"predicted": 0.2}, "initial")
