"""Canonical correlations of two representations, with their SVCCA and PWCCA summaries."""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from neuros_mechint.alignment._matrices import Matrix, Number, as_pair, centered, one_of
from neuros_mechint.alignment._permuted import crossed

__all__ = ["CCA"]

Method = Literal["qr", "svcca", "pwcca"]
# SVCCA keeps the leading directions that hold this share of the variance (Raghu 2017, section 2).
_SHARE = 0.99
# Smallest part of a unit column that the columns before it must leave over.
_WELL = 0.03


class _View(NamedTuple):
    """One side of the analysis, and what takes it to coordinates that are white."""

    mean: Tensor
    data: Tensor
    to_white: Tensor
    live: Tensor
    # Whether the directions are so far from one another that products of features lose no digits.
    plain: bool

    @property
    def white(self) -> Tensor:
        return self.data @ self.to_white


class CCA:
    r"""Canonical correlation analysis: the best matched directions of two representations.

    With orthonormal bases $Q_x$, $Q_y$ of the centred columns the correlations are the singular
    values of $Q_x^\top Q_y$. With `reg` the joint covariance of both sides becomes
    $(1 - r) \Sigma + r I$, so the values shrink and stay in [0, 1]; at $r = 1$ they are 0.

    `compute` gives one number: the mean correlation (`"qr"`), the mean after each side is reduced
    to its leading principal components (`"svcca"`), or the mean weighted by how much of x each
    canonical variate accounts for (`"pwcca"`, which is not symmetric). The sum of all correlations
    has a gradient also where correlations repeat; the gradients of `"svcca"` and `"pwcca"` go
    through singular vectors and need distinct singular values.

    Args:
        n_components: For `"svcca"` the principal components kept on each side; None keeps 99 % of
            the variance. Otherwise the leading canonical pairs kept; None keeps all.
        reg: Ridge $r$ in [0, 1].
        method: Which of the three.

    Examples:
        A rotation changes no correlation:

        >>> import torch
        >>> x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
        >>> turn = torch.linalg.qr(torch.arange(9.0).reshape(3, 3).double().cos()).Q
        >>> round(float(CCA().compute(x, x @ turn)), 6)
        1.0

    References:
        Hotelling (1936), Biometrika 28. doi:10.1093/biomet/28.3-4.321
        Raghu, Gilmer, Yosinski & Sohl-Dickstein (2017), NeurIPS 30. arXiv:1706.05806
        Morcos, Raghu & Bengio (2018), NeurIPS 31. arXiv:1806.05759
    """

    def __init__(
        self, n_components: int | None = None, *, reg: Number = 0.0, method: Method = "qr"
    ) -> None:
        one_of("method", method, get_args(Method))
        if n_components is not None and n_components < 1:
            raise ValueError(f"n_components must be at least 1 or None, got {n_components}")
        if not 0 <= reg <= 1:
            raise ValueError(f"reg must lie in [0, 1], got {reg}")
        self.n_components = n_components
        self.reg = float(reg)
        self.method: Method = method
        self._fitted: tuple[_View, _View, Tensor, Tensor, Tensor] | None = None

    def __repr__(self) -> str:
        return f"CCA({self.n_components!r}, reg={self.reg!r}, method={self.method!r})"

    def fit(self, x: Matrix, y: Matrix) -> "CCA":
        """Find the canonical directions.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y), of the same samples.

        Returns:
            The estimator itself.

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: When the samples differ, or features reach the number of samples without
                a ridge or a reduction, where every correlation is 1.
        """
        first, second = self._views(x, y)
        left, values, right = torch.linalg.svd(self._product(first, second), full_matrices=False)
        kept = slice(None) if self.method == "svcca" else slice(self.n_components)
        self._fitted = (
            first,
            second,
            left[..., kept],
            values[..., kept].clamp(max=1.0),
            right.mT[..., kept],
        )
        return self

    @property
    def correlations(self) -> Tensor:
        """Canonical correlations, largest first, (..., components); 0 beyond the rank.

        Raises:
            ValueError: Before `fit`.
        """
        return self._fit()[3]

    def transform(self, x: Matrix, y: Matrix) -> tuple[Tensor, Tensor]:
        """Canonical variates of both sides, in the fitted directions.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y).

        Returns:
            Two tensors (..., samples, components).

        Raises:
            ValueError: Before `fit`, or when the features are not those that were fitted.
        """
        first, second, left, _, right = self._fit()
        pair = as_pair(x, y, min_samples=1)
        views, turns = (first, second), (left, right)
        found = []
        for name, value, view, turn in zip("xy", pair, views, turns, strict=True):
            if value.shape[-1] != view.to_white.shape[-2]:
                raise ValueError(
                    f"{name} must have the {view.to_white.shape[-2]} features that were fitted, "
                    f"got {value.shape[-1]}"
                )
            found.append((value.to(view.mean.dtype) - view.mean) @ view.to_white @ turn)
        return found[0], found[1]

    def score(self, x: Matrix, y: Matrix) -> Tensor:
        """Mean correlation of the canonical variates of held-out samples.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y).

        Returns:
            Mean over the components, (...); 0 where a side is constant.

        Raises:
            ValueError: Before `fit`, or when the features are not those that were fitted.
        """
        pair = as_pair(x, y)
        first, second = (centered(z) for z in self.transform(*pair))
        product = (first * second).sum(-2)
        scale = (first.square().sum(-2) * second.square().sum(-2)).sqrt()
        # What centring leaves of a constant is rounding.
        flat = torch.stack([(z == z[..., :1, :]).flatten(-2).all(-1) for z in pair]).any(0)
        varies = (scale > 0) & ~flat.unsqueeze(-1)
        return torch.where(varies, product / scale.where(varies, 1.0), 0.0).mean(-1)

    def compute(self, x: Matrix, y: Matrix) -> Tensor:
        """Similarity of two representations, between 0 and 1.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y), of the same samples.

        Returns:
            One value per batch item, (...).

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: As for `fit`.
        """
        first, second = self._views(x, y)
        return self._summary(self._product(first, second), first, second)

    def compute_permuted(self, x: Matrix, y: Matrix, orders: Tensor) -> Tensor:
        """`compute(x, y[order])` for many orders of the samples, each side whitened once.

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
        first, second = self._views(x, y)
        products = crossed((1 - self.reg) * first.white, second.white, orders)
        if self.method == "qr" and self.n_components is None:
            ranks = torch.minimum(first.live.sum(-1), second.live.sum(-1))
            return torch.cat([_mean(_small_values(product), ranks) for product in products])
        return torch.cat([self._summary(product, first, second) for product in products])

    def _product(self, first: _View, second: _View) -> Tensor:
        if not (first.plain and second.plain):
            return (1 - self.reg) * first.white.mT @ second.white
        shared = first.data.mT @ second.data
        return (1 - self.reg) * first.to_white.mT @ shared @ second.to_white

    def _summary(self, product: Tensor, first: _View, second: _View) -> Tensor:
        """One number from the product of the white sides, (..., k, k)."""
        ranks = torch.minimum(first.live.sum(-1), second.live.sum(-1))
        if self.method == "svcca":
            return _mean(_values(product), ranks)
        if self.method == "qr":
            values = _values(product)[..., : self.n_components]
            return _mean(values, ranks.clamp(max=values.shape[-1]))
        left, values, _ = torch.linalg.svd(product, full_matrices=False)
        # Morcos 2018, eq. 2: how much of every feature of x lies along each canonical variate.
        weights = (left.mT @ (first.white.mT @ first.data)).abs().sum(-1)[..., : self.n_components]
        # Directions beyond the rank of either side have correlation 0 and are no variates.
        there = torch.arange(weights.shape[-1], device=weights.device) < ranks.unsqueeze(-1)
        weights = weights * there
        values = values[..., : self.n_components].clamp(max=1.0)
        similarity: Tensor = (weights * values).sum(-1) / weights.sum(-1)
        return similarity

    def _fit(self) -> tuple[_View, _View, Tensor, Tensor, Tensor]:
        if self._fitted is None:
            raise ValueError("this CCA holds no directions yet; call fit(x, y) first")
        return self._fitted

    def _views(self, x: Matrix, y: Matrix) -> tuple[_View, _View]:
        pair = as_pair(x, y)
        views = []
        for name, value in zip("xy", pair, strict=True):
            n_samples, n_features = value.shape[-2:]
            if n_features >= n_samples and self.reg == 0 and self.method != "svcca":
                raise ValueError(
                    f"{name} has {n_features} features for {n_samples} samples, so every "
                    "correlation is 1; pass reg > 0, or method='svcca' with n_components"
                )
            mean = value.mean(-2, keepdim=True)
            views.append(self._view(name, value - mean, mean))
        return views[0], views[1]

    def _view(self, name: str, data: Tensor, mean: Tensor) -> _View:
        to_white = None if self.method == "svcca" else _factored(data, self.reg)
        if to_white is not None:
            live = torch.ones_like(to_white[..., 0], dtype=torch.bool)
            return _View(mean, data, to_white, live, plain=True)
        if not bool((data != 0).flatten(-2).any(-1).all()):
            raise ValueError(f"{name} is constant over samples; it has no correlation")
        if self.method == "svcca":
            data, turn, live = _reduced(data, self.n_components)
        else:
            turn, live = _basis(data)
        return _View(mean, data, _whitened(data, turn, live, self.reg), live, plain=False)


def _factored(
    data: Float[Tensor, "*batch sample feature"], reg: float
) -> Float[Tensor, "*batch feature feature"] | None:
    """What makes the features white, from a Cholesky factor of their Gram matrix.

    It costs a tenth of a decomposition of the data but squares their condition, so there is none
    where float64 would lose more than three digits to that.
    """
    if data.dtype != torch.float64:
        return None
    gram = data.mT @ data
    if reg:
        eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
        gram = (1 - reg) * gram + reg * (data.shape[-2] - 1) * eye
    size = gram.diagonal(dim1=-2, dim2=-1).clamp(min=torch.finfo(data.dtype).tiny).sqrt()
    factor, failed = torch.linalg.cholesky_ex(gram / (size.unsqueeze(-1) * size.unsqueeze(-2)))
    if bool(failed.any()) or bool((factor.diagonal(dim1=-2, dim2=-1) < _WELL).any()):
        return None
    inverse: Tensor = torch.linalg.solve_triangular(factor, torch.diag_embed(1 / size), upper=False)
    return inverse.mT


def _basis(
    data: Float[Tensor, "*batch sample feature"],
) -> tuple[Float[Tensor, "*batch feature k"], Bool[Tensor, "*batch k"]]:
    """Directions of the data scaled to unit norm, and which of them hold any of it.

    They are constants of the gradient: correlations do not depend on the basis of a span.
    """
    _, values, right = torch.linalg.svd(data.detach(), full_matrices=False)
    limit = max(data.shape[-2:]) * torch.finfo(data.dtype).eps
    live = values > limit * values[..., :1]
    return right.mT * (live / values.where(live, 1.0)).unsqueeze(-2), live


def _reduced(
    data: Float[Tensor, "*batch sample feature"], n_components: int | None
) -> tuple[
    Float[Tensor, "*batch sample feature"],
    Float[Tensor, "*batch feature k"],
    Bool[Tensor, "*batch k"],
]:
    """Leading principal directions, by number or by share of the variance."""
    _, values, right = torch.linalg.svd(data, full_matrices=False)
    limit = max(data.shape[-2:]) * torch.finfo(data.dtype).eps
    live = values > limit * values[..., :1]
    if n_components is None:
        power = values.detach().square()
        before = power.cumsum(-1) - power
        live = live & (before < _SHARE * power.sum(-1, keepdim=True))
    else:
        live, values, right = (
            live[..., :n_components],
            values[..., :n_components],
            right[..., :n_components, :],
        )
    return data, right.mT * (live / values.where(live, 1.0)).unsqueeze(-2), live


def _whitened(
    data: Float[Tensor, "*batch sample feature"],
    turn: Float[Tensor, "*batch feature k"],
    live: Bool[Tensor, "*batch k"],
    reg: float,
) -> Float[Tensor, "*batch feature k"]:
    """What gives coordinates whose Gram matrix, with the ridge, is the identity."""
    scores = data @ turn
    gram = scores.mT @ scores
    if reg:
        # In the scaled directions t the identity of the ridge is t^T t, once for n - 1 samples.
        ridge = turn.mT @ turn * (data.shape[-2] - 1)
        gram = (1 - reg) * gram + reg * ridge
    # Directions without data stand apart with a unit pivot and whiten to zero columns.
    factor = torch.linalg.cholesky(gram + torch.diag_embed((~live).to(gram.dtype)))
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    inverse: Tensor = torch.linalg.solve_triangular(factor, eye.expand_as(gram), upper=False)
    return turn @ inverse.mT


def _values(product: Float[Tensor, "*batch j k"]) -> Float[Tensor, "*batch m"]:
    """Singular values."""
    if product.shape[-2] >= 2 * product.shape[-1] and not product.requires_grad:
        # Those of the triangle are the same and take half the time; it has no gradient.
        product = torch.linalg.qr(product, mode="r").R
    values: Tensor = torch.linalg.svdvals(product)
    return values


def _small_values(product: Float[Tensor, "*batch j k"]) -> Float[Tensor, "*batch m"]:
    """Singular values from the eigenvalues of the smaller Gram matrix, in half the time.

    A value v is off by at most eps / v or sqrt(eps), 1e-8, which a mean of correlations hides.
    """
    if product.requires_grad or product.dtype != torch.float64:
        return _values(product)
    low = product.mT if product.shape[-2] < product.shape[-1] else product
    values: Tensor = torch.linalg.eigvalsh(low.mT @ low)
    return values.clamp(min=0).sqrt()


def _mean(values: Float[Tensor, "*batch k"], count: Tensor) -> Float[Tensor, "*batch"]:
    """Sum over a count of values, not above 1 by rounding."""
    return (values.sum(-1) / count).clamp(max=1.0)
