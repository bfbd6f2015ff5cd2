"""What a terminal shows."""

from __future__ import annotations

from types import SimpleNamespace

from e3relax_flows.report.terminal import _show_notes


def test_long_notes_stand_below_the_table_once(capsys):
    """Two candidates with the same fault, whose jobs have different ids, and a third with a short note."""
    said = "2 of 2 jobs of the engine left no document: {0}57515d6-11fe-5bc9-950f-1b3698921ae6, " * 2
    rows = [
        SimpleNamespace(id="CaS", note=said.format("a"), state="failed"),
        SimpleNamespace(id="KBr", note=said.format("b"), state="failed"),
        SimpleNamespace(id="InP", note="harm 0.24", state="successful"),
    ]
    _show_notes(rows)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("CaS and 1 more: 2 of 2 jobs of the engine left no document: a57515d6")
