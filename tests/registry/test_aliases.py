"""Aliases move with a reason and a history, go back step by step, and never by two movers at once."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading

import pytest

from e3relax_flows.core.errors import ModelError, StoreError
from e3relax_flows.core.model_folders import WEIGHTS_FILE, find_model
from e3relax_flows.registry import aliases as promotion
from e3relax_flows.registry.aliases import list_active, plan_promotion, plan_rollback, promote, rollback
from e3relax_flows.registry.models import register_model, resolve_model
from e3relax_flows.registry.store import find_alias, list_aliases

BUNDLED_ID = find_model("default").model_id

# promotes the model of its argument, provided that the alias was never moved
PROMOTER = """
import sys
from e3relax_flows.core.errors import StoreError
from e3relax_flows.registry.aliases import promote
print("ready", flush=True)
sys.stdin.readline()
try:
    promote("default", sys.argv[1], "I was first", expected=-1)
    print("won")
except StoreError as error:
    print("lost")
"""


@pytest.fixture
def models(settings, make_model):
    """Ids of three registered models."""
    return [register_model(make_model(f"m{seed}", seed), settings).model_id for seed in range(3)]


def test_a_move_is_kept_with_its_reason_and_logged(settings, models, caplog):
    with caplog.at_level(logging.INFO, "e3relax_flows.registry"):
        document = promote("default", models[0], "half the error on oxides", gate_id="gate-1", settings=settings)
    (record,) = caplog.records
    assert {"default", models[0], BUNDLED_ID, "half the error on oxides"} <= set(record.args)
    assert find_alias("default", settings) == document
    assert (document.model_id, document.version) == (models[0], 1)
    (move,) = document.history
    assert (move.model_id, move.previous_id) == (models[0], BUNDLED_ID)
    assert (move.reason, move.gate_id, move.rollback) == ("half the error on oxides", "gate-1", False)
    assert resolve_model("default", settings).model_id == models[0]
    second = promote("default", models[1], "again", settings=settings)
    assert second.history[0] == move
    assert (second.history[1].previous_id, second.version) == (models[0], 2)


def test_a_model_that_is_meant_already_is_not_moved_to(settings, models):
    first = promote("default", models[0], "a", settings=settings)
    # a job that is run again after it has promoted expects what was before
    assert promote("default", models[0], "a again", expected=-1, settings=settings) == first
    assert find_alias("default", settings).version == 1


def test_rolling_back_goes_further_each_time(settings, models):
    for model_id in models:
        promote("default", model_id, f"promote {model_id}", settings=settings)
    means = [rollback("default", f"back {n}", settings).model_id for n in range(3)]
    assert means == [models[1], models[0], BUNDLED_ID]
    with pytest.raises(ModelError, match=r"'default' .*`e3relax models history --alias default`"):
        rollback("default", "once more", settings)
    document = find_alias("default", settings)
    assert document.version == 6
    assert [move.rollback for move in document.history] == [False] * 3 + [True] * 3
    assert [move.previous_id for move in document.history] == [BUNDLED_ID, models[0], models[1], *reversed(models)]
    assert list_active(document) == []


def test_a_promotion_after_a_rollback_stands_on_what_stood(settings, models):
    promote("default", models[0], "a", settings=settings)
    promote("default", models[1], "b", settings=settings)
    assert rollback("default", "b is bad", settings).model_id == models[0]
    promote("default", models[2], "c", settings=settings)
    assert rollback("default", "c is bad", settings).model_id == models[0]  # not b, which was rolled back
    assert rollback("default", "a is bad, too", settings).model_id == BUNDLED_ID
    promote("default", models[1], "b was good", settings=settings)
    assert rollback("default", "it was not", settings).model_id == BUNDLED_ID


def test_an_alias_of_ones_own_ends_at_its_first_model(settings, models):
    with pytest.raises(ModelError, match=r"'oxides' .*`e3relax models promote`"):
        rollback("oxides", "why not", settings)
    with pytest.raises(ModelError, match=r"'default' .* base; .*`e3relax models promote`"):
        rollback("default", "why not", settings)
    promote("oxides", models[0], "a", settings=settings)
    assert find_alias("oxides", settings).history[0].previous_id is None
    promote("oxides", BUNDLED_ID, "the bundled one", settings=settings)
    assert resolve_model("oxides", settings) == find_model("default")
    assert rollback("oxides", "no", settings).model_id == models[0]
    with pytest.raises(ModelError, match=rf"'oxides' .* {models[0]}; .*--alias oxides"):
        rollback("oxides", "no", settings)
    assert [doc.name for doc in list_aliases(settings)] == ["oxides"]
    assert find_alias("oxides", settings).version == 3


def test_what_cannot_be_promoted_is_refused(settings, models, make_model):
    unregistered = make_model("loose", 9)
    with pytest.raises(ModelError, match=rf"'{unregistered.model_id}' .*`e3relax models import FOLDER`"):
        promote("default", unregistered.model_id, "a", settings=settings)
    with pytest.raises(ModelError, match="--reason TEXT"):
        promote("default", models[0], "  ", settings=settings)
    for name in ("m1", "small"):
        with pytest.raises(ModelError, match=f"'{name}' is the name of a model"):
            promote(name, models[0], "a", settings=settings)
    for name in (models[0], "deadbeef", "a b", "../x", ""):
        with pytest.raises(ModelError, match=rf"^'{name}' .*'\.', '_', '-'"):
            promote(name, models[0], "a", settings=settings)
    assert list_aliases(settings) == []


def test_a_rollback_to_damaged_files_is_refused(settings, models):
    promote("default", models[0], "a", settings=settings)
    promote("default", models[1], "b", settings=settings)
    (settings.DATA_DIR / "models" / models[0] / WEIGHTS_FILE).write_bytes(b"?")
    with pytest.raises(
        ModelError, match=rf"/{models[0]} .* m0 \({models[0]}\): .* [0-9a-f]{{16}}, .*models import FOLDER"
    ):
        rollback("default", "b is bad", settings)
    assert find_alias("default", settings).model_id == models[1]


def test_plans_move_nothing(settings, models):
    document, is_move = plan_promotion("default", models[0], "a", None, None, settings)
    assert (document.model_id, document.version, is_move) == (models[0], 1, True)
    assert find_alias("default", settings) is None
    promote("default", models[0], "a", settings=settings)
    assert plan_rollback("default", "b", settings).model_id == BUNDLED_ID
    assert find_alias("default", settings).model_id == models[0]


def test_an_alias_that_was_looked_up_must_not_have_moved(settings, models):
    promote("default", models[0], "a", expected=-1, settings=settings)
    promote("default", models[1], "b", expected=1, settings=settings)
    for stale in (-1, 1, 3):
        with pytest.raises(StoreError, match=rf"'default' .* {stale} .* 2, .* {models[1]}; .*models history"):
            promote("default", models[2], "c", expected=stale, settings=settings)
    assert find_alias("default", settings).version == 2


def race(movers, monkeypatch):
    """Let movers plan, wait for each other, and write; what they got or what they were told."""
    barrier, results = threading.Barrier(len(movers)), []
    write = promotion._store

    def wait_and_write(document, settings):
        barrier.wait(timeout=30)
        write(document, settings)

    def work(move):
        try:
            results.append(move())
        except StoreError as error:
            results.append(str(error))

    with monkeypatch.context() as patch:
        patch.setattr(promotion, "_store", wait_and_write)
        threads = [threading.Thread(target=work, args=(move,)) for move in movers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return results


def check_one_wins(settings, models, monkeypatch):
    """The first move of an alias, and a later one against a rollback: always exactly one mover wins."""
    movers = [lambda m=m: promote("default", m, f"for {m}", settings=settings) for m in models]
    losses = [result for result in race(movers, monkeypatch) if isinstance(result, str)]
    assert len(losses) == 2
    assert all("was moved by another process" in loss and "`e3relax models history" in loss for loss in losses)
    document = find_alias("default", settings)
    assert document.version == len(document.history) == 1
    others = [m for m in models if m != document.model_id]
    movers = [lambda m=m: promote("default", m, f"for {m}", settings=settings) for m in others]
    movers.append(lambda: rollback("default", "no", settings))
    results = race(movers, monkeypatch)
    (winner,) = [result for result in results if not isinstance(result, str)]
    assert find_alias("default", settings) == winner
    assert (winner.version, len(winner.history)) == (2, 2)


def test_of_threads_that_move_at_once_one_wins(settings, models, monkeypatch):
    check_one_wins(settings, models, monkeypatch)


@pytest.mark.slow
def test_of_processes_that_promote_at_once_one_wins(settings, models):
    environment = {**os.environ, "E3RELAX_DATA_DIR": str(settings.DATA_DIR)}
    children = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTER, model_id],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for model_id in models[:2]
    ]
    for child in children:
        assert child.stdout.readline() == "ready\n"
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    words = [child.communicate(timeout=120)[0].strip() for child in children]
    assert sorted(words) == ["lost", "won"], words
    document = find_alias("default", settings)
    assert (document.model_id, document.version) == (models[words.index("won")], 1)


def test_the_history_is_plain_json(settings, models):
    promote("default", models[0], "a", settings=settings)
    content = json.loads(find_alias("default", settings).model_dump_json())
    assert content["history"][0]["model_id"] == models[0]
    assert content["history"][0]["moved_at"].endswith("Z")
