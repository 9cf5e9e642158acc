"""Streaming sums behind the scores of a coder: any cut into batches gives the same numbers."""

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.activations._moments import Moments, merge, moments_of

__all__ = ["CodeScores"]


class CodeScores:
    """Sparsity and reconstruction, summed over batches in float64."""

    def __init__(self) -> None:
        self._n_batches = 0
        self._moments: Moments | None = None
        self._fired: Tensor | None = None
        self._l1 = self._error = self._cosine = 0.0
        self._n_nonzero = 0

    @property
    def n_rows(self) -> int:
        """Rows so far."""
        return 0 if self._moments is None else self._moments.n_rows

    @property
    def mean(self) -> Float[Tensor, "latent"]:
        """Mean of the rows so far."""
        if self._moments is None:
            raise ValueError("data gave no rows, so there is nothing to score")
        return self._moments.mean

    def update(
        self,
        x: Float[Tensor, "batch latent"],
        f: Float[Tensor, "batch feature"],
        reconstruction: Float[Tensor, "batch latent"],
    ) -> None:
        """Take in one batch."""
        moments = moments_of(x.cpu())
        if not bool(moments.m2.isfinite().all()):
            raise ValueError(f"data needs finite activations, batch {self._n_batches} has others")
        self._moments = moments if self._moments is None else merge(self._moments, moments)
        fired = f.count_nonzero(0)
        self._fired = fired if self._fired is None else self._fired + fired
        wide, again = x.double(), reconstruction.double()
        self._l1 += float(f.abs().sum(dtype=torch.float64))
        self._error += float((wide - again).square().sum())
        # A row of zeros has no direction, so it has no cosine.
        nonzero = wide.abs().amax(1) > 0
        self._n_nonzero += int(nonzero.sum())
        self._cosine += float(torch.cosine_similarity(wide, again, dim=1)[nonzero].sum())
        self._n_batches += 1

    def values(self) -> dict[str, float]:
        """Every score by its name."""
        if self._moments is None or self._fired is None:
            raise ValueError("data gave no rows, so there is nothing to score")
        n, spread = self._moments.n_rows, float(self._moments.m2.sum())
        if spread == 0:
            raise ValueError(f"all {n} rows of data are equal, so fvu has no meaning")
        fvu = self._error / spread
        return {
            "l0": float(self._fired.sum()) / n,
            "l1": self._l1 / n,
            "fvu": fvu,
            "explained_variance": 1 - fvu,
            "cosine": self._cosine / self._n_nonzero,
            "dead_fraction": float((self._fired == 0).double().mean()),
            "dense_fraction": float((self._fired > 0.1 * n).double().mean()),
        }
