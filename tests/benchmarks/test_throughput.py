"""Parts of the throughput benchmark: sizes of the rival, counted products, clocks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import throughput_parts
from throughput_parts import (
    MatmulCounter,
    Stopwatch,
    build_structures,
    compare,
    count_parameters,
    make_released,
    size_released,
    watch_parts,
)


@pytest.mark.parametrize("n_parameters", [214_183, 1_000_000])
def test_the_rival_has_as_many_parameters(n_parameters: int) -> None:
    config = size_released(n_parameters)
    found = count_parameters(make_released(config))
    wider = count_parameters(make_released(config.model_copy(update={"n_channels": config.n_channels + 2})))
    assert abs(found - n_parameters) < abs(wider - n_parameters)
    assert found == pytest.approx(n_parameters, rel=0.08)


def test_products_are_counted_once_each() -> None:
    a, b, bias = torch.randn(5, 7), torch.randn(7, 3), torch.randn(3)
    with MatmulCounter() as counter:
        torch.addmm(bias, a, b)
        torch.bmm(torch.randn(4, 2, 6), torch.randn(4, 6, 8))
        a + 1.0
    assert counter.flops == 2 * 5 * 7 * 3 + 2 * 4 * 2 * 6 * 8
    assert counter.shapes == {((5, 7), (7, 3)): 1, ((4, 2, 6), (4, 6, 8)): 1}


def test_a_part_is_not_charged_for_what_it_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(throughput_parts.time, "perf_counter", lambda: clock[0])
    watch = Stopwatch()

    def wait(seconds: float) -> None:
        clock[0] += seconds

    inner = watch.wrap("inner", wait)

    def call() -> None:
        wait(1.0)
        inner(5.0)
        wait(2.0)

    watch.wrap("outer", call)()
    wait(100.0)
    inner(0.5)
    assert watch.seconds == {"outer": 3.0, "inner": 5.5}


def test_ratios_are_those_of_the_same_turn() -> None:
    times = {"a": [1.0, 10.0, 3.0], "b": [2.0, 20.0, 2.0]}  # the machine was slow in the second turn
    assert compare(times, "a", "b") == 0.5


def test_the_parts_of_a_prediction_are_all_there() -> None:
    from e3relax_flows.predict.predictor import Predictor

    predictor = Predictor.load("default")
    with watch_parts() as watch:
        predictor.predict(build_structures(3))
    assert set(watch.seconds) == set(throughput_parts.PARTS)
    assert all(seconds > 0 for seconds in watch.seconds.values())
