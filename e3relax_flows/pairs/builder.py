"""PairBuilder: maggma's way to keep the store of pairs up to date with the results of relaxations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from maggma.core import Builder, Store

from e3relax_flows.core.errors import ConfigError
from e3relax_flows.pairs.making import LeftOutError, pair_outcome
from e3relax_flows.pairs.prediction_index import PredictionIndex
from e3relax_flows.pairs.sources import (
    BuiltBefore,
    LabelSource,
    OutcomeDocuments,
    TaskSource,
    iter_outcomes,
    list_covered,
)
from e3relax_flows.pairs.store import PairStores, PairWriter, find_records
from e3relax_flows.pairs.tasks import BuiltPair, TaskDocuments, TaskReader, build_task_pairs, record_failure
from e3relax_flows.schemas.pairs import BuildRecord, LeftOut

Item = OutcomeDocuments | TaskDocuments
BuiltItem = tuple[list[str], list[BuiltPair]]  # jobs that were read, and the result for each


@dataclass(eq=False, repr=False)
class PairBuilder(Builder):
    """Build pairs from a job store and from our own outcomes, each calculation once.

    A second run reads the lists of jobs and outcomes and writes nothing. A calculation that was run again replaces its
    pair. A relaxation that began at a prediction gets the initial structure of that prediction; if it cannot be
    found there is no pair. Run it with `mrun`, or with `e3relax data build`.

    Parameters
    ----------
    pairs, records
        Stores of pairs, and of the result for every calculation.
    tasks
        jobflow's store or a store of emmet's task documents; none: outcomes only.
    reader
        Reads task documents, such as `e3relax_flows.TaskReader()`; needed with `tasks`.
    predictions
        The prediction store; without it, relaxations that began at a prediction have no pair.
    outcomes
        The outcome store; jobs that it names are not read again from `tasks`.
    source
        Name of the source of the pairs; None: screen for outcomes, tasks for others.
    rebuild
        Whether to rebuild pairs that were built before.
    is_dry
        Whether to count only, and write nothing.
    chunk_size
        Flows whose pairs are written at once.

    Examples
    --------
    >>> from maggma.stores import MemoryStore
    >>> from e3relax_flows import PairBuilder, TaskReader
    >>> PairBuilder(MemoryStore(), MemoryStore(), tasks=MemoryStore(), reader=TaskReader()).run()
    """

    pairs: Store
    records: Store
    tasks: Store | None = None
    reader: TaskReader | None = None
    predictions: Store | None = None
    outcomes: Store | None = None
    source: str | None = None
    rebuild: bool = False
    is_dry: bool = False
    chunk_size: int = 100

    def __post_init__(self) -> None:
        """Report maggma which stores are read and written.

        Raises
        ------
        ConfigError
            When there is nothing to read, or no reader of it.
        """
        if self.tasks is None and self.outcomes is None:
            raise ConfigError("there are no relaxations to build pairs from; give `tasks`, `outcomes` or both")
        if self.tasks is not None and self.reader is None:
            raise ConfigError("task documents need a reader; give e3relax_flows.TaskReader()")
        self.pairs.key, self.records.key = "pair_id", "origin_id"
        given = [store for store in (self.tasks, self.predictions, self.outcomes) if store is not None]
        super().__init__(sources=given, targets=[self.pairs, self.records], chunk_size=self.chunk_size)
        self._writer = PairWriter(PairStores(self.pairs, self.records), self.is_dry)
        self._before: BuiltBefore | None = None

    @property
    def counts(self) -> Counter[str]:
        """Calculations of this run by their result: new, replaced, unchanged, or the reason why they were left out."""
        return self._writer.counts

    def connect(self) -> None:
        """Connect all stores and index them."""
        super().connect()
        self.pairs.ensure_index("pair_id", unique=True)
        self.records.ensure_index("origin_id", unique=True)
        if self.tasks is not None:
            self.tasks.ensure_index("uuid")

    def get_items(self) -> Iterator[Item]:
        """Items that were not built before: outcomes, then the flows of other jobs, with their predictions."""
        index = PredictionIndex(self.predictions)
        before = BuiltBefore(self.records, index.count, ignore=self.rebuild)
        self._before = before
        covered: set[str] = set()
        jobs = (self.tasks, self.reader) if self.tasks is not None and self.reader is not None else None
        if self.outcomes is not None:
            covered = list_covered(self.outcomes)
            labels = LabelSource(*jobs) if jobs is not None else None
            yield from iter_outcomes(self.outcomes, index, before, self.source, labels=labels)
        if jobs is not None:
            yield from TaskSource(*jobs, index, covered).iterate(before, self.source)

    def process_item(self, item: Item) -> BuiltItem:
        """Make the pairs of an outcome or of a flow; no store is used."""
        if isinstance(item, OutcomeDocuments):
            return [], [build_outcome_pair(item)]
        try:
            built = build_task_pairs(item, self.reader)  # type: ignore[arg-type]
        except Exception as error:  # an error in one flow does not affect the others
            built = [record_failure(item, error)]
        return item.unit.uuids, built

    def update_targets(self, items: list[BuiltItem]) -> None:
        """Write pairs and records; unchanged ones are not written."""
        looked_at = [uuid for uuids, _ in items for uuid in uuids]
        built = [self._mark(pair) for _, pairs in items for pair in pairs]
        self._writer.write([*built, *self._absorb(looked_at, built)])

    def _mark(self, built: BuiltPair) -> BuiltPair:
        """Add further inputs of the result to the fingerprint."""
        if built.record.reason is LeftOut.START_UNKNOWN and self._before is not None:
            built.record.fingerprint = self._before.mark_unknown(built.record.fingerprint)
        return built

    def _absorb(self, looked_at: Sequence[str], built: Sequence[BuiltPair]) -> list[BuiltPair]:
        """Records of jobs that were separate calculations before, and are now a part of others."""
        parts = {uuid: item.record for item in built for uuid in item.record.job_uuids}
        own = {item.record.origin_id for item in built}
        stale = find_records(self.records, [uuid for uuid in looked_at if uuid not in own])
        return [
            BuiltPair(
                BuildRecord(
                    origin_id=uuid,
                    fingerprint=parts[uuid].fingerprint,
                    reason=LeftOut.DUPLICATE,
                    message=f"a part of calculation {parts[uuid].origin_id}",
                    source=record.source,
                    job_uuids=[uuid],
                )
            )
            for uuid, record in stale.items()
            if uuid in parts
        ]


def build_outcome_pair(item: OutcomeDocuments) -> BuiltPair:
    """Make the pair of an outcome, or record why there is none."""
    record = BuildRecord(
        origin_id=item.outcome.outcome_id,
        fingerprint=item.fingerprint,
        source=item.source,
        job_uuids=item.outcome.job_uuids,
    )
    try:
        pair = pair_outcome(item.outcome, item.prediction, item.source)
    except LeftOutError as error:
        record.reason, record.message = error.reason, str(error)
        return BuiltPair(record)
    except Exception as error:  # an error in one outcome does not affect the others
        record.reason, record.message = LeftOut.UNREADABLE, f"{type(error).__name__}: {error}"
        return BuiltPair(record)
    record.pair_id = pair.pair_id
    return BuiltPair(record, pair)
