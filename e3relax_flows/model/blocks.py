"""Parts of the network: radial functions, invariants of neighbour densities, atom and lattice updates.

Symbols: N atoms, H half edges (each edge and its reverse are one), K the most edges of one atom, G crystals, F scalar
channels, V vector channels, C density channels, T tensor channels of the lattice node, M = (l_max + 1)² components of
the spherical harmonics. What depends on distances only is computed for half edges; what differs by direction comes as
two tensors, for an edge seen from its centre and from its neighbour. Narrow features of the edges are also kept as
[N, K, ...], empty slots zero: sums over the edges of an atom, and what an edge sees of the density around its
centre, are then products of small matrices.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class State(NamedTuple):
    """Features of the coupled nodes: atoms and lattice."""

    scalars: Tensor  # [N, F]
    vectors: Tensor | None  # [N, 3, V]; None before the first layer, where vectors and tensors are zero
    lattice_scalars: Tensor  # [G, F]
    lattice_tensors: Tensor  # [G, T, 9], symmetric 3x3 matrices written as rows of 9


class EdgeTable(NamedTuple):
    """Layout of the edges; the same for all layers."""

    centers: Tensor  # [H]
    neighbors: Tensor  # [H]
    places: tuple[Tensor, Tensor]  # [H] each: indices of the edges in [N·K], and of their reverse
    shape: tuple[int, int]  # N, K

    def spread(self, there: Tensor, back: Tensor) -> Tensor:
        """[H, n] of the edges and of their reverse -> [N, K, n]."""
        wide = there.new_zeros((self.shape[0] * self.shape[1], there.shape[1]))
        return wide.index_copy_(0, self.places[0], there).index_copy_(0, self.places[1], back).unflatten(0, self.shape)

    def collect(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """[N, K, n] -> [H, n] of the edges and of their reverse."""
        flat = values.flatten(0, 1)
        return flat.index_select(0, self.places[0]), flat.index_select(0, self.places[1])


class EdgeGeometry(NamedTuple):
    """Edges of the present geometry, in the network's precision."""

    table: EdgeTable
    radial: Tensor  # [H, 2R] radial functions of the length
    weights: Tensor  # [H, 1] smooth cutoff
    angular: Tensor  # [N, K, 12 + M] u ⊗ u - 1/3, u, harmonics of u; u is the unit vector from centre to neighbour

    @property
    def harmonics(self) -> Tensor:
        """[N, K, M]."""
        return self.angular[:, :, N_SHAPES:]

    @property
    def shapes(self) -> Tensor:
        """[N, K, 13] u ⊗ u - 1/3, u and the harmonic of degree zero, which is 1."""
        return self.angular[:, :, : N_SHAPES + 1]


N_SHAPES = 12


def arrange_edges(centers: Tensor, neighbors: Tensor, reverse: Tensor, n_atoms: int) -> tuple[EdgeTable, Tensor]:
    """Table of edges [E] that are sorted by centre, and which of them are the half edges [H]."""
    counts = torch.bincount(centers, minlength=n_atoms)
    first = torch.cumsum(counts, 0) - counts
    width = max(int(counts.max()), 1)
    number = torch.arange(len(centers), device=centers.device)
    places = centers * width + number - first[centers]
    half = torch.nonzero(number < reverse).squeeze(1)
    sides = places[half], places[reverse[half]]
    return EdgeTable(centers[half], neighbors[half], sides, (n_atoms, width)), half


def make_mlp(n_in: int, n_hidden: int, n_out: int, zero: bool = False) -> nn.Sequential:
    """Linear, SiLU, Linear; `zero` starts the last layer at zero."""
    last = nn.Linear(n_hidden, n_out)
    if zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.SiLU(), last)


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


def exponentiate(matrices: Tensor) -> Tensor:
    """Exponentials of [G, 3, 3]: sixteenth part, Taylor series to degree 10, squared four times.

    Exact to rounding for norms up to 4, whatever else is in the batch; torch.linalg.matrix_exp chooses its
    degree by batch and differs by 1e-10 between one matrix and several.
    """
    part = matrices / 16.0
    identity = torch.eye(3, dtype=matrices.dtype, device=matrices.device)
    result = identity + part / 10.0
    for degree in range(9, 0, -1):
        result = identity + part @ result / degree
    for _ in range(4):
        result = result @ result
    return result


class GaussianBasis(nn.Module):
    """Gaussians with centres evenly spread over [start, stop] and width equal to their spacing."""

    centers: Tensor

    def __init__(self, start: float, stop: float, n: int) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(start, stop, n), persistent=False)
        self.spacing = (stop - start) / (n - 1)

    def forward(self, x: Tensor) -> Tensor:
        """[E] -> [E, n]."""
        return torch.exp(-0.5 * ((x[:, None] - self.centers.to(x.dtype)) / self.spacing).square())


class DensityInvariants(nn.Module):
    """High-degree, high-order invariants of an edge and of its centre.

    Densities A_i^lm = Σ_j f_ij Y_lm(u_ij) have no reference direction; an edge sees them through the contraction
    Σ_m Y_lm(u_ij) A^lm for its centre and its neighbour, an atom through the power spectrum Σ_m (A_i^lm)².
    What an edge sees of its neighbour is what the reversed edge sees of its centre, times (-1)^l.
    """

    sums: Tensor
    parity: Tensor

    def __init__(self, n_scalars: int, n_radial: int, n_channels: int, l_max: int, scale: float) -> None:
        super().__init__()
        self.from_radial = nn.Linear(n_radial, n_channels)
        self.from_atom = nn.Linear(n_scalars, n_channels)
        self.scale = scale
        sums = [torch.full((2 * degree + 1, 1), (2 * degree + 1) ** -0.5) for degree in range(l_max + 1)]
        self.register_buffer("sums", torch.block_diag(*sums), persistent=False)  # [M, l_max + 1]
        signs = torch.tensor([(-1.0) ** degree for degree in range(l_max + 1)])
        self.register_buffer("parity", signs, persistent=False)
        self.n_edge = 2 * n_channels * (l_max + 1)
        self.n_atom = n_channels * (l_max + 1)

    def forward(self, scalars: Tensor, edges: EdgeGeometry) -> tuple[Tensor, Tensor, Tensor]:
        """Densities [N, C, M], invariants of atoms [N, C(l_max+1)], and the sums of weights times shapes [N, 13]."""
        table, of_atoms = edges.table, self.from_atom(scalars)
        of_atoms = torch.cat([of_atoms, torch.ones_like(of_atoms[:, :1])], dim=1)
        radial = torch.cat([self.from_radial(edges.radial), torch.ones_like(edges.weights)], dim=1) * edges.weights
        sides = (radial * gather(of_atoms, index) for index in (table.neighbors, table.centers))
        sums = table.spread(*sides).mT @ edges.angular
        density = sums[:, :-1, N_SHAPES:] * self.scale
        return density, (density.square() @ self.sums.to(density.dtype)).flatten(1), sums[:, -1, : N_SHAPES + 1]

    def turn_weights(self, weight: Tensor) -> Tensor:
        """Weights [n, 2C(l_max+1)] of the invariants of an edge as weights [M, C, 2n] of both atoms' densities.

        The invariants need not be computed: the contraction with Y_lm and a linear layer commute.
        """
        parts = weight.view(len(weight), 2, -1, len(self.parity))
        signs = torch.stack([torch.ones_like(self.parity), self.parity]).to(weight.dtype)
        return torch.einsum("ml,nscl,sl->mcsn", self.sums.to(weight.dtype), parts, signs).flatten(2)


class EdgeMessages(nn.Module):
    """Messages of edges: what each adds to its centre's scalars and vectors, to its position and to the strain.

    A hidden layer sees both atoms, the distance, the density invariants and u·T·u of the lattice node. Its values are
    summed over the edges of an atom before the last layer, which is linear.
    """

    def __init__(self, sizes: BlockSizes, n_invariants: int) -> None:
        super().__init__()
        self.inputs = [sizes.radial, n_invariants, sizes.tensors]
        self.split = [sizes.scalars, sizes.vectors, sizes.vectors + sizes.tensors + 1]
        self.of_center = nn.Linear(sizes.scalars, sizes.hidden, bias=False)
        self.of_neighbor = nn.Linear(sizes.scalars, sizes.hidden, bias=False)
        self.of_edge = nn.Linear(sum(self.inputs), sizes.hidden)
        self.filter = nn.Linear(sizes.radial, sizes.hidden)
        self.out = nn.Linear(sizes.hidden, sum(self.split))

    @property
    def of_invariants(self) -> Tensor:
        """Weights of the density invariants in the hidden layer, [n, n_invariants]."""
        return self.of_edge.weight.split(self.inputs, dim=1)[1]

    def forward(
        self, state: State, edges: EdgeGeometry, views: Tensor, counted: Tensor, graphs: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Sums over the edges of atoms: Δs [N, F]; what is summed with u ⊗ u and u, [N, 12, V + T + 1]; gated vectors.

        Parameters
        ----------
        state
            With normalised scalars. Vectors that are None, before the first layer, are zero, as is the lattice node.
        views
            [M, N, 2n], n hidden channels: what an edge sees of the density of its centre, and what its reverse sees.
        counted
            [N, 13] sums of weights times shapes, for the biases.
        graphs
            [N] crystal of each atom.

        Returns
        -------
        added, shaped, passed_on
            The last is [N, 3, V], or None where there are no vectors.
        """
        table, weights = edges.table, edges.weights
        of_radial, _, of_tensors = self.of_edge.weight.split(self.inputs, dim=1)
        shared = nn.functional.linear(edges.radial, of_radial, self.of_edge.bias)
        if state.vectors is not None:
            seen = (edges.angular[:, :, :9] @ gather(state.lattice_tensors, graphs).mT).flatten(0, 1)
            shared = torch.addmm(shared, gather(seen, table.places[0]), of_tensors.T)
        views[0] += torch.cat([self.of_center(state.scalars), self.of_neighbor(state.scalars)], dim=1)
        there, back = table.collect(edges.harmonics @ views.transpose(0, 1))
        filters = self.filter(edges.radial) * weights
        n = filters.shape[1]
        hidden = [
            nn.functional.silu((one[:, :n] + other[:, n:]).add_(shared)) * filters
            for one, other in ((there, back), (back, there))
        ]
        add, gate, rest = self.out.weight.split(self.split)
        add_bias, gate_bias, rest_bias = self.out.bias.split(self.split)
        totals = edges.shapes.mT @ table.spread(*hidden)  # [N, 13, n]
        added = totals[:, N_SHAPES] @ add.T + counted[:, N_SHAPES:] * add_bias
        shaped = totals[:, :N_SHAPES] @ rest.T + counted[:, :N_SHAPES, None] * rest_bias
        if state.vectors is None:
            return added, shaped, None
        passed_on = torch.zeros_like(state.vectors)
        ends = (table.centers, table.neighbors), (table.neighbors, table.centers)
        for values, (center, neighbor) in zip(hidden, ends, strict=True):
            gates = torch.addmm(weights * gate_bias, values, gate.T)
            passed_on.index_add_(0, center, gates[:, None, :] * gather(state.vectors, neighbor))
        return added, shaped, passed_on


class AtomUpdate(nn.Module):
    """Each atom on its own: vectors mix, scalars see their products, the power spectrum and the lattice node."""

    def __init__(self, sizes: BlockSizes, n_invariants: int) -> None:
        super().__init__()
        self.split = [sizes.scalars, sizes.vectors]
        self.mix = nn.Linear(sizes.vectors, 2 * sizes.vectors, bias=False)
        self.mlp = make_mlp(2 * sizes.scalars + 2 * sizes.vectors + n_invariants, sizes.scalars, sum(self.split))

    def forward(self, scalars: Tensor, vectors: Tensor, invariants: Tensor, lattice: Tensor) -> tuple[Tensor, Tensor]:
        """New scalars [N, F] and vectors [N, 3, V]; `lattice` [N, F] are the lattice node's scalars."""
        left, right = self.mix(vectors).chunk(2, dim=2)
        products = (left * right).sum(dim=1)
        norms = torch.sqrt(right.square().sum(dim=1) + 1e-4) - 1e-2
        change, gate = self.mlp(torch.cat([scalars, lattice, products, norms, invariants], dim=1)).split(self.split, 1)
        return scalars + change, vectors + left * gate[:, None, :]


class LatticeUpdate(nn.Module):
    """The lattice node takes the atoms' means and the edges' strain, and gives the next strain."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        self.split = [sizes.scalars, sizes.tensors, sizes.tensors, 1]
        self.mlp = make_mlp(2 * sizes.scalars + sizes.tensors, sizes.scalars, sum(self.split))
        self.strain = nn.Parameter(torch.zeros(1, sizes.tensors))
        self.volume = nn.Parameter(torch.zeros(1))

    def forward(self, state: State, mean_scalars: Tensor, new_tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """New scalars [G, F] and tensors [G, T, 9], and the strain [G, 3, 3] of this layer.

        `new_tensors` [G, T, 9] is the mean over atoms of the edges' weighted u ⊗ u.
        """
        tensors = state.lattice_tensors + new_tensors
        norms = tensors.square().sum(dim=2)
        seen = torch.cat([state.lattice_scalars, mean_scalars, norms / (1.0 + norms)], dim=1)
        change, gate, trace, volume = self.mlp(seen).split(self.split, dim=1)
        identity = torch.eye(3, dtype=tensors.dtype, device=tensors.device).flatten()
        tensors = tensors * (1.0 + torch.tanh(gate))[:, :, None] + identity * trace[:, :, None]
        strain = self.strain @ tensors + identity * (self.volume * volume)[:, :, None]
        return state.lattice_scalars + change, tensors, strain.reshape(-1, 3, 3)


class ErrorHead(nn.Module):
    """Predicts the errors of start and prediction; it reads the features without a gradient to them."""

    def __init__(self, sizes: BlockSizes) -> None:
        super().__init__()
        n_in = 3 * sizes.scalars + sizes.tensors + 4
        self.norm = nn.LayerNorm(n_in)
        self.mlp = make_mlp(n_in, sizes.scalars, 4, zero=True)
        # a new network moves nothing, and its errors are large
        nn.init.constant_(self.mlp.get_parameter("2.bias"), 3.0)

    def forward(self, state: State, moves: Tensor, graphs: Tensor, counts: Tensor) -> Tensor:
        """Logarithms [G, 4] of displacement (Å) and strain, of the start and of the prediction.

        `moves` [G, 4] are the mean displacement (Å) and strain of all layers and of the last one.
        """
        scalars, n = state.scalars.detach(), len(counts)
        mean = sum_by(scalars, graphs, n) / counts
        spread = sum_by((scalars - mean[graphs]).square(), graphs, n) / counts
        norms = state.lattice_tensors.detach().square().sum(dim=2)
        seen = [mean, torch.log1p(spread), state.lattice_scalars.detach(), norms / (1.0 + norms)]
        sizes = torch.log(moves.detach().to(mean.dtype) + 1e-3)
        # the moves of all layers are the first guess of the start's errors, those of the last of the prediction's
        return sizes + self.mlp(self.norm(torch.cat([*seen, sizes], dim=1)))


class BlockSizes(NamedTuple):
    """Numbers of channels that the blocks share."""

    scalars: int
    vectors: int
    tensors: int
    hidden: int
    radial: int
