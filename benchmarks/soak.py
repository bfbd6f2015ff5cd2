"""Soak test: thousands of candidates through workers that are killed at random; the ledger at the end.

`python benchmarks/soak.py --n 5000` starts a server with MongoDB's protocol (SecantusDB, in a process of its own) in a
folder, submits a screen of EMT alloys, and lets two `rlaunch rapidfire` run it. Every `--kill-every` seconds, at a
random moment, a random worker is killed with -9, and a new one started, as a queueing system would. After every
`--recover-after` kills all workers are stopped, and what a user would type is typed: `e3relax screen recover
--workers-stopped`, `e3relax screen resume ID`. At the end nothing may be missing, and nothing relaxed twice: the engine
writes a line when a relaxation begins and another when it has ended.

With `--place remote`, by the Python of an environment with jobflow-remote, a runner has two jobs at work. A kill is one
of a job or of the whole runner, and what is typed is `jf admin unlock`, `e3relax screen resume ID`.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from soak_parts import FireWorksPlace, NotedEngine, Place, count_relaxations, make_candidates

from e3relax_flows import ScreenDoc, ScreenLimits, ScreenMaker, open_workspace, read_screen, submit_screen

LOOK_EVERY_S = 10.0
FINAL = ("successful", "unconverged", "failed", "skipped", "duplicate", "error")


@dataclass
class Soak:
    """A soak that runs, and what was seen of it."""

    place: Place
    screen_id: str
    options: argparse.Namespace
    draw: random.Random
    n_kills: int = 0
    n_recoveries: int = 0
    mended: Counter[str] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)  # ids of outcomes that were once in the store
    started: float = field(default_factory=time.monotonic)

    @property
    def minutes(self) -> float:
        """Since the start."""
        return (time.monotonic() - self.started) / 60

    def run(self) -> None:
        """Kill and recover until every candidate has its final state, or the time is over."""
        self.recover()
        kill_at, last_progress = self._draw_kill(), time.monotonic()
        while self.minutes < self.options.minutes:
            time.sleep(LOOK_EVERY_S)
            with open_workspace() as workspace:
                found = set(workspace.outcomes.distinct("outcome_id"))
            counts = read_screen(self.screen_id).counts
            if found - self.seen:
                last_progress = time.monotonic()
            self._tell(counts, found)
            self.seen |= found
            waiting = any(counts.get(state) for state in ("waiting", "predicted", "planned"))
            if not waiting and sum(counts.get(state, 0) for state in ("submitted", "held")) <= self.options.tail:
                break
            if time.monotonic() > kill_at and self.options.kill_every:
                self.kill_one()
                kill_at = self._draw_kill()
                if self.n_kills % self.options.recover_after == 0:
                    self.recover()
                    last_progress = time.monotonic()
            elif time.monotonic() - last_progress > self.options.patience:
                self.recover()
                last_progress = time.monotonic()
        self.finish()

    def finish(self) -> None:
        """Without more kills: recover and resume until there is nothing to be done."""
        for _ in range(20):
            status = self.place.read_status(self.screen_id)
            if status["phase"] == "finished" or self.minutes > self.options.minutes + 3:
                return
            self.recover()
            self._wait_for_workers()

    def kill_one(self) -> None:
        """Kill something at random, and start what is missing."""
        self.place.kill_one(self.draw)
        self.n_kills += 1
        self.place.start_workers()

    def recover(self) -> None:
        """Stop all workers, type what a user types, start workers again."""
        self.n_kills += self.place.kill_all()
        for line in self.place.recover(self.screen_id):
            count, _, words = line.partition(" ")
            if count.isdigit() and "by themselves" not in line:
                self.mended[words] += int(count)
        self.n_recoveries += 1
        self.place.start_workers()

    def _wait_for_workers(self) -> None:
        """Until nothing is ready and nothing runs, or nothing happens any more."""
        deadline = time.monotonic() + self.options.patience
        while time.monotonic() < deadline:
            time.sleep(2)
            if not self.place.has_work():
                return

    def _draw_kill(self) -> float:
        return time.monotonic() + self.options.kill_every * self.draw.uniform(0.5, 1.5)

    def _tell(self, counts: dict[str, int], found: set[str]) -> None:
        words = ", ".join(f"{count} {state}" for state, count in counts.items())
        print(f"{self.minutes:6.1f} min, {self.n_kills} kills, {len(found)} outcomes: {words}", flush=True)


def submit(place: str, n: int, chunk_size: int, max_in_flight: int | None) -> str:
    """Submit the screen; its id."""
    maker = ScreenMaker(name="soak", engine=NotedEngine(), control=0.1, chunk_size=chunk_size, deduplicate=False)
    progress = submit_screen(maker, make_candidates(n), place, limits=ScreenLimits(max_in_flight=max_in_flight))
    return str(progress.screen.screen_id)


def count_lost(soak: Soak, screen: ScreenDoc) -> dict[str, int]:
    """Documents that were acknowledged and are not there."""
    with open_workspace() as workspace:
        outcome_ids = set(workspace.outcomes.distinct("outcome_id"))
        prediction_ids = set(workspace.predictions.distinct("prediction_id"))
    with soak.place.open_jobs() as store:
        recorded = {
            raw["output"]["outcome_id"]
            for raw in store.query({"name": "e3r outcome"}, ["output.outcome_id"])
            if raw.get("output")
        }
    named = {planned.outcome_id for row in screen.candidates for planned in row.outcomes if planned.state}
    lost_rows = {
        planned.outcome_id
        for row in screen.candidates
        for planned in row.outcomes
        if planned.message and not planned.state
    }
    return {
        "outcomes seen while it ran": len(soak.seen - outcome_ids),
        "outcomes whose job is done": len(recorded - outcome_ids),
        "outcomes that candidates name": len(named - outcome_ids - lost_rows),
        "predictions that candidates name": len(
            {row.prediction_id for row in screen.candidates if row.prediction_id} - prediction_ids
        ),
    }


def build_ledger(soak: Soak, n: int) -> Table:
    """What became of everything."""
    log, screen = count_relaxations(soak.place.folder / "relaxations.log"), read_screen(soak.screen_id)
    counts, lost = screen.counts, count_lost(soak, screen)
    with open_workspace() as workspace:
        states = Counter(raw["state"] for raw in workspace.outcomes.query({}, ["state"]))
        n_distinct, n_all = len(workspace.outcomes.distinct("outcome_id")), workspace.outcomes.count()
        n_predictions, n_claims = workspace.predictions.count(), len(workspace.claims.distinct("claim_id"))
    rows: list[tuple[str, Any]] = [
        ("candidates", n),
        *((f"  {state}", count) for state, count in counts.items()),
        ("  not in exactly one final state", n - sum(counts.get(state, 0) for state in FINAL)),
        ("outcomes in the store (distinct)", f"{n_all} ({n_distinct})"),
        *((f"  {state}", count) for state, count in sorted(states.items())),
        ("relaxations begun", sum(log["begun"].values())),
        ("relaxations ended (distinct)", f"{sum(log['ended'].values())} ({len(log['ended'])})"),
        ("  ended twice", sum(count - 1 for count in log["ended"].values())),
        ("predictions in the store", n_predictions),
        ("documents lost", sum(lost.values())),
        *((f"  {words}", count) for words, count in lost.items() if count),
        ("claims left", n_claims),
        ("workers killed", soak.n_kills),
        (f"{soak.place.recovery} typed", soak.n_recoveries),
        *((f"  {words}", count) for words, count in soak.mended.items()),
        ("minutes", f"{soak.minutes:.1f}"),
        ("seconds per candidate", f"{60 * soak.minutes / n:.2f}"),
    ]
    table = Table("what", "count", title=f"Ledger of {n} candidates, {soak.place.n_workers} workers")
    for what, count in rows:
        table.add_row(what, str(count))
    return table


def open_place(name: str, folder: Path, n_workers: int) -> Place:
    """A place of a name, in a folder; nothing is started."""
    if name == "remote":
        from soak_remote import RemotePlace

        return RemotePlace(folder, n_workers)
    return FireWorksPlace(folder, n_workers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--place", choices=["fireworks", "remote"], default="fireworks")
    parser.add_argument("--n", type=int, default=5000, help="candidates")
    parser.add_argument("--workers", type=int, default=2, help="on jobflow-remote: jobs at once")
    parser.add_argument("--kill-every", type=float, default=60.0, help="seconds, on average; 0: never")
    parser.add_argument("--recover-after", type=int, default=5, help="kills")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds without an outcome, until a user looks")
    parser.add_argument("--max-in-flight", type=int, default=200, help="0: all at once")
    parser.add_argument("--chunk-size", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=600.0, help="the longest it may take")
    parser.add_argument("--tail", type=int, default=0, help="candidates in flight when the kills end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="an empty one; none: a temporary one")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="e3relax_soak_"))
    place = open_place(options.place, folder.absolute(), options.workers)
    place.prepare()
    place.start_server()
    try:
        place.set_up()
        screen_id = submit(place.name, options.n, options.chunk_size, options.max_in_flight or None)
        print(f"screen {screen_id} in {folder}", flush=True)
        soak = Soak(place, screen_id, options, random.Random(options.seed))
        soak.run()
        Console(width=100).print(build_ledger(soak, options.n))
    finally:
        place.stop()


if __name__ == "__main__":
    main()
