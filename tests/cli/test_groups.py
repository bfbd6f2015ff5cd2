"""Groups of options are shown as single options, and arrive as they were typed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from e3relax_flows.cli.groups import spread
from e3relax_flows.cli.screen import ScreenGroup


@dataclass(frozen=True)
class Inner:
    """Two options."""

    size: Annotated[int | None, typer.Option(help="A number.", min=1)] = None
    words: Annotated[list[str] | None, typer.Option("--word", help="Repeatable.")] = None


@dataclass(frozen=True, kw_only=True)
class Outer:
    """An option, a group, an option."""

    first: Annotated[str, typer.Option(help="A text.")] = "one"
    inner: Inner
    last: Annotated[bool, typer.Option("--last", help="A flag.")] = False


@pytest.fixture
def typed() -> tuple[typer.Typer, list[Any]]:
    """A command with groups, and what it was called with."""
    app, calls = typer.Typer(), []

    @app.command()
    @spread
    def command(
        name: Annotated[str, typer.Argument(help="A name.")],
        *,
        outer: Outer,
        own: Annotated[float, typer.Option(help="Of the command.")] = 0.5,
    ) -> None:
        """Say what was typed."""
        calls.append((name, outer, own))

    return app, calls


def test_values_arrive_in_their_groups(typed: tuple[typer.Typer, list[Any]]) -> None:
    app, calls = typed
    assert CliRunner().invoke(app, ["a"]).exit_code == 0
    words = ["b", "--first", "two", "--size", "3", "--word", "x", "--word", "y", "--last", "--own", "0.25"]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert calls == [
        ("a", Outer(inner=Inner()), 0.5),
        ("b", Outer(first="two", inner=Inner(3, ["x", "y"]), last=True), 0.25),
    ]


def test_options_are_those_of_the_fields_in_order(typed: tuple[typer.Typer, list[Any]]) -> None:
    app, calls = typed
    command = typer.main.get_command(app)
    assert [parameter.name for parameter in command.params[:6]] == ["name", "first", "size", "words", "last", "own"]
    assert command.help == "Say what was typed."
    result = CliRunner().invoke(app, ["a", "--size", "0"])
    assert result.exit_code == 2
    assert "--size" in result.output
    assert calls == []


def test_what_is_not_typed_changes_nothing_of_a_screen() -> None:
    from e3relax_flows.cli.groups import LimitGroup, PredictionGroup

    given = ScreenGroup(how=PredictionGroup(), limits=LimitGroup())
    assert set(given.list_changes([]).values()) == {None}
    assert given.limits.list_given() == {}
    limits = LimitGroup(budget=0, core_hours=2.5)
    assert limits.list_given() == {"candidates": 0, "core_hours": 2.5}
