"""Claims: one of many holds it; free again when it expires, when its process is gone, when the work is over."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import pytest

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import ClaimDoc, find_claims, is_live, open_claim_store, release_claims, take_claim
from e3relax_flows.ledger.store import open_outcome_store


@pytest.fixture(params=["sqlite", pytest.param("mongo", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, settings: E3RelaxSettings) -> E3RelaxSettings:
    """Settings with embedded outcomes, and with outcomes on a server."""
    if request.param == "sqlite":
        return settings
    spec = request.getfixturevalue("database")
    return settings.model_copy(update={"OUTCOME_STORE": {**spec, "collection_name": "mine"}})


def find_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_claim_has_one_holder_until_it_is_free(place: E3RelaxSettings) -> None:
    def claim(owner: str, **fields: object) -> ClaimDoc:
        return ClaimDoc(claim_id="x", owner=owner, **fields)

    with open_claim_store(place) as store:
        assert take_claim(store, claim("a", manager="fireworks")) is None
        assert take_claim(store, claim("a", manager="fireworks")) is None  # launched again
        holder = take_claim(store, claim("b"))
        assert holder is not None
        assert (holder.owner, holder.pid, holder.manager) == ("a", os.getpid(), "fireworks")
        assert "a on " in holder.describe()
        # given back by whoever does not hold it: nothing
        release_claims(store, ["x"], "b")
        assert take_claim(store, claim("b")) is not None
        release_claims(store, ["x"], "a")
        assert take_claim(store, claim("b", expires_at=time.time() - 1)) is None
        assert not is_live(find_claims(store)["x"])
        assert take_claim(store, claim("c", pid=find_dead_process())) is None  # b's had expired
        assert not is_live(find_claims(store, ["x"])["x"])
        assert take_claim(store, claim("d", pid=find_dead_process(), manager="fireworks")) is None  # c has died
        # a manager carries on with what a dead process had begun
        assert is_live(find_claims(store)["x"])
        assert take_claim(store, claim("e")).owner == "d"
        assert take_claim(store, claim("e"), over="c").owner == "d"
        assert take_claim(store, claim("e"), over="d") is None
        assert take_claim(store, claim("f", host="elsewhere", pid=1)).owner == "e"
    with open_outcome_store(place) as outcomes:
        assert outcomes.count() == 0
        assert outcomes.name.endswith("mine" if place.OUTCOME_STORE else "outcomes")


def test_a_process_elsewhere_is_not_taken_for_dead(settings: E3RelaxSettings) -> None:
    with open_claim_store(settings) as store:
        assert take_claim(store, ClaimDoc(claim_id="x", owner="a", host="elsewhere", pid=find_dead_process())) is None
        assert take_claim(store, ClaimDoc(claim_id="x", owner="b")).owner == "a"


def test_of_many_at_the_same_moment_one_has_it(place: E3RelaxSettings) -> None:
    """Both for a new claim and for one that has expired."""
    won: dict[str, list[str]] = {"new": [], "old": []}
    start = threading.Barrier(4)
    with open_claim_store(place) as store:
        take_claim(store, ClaimDoc(claim_id="old", owner="gone", expires_at=1.0))

    def work(owner: str) -> None:
        with open_claim_store(place) as store:
            start.wait()
            for name, winners in won.items():
                if take_claim(store, ClaimDoc(claim_id=name, owner=owner)) is None:
                    winners.append(owner)

    threads = [threading.Thread(target=work, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: len(winners) for name, winners in won.items()} == {"new": 1, "old": 1}
    with open_claim_store(place) as store:
        assert {name: claim.owner for name, claim in find_claims(store).items()} == {
            name: winners[0] for name, winners in won.items()
        }


def test_a_store_that_cannot_write_atomically_is_named(
    settings: E3RelaxSettings, caplog: pytest.LogCaptureFixture
) -> None:
    inner = {"type": "MemoryStore", "collection_name": "inner"}
    spec = {"type": "AliasingStore", "store": inner, "aliases": {"a": "b"}}
    with open_claim_store(settings.model_copy(update={"OUTCOME_STORE": spec})) as store:
        assert take_claim(store, ClaimDoc(claim_id="one", owner="a")) is None
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("e3relax_flows.ledger.claims", "WARNING")
