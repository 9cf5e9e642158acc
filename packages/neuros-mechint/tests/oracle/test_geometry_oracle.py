"""Dimension beside scikit-dimension, holes beside ripser and persim."""

import sys
import warnings

import numpy as np
import pytest
import torch

from neuros_mechint.geometry import IntrinsicDimension, PersistentHomology

pytestmark = pytest.mark.oracle


def sphere(d: int, n: int = 1000) -> np.ndarray:
    x = np.random.default_rng(d).standard_normal((n, d + 1))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    return x @ np.linalg.qr(np.random.default_rng(0).standard_normal((20, d + 1)))[0].T


# The first import of scikit-dimension takes a second.
@pytest.mark.slow
@pytest.mark.parametrize("d", [2, 5, 9])
def test_twonn_is_that_of_skdim(d: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        skdim = pytest.importorskip("skdim")
        sys.stdout.write("scikit-dimension 0.5.0\n")
        theirs = skdim.id.TwoNN(discard_fraction=0.1).fit(sphere(d)).dimension_
    mine = IntrinsicDimension(estimator="fit").compute(sphere(d))
    assert float(mine) == pytest.approx(theirs, rel=0.02)


def test_diagrams_are_those_of_ripser() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ripser = pytest.importorskip("ripser")
        persim = pytest.importorskip("persim")
    x = sphere(1, 60)
    mine = PersistentHomology().compute(x)
    theirs = ripser.ripser(x, maxdim=1)["dgms"]
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(np.sort(a.numpy(), 0), np.sort(b, 0), atol=1e-6)
    other = PersistentHomology().compute(sphere(2, 60))
    for metric in ("bottleneck", "wasserstein"):
        want = getattr(persim, metric)(mine[1].numpy(), other[1].numpy())
        found = PersistentHomology().distance(mine[1], other[1], metric)
        assert found == pytest.approx(want, abs=1e-9)
    assert PersistentHomology().distance(mine[1], torch.empty(0, 2)) > 0.3
