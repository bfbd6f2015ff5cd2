"""Gates as tables of texts, for pages of models and of campaigns."""

from __future__ import annotations

from collections.abc import Sequence

from e3relax_flows.report.pages import TextTable, list_table
from e3relax_flows.schemas.models import GateDoc


def tabulate_gates(gates: Sequence[GateDoc]) -> TextTable:
    """A row per gate: who was judged, the decision and why."""
    rows = [
        [
            f"{gate.created_at:%Y-%m-%d %H:%M}",
            gate.challenger_id,
            gate.incumbent_id,
            gate.holdout_id,
            gate.decision,
            "; ".join(gate.reasons),
            gate.n_looks,
        ]
        for gate in gates
    ]
    columns = ["UTC", "challenger", "incumbent", "holdout", "decision", "why", "judged on it"]
    return list_table(columns, rows, "Decisions")


def tabulate_comparisons(gates: Sequence[GateDoc]) -> list[TextTable]:
    """A row per comparison of each gate, errors in Å; no table where nothing was compared."""
    rows = [
        [
            gate.challenger_id,
            one.name,
            one.n,
            f"{one.challenger:.4f}",
            f"{one.incumbent:.4f}",
            f"{one.identity:.4f}",
            f"{one.change:+.1%} ({one.low:+.1%} to {one.high:+.1%})",
            "yes" if one.judged else "no",
        ]
        for gate in gates
        for one in gate.comparisons
    ]
    columns = ["challenger", "pairs of", "pairs", "challenger, Å", "incumbent, Å", "left alone, Å", "change", "judged"]
    caption = "Errors behind them: challenger against incumbent, with the interval of the change"
    return [list_table(columns, rows, caption)] if rows else []
