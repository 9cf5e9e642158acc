"""Concepts and their labels, checked, and how well features detect them."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["areas", "check_concepts", "checked_features", "checked_labels"]


def checked_features(features: Tensor, n_features: int) -> NDArray[np.float64]:
    if not features.ndim or features.shape[-1] != n_features:
        raise ValueError(f"features needs shape (..., {n_features}), got {tuple(features.shape)}")
    if not bool(features.isfinite().all()):
        raise ValueError("features needs finite numbers, got NaN or infinity")
    return np.asarray(features.detach().reshape(-1, n_features).double().cpu())


def checked_labels(labels: Tensor, shape: torch.Size, concepts: Sequence[str]) -> NDArray[np.bool_]:
    """Which concepts are present in each row."""
    n = len(concepts)
    if labels.shape == shape and not labels.is_floating_point():
        if bool(((labels < 0) | (labels >= n)).any()):
            raise ValueError(f"labels needs numbers of concepts from 0 to {n - 1}")
        labels = torch.nn.functional.one_hot(labels.long(), n)
    if labels.shape != (*shape, n):
        raise ValueError(
            f"labels needs shape {(*shape, n)} of zeros and ones or {tuple(shape)} of whole "
            f"numbers for these features and {n} concepts, got {tuple(labels.shape)}"
        )
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError("labels of shape (..., n_concepts) needs zeros and ones")
    present = np.asarray(labels.reshape(-1, n).bool().cpu())
    for name, share in zip(concepts, present.mean(0).tolist(), strict=True):
        if share in {0.0, 1.0}:
            raise ValueError(
                f"concept {name!r} is {'always' if share else 'never'} present; it needs rows of "
                "both kinds"
            )
    return present


def check_concepts(bound: Mapping[str, int], n_named: int, levels: Sequence[int]) -> None:
    if not bound or len(bound) < n_named:
        raise ValueError(f"concepts needs at least one name, each of them once, got {list(bound)}")
    for name, level in bound.items():
        if not 0 <= level < len(levels):
            raise ValueError(
                f"concept {name!r} is bound to level {level}; levels are 0 to {len(levels) - 1}"
            )
    for level, size in enumerate(levels):
        n = sum(other <= level for other in bound.values())
        if n > size:
            raise ValueError(f"{n} concepts share the {size} features of levels up to {level}")


def areas(f: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Area under the curve of every feature for every concept, by Mann and Whitney's statistic."""
    from scipy.stats import rankdata

    ranks = rankdata(f, axis=0)
    n_with = present.sum(0)[:, None]
    n_without = len(f) - n_with
    above = present.T.astype(np.float64) @ ranks - n_with * (n_with + 1) / 2
    return np.asarray(above / (n_with * n_without))
