"""Rows and sums of a screen, and the decisions of gates, for the terminal and the HTML pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from e3relax_flows.ledger.frames import measure_volume
from e3relax_flows.report.pages import TextTable, list_table
from e3relax_flows.schemas.models import GateDoc
from e3relax_flows.schemas.outcomes import (
    ArmSaving,
    OutcomeDoc,
    OutcomeState,
    PairedSaving,
    SavingsSummary,
    StartKind,
    StepStatistics,
)
from e3relax_flows.schemas.predictions import PredictionDoc, Reason, Verdict
from e3relax_flows.schemas.screens import CandidateRow, CandidateState, OutcomeRow, ScreenDoc

MIN_PAIRS = 5  # below, pairs drawn again are too often the same ones to give an interval


@dataclass(frozen=True)
class TableRow:
    """One candidate: initial, predicted and relaxed side by side; None for unknown values.

    Volumes are Å³ per atom, displacements Å (mean over atoms, drift removed). The steps from the initial structure are
    those of a control, or of a candidate whose prediction was refused (`initial_is_control` distinguishes them), whose
    steps from the predicted structure are then those of an arm.
    """

    id: str
    formula: str
    n_atoms: int | None
    verdict: str
    state: str
    note: str
    initial_volume: float | None = None
    predicted_volume: float | None = None
    relaxed_volume: float | None = None
    initial_displacement: float | None = None
    predicted_displacement: float | None = None
    steps_from_predicted: int | None = None
    steps_from_initial: int | None = None
    scf_from_predicted: int | None = None
    scf_from_initial: int | None = None
    steps_from_polished: int | None = None
    scf_from_polished: int | None = None
    initial_is_control: bool = False


@dataclass(frozen=True)
class Medians:
    """Medians over the accepted candidates that have a relaxed structure; volumes as |V / V_relaxed - 1|."""

    n: int
    initial_volume: float
    predicted_volume: float
    initial_displacement: float
    predicted_displacement: float


@dataclass(frozen=True)
class ScreenTable:
    """Table and sums of a screen."""

    rows: list[TableRow]
    funnel: list[tuple[str, int]]
    refusals: list[tuple[str, int]]
    medians: Medians | None
    code: str
    functional: str
    is_dft: bool | None  # None: nothing was relaxed, so it is not known

    @property
    def has_scf(self) -> bool:
        """Whether the engine counts electronic steps."""
        found = ((row.scf_from_polished, row.scf_from_predicted, row.scf_from_initial) for row in self.rows)
        return any(steps is not None for row in found for steps in row)

    @property
    def has_polished(self) -> bool:
        """Whether a relaxation began at a polished prediction."""
        return any(row.steps_from_polished is not None for row in self.rows)

    @property
    def engine_label(self) -> str:
        """Such as "CHGNet: a potential, not DFT"."""
        if self.is_dft is None:
            return self.code
        if not self.is_dft:
            return f"{self.code}: a potential, not DFT"
        return f"{self.code} ({self.functional})" if self.functional else self.code


def build_table(screen: ScreenDoc, predictions: Iterable[PredictionDoc], outcomes: Iterable[OutcomeDoc]) -> ScreenTable:
    """Join the rows of a screen with its predictions and outcomes.

    Documents that the screen does not name are ignored; rows whose documents are missing keep the values of the screen.
    """
    by_prediction = {doc.prediction_id: doc for doc in predictions}
    by_outcome = {doc.outcome_id: doc for doc in outcomes}
    rows, used, errors = [], [], []
    for candidate in screen.candidates:
        prediction = by_prediction.get(candidate.prediction_id or "")
        docs = [by_outcome[row.outcome_id] for row in candidate.outcomes if row.outcome_id in by_outcome]
        rows.append(_build_row(candidate, prediction, docs))
        used += [doc for doc in docs if doc.result is not None]
        best = choose_relaxed(docs)
        if best and candidate.verdict == Verdict.ACCEPT and best.initial_errors and best.prediction_errors:
            errors.append(best)
    results = [doc.result for doc in used if doc.result is not None]
    return ScreenTable(
        rows=rows,
        funnel=_count_funnel(screen),
        refusals=Counter(str(reason) for row in screen.candidates for reason in row.reasons).most_common(),
        medians=_take_medians(errors),
        code=results[0].code if results else screen.engine,
        functional=next((result.functional for result in results if result.functional), ""),
        is_dft=results[0].is_dft if results else None,
    )


def _build_row(candidate: CandidateRow, prediction: PredictionDoc | None, outcomes: list[OutcomeDoc]) -> TableRow:
    initial = prediction.initial if prediction else None
    relaxed = choose_relaxed(outcomes)
    rows = candidate.outcomes
    predicted_start, polished_start = (_find_start(rows, kind) for kind in (StartKind.PREDICTED, StartKind.POLISHED))
    control = _find_start(candidate.outcomes, StartKind.CONTROL)
    initial_start = control or _find_start(candidate.outcomes, StartKind.INITIAL)
    return TableRow(
        id=candidate.id,
        formula=candidate.formula or (initial.composition.reduced_formula if initial else ""),
        n_atoms=len(initial) if initial else None,
        verdict=str(candidate.verdict or Verdict.ERROR),
        state=str(candidate.state),
        note=_write_note(candidate),
        initial_volume=measure_volume(initial),
        predicted_volume=measure_volume(prediction.structure if prediction else None),
        relaxed_volume=measure_volume(relaxed.result.relaxed if relaxed and relaxed.result else None),
        initial_displacement=relaxed.initial_errors.displacement if relaxed and relaxed.initial_errors else None,
        predicted_displacement=(
            relaxed.prediction_errors.displacement if relaxed and relaxed.prediction_errors else None
        ),
        steps_from_predicted=predicted_start.n_ionic_steps if predicted_start else None,
        steps_from_initial=initial_start.n_ionic_steps if initial_start else None,
        scf_from_predicted=predicted_start.n_electronic_steps if predicted_start else None,
        scf_from_initial=initial_start.n_electronic_steps if initial_start else None,
        steps_from_polished=polished_start.n_ionic_steps if polished_start else None,
        scf_from_polished=polished_start.n_electronic_steps if polished_start else None,
        initial_is_control=control is not None,
    )


def choose_relaxed(outcomes: Sequence[OutcomeDoc]) -> OutcomeDoc | None:
    """The outcome whose relaxed structure is shown: converged and from the predicted structure if possible."""
    relaxed = [doc for doc in outcomes if doc.result is not None]
    return min(
        relaxed,
        key=lambda doc: (doc.state != OutcomeState.SUCCESSFUL, list(StartKind).index(doc.start_kind)),
        default=None,
    )


def _find_start(outcomes: list[OutcomeRow], kind: StartKind) -> OutcomeRow | None:
    return next((row for row in outcomes if row.start_kind == kind), None)


def _write_note(candidate: CandidateRow) -> str:
    if candidate.duplicate_of is not None:
        return f"same as {candidate.duplicate_of}"
    failures = [row.message for row in candidate.outcomes if row.message]
    if candidate.verdict == Verdict.REFUSE:  # the messages are in the prediction; the table holds the codes
        return "; ".join([", ".join(_name_reason(reason, candidate) for reason in candidate.reasons), *failures[:1]])
    return candidate.message or (failures[0] if failures else "") or ", ".join(map(str, candidate.reasons))


def _name_reason(reason: Reason, candidate: CandidateRow) -> str:
    risk = candidate.harm_probability
    return f"{reason} {risk:.2f}" if reason == Reason.HARM and risk is not None else str(reason)


def _count_funnel(screen: ScreenDoc) -> list[tuple[str, int]]:
    """Candidates that reached each stage, as words and numbers in order."""
    candidates = screen.candidates
    states = Counter(row.state for row in candidates)
    verdicts = Counter(row.verdict for row in candidates)
    stages = [
        ("candidates", len(candidates)),
        ("accepted", verdicts[Verdict.ACCEPT]),
        ("refused", verdicts[Verdict.REFUSE]),
        ("no prediction", states[CandidateState.ERROR]),
        ("duplicates", states[CandidateState.DUPLICATE]),
        ("relaxed", states[CandidateState.SUCCESSFUL]),
        ("unconverged", states[CandidateState.UNCONVERGED]),
        ("failed", states[CandidateState.FAILED]),
    ]
    counted = {name for name, _ in stages} | {"error", "duplicate", "successful"}
    stages += [(str(state), states[state]) for state in reversed(CandidateState) if str(state) not in counted]
    always = {"candidates", "accepted", "refused", "duplicates", "relaxed", "failed"}
    return [(name, count) for name, count in stages if count or name in always]


def _take_medians(outcomes: list[OutcomeDoc]) -> Medians | None:
    pairs = [
        (doc.initial_errors, doc.prediction_errors)
        for doc in outcomes
        if doc.initial_errors is not None and doc.prediction_errors is not None
    ]
    if not pairs:
        return None
    return Medians(
        n=len(pairs),
        initial_volume=median(initial.volume for initial, _ in pairs),
        predicted_volume=median(predicted.volume for _, predicted in pairs),
        initial_displacement=median(initial.displacement for initial, _ in pairs),
        predicted_displacement=median(predicted.displacement for _, predicted in pairs),
    )


def describe_medians(table: ScreenTable) -> str:
    """Distances of initial and predicted structures from the relaxed ones, in words; empty without any."""
    medians = table.medians
    if medians is None:
        return ""
    return (
        f"Against the relaxed structures of {medians.n} accepted candidates (medians): volume off by "
        f"{medians.initial_volume:.1%} initially and {medians.predicted_volume:.1%} predicted; "
        f"displacement {medians.initial_displacement:.3f} Å initially "
        f"and {medians.predicted_displacement:.3f} Å predicted."
    )


def describe_savings(savings: SavingsSummary) -> str:
    """Savings against the controls, in words; without controls no saving is claimed.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import StartKind, describe_savings, summarize_savings
    >>> from e3relax_flows.testing import make_outcome
    >>> initial, relaxed = (Structure(Lattice.rhombohedral(a, 60), ["Cu"], [[0, 0, 0]]) for a in (2.7, 2.5))
    >>> outcomes = [make_outcome(initial, relaxed)[1], make_outcome(initial, relaxed, StartKind.CONTROL, 8)[1]]
    >>> print(describe_savings(summarize_savings(outcomes)).split(" (")[0])
    From the predicted structure the relaxations took 50% of the ionic steps that they took from the initial one
    """
    sentences = []
    start = "served" if any(arm.start is StartKind.POLISHED for arm in savings.arms) else "predicted"
    if savings.ionic is not None:
        sentences.append(describe_ratio(savings.ionic, "ionic steps", start))
        if savings.electronic is not None:
            sentences.append(describe_ratio(savings.electronic, "electronic (SCF) steps", start))
    elif savings.predicted is not None and savings.control is not None:
        sentences.append(
            f"{_describe_steps(savings.predicted)} from the predicted structure, "
            f"{_describe_steps(savings.control)} from the initial one (controls): different candidates, so a hint only."
        )
    elif savings.n_control:
        sentences.append("No control can be compared: relaxations did not converge.")
    else:
        sentences.append("No control was relaxed from its initial structure, so no saving is claimed.")
    if savings.n_broken_pairs:
        sentences.append(f"{_count(savings.n_broken_pairs, 'pair')} not converged on both sides (left out).")
    if savings.n_initial:
        sentences.append(
            f"{_count(savings.n_initial, 'refused prediction')} relaxed from the initial structure, in no pair."
        )
    if savings.is_dft is False and (savings.ionic or savings.control):
        sentences.append("These are steps of a potential, not of DFT.")
    return " ".join(sentences)


def describe_ratio(saving: PairedSaving, what: str, start: str = "predicted") -> str:
    """Steps from predicted over those from initial structures, in words.

    Parameters
    ----------
    saving
        Of the relaxations from both.
    what
        Names the steps.
    start
        Names the structure: served where some of the predictions are polished.
    """
    return (
        f"From the {start} structure the relaxations took {saving.ratio:.0%} of the {what} that they took from the "
        f"initial one ({_describe_interval(saving)})."
    )


def _describe_interval(saving: PairedSaving) -> str:
    interval = "too few for an interval: "
    if saving.n_pairs >= MIN_PAIRS and saving.low is not None and saving.high is not None:
        interval = f"95 % interval {saving.low:.0%} to {saving.high:.0%}, "
    return f"{interval}{_count(saving.n_pairs, 'pair')}"


def has_arms(savings: SavingsSummary) -> bool:
    """Whether other starts than prediction and initial structure were compared."""
    return len(savings.arms) > 1 or any(arm.refused for arm in savings.arms)


def describe_arms(savings: SavingsSummary) -> list[str]:
    """A sentence for every start that was compared with another on the same candidates."""
    if not has_arms(savings):
        return []
    return [f"Start {arm.label}: {_describe_arm(arm)}." for arm in savings.arms]


def _describe_arm(arm: ArmSaving) -> str:
    parts = [
        f"{saving.ratio:.0%} of the {what} from the {arm.over} structure ({_describe_interval(saving)})"
        for what, saving in (("ionic steps", arm.ionic), ("electronic (SCF) steps", arm.electronic))
        if saving is not None
    ]
    if arm.n_broken_pairs:
        parts.append(f"{_count(arm.n_broken_pairs, 'pair')} not converged on both sides (left out)")
    return ", ".join(parts)


def list_arms(savings: SavingsSummary) -> list[tuple[str, ...]]:
    """Rows of a table of the arms: start, compared with, ionic steps, SCF steps, each with interval and pairs."""
    return [
        (arm.label, str(arm.over), *("–" if saving is None else f"{saving.ratio:.0%} ({_describe_interval(saving)})"
                                     for saving in (arm.ionic, arm.electronic)))
        for arm in savings.arms
    ]  # fmt: skip


def _describe_steps(steps: StepStatistics) -> str:
    return f"{steps.median_ionic_steps:g} ionic steps (median of {steps.n})"


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


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
    """A row per comparison of each gate, errors in Å; no table if there are no comparisons."""
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
    columns = ["challenger", "pairs of", "pairs", "challenger, Å", "incumbent, Å", "initial, Å", "change", "judged"]
    caption = "Errors of the decisions: challenger against incumbent, with the interval of the change"
    return [list_table(columns, rows, caption)] if rows else []
