"""Interface of networks: edges for a crystal, and positions and lattices after every layer."""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from e3relax_flows.graphs.batching import Crystal, CrystalBatch


class Layer(NamedTuple):
    """The crystals after one layer."""

    positions: Tensor  # [n_atoms, 3] Å, Cartesian, float64
    lattices: Tensor  # [n_graphs, 3, 3] Å, rows are the vectors, float64
    expected: Tensor | None = None  # [n_graphs, 4] logarithms of the errors expected of the start (displacement, Å,
    # and strain) and of this layer; in the last layer of networks that expect errors
    embedding: Tensor | None = None  # [n_graphs, n_channels] embedding of each crystal, a mean over atoms;
    # the same for every cell and image of it; in the last layer of networks that have such


class NetworkConfig(BaseModel):
    """Sizes and switches of a network; plain JSON, unknown keys refused, never changed after the network is built."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class RelaxationNetwork(nn.Module):
    """Base of networks that map initial crystals to relaxed ones.

    A subclass states `kind`, under which model files find it, `config_class` and `keeps_symmetry`, takes its
    configuration as the only argument of its constructor, and implements `build_crystal` and `forward`.
    Geometry goes in and comes out in float64; what lies between is computed in the parameters' dtype.
    """

    kinds: ClassVar[dict[str, type[RelaxationNetwork]]] = {}  # every subclass that states its kind
    kind: ClassVar[str]
    config_class: ClassVar[type[NetworkConfig]]
    keeps_symmetry: ClassVar[bool]  # whether the prediction has the space group of the input without a projection

    config: NetworkConfig

    def __init_subclass__(cls) -> None:
        """Register the subclass under its `kind`."""
        super().__init_subclass__()
        if "kind" in cls.__dict__:
            RelaxationNetwork.kinds[cls.kind] = cls

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config

    @classmethod
    def from_config(cls, config: dict[str, object]) -> Self:
        """Build the network, with fresh weights, from a plain dictionary.

        Raises
        ------
        pydantic.ValidationError
            When an entry is unknown or of the wrong type.
        """
        return cls(cls.config_class.model_validate(config))

    @property
    def dtype(self) -> torch.dtype:
        """Type in which the network computes: that of its parameters."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def build_crystal(
        self, numbers: NDArray[np.int64], positions: NDArray[np.float64], lattice: NDArray[np.float64]
    ) -> Crystal:
        """Find the edges that this network needs.

        Parameters
        ----------
        numbers
            [n_atoms] atomic numbers.
        positions
            [n_atoms, 3] Å, Cartesian.
        lattice
            [3, 3] Å, rows are the vectors.

        Raises
        ------
        StructureError
            When the network cannot describe the crystal, for instance an element it does not know.
        """
        raise NotImplementedError

    def forward(self, batch: CrystalBatch) -> list[Layer]:
        """Crystals after every layer; the last one is the prediction.

        Positions are not wrapped: an atom moves continuously from its position in `batch`.
        """
        raise NotImplementedError
