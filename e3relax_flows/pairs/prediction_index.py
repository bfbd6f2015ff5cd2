"""Find predictions by the start of a relaxation (formula and volume), or by its flow."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from maggma.core import Store
from pymatgen.core import Composition

from e3relax_flows.ledger.store import find_predictions
from e3relax_flows.pairs.chains import SAME_VOLUME
from e3relax_flows.schemas.predictions import PredictionDoc, Verdict

FIELDS = ("prediction_id", "verdict", "hosts", "structure.lattice.matrix", "structure.sites.species.element")


@dataclass(frozen=True, slots=True)
class _Entry:
    prediction_id: str
    formula: str
    n_sites: int
    volume: float
    is_accepted: bool


class PredictionIndex:
    """Some 300 bytes of every prediction of a store, read in one pass when first needed.

    Parameters
    ----------
    store
        Of predictions, connected; None: there are no predictions.
    """

    def __init__(self, store: Store | None) -> None:
        self._store = store
        self._entries: dict[str, _Entry] | None = None
        self._by_formula: dict[tuple[str, int], list[_Entry]] = defaultdict(list)
        self._direct: dict[str, list[str]] = defaultdict(list)
        self._around: dict[str, list[str]] = defaultdict(list)
        self.count = 0 if store is None else store.count()

    def find_similar(self, formula: str, n_sites: int, volumes: Iterable[float]) -> list[str]:
        """Ids of accepted predictions of a reduced formula whose predicted volume is one of `volumes`, Å^3."""
        self._read()
        wanted = list(volumes)
        return [
            entry.prediction_id
            for entry in self._by_formula.get((formula, n_sites), ())
            if entry.is_accepted and any(abs(entry.volume / volume - 1) <= SAME_VOLUME for volume in wanted)
        ]

    def find_by_hosts(self, hosts: Sequence[str], formula: str, n_sites: int) -> list[str]:
        """Ids of the predictions of a formula whose job was in the flow of a calculation with these hosts."""
        self._read()
        entries = self._entries or {}
        ids = [id for host in hosts for id in self._direct.get(host, ())]
        ids += [id for host in hosts[:1] for id in self._around.get(host, ())]
        return [id for id in dict.fromkeys(ids) if (entries[id].formula, entries[id].n_sites) == (formula, n_sites)]

    def is_of(self, prediction_id: str, formula: str, n_sites: int) -> bool | None:
        """Whether a prediction is of a formula; None if it is not in the store."""
        self._read()
        entry = (self._entries or {}).get(prediction_id)
        return None if entry is None else (entry.formula, entry.n_sites) == (formula, n_sites)

    def load(self, ids: Iterable[str]) -> dict[str, PredictionDoc]:
        """The stored predictions of these ids."""
        return {} if self._store is None else find_predictions(self._store, ids)

    def _read(self) -> None:
        if self._entries is not None:
            return
        self._entries = {}
        if self._store is None:
            return
        for raw in self._store.query({}, list(FIELDS)):
            entry = _read_entry(raw)
            self._entries[entry.prediction_id] = entry
            self._by_formula[entry.formula, entry.n_sites].append(entry)
            hosts = raw.get("hosts") or []
            for host in hosts[:1]:
                self._direct[host].append(entry.prediction_id)
            for host in hosts[1:]:
                self._around[host].append(entry.prediction_id)


def _read_entry(raw: Mapping[str, Any]) -> _Entry:
    structure = raw.get("structure") or {}
    sites = structure.get("sites") or []
    elements = Counter(specie["element"] for site in sites for specie in site.get("species") or [])
    matrix = (structure.get("lattice") or {}).get("matrix")
    volume = abs(float(np.linalg.det(np.array(matrix, dtype=float)))) if matrix else float("nan")
    formula = Composition(elements).reduced_formula if elements else ""
    return _Entry(raw["prediction_id"], formula, len(sites), volume, raw.get("verdict") == Verdict.ACCEPT)
