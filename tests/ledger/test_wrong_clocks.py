"""Hosts whose clocks are wrong by hours: claims go by the server's clock, recovery by pings that change."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger import claims
from e3relax_flows.ledger.claims import ClaimDoc, find_claims, open_claim_store, read_clock, take_claim

HOURS = 3600.0


@pytest.fixture
def on_server(database: dict[str, Any], settings: E3RelaxSettings) -> E3RelaxSettings:
    """Settings with outcomes, and thus claims, on a server, whose clock is right."""
    return settings.model_copy(update={"OUTCOME_STORE": {**database, "collection_name": "mine"}})


def set_clock(monkeypatch: pytest.MonkeyPatch, wrong_by: float) -> None:
    clock = SimpleNamespace(time=lambda: time.time() + wrong_by, strftime=time.strftime, localtime=time.localtime)
    monkeypatch.setattr(claims, "time", clock)


def make_claim(owner: str) -> ClaimDoc:
    """A claim of half an hour, by the clock of this host."""
    now = claims.time.time()
    return ClaimDoc(claim_id="x", owner=owner, manager="m", host="far", claimed_at=now, expires_at=now + HOURS / 2)


@pytest.mark.parametrize("holder", [-6 * HOURS, 0.0, 6 * HOURS])
@pytest.mark.parametrize("taker", [-6 * HOURS, 0.0, 6 * HOURS])
def test_a_claim_is_held_whatever_the_clocks_say(
    on_server: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch, holder: float, taker: float
) -> None:
    with open_claim_store(on_server) as store:
        set_clock(monkeypatch, holder)
        assert take_claim(store, make_claim("a")) is None
        found = find_claims(store)["x"]
        assert found.claimed_at == pytest.approx(time.time(), abs=60)
        assert found.expires_at == pytest.approx(time.time() + HOURS / 2, abs=60)
        set_clock(monkeypatch, taker)
        refused = take_claim(store, make_claim("b"))
        assert refused is not None
        assert refused.owner == "a"
        # what was over by the server's clock is free for all
        store.update([{**found.model_dump(), "expires_at": time.time() - 1}])
        assert take_claim(store, make_claim("b")) is None


def test_the_clock_is_that_of_the_server(
    on_server: E3RelaxSettings, settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, 6 * HOURS)
    with open_claim_store(on_server) as store:
        assert read_clock(store) == pytest.approx(time.time(), abs=60)
    with open_claim_store(settings) as store:  # embedded: the host is the same for all
        assert read_clock(store) == pytest.approx(time.time() + 6 * HOURS, abs=60)
