"""Representations that stand still, rotate, or move away."""

import pytest
import torch

from neuros_mechint.alignment import CKA
from neuros_mechint.dynamics.drift import RepresentationDrift

METRICS = ["cka", "procrustes", "subspace"]


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("metric", METRICS)
def test_rotated_representations_do_not_drift(metric):
    x = noise(20, 4)
    turns = torch.linalg.qr(noise(3, 4, 4)).Q
    result = RepresentationDrift(metric=metric).compute((x @ turns).numpy())
    assert result.distances.max() < 1e-6
    assert int(result.onset) == -1


@pytest.mark.parametrize("metric", METRICS)
def test_onset_is_where_the_representation_leaves(metric):
    x, y = noise(30, 3), noise(30, 3, seed=1)
    result = RepresentationDrift(metric=metric).compute(torch.stack([x, x, y, x, y, y]))
    assert int(result.onset) == 4
    assert result.speed.shape == (5,)
    assert result.speed[0] < 1e-6
    assert result.speed[1] > 0.3
    torch.testing.assert_close(result.distances, result.distances.mT)


def test_cka_distances_are_those_of_each_pair():
    x = noise(4, 15, 3)
    distances = RepresentationDrift().compute(x).distances
    assert float(distances[1, 3]) == pytest.approx(1 - float(CKA().compute(x[1], x[3])))


@pytest.mark.parametrize("metric", METRICS)
def test_batch_is_that_of_each_run(metric):
    x = noise(2, 4, 12, 3)
    drift = RepresentationDrift(metric=metric)
    together = drift.compute(x)
    for k in range(2):
        torch.testing.assert_close(together.distances[k], drift.compute(x[k]).distances)
    assert len(together.to_dict()["onset"]) == 2


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="threshold must be between 0 and 1, got 1"):
        RepresentationDrift(threshold=1)
    with pytest.raises(ValueError, match="n_components must be at least 1, got 0"):
        RepresentationDrift(n_components=0)
    with pytest.raises(ValueError, match="reps has 2 principal axes, n_components=3 needs more"):
        RepresentationDrift(metric="subspace", n_components=3).compute(noise(2, 5, 2))
    with pytest.raises((TypeError, ValueError), match=r"metric must be one of|Type-check"):
        RepresentationDrift(metric="rsa")
    assert repr(RepresentationDrift()).startswith("RepresentationDrift(metric='cka', threshold=0.1")
