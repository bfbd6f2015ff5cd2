"""Edges of a batch: their layout, sums and gathers over it, and the features of their geometry.

Symbols: N atoms, H half edges (each edge and its reverse are one), K the most edges of one atom, L the highest degree
of the spherical harmonics, at least 2. What depends on distances only is computed for half edges. What differs by
direction is kept as [2H, ...], edges first, then their reverse, and where sums over the edges of an atom are products
of small matrices as [N, K, ...], empty slots zero.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag, hardshrink

DEGREES = (slice(0, 1), slice(1, 4), slice(4, 9))  # components of the harmonics of degree 0, 1 and 2
N_SHAPES = 9
NOISE = 1e-10


class EdgeTable(NamedTuple):
    """Layout of the edges; the same for all layers."""

    centers: Tensor  # [2H]
    neighbors: Tensor  # [2H]
    places: Tensor  # [2H] slots in [N·K]
    pairs: Tensor  # [2H, 2] rows in [N·K·2]: first half of an edge's row, second half of its reverse's
    order: Tensor  # [2H] edges sorted by slot
    starts: Tensor  # [N·K] position of each slot in that order; empty ones are at the next
    shape: tuple[int, int]  # N, K

    def spread(self, values: Tensor) -> Tensor:
        """[2H, n] -> [N, K, n]."""
        if uses_bags(values) and len(values):
            return embedding_bag(self.order, values, self.starts, mode="sum").unflatten(0, self.shape)
        wide = values.new_zeros((self.shape[0] * self.shape[1], values.shape[1]))
        return wide.index_copy_(0, self.places, values).unflatten(0, self.shape)

    def join(self, values: Tensor) -> Tensor:
        """[N, K, 2n] -> [2H, n]: the first half of an edge's values plus the second half of its reverse's."""
        if uses_bags(values) and len(self.pairs):
            return embedding_bag(self.pairs, values.view(-1, values.shape[2] // 2), mode="sum")
        n_half = len(self.places) // 2
        first, second = values.flatten(0, 1).index_select(0, self.places).chunk(2, dim=1)
        return first + torch.cat([second[n_half:], second[:n_half]])


class EdgeGeometry(NamedTuple):
    """Edges of the present geometry, in the network's precision."""

    table: EdgeTable
    radial: Tensor  # [H, 2R] radial functions of the length
    faded: Tensor  # [H, 2R + 1] these and 1, times the smooth cutoff
    harmonics: Tensor  # [N, K, (L + 1)²] spherical harmonics of the unit vector u from centre to neighbour

    @property
    def weights(self) -> Tensor:
        """[H, 1] smooth cutoff."""
        return self.faded[:, -1:]

    @property
    def shapes(self) -> Tensor:
        """[N, K, 9] harmonics up to degree two: 1, √3 u, and u ⊗ u less its trace in the basis of `list_shapes`."""
        return self.harmonics[:, :, :N_SHAPES]


def uses_bags(values: Tensor) -> bool:
    """Whether sums of rows are fused: on a CPU, where no gradient is asked for."""
    return values.device.type == "cpu" and not torch.is_grad_enabled()


def list_shapes() -> Tensor:
    """Matrices [5, 9]: u ⊗ u - u·u/3 is the sum of the harmonics of degree two times these, as rows of 9."""
    shapes = torch.zeros(5, 3, 3, dtype=torch.float64)
    for component, (i, j) in ((0, (0, 2)), (1, (0, 1)), (3, (1, 2))):
        shapes[component, i, j] = shapes[component, j, i] = 0.5**0.5
    shapes[2] = torch.diag(torch.tensor([-1.0, 2.0, -1.0], dtype=shapes.dtype)) / 6**0.5
    shapes[4] = torch.diag(torch.tensor([-1.0, 0.0, 1.0], dtype=shapes.dtype)) / 2**0.5
    return shapes.flatten(1) / 7.5**0.5


def arrange_edges(centers: Tensor, neighbors: Tensor, reverse: Tensor, n_atoms: int) -> tuple[EdgeTable, Tensor]:
    """Table of edges [E] that are sorted by centre, and which of them are the half edges [H]."""
    counts = torch.bincount(centers, minlength=n_atoms)
    first = torch.cumsum(counts, 0) - counts
    width = max(int(counts.max()), 1)
    number = torch.arange(len(centers), device=centers.device)
    half = torch.nonzero(number < reverse).squeeze(1)
    back = reverse[half]
    both = torch.cat([half, back])
    sources = centers[both]
    places = sources * width + both - first[sources]
    pairs = torch.stack([2 * places, 2 * places.roll(len(half)) + 1], dim=1)
    slots = torch.arange(width, device=centers.device)
    starts = (first[:, None] + torch.minimum(slots, counts[:, None])).flatten()
    order = torch.empty_like(both).scatter_(0, both, number)
    return EdgeTable(sources, neighbors[both], places, pairs, order, starts, (n_atoms, width)), half


def drop_noise(directions: Tensor) -> Tensor:
    """Unit vectors with components below 1e-10 set to zero, since their powers are too small for a fast product.

    Symmetric crystals have many of them, from rounding. The gradient is that of the components as they are.
    """
    kept = hardshrink(directions, NOISE)
    return directions + (kept - directions).detach() if directions.requires_grad else kept


def switch_off(t: Tensor) -> Tensor:
    """1 at t = 0, 0 from t = 1 on, with three vanishing derivatives there: 1 - 35 t⁴ + 84 t⁵ - 70 t⁶ + 20 t⁷."""
    t = t.clamp(max=1.0)
    t4 = t.square().square()
    return 1.0 + t4 * (-35.0 + t * (84.0 + t * (-70.0 + 20.0 * t)))


def sum_by(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Sum rows of `values` [K, ...] into [n, ...] by `index` [K]."""
    return values.new_zeros((n, *values.shape[1:])).index_add_(0, index, values)


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows of `values` by `index`; its gradient is a plain sum."""
    return values.index_select(0, index)
