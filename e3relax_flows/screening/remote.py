"""Screens on jobflow-remote: chunks and candidates as flows of a project, sent once, and again where they are lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from jobflow import Flow, Job

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.places.checks import check_remote_project, check_remote_store
from e3relax_flows.places.remote import ENDED, LOST, RemotePlace, open_remote
from e3relax_flows.places.submission import check_flows, judge_problems
from e3relax_flows.schemas.screens import ScreenDoc, ScreenRow, Submitted
from e3relax_flows.screening.flows import build_candidate_flow, build_chunk_flow, name_candidate, name_chunk
from e3relax_flows.screening.place import ScreenPlace


class RemoteScreenPlace(ScreenPlace):
    """Workers of a project of jobflow-remote.

    Parameters
    ----------
    remote
        The project, connected.
    settings
        For the workers of the roles.
    """

    name = "remote"
    advice = "jobflow-remote's jobs submit none: type the same again when the predictions are done"
    stopping = "jobflow-remote's jobs are stopped with `jf flow list` and `jf job stop`"
    frees_claims = True

    def __init__(self, remote: RemotePlace, settings: E3RelaxSettings) -> None:
        self.remote = remote
        self.settings = settings

    def check(self, samples: Sequence[Flow | Job]) -> list[str]:
        """As `ScreenPlace.check`."""
        project = self.remote.project
        problems = [*check_flows(samples, "remote", self.settings), *check_remote_store(project, samples)]
        return judge_problems([*problems, *check_remote_project(project, self.settings.WORKERS)])

    def submit_chunks(self, screen: ScreenDoc, numbers: Sequence[int]) -> list[str]:
        """As `ScreenPlace.submit_chunks`."""
        names = {name_chunk(str(screen.screen_id), number): number for number in numbers}
        placed = self.remote.find_placed(list(names))
        again = [name for name, flow in placed.items() if flow.state in (*ENDED, LOST)]
        new = [name for name in names if name not in placed]
        for name in (*new, *again):
            self.remote.send(build_chunk_flow(str(screen.screen_id), names[name]), name, self.settings.WORKERS)
        return [
            *([f"{len(new)} prediction jobs are submitted"] if new else []),
            *([f"{len(again)} prediction jobs had failed or were lost, and are submitted again"] if again else []),
        ]

    def find_ended_chunks(self, screen: ScreenDoc, numbers: Sequence[int]) -> list[int]:
        """As `ScreenPlace.find_ended_chunks`."""
        names = {name_chunk(str(screen.screen_id), number): number for number in numbers}
        placed = self.remote.find_placed(list(names))
        return [names[name] for name, flow in placed.items() if flow.state in (*ENDED, LOST)]

    def submit(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> None:
        """As `ScreenPlace.submit`."""
        placed = self.remote.find_placed([name_candidate(row) for row in rows])
        for row in rows:
            name = name_candidate(row)
            if name in placed and placed[name].state != LOST:
                row.submitted = Submitted(place=self.name, flow=placed[name].flow)
                continue
            flow = build_candidate_flow(screen, row)
            row.submitted = Submitted(place=self.name, flow=flow.uuid)
            self.remote.send(flow, name, self.settings.WORKERS)

    def find_ended(self, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """As `ScreenPlace.find_ended`."""
        return [row for row, state in self._find_states(rows) if state in ENDED]

    def find_lost(self, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """As `ScreenPlace.find_lost`."""
        return [row for row, state in self._find_states(rows) if state in (None, LOST)]

    def withdraw(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """As `ScreenPlace.withdraw`."""
        chunks = [name_chunk(str(screen.screen_id), number) for number in range(screen.n_chunks)]
        placed = self.remote.find_placed([*chunks, *map(name_candidate, rows)])
        stopped = self.remote.stop(list(placed.values()))
        return [row for row in rows if name_candidate(row) in stopped or name_candidate(row) not in placed]

    def _find_states(self, rows: Sequence[ScreenRow]) -> Iterator[tuple[ScreenRow, str | None]]:
        """States of the flows of candidates; None for those that the project has not."""
        placed = self.remote.find_placed([name_candidate(row) for row in rows])
        for row in rows:
            flow = placed.get(name_candidate(row))
            yield row, flow.state if flow else None


@contextmanager
def open_remote_place(settings: E3RelaxSettings, purpose: str) -> Iterator[RemoteScreenPlace]:
    """The current project of jobflow-remote; see `open_remote`."""
    with open_remote(purpose) as remote:
        yield RemoteScreenPlace(remote, settings)
