"""Parts of the network: radial functions, invariants of neighbour densities, atom and lattice updates.

Symbols: N atoms, H half edges, K the most edges of one atom, G crystals, F scalar channels, V vector channels,
C density channels, T tensor channels of the lattice node, M = (l_max + 1)² components of the spherical harmonics of
densities. `model/edges.py` has the layout of the edges.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from e3relax_flows.model.edges import DEGREES, EdgeGeometry, gather, list_shapes, sum_by

# Numbers below 1e-38 are ten times as slow as others on a CPU; sums of those above them do not see the difference.
LOWEST_EXPONENT = -40.0


class State(NamedTuple):
    """Features of the coupled nodes: atoms and lattice."""

    scalars: Tensor  # [N, F]
    vectors: Tensor | None  # [N, 3, V]; None before the first layer, where vectors and tensors are zero
    lattice_scalars: Tensor  # [G, F]
    lattice_tensors: Tensor  # [G, T, 9], symmetric 3x3 matrices written as rows of 9


def make_mlp(n_in: int, n_hidden: int, n_out: int, zero: bool = False) -> nn.Sequential:
    """Linear, SiLU, Linear; `zero` starts the last layer at zero."""
    last = nn.Linear(n_hidden, n_out)
    if zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.SiLU(), last)


def exponentiate(matrices: Tensor) -> Tensor:
    """Exponentials of [G, 3, 3]: sixteenth part, Taylor series to degree 10, squared four times.

    Exact to rounding for norms up to 4, whatever else is in the batch; torch.linalg.matrix_exp chooses its
    degree by batch and differs by 1e-10 between one matrix and several.
    """
    part = matrices / 16.0
    identity = torch.eye(3, dtype=matrices.dtype, device=matrices.device).expand(matrices.shape)
    result = identity + part / 10.0
    for degree in range(9, 0, -1):
        result = torch.baddbmm(identity, part, result, alpha=1.0 / degree)
    for _ in range(4):
        result = torch.bmm(result, result)
    return result


class GaussianBasis(nn.Module):
    """Gaussians with centres evenly spread over [start, stop] and width equal to their spacing, at least e^-40."""

    centers: Tensor

    def __init__(self, start: float, stop: float, n: int) -> None:
        super().__init__()
        self.register_buffer("centers", torch.linspace(start, stop, n), persistent=False)
        self.spacing = (stop - start) / (n - 1)

    def forward(self, x: Tensor) -> Tensor:
        """[E] -> [E, n]."""
        distances = (x[:, None] - self.centers.to(x.dtype)) / self.spacing
        return distances.square().mul_(-0.5).clamp_(min=LOWEST_EXPONENT).exp_()


class DensityInvariants(nn.Module):
    """High-degree, high-order invariants of an edge and of its centre.

    Densities A_i^lm = Σ_j f_ij Y_lm(u_ij) have no reference direction; an edge sees them through the contraction
    Σ_m Y_lm(u_ij) A^lm for its centre and its neighbour, an atom through the power spectrum Σ_m (A_i^lm)².
    What an edge sees of its neighbour is what the reversed edge sees of its centre, times (-1)^l.
    """

    sums: Tensor
    parity: Tensor
    sides: Tensor
    degrees: Tensor

    def __init__(self, n_scalars: int, n_radial: int, n_channels: int, l_max: int, scale: float) -> None:
        super().__init__()
        self.from_radial = nn.Linear(n_radial, n_channels)
        self.from_atom = nn.Linear(n_scalars, n_channels)
        self.scale = scale
        sums = [torch.full((2 * degree + 1, 1), (2 * degree + 1) ** -0.5) for degree in range(l_max + 1)]
        self.register_buffer("sums", torch.block_diag(*sums), persistent=False)  # [M, l_max + 1]
        signs = torch.tensor([(-1.0) ** degree for degree in range(l_max + 1)])
        scales = torch.tensor([(2 * degree + 1) ** -0.5 for degree in range(l_max + 1)])
        self.register_buffer("parity", signs, persistent=False)
        self.register_buffer("sides", torch.stack([scales, scales * signs], dim=1), persistent=False)  # [l_max + 1, 2]
        degrees = [degree for degree in range(l_max + 1) for _ in range(2 * degree + 1)]
        self.register_buffer("degrees", torch.tensor(degrees), persistent=False)  # [M]
        self.n_edge = 2 * n_channels * (l_max + 1)
        self.n_atom = n_channels * (l_max + 1)

    def forward(self, scalars: Tensor, edges: EdgeGeometry) -> tuple[Tensor, Tensor, Tensor]:
        """Densities [N, C, M], invariants of atoms [N, C(l_max+1)], and sums of weights times harmonics [N, ...]."""
        table, of_atoms = edges.table, self.from_atom(scalars)
        of_atoms = torch.cat([of_atoms, torch.ones_like(of_atoms[:, :1])], dim=1)
        radial = torch.cat([fade(self.from_radial, edges), edges.weights], dim=1)
        values = gather(of_atoms, table.neighbors).unflatten(0, (2, -1)) * radial
        sums = table.spread(values.flatten(0, 1)).mT @ edges.harmonics
        density = sums[:, :-1, : len(self.degrees)] * self.scale
        return density, (density.square() @ self.sums.to(density.dtype)).flatten(1), sums[:, -1]

    def turn_weights(self, weight: Tensor) -> Tensor:
        """Weights [n, 2C(l_max+1)] of the invariants of an edge as weights [M, C, 2n] of both atoms' densities.

        The invariants need not be computed: the contraction with Y_lm and a linear layer commute.
        """
        parts = weight.view(len(weight), 2, -1, len(self.parity)).permute(3, 2, 1, 0)
        return gather((parts * self.sides.to(weight.dtype)[:, None, :, None]).flatten(2), self.degrees)


class EdgeMessages(nn.Module):
    """Messages of edges: what each adds to its centre's scalars and vectors, to its position and to the strain.

    A hidden layer sees both atoms, the distance, the density invariants and u·T·u of the lattice node. Its values are
    summed over the edges of an atom before the last layer, which is linear.
    """

    shapes: Tensor

    def __init__(self, sizes: BlockSizes, n_invariants: int) -> None:
        super().__init__()
        self.inputs = [sizes.radial, n_invariants, sizes.tensors]
        self.split = [sizes.scalars, sizes.vectors, sizes.vectors, sizes.tensors, 1]
        self.of_center = nn.Linear(sizes.scalars, sizes.hidden, bias=False)
        self.of_neighbor = nn.Linear(sizes.scalars, sizes.hidden, bias=False)
        self.of_edge = nn.Linear(sum(self.inputs), sizes.hidden)
        self.filter = nn.Linear(sizes.radial, sizes.hidden)
        self.out = nn.Linear(sizes.hidden, sum(self.split))
        self.register_buffer("shapes", list_shapes(), persistent=False)  # [5, 9]

    @property
    def of_invariants(self) -> Tensor:
        """Weights of the density invariants in the hidden layer, [n, n_invariants]."""
        return self.of_edge.weight.split(self.inputs, dim=1)[1]

    def see(self, state: State, views: Tensor, graphs: Tensor) -> Tensor:
        """What edges see of both atoms and of the lattice node, as weights [N, M', 2n] of their harmonics.

        Parameters
        ----------
        state
            With normalised scalars.
        views
            [M, N, 2n], n hidden channels: what an edge sees of the density of its centre, and what its reverse sees.
            The result has at least the nine components up to degree two, if there is a lattice node to see.
        graphs
            [N] crystal of each atom.
        """
        n_hidden = views.shape[2] // 2
        views[0] += torch.cat([self.of_center(state.scalars), self.of_neighbor(state.scalars)], dim=1)
        if state.vectors is None:
            return views.transpose(0, 1)
        if len(views) < DEGREES[2].stop:
            views = torch.cat([views, views.new_zeros((DEGREES[2].stop - len(views), *views.shape[1:]))])
        of_tensors = self.of_edge.weight.split(self.inputs, dim=1)[2]
        seen = (state.lattice_tensors @ self.shapes.to(views.dtype).T).mT @ of_tensors.T  # [G, 5, n]
        views[DEGREES[2], :, :n_hidden] += gather(seen, graphs).transpose(0, 1)
        return views.transpose(0, 1)

    def forward(self, edges: EdgeGeometry, views: Tensor, vectors: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Sums over the edges of atoms: hidden values times shapes [N, 9, n]; gated vectors [N, 3, V], if any.

        Parameters
        ----------
        views
            [N, M', 2n] of `see`.
        vectors
            [N, 3, V] of the atoms.
        """
        table = edges.table
        of_radial, bias = self.of_edge.weight.split(self.inputs, dim=1)[0], self.of_edge.bias
        shared = nn.functional.linear(edges.radial, of_radial, bias)
        seen = table.join(edges.harmonics[:, :, : views.shape[1]] @ views).unflatten(0, (2, -1)).add_(shared)
        hidden = nn.functional.silu(seen).mul_(fade(self.filter, edges)).flatten(0, 1)
        totals = edges.shapes.mT @ table.spread(hidden)
        if vectors is None:
            return totals, None
        gate, bias = (part.split(self.split)[1] for part in (self.out.weight, self.out.bias))
        gates = (hidden @ gate.T).unflatten(0, (2, -1)).add_(edges.weights * bias).flatten(0, 1)
        passed_on = gather(vectors, table.neighbors).mul_(gates[:, None, :])
        return totals, sum_by(passed_on, table.centers, len(vectors))

    def read(self, totals: Tensor, counted: Tensor, graphs: Tensor, n_graphs: int) -> Messages:
        """Apply the last layer to the sums.

        Parameters
        ----------
        totals
            [N, 9, n] of `forward`.
        counted
            [N, ...] sums of weights times harmonics, for the biases.
        graphs, n_graphs
            [N] crystal of each atom, and their number.
        """
        weights, biases = self.out.weight.split(self.split), self.out.bias.split(self.split)
        scalars, vectors, tensors = DEGREES
        added = torch.addmm(counted[:, scalars] * biases[0], totals[:, 0], weights[0].T)
        push = torch.cat([weights[2], weights[4]]).T / 3**0.5
        push_bias = torch.cat([biases[2], biases[4]]) / 3**0.5
        pushed = totals[:, vectors] @ push + counted[:, vectors, None] * push_bias
        stretched = sum_by(totals[:, tensors], graphs, n_graphs) @ weights[3].T
        stretched = stretched + sum_by(counted[:, tensors], graphs, n_graphs)[:, :, None] * biases[3]
        return Messages(added, pushed[:, :, :-1], pushed[:, :, -1], stretched.mT @ self.shapes.to(stretched.dtype))


class Messages(NamedTuple):
    """Sums of the messages that need no other atom."""

    scalars: Tensor  # [N, F]
    vectors: Tensor  # [N, 3, V] along the edges
    shifts: Tensor  # [N, 3] the same, of positions
    tensors: Tensor  # [G, T, 9] sums over the atoms of a crystal


def fade(layer: nn.Linear, edges: EdgeGeometry) -> Tensor:
    """A linear layer of the radial functions, times the smooth cutoff [H, n]."""
    return edges.faded @ torch.cat([layer.weight, layer.bias[:, None]], dim=1).T


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
