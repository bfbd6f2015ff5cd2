"""Parts of the released E3Relax-H2: radial basis, lattice axes, atom messages, self-interaction (arXiv 2603.23941).

Shapes: N atoms, E edges, G graphs, H channels, R radial functions. Scalars are [..., H], vectors [..., 3, H] with the
Cartesian components before the channels. "Linear0" in a comment is a linear map without bias.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

LENGTH_SQUARED_FLOOR = 1e-8
DIVISION_GUARD = 1e-9
MEAN_GUARD = 1e-9  # Å⁰: added to the squared length of a mean direction
MEAN_FLOOR = 5e-5  # a mean direction shorter than this is replaced by FALLBACK_DIRECTION
FALLBACK_DIRECTION = (1.0, 0.0, 0.0)
MAX_DEGREE = 3


class ScaledSiLU(nn.Module):
    """SiLU(x) / 0.6, which roughly keeps the variance."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply elementwise."""
        return functional.silu(x) / 0.6


class Perceptron(nn.Module):
    """Two linear maps with an activation between them."""

    def __init__(self, n_in: int, n_hidden: int, n_out: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(n_in, n_hidden)
        self.activation = activation or ScaledSiLU()
        self.second = nn.Linear(n_hidden, n_out)

    def forward(self, x: Tensor) -> Tensor:
        """[..., n_in] to [..., n_out]."""
        return self.second(self.activation(self.first(x)))


def measure_lengths(vectors: Tensor, dim: int = -1) -> Tensor:
    """Lengths along `dim`, which is dropped; never under 1e-4, so that the square root has a gradient."""
    return vectors.square().sum(dim).clamp(min=LENGTH_SQUARED_FLOOR).sqrt()


def expand_radially(lengths: Tensor, cutoff: float, n_radial: int) -> Tensor:
    """Gaussians of lengths / cutoff with centres 0..1, times a polynomial envelope that ends at the cutoff.

    Parameters
    ----------
    lengths
        [...] Å; negative ones are allowed.

    Returns
    -------
    [..., n_radial]
    """
    scaled = (lengths / cutoff).unsqueeze(-1)
    centers = torch.linspace(0.0, 1.0, n_radial, dtype=lengths.dtype, device=lengths.device)
    gaussians = torch.exp(-0.5 * ((scaled - centers) * (n_radial - 1)).square())
    fifth = scaled**5
    envelope = 1 - 21 * fifth + 35 * fifth * scaled - 15 * fifth * scaled.square()
    return gaussians * torch.where(scaled < 1, envelope, torch.zeros_like(envelope))


def evaluate_legendre(cosines: Tensor) -> Tensor:
    """Legendre polynomials of degree 0 to 3, [..., 4].

    By the addition theorem P_l(u·w) is the mean over m of Y_lm(u) Y_lm(w) with component-normalised harmonics.
    """
    polynomials = [torch.ones_like(cosines), cosines]
    for degree in range(2, MAX_DEGREE + 1):
        previous, last = polynomials[-2:]
        polynomials.append(((2 * degree - 1) * cosines * last - (degree - 1) * previous) / degree)
    return torch.stack(polynomials, dim=-1)


def average_groups(values: Tensor, groups: Tensor, counts: Tensor) -> Tensor:
    """Mean of `values` [n, ...] over the members of each group; zero for empty groups.

    Parameters
    ----------
    groups
        [n] index of the group of each value.
    counts
        [n_groups] number of members.
    """
    sums = values.new_zeros((len(counts), *values.shape[1:])).index_add(0, groups, values)
    return sums / counts.clamp(min=1).to(values.dtype).view(-1, *[1] * (values.dim() - 1))


class AxisBlock(nn.Module):
    """One lattice axis a_k: its messages to the atoms and from them, and its change (steps 1, 5 and 6)."""

    def __init__(self, n_channels: int, n_radial: int) -> None:
        super().__init__()
        self.n_channels = n_channels
        self.message_source = Perceptron(n_channels, n_channels, 3 * n_channels)
        self.message_filter = nn.Linear(n_radial, 3 * n_channels)
        self.scalars_to_atoms = Perceptron(2 * n_channels, n_channels, n_channels)
        self.vectors_to_atoms = nn.Linear(n_channels, n_channels, bias=False)
        self.scalars_from_atoms = Perceptron(2 * n_channels, n_channels, n_channels)
        self.vectors_from_atoms = nn.Linear(n_channels, n_channels, bias=False)
        self.state_vectors = nn.Linear(n_channels, 2 * n_channels, bias=False)
        self.state_scalars = Perceptron(2 * n_channels, n_channels, 3 * n_channels)
        self.change = nn.Linear(n_channels, 1, bias=False)
        self.activation = ScaledSiLU()

    def inform_atoms(
        self, scalars: Tensor, vectors: Tensor, features: Tensor, directions: Tensor, axis: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Atoms after the message of this axis (step 1).

        Parameters
        ----------
        scalars, vectors
            [N, H], [N, 3, H] of the atoms.
        features
            [N, R] of the atoms' positions along and across the axis.
        directions
            [N, 3] unit vectors between the atoms and the end of the axis.
        axis
            Scalars [N, H] and vectors [N, 3, H] of the axis, repeated for its atoms.
        """
        message = self.message_source(scalars) * self.message_filter(features) / math.sqrt(3)
        along, across, shift = message.chunk(3, dim=-1)
        scalars = scalars + shift
        # the vectors are replaced, not added to
        vectors = along.unsqueeze(1) * vectors + across.unsqueeze(1) * directions.unsqueeze(-1)
        vectors = vectors / math.sqrt(self.n_channels)
        scalars = scalars + self.activation(self.scalars_to_atoms(torch.cat([scalars, axis[0]], dim=-1)))
        return scalars, vectors + self.vectors_to_atoms(vectors + axis[1])

    def listen_to_atoms(
        self, scalars: Tensor, vectors: Tensor, mean_scalars: Tensor, mean_vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Axis [G, H], [G, 3, H] after the message from the means [G, H], [G, 3, H] over its atoms (step 5)."""
        scalars = scalars + self.activation(self.scalars_from_atoms(torch.cat([mean_scalars, scalars], dim=-1)))
        vectors = vectors + self.vectors_from_atoms(mean_vectors + vectors)
        kept, measured = self.state_vectors(vectors).chunk(2, dim=-1)
        lengths = (measured.square().sum(1) + LENGTH_SQUARED_FLOOR).sqrt()
        weights, shift, gate = self.state_scalars(torch.cat([scalars, lengths], dim=-1)).chunk(3, dim=-1)
        return shift + scalars * torch.tanh(gate), vectors + weights.unsqueeze(1) * kept


class NeighborMessage(nn.Module):
    """Messages between atoms, gated by the angle to the mean direction of the neighbourhood (step 2)."""

    def __init__(self, n_channels: int, n_radial: int) -> None:
        super().__init__()
        self.n_channels = n_channels
        self.source = Perceptron(n_channels, n_channels // 2, 3 * n_channels)
        self.filter = nn.Linear(n_radial, 3 * n_channels)
        self.norm = nn.LayerNorm(MAX_DEGREE + 1)
        self.gate = nn.Linear(MAX_DEGREE + 2, 3 * n_channels)
        self.activation = ScaledSiLU()

    def forward(
        self, scalars: Tensor, vectors: Tensor, directions: Tensor, radial: Tensor, edges: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Atoms [N, H], [N, 3, H] after one exchange.

        Parameters
        ----------
        directions
            [E, 3] unit vectors from the neighbour to the centre.
        radial
            [E, R] expanded distances.
        edges
            Centres [E] and neighbours [E].
        """
        centers, neighbors = edges
        message = self.source(scalars)[neighbors] * self.filter(radial)
        message = message * (1 + self._open_gate(directions, centers, len(scalars))) / math.sqrt(3)
        along, across, shift = message.chunk(3, dim=-1)
        moved = along.unsqueeze(1) * vectors[neighbors] + across.unsqueeze(1) * directions.unsqueeze(-1)
        scalars = scalars.index_add(0, centers, shift) / math.sqrt(2)
        return scalars, vectors.index_add(0, centers, moved / math.sqrt(self.n_channels))

    def _open_gate(self, directions: Tensor, centers: Tensor, n_atoms: int) -> Tensor:
        """Gate [E, 3H] in (-1, 1) from the angles to the mean direction of each centre."""
        counts = torch.bincount(centers, minlength=n_atoms)
        means = average_groups(directions, centers, counts)
        roots = (means.square().sum(-1, keepdim=True) + MEAN_GUARD).sqrt()
        fallback = directions.new_tensor(FALLBACK_DIRECTION)
        references = torch.where(roots < MEAN_FLOOR, fallback, means / roots)[centers]
        cosines = (directions * references).sum(-1)
        unit_cosines = (functional.normalize(directions, dim=-1) * functional.normalize(references, dim=-1)).sum(-1)
        invariants = self.norm(evaluate_legendre(unit_cosines))
        return torch.tanh(self.activation(self.gate(torch.cat([cosines.unsqueeze(-1), invariants], dim=-1))))


class SelfInteraction(nn.Module):
    """Scalars and vectors of each atom mix (step 3)."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.vectors = nn.Linear(n_channels, 2 * n_channels, bias=False)
        self.scalars = Perceptron(2 * n_channels, n_channels, 3 * n_channels)

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Atoms [N, H], [N, 3, H] after mixing."""
        kept, measured = self.vectors(vectors).chunk(2, dim=-1)
        lengths = (measured.square().sum(1) + LENGTH_SQUARED_FLOOR).sqrt()
        weights, shift, gate = self.scalars(torch.cat([scalars, lengths], dim=-1)).chunk(3, dim=-1)
        change = shift / math.sqrt(2) + scalars * torch.tanh(gate)
        return (scalars + change) / math.sqrt(2), vectors + weights.unsqueeze(1) * kept
