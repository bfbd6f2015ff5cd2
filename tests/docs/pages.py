"""Fenced blocks of Markdown pages with what stands above them, and the commands in them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
BLOCK = re.compile(
    r"(?:^<!-- (?P<word>not run|file): (?P<note>[^\n]+?) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Line:
    """One command, and how it is to end."""

    words: list[str]
    exit_code: int


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    language: str
    text: str
    file: str | None  # it is written to
    why_not: str | None  # it is not run

    def list_commands(self) -> list[Line]:
        """Its commands; lines that end in a backslash go on, && divides them, a comment may name the exit code."""
        commands = []
        for line in self.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            code = re.search(r"# exit code (\d+)$", line)
            for _, part in groupby(words, key="&&".__eq__):
                if (group := list(part)) != ["&&"]:
                    commands.append(Line(group, int(code[1]) if code else 0))
        return commands


def read_blocks(page: Path) -> list[Block]:
    """Blocks of a page in their order."""
    return [
        Block(
            match["language"],
            match["text"],
            match["note"] if match["word"] == "file" else None,
            match["note"] if match["word"] == "not run" else None,
        )
        for match in BLOCK.finditer(page.read_text(encoding="utf-8"))
    ]


def list_pages() -> list[Path]:
    """Pages of the documentation that are written by hand."""
    return sorted(DOCS.rglob("*.md"))
