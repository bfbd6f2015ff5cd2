"""One self-contained HTML page from its parts: texts, tables, figures for plotly, and a list of candidates.

Everything is in the one file, plotly's script too, so that it opens from disk and without a network. Texts are escaped
by the template; what scripts read is JSON in which no tag can end, or packed: deflated, in base 64.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from e3relax_flows.core.errors import ConfigError

ASSETS = "assets"
# what HTML or JavaScript would parse as the end of a script or of a line
UNSAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}


@dataclass(frozen=True)
class Tile:
    """One headline number."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """A figure for plotly; colours named "@blue" are those of the page, light or dark."""

    id: str
    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    wide: bool = False
    low: bool = False


@dataclass(frozen=True)
class TextTable:
    """A small table of texts."""

    columns: list[str]
    rows: list[list[str]]
    caption: str = ""


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading."""

    id: str
    title: str
    paragraphs: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[TextTable] = field(default_factory=list)
    markdown: str = ""
    candidates: bool = False


@dataclass(frozen=True)
class CandidateList:
    """Candidates to search and sort, a row of values each, and the contents of their own pages, packed."""

    columns: list[dict[str, Any]]
    rows: list[list[Any]]
    chunk_size: int
    chunks: list[str]
    elements: dict[str, Any]
    commands: list[str]


@dataclass(frozen=True)
class Page:
    """Contents of a page."""

    title: str
    subtitle: str
    tiles: list[Tile]
    sections: list[Section]
    candidates: CandidateList | None = None


def render_page(page: Page) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("e3relax_flows.report", ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["markdown"] = render_markdown
    figures = [figure for section in page.sections for figure in section.figures]
    content = {
        "figures": {figure.id: {"data": figure.data, "layout": figure.layout} for figure in figures},
        "candidates": _describe_candidates(page.candidates),
    }
    scripts = ["page.js", "figures.js", *(["viewer.js", "candidates.js"] if page.candidates else [])]
    return environment.get_template("page.html.j2").render(
        page=page,
        style=Markup(_read_asset("page.css")),
        scripts=[Markup(_read_asset(name)) for name in scripts],
        content=Markup(encode_json(content)),
        plotly=_pack_plotly() if figures or page.candidates else "",
    )


def write_page(path: Path, text: str) -> Path:
    """Write a page atomically, making its folder; return the absolute path.

    Raises
    ------
    ConfigError
        When the path is a folder.
    """
    check_page_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path.absolute()


def check_page_path(path: Path) -> None:
    """Raise ConfigError if this cannot be the path of a page."""
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; give the name of a file, such as {path / 'report.html'}")


def render_markdown(text: str) -> Markup:
    """Markdown as HTML; HTML in it stays text, and pictures, which would be fetched, become links."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    return Markup(parser.render(text))


def encode_json(value: Any) -> str:
    """JSON that is safe inside a script of a page, with any text."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(UNSAFE)


def pack(value: Any) -> str:
    """JSON, deflated, in base 64: for large data that are not needed at once."""
    return _pack_bytes(json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())


def pack_chunks(values: Sequence[Any], size: int) -> list[str]:
    """Values in packed lists of `size`."""
    return [pack(list(values[start : start + size])) for start in range(0, len(values), size)]


def list_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> TextTable:
    """A table of texts from values; a dash for None."""
    return TextTable(list(columns), [["–" if cell is None else str(cell) for cell in row] for row in rows], caption)


def round_number(value: float | None, digits: int) -> float | None:
    """A finite number for JSON, rounded; None if there is none."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return None
    return round(float(value), digits)


def _describe_candidates(candidates: CandidateList | None) -> dict[str, Any] | None:
    if candidates is None:
        return None
    return {
        "columns": candidates.columns,
        "rows": candidates.rows,
        "chunkSize": candidates.chunk_size,
        "elements": candidates.elements,
        "commands": candidates.commands,
    }


def _pack_bytes(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode("ascii")


@cache
def _pack_plotly() -> str:
    """Plotly's script, packed."""
    from plotly.offline import get_plotlyjs

    return _pack_bytes(get_plotlyjs().encode())


def _read_asset(name: str) -> str:
    return files("e3relax_flows.report").joinpath(ASSETS, name).read_text(encoding="utf-8")
