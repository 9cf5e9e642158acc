"""Cost of the dimension of point clouds beside scikit-dimension, one thread, sides interleaved."""

import warnings
from collections.abc import Callable

import pytest
import torch

from neuros_mechint.geometry import IntrinsicDimension


def test_a_batch_of_clouds_costs_less_than_a_loop_of_skdim(
    shortest: Callable[..., list[float]], report: Callable[..., None]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        skdim = pytest.importorskip("skdim")
    x = torch.randn(16, 1000, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = IntrinsicDimension(estimator="fit")
    mine, theirs = shortest(
        lambda: model.compute(x),
        lambda: [skdim.id.TwoNN().fit(cloud.numpy()) for cloud in x],
        rounds=7,
    )
    report("TwoNN of 16 clouds of 1000 x 20", "scikit-dimension 0.5.0", theirs / mine, 1.5)
