"""Parts of `throughput.py`: structures, clocks, matrix products that a network needs, precisions, rivals."""

from __future__ import annotations

import contextlib
import resource
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from pymatgen.core import Structure
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from e3relax_flows import Predictor, build_candidates, get_engine

REPEATS = ((1, 1, 1), (2, 1, 1), (1, 2, 1), (2, 2, 1), (3, 1, 1))
SUPERCELLS = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2), (4, 2, 2), (4, 4, 2), (5, 5, 4))  # of 10 atoms
RATTLE = 0.03  # Å

Shape = tuple[tuple[int, ...], ...]


def build_structures(n: int, seed: int = 0) -> list[Structure]:
    """`n` structures of 2 to 42 atoms, about ten on average: known prototypes and supercells, half of them rattled."""
    rng = np.random.default_rng(seed)
    candidates = [structure for _, structure in build_candidates()]
    structures = []
    for index in range(n):
        structure = candidates[index % len(candidates)] * REPEATS[rng.integers(len(REPEATS))]
        structures.append(rattle_structure(structure, rng) if rng.random() < 0.5 else structure)
    return structures


def build_supercells(seed: int = 0) -> list[tuple[Structure, Structure]]:
    """Supercells of one crystal from 10 to 1,000 atoms, each as it is and rattled."""
    rng = np.random.default_rng(seed)
    cell = next(structure for _, structure in build_candidates() if len(structure) == 10)
    supercells = [cell * repeats for repeats in SUPERCELLS]
    return [(supercell, rattle_structure(supercell, rng)) for supercell in supercells]


def rattle_structure(structure: Structure, rng: np.random.Generator) -> Structure:
    """A copy whose atoms are moved by `RATTLE` along each axis (standard deviation), so that no symmetry is left."""
    moves = rng.normal(scale=RATTLE, size=(len(structure), 3)) @ np.linalg.inv(structure.lattice.matrix)
    return Structure(structure.lattice, structure.species, structure.frac_coords + moves)


def record_batches(predictor: Predictor, structures: Sequence[Structure]) -> list[Any]:
    """The batches to which the predictor applies its network first, as it makes them, on its device.

    Raises
    ------
    ValueError
        When a structure is in none of them, since it cannot be predicted.
    """
    seen: list[Any] = []
    hook = predictor.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        predictor.predict(structures, passes=1)
    finally:
        hook.remove()
    batches = seen[::2]  # each once, and once more for the residual
    n_atoms, n_packed = sum(map(len, structures)), sum(len(batch.numbers) for batch in batches)
    if n_packed != n_atoms:
        raise ValueError(f"{n_atoms} atoms were given and {n_packed} are in batches; leave out what has no prediction")
    return batches


def apply_network(network: torch.nn.Module, packed: Sequence[Any]) -> None:
    """Apply the network to all batches and wait until it is done."""
    with torch.inference_mode():
        for batch in packed:
            network(batch)
    if packed:
        wait_for(packed[0].positions.device)


def count_parameters(network: torch.nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


class MatmulCounter(TorchDispatchMode):
    """Counts the floating-point operations of matrix products, and their shapes, while it is entered."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.shapes: Counter[Shape] = Counter()  # of the two factors

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm, torch.ops.aten.baddbmm):
            self.flops += flop_registry[func.overloadpacket](*args, out_val=result)
            factors = [tuple(arg.shape) for arg in args if isinstance(arg, torch.Tensor)][-2:]
            self.shapes[factors[0], factors[1]] += 1
        return result


def count_matmuls(network: torch.nn.Module, packed: Sequence[Any]) -> MatmulCounter:
    """The matrix products of one application of the network to all batches."""
    counter = MatmulCounter()
    with torch.no_grad(), counter:
        for batch in packed:
            network(batch)
    return counter


def measure_matmul_rate(device: torch.device, dtype: torch.dtype = torch.float32, size: int = 2048) -> float:
    """Floating-point operations per second of the product of two square matrices: the best of five."""
    first, second = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(time_call(lambda: first @ second, device) for _ in range(6))


def replay_matmuls(shapes: Counter[Shape], device: torch.device) -> Callable[[], None]:
    """A function that does the same products again, and nothing else."""
    factors = [(torch.randn(a, device=device), torch.randn(b, device=device), n) for (a, b), n in shapes.items()]

    def multiply() -> None:
        with torch.inference_mode():
            for first, second, n in factors:
                for _ in range(n):
                    torch.matmul(first, second)

    return multiply


def wait_for(device: torch.device) -> None:
    """Until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def time_call(function: Callable[[], Any], device: torch.device) -> float:
    """Wall seconds of one call, until the device is done."""
    wait_for(device)
    start = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - start


def interleave(functions: dict[str, Callable[[], Any]], repeat: int, device: torch.device) -> dict[str, list[float]]:
    """Wall seconds of each function, `repeat` times, in turns: what slows the machine slows all of them."""
    for function in functions.values():
        function()
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeat):
        for name, function in functions.items():
            times[name].append(time_call(function, device))
    return times


def compare(times: dict[str, list[float]], name: str, reference: str) -> float:
    """Median over the turns of the time of one function over that of another."""
    return statistics.median(a / b for a, b in zip(times[name], times[reference], strict=True))


@contextlib.contextmanager
def use_precision(precision: str, device: torch.device) -> Iterator[None]:
    """Compute in fp32, TF32 (products only) or bf16 (autocast) while entered."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "TF32" else "highest")
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def measure_peak_memory(network: torch.nn.Module, packed: Sequence[Any]) -> float:
    """Bytes per atom that the largest batch takes on its GPU at most, in addition to the weights and the batch."""
    largest = max(packed, key=lambda batch: len(batch.centers))
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    apply_network(network, [largest])
    return (torch.cuda.max_memory_allocated() - before) / len(largest.numbers)


def format_table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def read_peak_rss() -> float:
    """The most memory, in MB, that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


@contextlib.contextmanager
def watch_network(predictor: Predictor) -> Iterator[list[float]]:
    """Wall seconds of every application of the network while entered."""
    seconds: list[float] = []
    began = 0.0

    def begin(*_: Any) -> None:
        nonlocal began
        wait_for(predictor.device)
        began = time.perf_counter()

    def end(*_: Any) -> None:
        wait_for(predictor.device)
        seconds.append(time.perf_counter() - began)

    hooks = [predictor.network.register_forward_pre_hook(begin), predictor.network.register_forward_hook(end)]
    try:
        yield seconds
    finally:
        for hook in hooks:
            hook.remove()


def relax_with_chgnet(structures: Sequence[Structure]) -> tuple[float, float, int]:
    """CHGNet relaxations as in `accuracy.py` (fmax 0.05 eV/Å, FIRE, 300 steps).

    Returns
    -------
    Seconds and steps per structure, and the number of parameters.
    """
    from accuracy_methods import Relaxation, relax_structure

    maker: Any = get_engine("chgnet", device="cpu").maker
    calculator = maker.calculator
    rows = [relax_structure(structure, calculator, Relaxation()) for structure in structures]
    seconds, steps = (statistics.mean(row[key] for row in rows) for key in ("wall_s", "n_steps"))
    return seconds, steps, count_parameters(getattr(calculator, "inner", calculator).model)
