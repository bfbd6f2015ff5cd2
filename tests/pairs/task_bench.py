"""Stores in memory with task documents, and the builder of pairs over them."""

from __future__ import annotations

from typing import Any

from maggma.stores import MemoryStore
from pymatgen.core import Structure
from task_documents import MINIMUM, build_salt, job_document

from e3relax_flows.core.ids import identify_structure
from e3relax_flows.engines.task_reader import TaskReader
from e3relax_flows.pairs.builder import PairBuilder
from e3relax_flows.schemas.pairs import BuildRecord, PairDoc
from e3relax_flows.schemas.predictions import PredictionDoc, PredictOptions, Verdict, identify_prediction

RAW, PREDICTED, NEAR, RELAXED = build_salt(5.9), build_salt(5.65), build_salt(5.63), build_salt(MINIMUM)


class Bench:
    """Stores in memory, and the builder over them."""

    def __init__(self) -> None:
        self.tasks, self.pairs, self.records = MemoryStore(), MemoryStore(), MemoryStore()
        self.predictions = MemoryStore(key="prediction_id")
        self.tasks.key = "uuid"
        for store in (self.tasks, self.pairs, self.records, self.predictions):
            store.connect()

    def add(self, output: Any, uuid: str, minute: int = 0, **more: Any) -> None:
        self.tasks.update([job_document(output, uuid, minute, **more)], key=["uuid", "index"])

    def build(self, **options: Any) -> dict[str, int]:
        builder = PairBuilder(
            self.pairs, self.records, self.tasks, TaskReader(), predictions=self.predictions, **options
        )
        builder.connect()
        builder.update_targets([builder.process_item(item) for item in builder.get_items()])
        return dict(builder.counts)

    def list_pairs(self) -> list[PairDoc]:
        found = [PairDoc.model_validate(raw | {"_id": None}) for raw in self.pairs.query({})]
        return sorted(found, key=lambda pair: pair.origin_id)

    def list_records(self) -> dict[str, BuildRecord]:
        return {raw["origin_id"]: BuildRecord.model_validate(raw) for raw in self.records.query({})}


def predict(initial: Structure = RAW, predicted: Structure = PREDICTED, **update: Any) -> PredictionDoc:
    structure_id = identify_structure(initial)
    content = {
        "prediction_id": identify_prediction(structure_id, "m-1", PredictOptions()),
        "structure_id": structure_id,
        "initial": initial,
        "structure": predicted,
        "verdict": Verdict.ACCEPT,
        "model_id": "m-1",
        "options": PredictOptions(),
    }
    return PredictionDoc(**(content | update))


def a_of(structure: Structure) -> float:
    """Lattice constant of the conventional cell, Å."""
    return float((4 * structure.volume) ** (1 / 3))
