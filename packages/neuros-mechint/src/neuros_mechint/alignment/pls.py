"""Partial least squares: the directions of two representations that covary most."""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.alignment._matrices import Matrix, as_matrix, as_pair, centered, one_of
from neuros_mechint.alignment._permuted import order_blocks

__all__ = ["PLS"]

Mode = Literal["svd", "regression"]


class _Side(NamedTuple):
    """One side: its mean and scale, and what turns it into scores."""

    mean: Tensor
    scale: Tensor
    to_scores: Tensor


class _Fit(NamedTuple):
    first: _Side
    second: _Side
    coefficients: Tensor | None


class PLS:
    r"""Partial least squares between two representations.

    `"svd"`: the weights are the leading singular vectors of $X^\top Y$. `"regression"`: one pair of
    weights at a time, the part of both sides along the score of x taken away after each (NIPALS),
    which also predicts y. Columns are centred, and divided by their standard deviation with
    `scale`. Unlike `CCA` it needs no more samples than features.

    `compute` is the mean correlation of the paired scores; it rises with the number of components
    also for unrelated data, so `score` other samples. Its gradient goes through singular vectors
    and needs distinct singular values.

    Args:
        n_components: Pairs of scores.
        mode: Which of the two.
        scale: Whether columns get unit variance.

    Examples:
        >>> import torch
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
        >>> model = PLS(3, mode="regression").fit(x, x @ torch.ones(3, 1).double())
        >>> model.predict(torch.ones(1, 3)).round(decimals=4).tolist()
        [[3.0]]

    References:
        Wegelin (2000), Technical Report 371, University of Washington.
        McIntosh, Bookstein, Haxby & Grady (1996), NeuroImage 3, 143-157.
            doi:10.1006/nimg.1996.0016
    """

    def __init__(self, n_components: int = 2, *, mode: Mode = "svd", scale: bool = True) -> None:
        one_of("mode", mode, get_args(Mode))
        if n_components < 1:
            raise ValueError(f"n_components must be at least 1, got {n_components}")
        self.n_components = n_components
        self.mode: Mode = mode
        self.scale = scale
        self._fitted: _Fit | None = None

    def __repr__(self) -> str:
        return f"PLS({self.n_components!r}, mode={self.mode!r}, scale={self.scale!r})"

    def fit(self, x: Matrix, y: Matrix) -> "PLS":
        """Find the weights.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y), of the same samples.

        Returns:
            The estimator itself.

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: When the samples differ, a column is constant with `scale`, or there are
                fewer directions than components.
        """
        self._fitted, _ = self._solve(*as_pair(x, y))
        return self

    def transform(self, x: Matrix, y: Matrix) -> tuple[Tensor, Tensor]:
        """Scores of both sides.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y).

        Returns:
            Two tensors (..., samples, components).

        Raises:
            ValueError: Before `fit`, or when the features are not those that were fitted.
        """
        fit = self._fit()
        pair = as_pair(x, y, min_samples=1)
        sides = zip("xy", pair, (fit.first, fit.second), strict=True)
        first, second = (_standard(n, z, side) @ side.to_scores for n, z, side in sides)
        return first, second

    def predict(self, x: Matrix) -> Tensor:
        """Predicted second side, of `mode="regression"`.

        Args:
            x: First representation, (..., samples, features_x).

        Returns:
            Prediction (..., samples, features_y).

        Raises:
            ValueError: Before `fit`, with `mode="svd"`, or when the features are not those fitted.
        """
        fit = self._fit()
        if fit.coefficients is None:
            raise ValueError("mode='svd' predicts nothing; use mode='regression'")
        data = _standard("x", as_matrix("x", x, min_samples=1), fit.first)
        return data @ fit.coefficients * fit.second.scale + fit.second.mean

    def score(self, x: Matrix, y: Matrix) -> Tensor:
        """Mean correlation of the paired scores of other samples.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y).

        Returns:
            Mean over the components, (...); 0 where a score is constant.

        Raises:
            ValueError: Before `fit`, or when the features are not those that were fitted.
        """
        return _paired(*self.transform(*as_pair(x, y)))

    def compute(self, x: Matrix, y: Matrix) -> Tensor:
        """Mean correlation of the paired scores of the samples that were fitted.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y), of the same samples.

        Returns:
            One value per batch item, (...).

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: As for `fit`.
        """
        _, scores = self._solve(*as_pair(x, y))
        return _paired(*scores)

    def compute_permuted(self, x: Matrix, y: Matrix, orders: Tensor) -> Tensor:
        """`compute(x, y[order])` for many orders of the samples, as one batch.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y).
            orders: Orders of the samples of y, (permutations, samples).

        Returns:
            Values (permutations, ...).

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: As for `fit`.
        """
        first, second = as_pair(x, y)
        found = []
        for block in order_blocks(orders.to(second.device), second.numel()):
            moved = second[..., block, :].movedim(-3, 0)
            _, scores = self._solve(first.expand(moved.shape[:-1] + first.shape[-1:]), moved)
            found.append(_paired(*scores))
        return torch.cat(found)

    def _fit(self) -> _Fit:
        if self._fitted is None:
            raise ValueError("this PLS holds no weights yet; call fit(x, y) first")
        return self._fitted

    def _solve(self, x: Tensor, y: Tensor) -> tuple[_Fit, tuple[Tensor, Tensor]]:
        # Directions that the data have: PLSRegression exhausts x alone, an svd the narrower side.
        sizes = [x.shape[-2] - 1, x.shape[-1]]
        limit = min(*sizes, y.shape[-1]) if self.mode == "svd" else min(sizes)
        if self.n_components > limit:
            raise ValueError(
                f"n_components={self.n_components} is more than the {limit} directions that "
                f"{tuple(x.shape[-2:])} and {tuple(y.shape[-2:])} matrices have; lower it"
            )
        data, means, scales = [], [], []
        for name, value in (("x", x), ("y", y)):
            mean = value.mean(-2, keepdim=True)
            means.append(mean)
            scales.append(self._scale(name, value))
            data.append((value - mean) / scales[-1])
        solve = _by_svd if self.mode == "svd" else _by_deflation
        turn_x, turn_y, coefficients = solve(data[0], data[1], self.n_components)
        turns = (turn_x, turn_y)
        first, second = (_Side(*side) for side in zip(means, scales, turns, strict=True))
        scores = (data[0] @ turn_x, data[1] @ turn_y)
        return _Fit(first, second, coefficients), scores

    def _scale(self, name: str, value: Tensor) -> Tensor:
        flat = (value == value[..., :1, :]).all(-2, keepdim=True)
        if bool(flat.all(-1).any()):
            raise ValueError(f"{name} is constant over samples; it covaries with nothing")
        if not self.scale:
            return torch.ones_like(value[..., :1, :])
        # A constant column is 0 after centring whatever it is divided by.
        return value.std(-2, keepdim=True).where(~flat, 1.0)


def _standard(name: str, value: Tensor, side: _Side) -> Tensor:
    if value.shape[-1] != side.mean.shape[-1]:
        raise ValueError(
            f"{name} must have the {side.mean.shape[-1]} features that were fitted, got "
            f"{value.shape[-1]}"
        )
    return (value.to(side.mean.dtype) - side.mean) / side.scale


def _signs(weights: Float[Tensor, "*batch feature k"]) -> Float[Tensor, "*batch 1 k"]:
    """Signs that make the largest weight of every component positive."""
    largest = weights.detach().abs().argmax(-2, keepdim=True)
    return weights.detach().gather(-2, largest).sign()


def _by_svd(
    x: Float[Tensor, "*batch sample feature"], y: Float[Tensor, "*batch sample target"], k: int
) -> tuple[Tensor, Tensor, None]:
    left, _, right = torch.linalg.svd(x.mT @ y, full_matrices=False)
    first, second = left[..., :k], right.mT[..., :k]
    signs = _signs(first)
    return first * signs, second * signs, None


def _by_deflation(
    x: Float[Tensor, "*batch sample feature"], y: Float[Tensor, "*batch sample target"], k: int
) -> tuple[Tensor, Tensor, Tensor]:
    """PLS2 (Wegelin 2000, section 4): weights w, loadings p and q of one component at a time."""
    weights: list[Tensor] = []
    loads_x: list[Tensor] = []
    loads_y: list[Tensor] = []
    cross = x.mT @ y
    floor = (x.shape[-2] * torch.finfo(x.dtype).eps) ** 2 * x.square().sum((-2, -1))
    for _ in range(k):
        w = _leading(cross)
        w = w * _signs(w)
        t = x @ w
        size = t.square().sum(-2, keepdim=True)
        if bool((size.flatten(-2)[..., 0] <= floor).any()):
            raise ValueError(
                f"x has only {len(weights)} directions, fewer than n_components={k}; lower it"
            )
        p, q = x.mT @ t / size, y.mT @ t / size
        # Taking t out of x alone takes it out of X^T Y as well.
        x = x - t @ p.mT
        cross = cross - p @ (size * q).mT
        weights.append(w)
        loads_x.append(p)
        loads_y.append(q)
    W, P, Q = (torch.cat(parts, -1) for parts in (weights, loads_x, loads_y))
    to_scores = W @ torch.linalg.inv(P.mT @ W)
    # Scores of y are its coordinates in the loadings; there may be more of them than targets.
    return to_scores, Q @ torch.linalg.pinv(Q.mT @ Q, hermitian=True), to_scores @ Q.mT


def _leading(
    cross: Float[Tensor, "*batch feature target"],
) -> Float[Tensor, "*batch feature 1"]:
    """First left singular vector."""
    left: Tensor = torch.linalg.svd(cross, full_matrices=False).U[..., :1]
    return left


def _paired(
    first: Float[Tensor, "*batch sample k"], second: Float[Tensor, "*batch sample k"]
) -> Float[Tensor, "*batch"]:
    """Mean correlation of columns; a constant one counts 0."""
    a, b = centered(first), centered(second)
    size = (a.square().sum(-2) * b.square().sum(-2)).sqrt()
    varies = size > 0
    return torch.where(varies, (a * b).sum(-2) / size.where(varies, 1.0), 0.0).mean(-1)
