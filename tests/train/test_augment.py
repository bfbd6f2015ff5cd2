from __future__ import annotations

import numpy as np
import pytest

from e3relax_flows.schemas.training import Augmentation
from e3relax_flows.train.dataset import Pair
from e3relax_flows.train.samples import vary_pair


def test_augmentation_shares():
    pair = Pair(np.array([3, 9]), np.zeros((2, 3)), np.eye(3) * 3.0, np.ones((2, 3)) * 0.2, np.eye(3) * 4.0)
    rng = np.random.default_rng(0)
    samples = [vary_pair(pair, Augmentation(identity=0.3, near=0.2), rng) for _ in range(2000)]
    same = np.mean([np.array_equal(s.initial_lattice, pair.relaxed_lattice) for s in samples])
    near = np.mean([abs(np.linalg.det(s.initial_lattice) / 64 - 1) < 0.4 for s in samples])
    exact = np.mean([np.array_equal(s.initial_lattice, pair.initial_lattice) for s in samples])
    assert same == pytest.approx(0.3, abs=0.04)
    assert near == pytest.approx(0.5, abs=0.04)
    assert exact == pytest.approx(0.25, abs=0.04)
    assert all(s.relaxed_lattice is pair.relaxed_lattice for s in samples)


def test_volumes_are_jittered_except_at_the_relaxed_structure():
    pair = Pair(np.array([3, 9]), np.zeros((2, 3)), np.eye(3) * 3.0, np.ones((2, 3)) * 0.2, np.eye(3) * 4.0)
    jitter = Augmentation(
        identity=0.3, near=0.0, jitter_strain=0.0, jitter_noise=0.0, volume_share=0.5, volume_jitter=0.2
    )
    rng = np.random.default_rng(1)
    samples = [vary_pair(pair, jitter, rng) for _ in range(2000)]
    volumes = np.array([np.linalg.det(sample.initial_lattice) for sample in samples])
    assert np.mean(np.isclose(volumes, 64.0)) == pytest.approx(0.3, abs=0.04)
    ratios = volumes[volumes < 40] / 27
    scaled = ratios[np.abs(ratios - 1) > 1e-9]
    assert len(scaled) / len(ratios) == pytest.approx(0.5, abs=0.04)
    assert 0.8 <= scaled.min() < 0.81
    assert 1.19 < scaled.max() <= 1.2
    assert all(np.allclose(s.initial_lattice, s.initial_lattice[0, 0] * np.eye(3)) for s in samples)


def test_starts_lie_on_the_way_to_the_relaxed_structure():
    pair = Pair(np.array([3, 9]), np.zeros((2, 3)), np.eye(3) * 3.0, np.ones((2, 3)) * 0.2, np.eye(3) * 4.0)
    way = Augmentation(identity=0.0, near=0.0, jitter_strain=0.0, jitter_noise=0.0, path=0.5)
    rng = np.random.default_rng(2)
    samples = [vary_pair(pair, way, rng) for _ in range(2000)]
    parts = np.array([4.0 - sample.initial_lattice[0, 0] for sample in samples])
    assert np.mean(parts == 1.0) == pytest.approx(0.5, abs=0.04)
    others = parts[parts != 1.0]
    assert 0.0 <= others.min() < 0.02
    assert 1.18 < others.max() <= 1.2
    assert np.allclose([s.initial_fractions[0, 0] for s in samples], 0.2 * (1 - parts))
    assert all(s.relaxed_lattice is pair.relaxed_lattice for s in samples)
