"""Fixtures of more than one package: settings in a folder of their own, a predictor without a network."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from browser import browser, open_page  # noqa: F401
from fake_vasp import fake_vasp  # noqa: F401
from made_documents import make_model, make_outcome, make_prediction  # noqa: F401
from pymatgen.symmetry.groups import SpaceGroup
from remote_manager import sent  # noqa: F401
from servers import database, server  # noqa: F401

from e3relax_flows.core.model_folders import CONFIG_FILE, FORMAT_VERSION, WEIGHTS_FILE, read_model_folder
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.engines.registry import unregister_engine
from e3relax_flows.testing import EMT_LATTICES, TablePredictor

os.environ.pop("COLUMNS", None)  # pytest-xdist sets it, and tables would become as narrow


SPACE_GROUPS: dict[int, Any] = {}
_make_space_group = SpaceGroup.__new__


def _keep_space_group(*arguments: Any, **options: Any) -> Any:
    """Keep what pymatgen forgets with its last crystal: finding a group's operations takes up to a second."""
    group = _make_space_group(*arguments, **options)
    return SPACE_GROUPS.setdefault(id(group), group)


SpaceGroup.__new__ = _keep_space_group

# What runs a whole cluster on this machine, command by command from the pages, or kills its workers again and again.
CLUSTER_PLACES = (
    "places/test_cluster_tutorial.py",
    "places/test_faults_workers.py",
    "places/test_remote_campaign.py",
    "places/test_remote_slurm.py",
    "places/test_remote_tutorial.py",
    "places/test_slurm.py",
)
# What starts servers, browsers, trainings, potentials or processes by the dozen: `make test-fast` leaves it out.
SLOW_FIXTURES = {"server", "browser", "open_page"}
SLOW_PLACES = (
    *CLUSTER_PLACES,
    "benchmarks",
    "campaigns/test_campaign.py",
    "campaigns/test_campaign_faults.py",
    "campaigns/test_remote_campaigns.py",
    "candidates/test_aflow.py",
    "cli/test_campaign_command.py",
    "cli/test_campaign_script.py",
    "cli/test_label_script.py",
    "cli/test_report_command.py",
    "cli/test_retrain_command.py",
    "cli/test_train_commands.py",
    "cli/test_workflows.py",
    "core/test_secrets.py",
    "docs",
    "engines/test_gpaw_engine.py",
    "engines/test_in_step.py",
    "engines/test_mlip_engine.py",
    "engines/test_potentials.py",
    "engines/test_sevennet_batches.py",
    "pairs/test_built_pairs.py",
    "places/test_campaign_workers.py",
    "places/test_faults_server.py",
    "places/test_recovery.py",
    "places/test_stopped_training.py",
    "prerelax/test_chunk.py",
    "report/test_screen_page_in_browser.py",
    "retraining",
    "screening/test_chunked_screens.py",
    "screening/test_faults.py",
    "screening/test_local_screens.py",
    "screening/test_screen_network.py",
    "stores/test_durability.py",
    "train/test_checkpoint.py",
    "train/test_distributed.py",
    "train/test_finetune.py",
    "train/test_launcher.py",
    "train/test_loop.py",
    "test_packaging.py",
    "test_readme.py",
)
TESTS = Path(__file__).parent


# By the expression after -m: which files need not even be loaded.
LEFT_OUT = {"not slow": SLOW_PLACES, "not cluster": CLUSTER_PLACES}


def is_in(path: Path, places: tuple[str, ...]) -> bool:
    name = path.relative_to(TESTS).as_posix()
    return any(name == place or name.startswith(f"{place}/") for place in places)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    expression = config.getoption("markexpr")
    if not collection_path.is_relative_to(TESTS):
        return None
    if expression == "cluster" and collection_path.name.startswith("test_"):
        return not is_in(collection_path, CLUSTER_PLACES) or None
    return is_in(collection_path, LEFT_OUT.get(expression, ())) or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if is_in(item.path, CLUSTER_PLACES):
            item.add_marker(pytest.mark.cluster)
        if is_in(item.path, SLOW_PLACES) or SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
    # the long files first, so that processes end together
    items.sort(key=lambda item: not is_in(item.path, SLOW_PLACES))


@pytest.fixture(autouse=True)
def forget_engines() -> Iterator[None]:
    """The engine "emt" is known for one test only."""
    yield
    unregister_engine("emt")


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """The root logger as it was: maggma's builders give it a handler and a level, and leave them."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> E3RelaxSettings:
    """Settings of this test alone: an empty data folder, no configuration file, the working directory apart."""
    monkeypatch.setenv("E3RELAX_CONFIG_FILE", str(tmp_path / "none.yaml"))
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "absent_jobflow.yaml"))
    monkeypatch.setenv("E3RELAX_DATA_DIR", str(tmp_path / "data"))
    for name in ("MODEL", "DEVICE", "PREDICTION_STORE", "OUTCOME_STORE", "PAIR_STORE", "MODEL_STORE", "WEIGHTS_STORE"):
        monkeypatch.delenv(f"E3RELAX_{name}", raising=False)
    monkeypatch.chdir(tmp_path)
    return load_settings()


@pytest.fixture
def predictor(settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch) -> TablePredictor:
    """The default model of the settings is a `TablePredictor` that knows EMT's lattices to half a percent.

    The module of the real one is replaced, so that no torch is loaded by a worker that only runs flows.
    """
    folder = settings.DATA_DIR / "models" / "table"
    folder.mkdir(parents=True)
    (folder / CONFIG_FILE).write_text(f'{{"format_version": {FORMAT_VERSION}}}')
    (folder / WEIGHTS_FILE).write_bytes(b"none")
    monkeypatch.setenv("E3RELAX_MODEL", "table")
    volumes = {element: (1.005 * a) ** 3 / 4 for element, a in EMT_LATTICES.items()}
    table = TablePredictor(read_model_folder(folder).model_id, volumes)

    def load(model: str, device: str) -> Any:
        assert (model, device) == (str(folder), "auto")
        return table

    module = SimpleNamespace(Predictor=SimpleNamespace(load=load))
    monkeypatch.setitem(sys.modules, "e3relax_flows.predict.predictor", module)
    return table
