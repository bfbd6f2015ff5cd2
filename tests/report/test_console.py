"""Progress on a terminal that is none: lines in a log."""

from __future__ import annotations

from rich.console import Console

from e3relax_flows.report import console


def test_progress_in_logs_is_lines(capsys):
    with console.LineProgress(console=Console(stderr=True), disable=True) as progress:
        task = progress.add_task("relaxing", total=3, note="")
        for name in ("a", "b", "c"):
            progress.update(task, advance=1, note=name)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "relaxing: 1/3 | a"
    assert lines[-1].startswith("relaxing: 3/3")
    assert lines[-1].endswith("| c")


def test_what_has_no_known_end_is_counted_with_its_rate(capsys, monkeypatch):
    clock = iter(range(0, 1000, 3))
    monkeypatch.setattr(console.time, "monotonic", lambda: float(next(clock)))
    assert list(console.follow(range(5), "reading pairs")) == [0, 1, 2, 3, 4]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("reading pairs: 2")
    assert len(lines) == 2
    assert [console.format_rate(speed) for speed in (None, 120.4, 2.25, 0.05)] == ["", "120/s", "2.2/s", "20 s each"]
