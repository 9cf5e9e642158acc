"""Differential entropy of samples, and entropy per step of a sequence."""

import math
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import Array, as_real, one_of
from neuros_mechint.dynamics._information_estimators import gaussian_entropy, symbol_entropy

__all__ = ["EntropyRate", "GaussianEntropy", "KLEntropy"]


class GaussianEntropy:
    r"""Entropy of a Gaussian with the covariance of the samples, $\frac12\ln|2\pi e C|$, in nats.

    The bias of the log determinant is taken away, so samples of a Gaussian give its entropy on
    average. Other distributions of that covariance have less.

    Examples:
        >>> x = torch.randn(4000, 1, generator=torch.Generator().manual_seed(0))
        >>> round(float(GaussianEntropy().compute(x)), 1)
        1.4

    References:
        Misra, Singh & Demchuk (2005). Estimation of the entropy of a multivariate normal
        distribution. Journal of Multivariate Analysis 92. doi:10.1016/j.jmva.2003.10.003
    """

    def __repr__(self) -> str:
        return "GaussianEntropy()"

    def compute(self, x: Array) -> Tensor:
        """Entropy in nats.

        Args:
            x: Samples, (..., samples, features).

        Returns:
            One value per batch item, (...).

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When samples do not exceed features.
        """
        data = as_real("x", x)
        if data.shape[-2] <= data.shape[-1]:
            raise ValueError(
                f"x needs more samples than its {data.shape[-1]} features, got {data.shape[-2]}"
            )
        return gaussian_entropy(data.double(), unbiased=True).to(data.dtype)


class KLEntropy:
    r"""Entropy from distances to neighbours (Kozachenko and Leonenko), in nats.

    $\psi(N) - \psi(k) + \ln c_d + \frac{d}{N} \sum_i \ln r_i$ with $r_i$ the distance of sample i
    to its k-th neighbour and $c_d$ the volume of the unit ball.

    Args:
        k: Which neighbour.

    Examples:
        >>> x = torch.rand(4000, 1, generator=torch.Generator().manual_seed(0))
        >>> abs(float(KLEntropy().compute(x))) < 0.1
        True

    References:
        Kozachenko & Leonenko (1987). Sample estimate of the entropy of a random vector. Problems
        of Information Transmission 23, 95-101.
    """

    def __init__(self, *, k: int = 3) -> None:
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        self.k = k

    def __repr__(self) -> str:
        return f"KLEntropy(k={self.k})"

    def compute(self, x: Array) -> Tensor:
        """Entropy in nats.

        Args:
            x: Samples, (..., samples, features).

        Returns:
            One value per batch item, (...).

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When samples do not exceed k, or k + 1 of them are equal.
        """
        data = as_real("x", x)
        n = data.shape[-2]
        if n <= self.k:
            raise ValueError(f"x needs more than k = {self.k} samples, got {n}; lower k")
        flat = data.detach().double().reshape(-1, *data.shape[-2:])
        # One tree per item: a k-d tree has no batched form.
        found = torch.stack([self._one(item) for item in flat])
        return found.reshape(data.shape[:-2]).to(data)

    def _one(self, x: Float[Tensor, "sample feature"]) -> Float[Tensor, ""]:
        from scipy.spatial import KDTree

        n, d = x.shape
        points = x.cpu().numpy()
        radius = torch.as_tensor(
            np.asarray(KDTree(points).query(points, self.k + 1)[0])[:, -1].copy()
        )
        if bool((radius == 0).any()):
            raise ValueError(
                f"x holds a sample that occurs more than k = {self.k} times, so the entropy is "
                "minus infinity; raise k or use MutualInformation(method='discrete')"
            )
        ball = d / 2 * math.log(math.pi) - math.lgamma(d / 2 + 1)
        psi = torch.digamma(torch.tensor([n, self.k], dtype=torch.float64))
        return psi[0] - psi[1] + ball + d * radius.log().mean()


class EntropyRate:
    r"""Entropy per step of a sequence, given its past: $H(x_t \mid x_{t-1}, \dots, x_{t-p})$.

    `"gaussian"` is $H$ of blocks of $p + 1$ steps less $H$ of blocks of $p$ under a Gaussian, so an
    autoregression of order p with noise variance $s^2$ gives $\frac12 \ln 2\pi e s^2$.
    `"discrete"` counts blocks of symbols; it needs many more steps than there are blocks.

    Args:
        method: `"gaussian"` or `"discrete"`.
        order: Steps of the past, $p$.

    Examples:
        A period of two leaves nothing to be said:

        >>> EntropyRate(method="discrete", order=1).compute(torch.arange(101) % 2).abs() < 1e-3
        tensor(True)

    References:
        Cover & Thomas (2006). Elements of Information Theory, 2nd ed. Wiley.
        doi:10.1002/047174882X
    """

    def __init__(
        self, *, method: Literal["gaussian", "discrete"] = "gaussian", order: int = 5
    ) -> None:
        one_of("method", method, get_args(Literal["gaussian", "discrete"]))
        if order < 1:
            raise ValueError(f"order must be at least 1, got {order}")
        self.method = method
        self.order = order

    def __repr__(self) -> str:
        return f"EntropyRate(method={self.method!r}, order={self.order})"

    def compute(self, x: Array) -> Tensor:
        """Entropy per step in nats.

        Args:
            x: Sequences, (..., time).

        Returns:
            One value per sequence, (...).

        Raises:
            TypeError: When x is not a real tensor or array.
            ValueError: When x is too short for the order.
        """
        data = as_real("x", x, axes=("time",), at_least=(2 * self.order + 4,))
        blocks = data.double().unfold(-1, self.order + 1, 1)
        if self.method == "gaussian":
            found = gaussian_entropy(blocks, unbiased=True) - gaussian_entropy(
                blocks[..., :-1], unbiased=True
            )
            return found.to(data.dtype)
        rate = symbol_entropy(blocks) - symbol_entropy(blocks[..., :-1])
        return rate.to(data.dtype)
