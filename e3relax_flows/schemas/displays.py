"""How documents look in a notebook and when they are printed: a title, and the facts that a user asks for first."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pymatgen.core import Structure


class Summary(NamedTuple):
    """A title, and names with texts."""

    title: str
    facts: list[tuple[str, str]]


class Displayed:
    """Base of documents that are displayed by a summary; every text is escaped."""

    def summarize(self) -> Summary:
        """Title and facts, those that are known."""
        raise NotImplementedError(f"{type(self).__name__} has no summary")

    def __str__(self) -> str:
        title, facts = self.summarize()
        return ", ".join([title, *(f"{name} {text}" for name, text in facts)])

    def _repr_html_(self) -> str:
        """HTML for notebooks: a table, readable on light and dark backgrounds."""
        title, facts = self.summarize()
        rows = "".join(
            f'<tr><th scope="row" style="text-align:left;font-weight:normal">{escape(name)}</th>'
            f'<td style="text-align:left;overflow-wrap:anywhere">{escape(text)}</td></tr>'
            for name, text in facts
        )
        caption = '<caption style="text-align:left;caption-side:top;font-weight:bold;color:inherit">'
        return f'<table class="e3relax">{caption}{escape(title)}</caption><tbody>{rows}</tbody></table>'

    def _repr_markdown_(self) -> str:
        """The same for outputs without HTML."""
        title, facts = self.summarize()
        lines = [f"**{_escape_markdown(title)}**", "", "| | |", "| --- | --- |"]
        return "\n".join(
            [*lines, *(f"| {_escape_markdown(name)} | {_escape_markdown(text)} |" for name, text in facts)]
        )


def keep_known(facts: list[tuple[str, object]]) -> list[tuple[str, str]]:
    """Known facts as texts: numbers with four digits; None and empty ones are left out."""
    return [(name, format_value(value)) for name, value in facts if value is not None and value not in ("", [])]


def format_number(value: float | None, digits: int) -> str:
    """A number with `digits` decimals; a dash if it is None."""
    return "–" if value is None else f"{value:.{digits}f}"


def format_value(value: object) -> str:
    """A value as text: floats with four digits, lists joined."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value))
    return str(value)


def describe_structure(structure: Structure | None) -> str | None:
    """Such as "MgO, 2 atoms, 18.67 Å³"."""
    if structure is None:
        return None
    atoms = "atom" if len(structure) == 1 else "atoms"
    return f"{structure.composition.reduced_formula}, {len(structure)} {atoms}, {structure.volume:.2f} Å³"


def _escape_markdown(text: str) -> str:
    """Text without markup (Markdown or HTML) that stays in its cell."""
    safe = escape(text, quote=False).replace("\\", "\\\\").replace("\n", " ")
    for char in "`*_[]|~$":
        safe = safe.replace(char, f"\\{char}")
    return safe
