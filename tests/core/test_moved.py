"""Documents of the layout with data, driver, flows and jobs are decoded; what they name exists."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from monty.json import MontyDecoder

import e3relax_flows
from e3relax_flows.core.moved import MOVED, PACKAGE
from e3relax_flows.prerelax.predict import PrerelaxMaker
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.stores.decoding import decode_as
from e3relax_flows.stores.sqlite import SQLiteStore
from e3relax_flows.testing import EmtEngine

# a screen's maker as it was stored
OLD_MAKER = json.loads((Path(__file__).resolve().parents[1] / "files" / "layout1" / "screen_maker.json").read_text())
OLD_TASKS = {
    "e3relax_flows.driver.firetask": ("AdvanceTask", "CandidateTask"),
    "e3relax_flows.submit.onetask": ("OnceJobTask",),
}


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_old_paths_are_the_modules_of_today(old: str, new: str) -> None:
    if "launchpad" in new or "one_task" in new:
        pytest.importorskip("fireworks")
    module = importlib.import_module(f"{PACKAGE}.{new}")
    assert importlib.import_module(f"{PACKAGE}.{old}") is module
    assert module.__spec__ is not None
    assert module.__spec__.name == module.__name__ == f"{PACKAGE}.{new}"


def test_a_maker_of_the_old_layout_is_read() -> None:
    maker = decode_as(OLD_MAKER, ScreenMaker, "the maker")
    assert type(maker) is ScreenMaker
    assert (maker.name, maker.control) == ("oxides", 0.25)
    assert type(maker.prerelax) is PrerelaxMaker
    assert type(maker.engine) is EmtEngine
    assert maker.as_dict()["@module"] == "e3relax_flows.screening.maker"


def test_functions_and_stores_of_the_old_layout_are_found(tmp_path) -> None:
    job = MontyDecoder().process_decoded({"@module": "e3relax_flows.jobs.screening", "@callable": "predict_chunk"})
    assert (job.__module__, job.__name__) == ("e3relax_flows.screening.jobs", "predict_chunk")
    spec = {"@module": "e3relax_flows.data.sqlite", "@class": "SQLiteStore", "path": str(tmp_path / "a"),
            "collection_name": "outputs"}  # fmt: skip
    assert type(MontyDecoder().process_decoded(spec)) is SQLiteStore


def test_firetasks_of_the_old_layout_are_loaded() -> None:
    serializers = pytest.importorskip("fireworks.utilities.fw_serializers")
    for module, names in OLD_TASKS.items():
        for name in names:
            task = serializers.load_object(
                {
                    "_fw_name": f"{{{{{module}.{name}}}}}",
                    "screen_id": "s",
                    "row_key": "r",
                    "advance": 0,
                    "job": 0,
                    "store": 0,
                }
            )
            assert type(task).__name__ == name


def test_other_old_paths_stay_unknown() -> None:
    assert callable(e3relax_flows.submit)
    for name in ("data.nothing", "jobs.retrain", "driver.advance"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(f"{PACKAGE}.{name}")
