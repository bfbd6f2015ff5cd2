"""Parts of the throughput benchmark: sizes of the rival, counted products, clocks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from pymatgen.core import Lattice, Structure

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from throughput_parts import (
    MatmulCounter,
    build_structures,
    compare,
    count_matmuls,
    record_batches,
    time_call,
    watch_network,
)

from e3relax_flows import Predictor


def test_products_are_counted_once_each() -> None:
    a, b, bias = torch.randn(5, 7), torch.randn(7, 3), torch.randn(3)
    with MatmulCounter() as counter:
        torch.addmm(bias, a, b)
        torch.bmm(torch.randn(4, 2, 6), torch.randn(4, 6, 8))
        a + 1.0
    assert counter.flops == 2 * 5 * 7 * 3 + 2 * 4 * 2 * 6 * 8
    assert counter.shapes == {((5, 7), (7, 3)): 1, ((4, 2, 6), (4, 6, 8)): 1}


def test_ratios_are_those_of_the_same_turn() -> None:
    times = {"a": [1.0, 10.0, 3.0], "b": [2.0, 20.0, 2.0]}  # the machine was slow in the second turn
    assert compare(times, "a", "b") == 0.5


def test_batches_are_those_of_the_first_application() -> None:
    predictor, structures = Predictor.load("default", "cpu"), build_structures(3)
    structures += [structures[0]] * 300  # more than one batch
    batches = record_batches(predictor, structures)
    assert len(batches) > 1
    numbers = sorted(int(number) for batch in batches for number in batch.numbers)
    assert numbers == sorted(number for structure in structures for number in structure.atomic_numbers)
    assert count_matmuls(predictor.network, batches).flops > 0
    structures = [*structures[:3], Structure(Lattice.cubic(3), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])]
    with pytest.raises(ValueError, match="leave out"):
        record_batches(predictor, structures)


def test_the_network_is_timed_while_it_is_watched() -> None:
    predictor, structures = Predictor.load("default", "cpu"), build_structures(3)
    with watch_network(predictor) as seconds:
        whole = time_call(lambda: predictor.predict(structures), predictor.device)
    n_applied = len(seconds)
    assert n_applied >= 2
    assert 0 < sum(seconds) < whole
    predictor.predict(structures)
    assert len(seconds) == n_applied
