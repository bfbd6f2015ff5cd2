"""SevenNet potentials for batches of crystals, their convolutions evaluated per pair of atoms; the same numbers.

SevenNet's convolution takes a tensor product of the neighbour's features for each edge, that is for each periodic
image of the neighbour. All images of a neighbour have the same features, and the radial weights are linear in the last
hidden layer of their network. So the images are summed first, as the outer product of hidden layer and spherical
harmonics; weights and tensor products follow once per pair of atoms, and Clebsch-Gordan coefficients once per atom.
The two directions of an edge differ by the sign of odd degrees, so that each is computed once.

Imports torch and sevenn, so it is imported only when it is used.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from ase import Atoms
from e3nn import o3
from numpy.typing import NDArray
from sevenn import _keys as keys
from sevenn.util import load_checkpoint
from torch import Tensor, nn
from vesin import NeighborList

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.geometry import Array
from e3relax_flows.engines.batches import Evaluation

Integers: TypeAlias = NDArray[np.int64]
PAIRS = "e3relax_pairs"
CONVOLUTION = "_convolution"


@dataclass(frozen=True)
class Pairs:
    """Which edges make a pair of atoms, and which pairs an atom is part of.

    An unordered pair (i, j) with i <= j is computed once. Slots of an atom are its neighbours, padded to one number.

    Attributes
    ----------
    of_edge
        [n_edges] the pair of each edge; pairs of an atom with its own images come last.
    n_pairs
        Number of pairs.
    neighbors, slots
        [n_atoms, n_slots] the neighbour and the pair of each slot; padded slots repeat the first ones.
    even, odd
        [n_atoms, n_slots] factor of even and odd degrees: 1 and 1; 1 and -1 seen from j; 2 and 0 where i = j, as the
        edge in the other direction is not listed; 0 and 0 where padded.
    sides
        Slot numbers (atom · n_slots + slot) of the pairs seen from i, and seen from j where it is another atom.
    """

    of_edge: Tensor
    n_pairs: int
    neighbors: Tensor
    slots: Tensor
    even: Tensor
    odd: Tensor
    sides: tuple[Tensor, Tensor]


class SevenNetBatches:
    """Energies, forces and stresses of many crystals at once by a SevenNet potential.

    Parameters
    ----------
    weights
        File of the checkpoint, or the name of one in the package.
    modal
        Task of a network that serves several.
    device
        Of torch.
    max_atoms
        Size of a batch.

    Raises
    ------
    EngineError
        When the network has other convolutions than SevenNet's own.
    """

    name = "sevennetcalculator"  # as of its own calculator

    def __init__(self, weights: Path | str, modal: str | None = None, device: str = "cpu", max_atoms: int = 64) -> None:
        self.max_atoms = max_atoms
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="No tensor product accelerator")
            network: Any = load_checkpoint(str(weights)).build_model()
        network.set_is_batch_data(True)
        network.delete_module_by_key("force_output")
        for name, module in list(network.named_children()):
            if name.endswith(CONVOLUTION):
                network.replace_module(name, PairConvolution(module))
        self.network = network.to(device).eval().requires_grad_(False)
        network.key_grad, network.eval_modal_map = None, False
        self.modal = None if modal is None else int(network.modal_map[modal])
        self.device = torch.device(device)
        self.cutoff = float(network.cutoff)
        self.elements = frozenset(network.type_map)

    def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation]:
        """Energy, forces and stress of each crystal.

        Parameters
        ----------
        crystals
            Periodic in three directions. The batch needs memory for its largest crystal's neighbours at each atom,
            so crystals of similar size belong together.

        Raises
        ------
        EngineError
            When an element is unknown to the weights, or an atom has no neighbour within the cutoff.
        """
        data, counts, centers, neighbors = self._gather(crystals)
        vectors = data[keys.EDGE_VEC].requires_grad_(True)
        energies = self.network(data)[keys.PRED_TOTAL_ENERGY]
        (gradient,) = torch.autograd.grad(energies.sum(), vectors)
        pulls, arms = gradient.double().cpu().numpy(), vectors.detach().double().cpu().numpy()
        forces = np.zeros((sum(counts), 3))
        np.add.at(forces, centers, pulls)
        np.add.at(forces, neighbors, -pulls)
        crystal = np.repeat(np.arange(len(crystals)), counts)
        virials = np.zeros((len(crystals), 3, 3))
        np.add.at(virials, crystal[centers], arms[:, :, None] * pulls[:, None, :])
        parts = np.split(forces, np.cumsum(counts)[:-1])
        return [
            Evaluation(float(energy), part, (virial + virial.T) / (2 * atoms.get_volume()))
            for energy, part, virial, atoms in zip(energies.tolist(), parts, virials, crystals, strict=True)
        ]

    def _gather(self, crystals: Sequence[Atoms]) -> tuple[dict[str, Any], list[int], Integers, Integers]:
        """Input of the network, numbers of atoms, and the atoms at both ends of each edge."""
        counts = [len(atoms) for atoms in crystals]
        numbers = np.concatenate([atoms.numbers for atoms in crystals]).astype(np.int64)
        if unknown := sorted(set(numbers.tolist()) - self.elements):
            raise EngineError(f"the potential was not trained on the elements with the numbers {unknown}")
        starts = np.cumsum([0, *counts[:-1]])
        found = [find_half_edges(atoms, self.cutoff) for atoms in crystals]
        centers = np.concatenate([edges.centers + start for edges, start in zip(found, starts, strict=True)])
        neighbors = np.concatenate([edges.neighbors + start for edges, start in zip(found, starts, strict=True)])
        device = self.device
        edges = torch.from_numpy(np.stack([centers, neighbors])).to(device)
        data = {
            keys.NODE_FEATURE: torch.from_numpy(numbers).to(device),
            keys.ATOMIC_NUMBERS: torch.from_numpy(numbers).to(device),
            keys.EDGE_IDX: edges,
            keys.EDGE_VEC: torch.from_numpy(np.concatenate([edges.vectors for edges in found])).float().to(device),
            keys.NUM_ATOMS: torch.tensor(counts, device=device),
            keys.BATCH: torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(device),
            PAIRS: list_pairs(centers, neighbors, sum(counts), device),
        }
        if self.modal is not None:
            data[keys.MODAL_TYPE] = torch.full((len(counts),), self.modal, device=device)
        return data, counts, centers, neighbors


class HalfEdges(NamedTuple):
    """Edges of a crystal in one of their two directions, the lower number first."""

    centers: Integers  # [n_edges]
    neighbors: Integers  # [n_edges]
    vectors: Array  # [n_edges, 3] Å, from the centre


def find_half_edges(atoms: Atoms, cutoff: float) -> HalfEdges:
    """Edges within `cutoff` Å, each in one direction.

    Raises
    ------
    EngineError
        When an atom has none.
    """
    first, second, vectors = NeighborList(cutoff=cutoff, full_list=False).compute(
        points=atoms.positions, box=atoms.cell.array, periodic=True, quantities="ijD"
    )
    first, second = first.astype(np.int64), second.astype(np.int64)
    if lonely := sorted(set(range(len(atoms))) - set(first.tolist()) - set(second.tolist())):
        raise EngineError(
            f"{atoms.symbols}: site {lonely[0]} and {len(lonely) - 1} others have no neighbour within {cutoff:g} Å, "
            "which is as far as the potential reaches; begin at a denser cell"
        )
    turned = first > second
    vectors = np.where(turned[:, None], -vectors, vectors)
    return HalfEdges(np.minimum(first, second), np.maximum(first, second), vectors)


def list_pairs(centers: Integers, neighbors: Integers, n_atoms: int, device: torch.device) -> Pairs:
    """Pairs and slots of half edges (each [n_edges], centre <= neighbour)."""
    keys, of_edge = np.unique((centers == neighbors) * n_atoms**2 + centers * n_atoms + neighbors, return_inverse=True)
    low, high = keys % n_atoms**2 // n_atoms, keys % n_atoms
    n_pairs, n_two = len(keys), int(np.sum(low != high))
    atom, other = np.concatenate([low, high[:n_two]]), np.concatenate([high, low[:n_two]])
    pair = np.concatenate([np.arange(n_pairs), np.arange(n_two)])
    signs = np.ones((2, n_pairs + n_two))
    signs[1, n_pairs:] = -1.0
    signs[:, n_two:n_pairs] = [[2.0], [0.0]]
    order = np.argsort(atom, kind="stable")
    counts = np.bincount(atom, minlength=n_atoms)
    n_slots = int(counts.max())
    rank = np.empty_like(atom)
    rank[order] = np.arange(len(atom)) - np.repeat(np.cumsum(counts) - counts, counts)
    table, factors = np.zeros((2, n_atoms, n_slots), dtype=np.int64), np.zeros((2, n_atoms, n_slots), dtype=np.float32)
    table[:, atom, rank], factors[:, atom, rank] = (other, pair), signs
    slot = torch.from_numpy(atom * n_slots + rank).to(device)
    slots, seen = torch.from_numpy(table).to(device), torch.from_numpy(factors).to(device)
    edges = torch.from_numpy(of_edge.reshape(-1)).to(device)
    return Pairs(edges, n_pairs, slots[0], slots[1], seen[0], seen[1], (slot[:n_pairs], slot[n_pairs:]))


class Group(NamedTuple):
    """Paths of a convolution that share the degree of the neighbour's features."""

    start: int  # first column of the features
    multiplicity: int
    degree: int
    n_even: int  # rows of `weights` of even degrees; they come first


class PairConvolution(nn.Module):
    """SevenNet's convolution with the tensor products taken once per pair of atoms.

    Parameters
    ----------
    convolution
        The one that it replaces; its weights are used.
    """

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        options = convolution.convolution_kwargs
        product = convolution.convolution
        if any(each.connection_mode != "uvu" or not each.has_weight for each in product.instructions):
            raise EngineError("this SevenNet network has convolutions of another kind; evaluate it with its calculator")
        layers = list(convolution.weight_nn.children())
        self.hidden = nn.Sequential(*layers[:-1])
        hidden = layers[-1].weight
        with torch.no_grad():  # linear, with factors of its own
            weights = layers[-1](torch.eye(len(hidden), dtype=hidden.dtype))  # [n_hidden, n_weights]
        self.key, self.key_radial = convolution.key_x, convolution.key_weight_input
        self.key_filter = convolution.key_filter
        self.denominator = convolution.denominator
        self._build(options, product.instructions, weights)

    def _build(self, options: dict[str, Any], instructions: Sequence[Any], weights: Tensor) -> None:
        """Weights and coefficients of the groups, and the columns of their parts."""
        inputs, filters, outputs = (o3.Irreps(options[f"irreps_{name}"]) for name in ("in1", "in2", "out"))
        columns = np.cumsum([0, *(inputs[each.i_in1].mul for each in instructions)])
        self.groups: list[Group] = []
        self.degrees = [(part.start, ir.l) for part, (_, ir) in zip(filters.slices(), filters, strict=True)]
        parts: list[tuple[int, int, int, int]] = []  # output, group, first column there, width
        for i, (multiplicity, ir) in enumerate(inputs):
            mine = [n for n, each in enumerate(instructions) if each.i_in1 == i]
            if not mine:
                continue
            mine.sort(key=lambda n: (filters[instructions[n].i_in2].ir.l % 2, instructions[n].i_in2))
            lists: dict[int, list[Tensor]] = {}
            for n in mine:
                lists.setdefault(instructions[n].i_in2, []).append(weights[:, columns[n] : columns[n + 1]])
            number = len(self.groups)
            widths = [2 * filters[instructions[n].i_in2].ir.l + 1 for n in mine]
            n_even = sum(w for w, n in zip(widths, mine, strict=True) if filters[instructions[n].i_in2].ir.l % 2 == 0)
            self.groups.append(Group(inputs.slices()[i].start, multiplicity, ir.l, n_even))
            for j, blocks in lists.items():  # [n_hidden, n_paths · multiplicity]
                self.register_buffer(f"weights_{number}_{j}", torch.cat(blocks, dim=1).contiguous())
            total, sizes = sum(widths), [2 * outputs[instructions[n].i_out].ir.l + 1 for n in mine]
            coefficients = torch.zeros(2 * ir.l + 1, total, sum(sizes))
            row = column = 0
            for n, width, size in zip(mine, widths, sizes, strict=True):
                each = instructions[n]
                block = o3.wigner_3j(ir.l, filters[each.i_in2].ir.l, outputs[each.i_out].ir.l)
                coefficients[:, row : row + width, column : column + size] = each.path_weight * block
                parts.append((each.i_out, number, column, size))
                row, column = row + width, column + size
            is_even = torch.arange(total) < n_even
            for is_odd, chosen in enumerate((is_even, ~is_even)):
                rows = coefficients[:, chosen].reshape(-1, sum(sizes)).contiguous()
                self.register_buffer(f"coefficients_{number}_{is_odd}", rows)
        self.parts = [part[1:] for part in sorted(parts)]
        self.paths = [
            [j for j in range(len(filters)) if hasattr(self, f"weights_{number}_{j}")]
            for number in range(len(self.groups))
        ]

    def forward(self, data: dict[str, Any]) -> dict[str, Any]:
        """Replace the features of the atoms by their messages."""
        pairs: Pairs = data[PAIRS]
        features = data[self.key]
        hidden = self.hidden(data[self.key_radial])
        densities = [
            _sum_images(hidden, data[self.key_filter][:, start : start + 2 * degree + 1], pairs)
            for start, degree in self.degrees
        ]
        messages = [self._convolve(number, features, densities, pairs) for number in range(len(self.groups))]
        blocks = [messages[number][:, :, column : column + size].flatten(1) for number, column, size in self.parts]
        data[self.key] = torch.cat(blocks, dim=1).div(self.denominator)
        return data

    def _convolve(self, number: int, features: Tensor, densities: list[Tensor], pairs: Pairs) -> Tensor:
        """Messages of one group, [n_atoms, multiplicity, columns]."""
        group = self.groups[number]
        order, n_components = group.multiplicity, 2 * group.degree + 1
        mine = features[:, group.start : group.start + order * n_components].view(-1, order, n_components)
        moved = mine.transpose(1, 2)[pairs.neighbors]  # [n_atoms, n_slots, components, multiplicity]
        message: Tensor | None = None
        for is_odd, factor in ((0, pairs.even), (1, pairs.odd)):
            chosen = [j for j in self.paths[number] if self.degrees[j][1] % 2 == is_odd]
            if not chosen:
                continue
            weights = [getattr(self, f"weights_{number}_{j}") for j in chosen]
            filters = _WeighPairs.apply(pairs, order, weights, *(densities[j] for j in chosen))
            signed = (moved * factor[:, :, None, None]).permute(0, 3, 2, 1)
            sums = signed @ filters  # [n_atoms, multiplicity, components, rows]
            part = sums.flatten(2) @ getattr(self, f"coefficients_{number}_{is_odd}")
            message = part if message is None else message + part
        assert message is not None
        return message


class _WeighPairs(torch.autograd.Function):
    """Densities of pairs times radial weights, as filters at the slots of atoms, without the copies of plain torch.

    `densities` [n_pairs, components, n_hidden], one per degree; `weights` [n_hidden, n_paths · multiplicity]; filters
    [n_atoms, multiplicity, n_slots, rows], a row for each path and component.
    """

    @staticmethod
    def forward(ctx: Any, pairs: Pairs, order: int, weights: list[Tensor], *densities: Tensor) -> Tensor:
        ctx.pairs, ctx.weights, ctx.widths = pairs, weights, [density.shape[1] for density in densities]
        rows = [w.shape[1] // order * width for w, width in zip(weights, ctx.widths, strict=True)]
        filters = densities[0].new_empty((pairs.n_pairs, order, sum(rows)))
        for part, weight, density in zip(filters.split(rows, dim=2), weights, densities, strict=True):
            width = density.shape[1]
            product = (density.flatten(0, 1) @ weight).view(pairs.n_pairs, width, -1, order)
            part.unflatten(2, (-1, width)).copy_(product.permute(0, 3, 2, 1))
        index = pairs.slots[:, None, :] * order + torch.arange(order, device=filters.device)[None, :, None]
        return filters.flatten(0, 1).index_select(0, index.flatten()).view(len(index), order, -1, sum(rows))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        _, order, n_slots, n_rows = gradients[0].shape
        flat = gradients[0].reshape(-1, n_rows)
        span = torch.arange(order, device=flat.device)[None, :] * n_slots
        here, there = (
            flat.index_select(0, ((side // n_slots * order * n_slots + side % n_slots)[:, None] + span).flatten()).view(
                -1, order, n_rows
            )
            for side in ctx.pairs.sides
        )
        here[: len(there)] += there
        found, start = [], 0
        for weight, width in zip(ctx.weights, ctx.widths, strict=True):
            end = start + weight.shape[1] // order * width
            part = here[:, :, start:end].unflatten(2, (-1, width)).permute(0, 3, 2, 1)
            found.append((part.reshape(len(here) * width, -1) @ weight.T).view(len(here), width, -1))
            start = end
        return None, None, None, *found


def _sum_images(hidden: Tensor, harmonics: Tensor, pairs: Pairs) -> Tensor:
    """Sum over the images of each pair of harmonics times hidden layer: [n_pairs, components, n_hidden]."""
    products = harmonics[:, :, None] * hidden[:, None, :]
    empty = products.new_zeros(pairs.n_pairs, *products.shape[1:])
    return empty.index_add(0, pairs.of_edge, products)
