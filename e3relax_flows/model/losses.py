"""The loss: distances to the relaxed crystal after every layer, invariant to image, drift and rotation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from e3relax_flows.core.geometry import IMAGES, reduce_lattices
from e3relax_flows.graphs.batching import CrystalBatch
from e3relax_flows.model.edges import sum_by
from e3relax_flows.model.interface import Layer
from e3relax_flows.schemas.training import LossWeights


class Deviations(NamedTuple):
    """Errors of each crystal; all differentiable."""

    displacement: Tensor  # [n_graphs] Å, mean over atoms of the distance to the relaxed site
    strain: Tensor  # [n_graphs] Frobenius norm of ½(F·Fᵀ - 1)
    volume: Tensor  # [n_graphs] |ln V / V_relaxed|


def measure_deviations(layer: Layer, batch: CrystalBatch, fractions: Tensor, lattices: Tensor) -> Deviations:
    """Errors of one layer's output against the relaxed crystals.

    Parameters
    ----------
    fractions
        [n_atoms, 3] relaxed fractional coordinates, in any periodic image and with any origin.
    lattices
        [n_graphs, 3, 3] Å, relaxed, in any orientation.
    """
    graphs = batch.graph_of_atom
    predicted = torch.linalg.solve(layer.lattices[graphs].mT, layer.positions[:, :, None]).squeeze(2)
    cells = torch.from_numpy(reduce_lattices(lattices.detach().cpu().numpy())).to(lattices)
    # in the reduced cell the nearest image is never more than one lattice vector away
    reduced, differences = (cells @ lattices)[graphs], predicted - fractions
    differences = torch.linalg.solve(cells[graphs].mT, differences[:, :, None]).squeeze(2)
    differences = _remove_images(differences, reduced)
    counts = batch.n_atoms.to(differences.dtype)[:, None]
    drift = sum_by(differences, graphs, batch.n_graphs) / counts
    differences = _remove_images(differences - drift[graphs], reduced)
    drift = sum_by(differences, graphs, batch.n_graphs) / counts
    moves = torch.einsum("ni,nij->nj", differences - drift[graphs], reduced)
    displacement = sum_by(_norm(moves)[:, None], graphs, batch.n_graphs) / counts

    deformation = torch.linalg.solve(lattices, layer.lattices)
    identity = torch.eye(3, dtype=deformation.dtype, device=deformation.device)
    strain = _norm((0.5 * (deformation @ deformation.mT - identity)).flatten(1))
    volume = torch.log(torch.linalg.det(deformation).abs().clamp(min=1e-6)).abs()
    return Deviations(displacement.squeeze(1), strain, volume)


def compute_loss(
    layers: list[Layer], batch: CrystalBatch, fractions: Tensor, lattices: Tensor, weights: LossWeights
) -> tuple[Tensor, Deviations]:
    """Weighted errors summed over layers, averaged over crystals; and the last layer's errors.

    Where the network expects errors, |error| / b + ln b is added, with b the error that it expects of the start and
    of the prediction. The minimum is at b = mean error of similar crystals. Errors have no gradient there.
    """
    total = lattices.new_zeros(())
    for layer in layers:
        errors = measure_deviations(layer, batch, fractions, lattices)
        total = (
            total
            + (
                weights.displacement * errors.displacement
                + weights.strain * errors.strain
                + weights.volume * errors.volume
            ).mean()
        )
    if layers[-1].expected is not None and weights.expected:
        start = measure_deviations(Layer(batch.positions, batch.lattices), batch, fractions, lattices)
        seen = torch.stack([start.displacement, start.strain, errors.displacement, errors.strain], dim=1).detach()
        logs = layers[-1].expected.to(seen.dtype).clamp(-9.0, 4.0)
        total = total + weights.expected * ((seen + 1e-3) * torch.exp(-logs) + logs).sum(dim=1).mean()
    return total, errors


def _norm(vectors: Tensor) -> Tensor:
    """Norm over the last dimension, with a finite gradient at zero."""
    return torch.sqrt(vectors.square().sum(dim=-1) + 1e-10)


def _remove_images(differences: Tensor, lattices: Tensor) -> Tensor:
    """Fractional differences [n, 3] less the lattice vectors that make them shortest; the choice has no gradient."""
    with torch.no_grad():
        images = torch.from_numpy(IMAGES).to(differences.device)
        whole = torch.round(differences)
        candidates = (differences - whole)[:, None, :] - images
        lengths = torch.einsum("nki,nij->nkj", candidates, lattices).square().sum(dim=2)
        # equal lengths must not be decided by rounding
        closest = (lengths <= lengths.min(dim=1, keepdim=True).values + 1e-9).to(torch.int8).argmax(dim=1)
        whole = whole + images[closest]
    return differences - whole
