"""Centred kernel alignment: two Gram matrices compared as vectors."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.alignment._linear_hsic import (
    linear_hsic,
    linear_hsic_matrix,
    linear_hsic_permuted,
)
from neuros_mechint.alignment._matrices import (
    Matrix,
    Number,
    as_matrix,
    as_pair,
    centered,
    one_of,
)
from neuros_mechint.alignment._permuted import products_of_permuted

__all__ = ["CKA"]

Kernel = Literal["linear", "rbf"]
Estimator = Literal["biased", "unbiased"]
# Multiplications that take as long as to fetch one entry of a re-ordered matrix.
_GATHER = 20
# Multiplications that take as long as to write and read one entry of a kernel matrix.
_PASSES = 25


class CKA:
    r"""Centred kernel alignment: similarity that ignores rotations and the overall scale.

    $$\mathrm{CKA}(K, L) = \mathrm{HSIC}(K, L) / \sqrt{\mathrm{HSIC}(K, K)\,\mathrm{HSIC}(L, L)}$$

    with $K$, $L$ the kernel matrices of the samples. The biased HSIC is $\mathrm{tr}(K H L H)$ with
    the centring matrix $H$; it is above 0 for unrelated data with few samples. The unbiased one
    (Song 2012, eq. 5) leaves out the diagonal and is 0 on average then, so it can be negative.

    Args:
        kernel: `"linear"`, or `"rbf"`, $\exp(-d^2 / 2 \sigma^2)$ of the distance $d$.
        estimator: Of HSIC.
        bandwidth: $\sigma$ of the `"rbf"` kernel in units of the median distance of two samples.
            A linear kernel has none, so it must stay None there; None is 1 for `"rbf"`.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0], [3.0, 3.0]])
        >>> round(float(CKA().compute(x, 7 * x.flip(-1))), 6)
        1.0

    References:
        Kornblith, Norouzi, Lee & Hinton (2019), ICML 36. arXiv:1905.00414
        Song, Smola, Gretton, Bedo & Borgwardt (2012), JMLR 13, 1393-1434.
        Nguyen, Raghu & Kornblith (2021), ICLR. arXiv:2010.15327
    """

    def __init__(
        self,
        *,
        kernel: Kernel = "linear",
        estimator: Estimator = "biased",
        bandwidth: Number | None = None,
    ) -> None:
        one_of("kernel", kernel, get_args(Kernel))
        one_of("estimator", estimator, get_args(Estimator))
        if bandwidth is not None and kernel == "linear":
            raise ValueError("bandwidth belongs to kernel='rbf'; a linear kernel has none")
        if bandwidth is not None and bandwidth <= 0:
            raise ValueError(f"bandwidth must be above 0, got {bandwidth}")
        self.kernel: Kernel = kernel
        self.estimator: Estimator = estimator
        self.bandwidth = bandwidth
        self._sums: Tensor | None = None

    def __repr__(self) -> str:
        return (
            f"CKA(kernel={self.kernel!r}, estimator={self.estimator!r}, "
            f"bandwidth={self.bandwidth!r})"
        )

    def compute(self, x: Matrix, y: Matrix) -> Tensor:
        """Similarity of two representations, at most 1.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y), of the same samples.

        Returns:
            One value per batch item, (...).

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: When the samples differ or are too few, or a side is constant.
        """
        shared, first, second = self._hsic(x, y).unbind(-1)
        return shared / (first * second).sqrt()

    def compute_matrix(self, list_x: Sequence[Matrix], list_y: Sequence[Matrix]) -> Tensor:
        """Similarity of every representation of one list with every one of another.

        Args:
            list_x: Representations (..., samples, features), widths may differ.
            list_y: Representations of the same samples.

        Returns:
            Values (..., len(list_x), len(list_y)).

        Raises:
            TypeError: When an entry is not a real tensor or array.
            ValueError: When a list is empty, the samples differ, or a representation is constant.
        """
        sides = []
        for name, values in (("list_x", list_x), ("list_y", list_y)):
            if not len(values):
                raise ValueError(f"{name} needs at least one representation, got none")
            sides.append([self._read(f"{name}[{i}]", value) for i, value in enumerate(values)])
        every = [*sides[0], *sides[1]]
        n_samples = every[0].shape[-2]
        dtype = every[0].dtype
        for side in every:
            dtype = torch.promote_types(dtype, side.dtype)
            if side.shape[-2] != n_samples:
                raise ValueError(
                    f"every representation must have the same samples along axis -2, got "
                    f"{n_samples} and {side.shape[-2]}"
                )
        if self._narrow(*every) and _features_cost_less(*sides):
            a, b = ([centered(side).to(dtype) for side in part] for part in sides)
            unbiased = self.estimator == "unbiased"
            found = linear_hsic_matrix(a, b, unbiased=unbiased)
            own = [
                torch.stack([linear_hsic(z, z, unbiased=unbiased) for z in part], -1)
                for part in (a, b)
            ]
            return found / (own[0].unsqueeze(-1) * own[1].unsqueeze(-2)).sqrt()
        grams = [self._grams([side.to(dtype) for side in part]) for part in sides]
        sizes: list[Tensor] = [torch.linalg.vector_norm(gram, dim=-1) for gram in grams]
        shared = grams[0] @ grams[1].mT
        return shared / (sizes[0].unsqueeze(-1) * sizes[1].unsqueeze(-2))

    def update(self, x: Matrix, y: Matrix) -> None:
        """Add a minibatch: its three HSICs are summed, kernels stay within the minibatch.

        With `estimator="unbiased"` the mean over minibatches does not depend on their size; with
        `"biased"` small minibatches read too high (Nguyen 2021, section 3).

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y), of the same samples.

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: When the samples differ or are too few, or a side is constant.
        """
        # A biased HSIC is a mean over (n - 1)^2, an unbiased one over n (n - 3): equal weights
        # make minibatches of any size count by their estimate, not by their size.
        found = self._hsic(x, y).detach()
        n = x.shape[-2]
        found = found / ((n - 1) ** 2 if self.estimator == "biased" else n * (n - 3))
        if self._sums is not None and self._sums.shape != found.shape:
            raise ValueError(
                f"batch axes must stay those of the first minibatch, got "
                f"{tuple(found.shape[:-1])} after {tuple(self._sums.shape[:-1])}"
            )
        self._sums = found if self._sums is None else self._sums + found

    def finalize(self) -> Tensor:
        """Similarity over all minibatches since the last call; the sums start anew.

        Returns:
            One value per batch item, (...).

        Raises:
            ValueError: When no minibatch was added.
        """
        if self._sums is None:
            raise ValueError("no minibatch was added; call update(x, y) first")
        shared, first, second = self._sums.unbind(-1)
        self._sums = None
        return shared / (first * second).sqrt()

    def compute_permuted(self, x: Matrix, y: Matrix, orders: Tensor) -> Tensor:
        """`compute(x, y[order])` for many orders of the samples, each kernel formed once.

        Args:
            x: First representation, (..., samples, features_x).
            y: Second representation, (..., samples, features_y).
            orders: Orders of the samples of y, (permutations, samples).

        Returns:
            Values (permutations, ...).

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: When the samples differ or are too few, or a side is constant.
        """
        first, second = self._pair(x, y)
        size = first.shape[-1] * second.shape[-1]
        if self.kernel == "linear" and size < _GATHER * first.shape[-2]:
            a, b = centered(first), centered(second)
            unbiased = self.estimator == "unbiased"
            own = [linear_hsic(z, z, unbiased=unbiased) for z in (a, b)]
            found = linear_hsic_permuted(a, b, orders, unbiased=unbiased)
            return found / (own[0] * own[1]).sqrt()
        K, L = self._gram(first), self._gram(second)
        norms: list[Tensor] = [torch.linalg.matrix_norm(gram) for gram in (K, L)]
        found = products_of_permuted(K, L, orders)
        return found / (norms[0] * norms[1])

    def _least(self) -> int:
        # HSIC_1 divides by n - 3.
        return 4 if self.estimator == "unbiased" else 2

    def _read(self, name: str, value: Matrix) -> Tensor:
        found = as_matrix(name, value, min_samples=self._least())
        _check_varies(name, found)
        return found

    def _pair(self, x: Matrix, y: Matrix) -> tuple[Tensor, Tensor]:
        pair = as_pair(x, y, min_samples=self._least())
        for name, value in zip("xy", pair, strict=True):
            _check_varies(name, value)
        return pair

    def _narrow(self, *sides: Tensor) -> bool:
        """Whether the features are the smaller side of the problem."""
        return self.kernel == "linear" and all(z.shape[-1] < z.shape[-2] for z in sides)

    def _hsic(self, x: Matrix, y: Matrix) -> Tensor:
        """HSIC of x with y, x with x and y with y up to one factor, (..., 3)."""
        first, second = self._pair(x, y)
        if self._narrow(first, second):
            a, b = centered(first), centered(second)
            unbiased = self.estimator == "unbiased"
            pairs = [(a, b), (a, a), (b, b)]
            return torch.stack([linear_hsic(p, q, unbiased=unbiased) for p, q in pairs], dim=-1)
        K, L = self._gram(first), self._gram(second)
        return torch.stack([(p * q).sum((-2, -1)) for p, q in ((K, L), (K, K), (L, L))], dim=-1)

    def _grams(self, sides: list[Tensor]) -> Float[Tensor, "*batch side pair"]:
        """Kernel matrices side by side; those of equal shape are one product."""
        if len({side.shape for side in sides}) == 1:
            return self._gram(torch.stack(sides, dim=-3)).flatten(-2)
        return torch.stack([self._gram(side).flatten(-2) for side in sides], dim=-2)

    def _gram(
        self, x: Float[Tensor, "*batch sample feature"]
    ) -> Float[Tensor, "*batch sample sample"]:
        """Kernel matrix, centred so that an inner product of two is their HSIC."""
        x = centered(x)
        gram = x @ x.mT
        if self.kernel == "rbf":
            gram = _gaussian(gram, 1.0 if self.bandwidth is None else float(self.bandwidth))
        elif self.estimator == "biased":
            # Products of centred rows are centred already.
            return gram
        if self.estimator == "biased":
            return (
                gram
                - gram.mean(-1, keepdim=True)
                - gram.mean(-2, keepdim=True)
                + gram.mean((-2, -1), keepdim=True)
            )
        return _u_centered(gram)


def _features_cost_less(list_x: Sequence[Tensor], list_y: Sequence[Tensor]) -> bool:
    """Whether products of features cost less than one kernel matrix per representation."""
    n = list_x[0].shape[-2]
    widths = [[side.shape[-1] for side in part] for part in (list_x, list_y)]
    every = [*widths[0], *widths[1]]
    pairs = sum(widths[0]) * sum(widths[1]) + sum(w * w for w in every)
    kernels = n * (sum(every) + _PASSES * len(every) + len(list_x) * len(list_y))
    return pairs < kernels


def _check_varies(name: str, value: Tensor) -> None:
    # Most data differ between their first two samples; only others are looked at whole.
    if bool((value[..., 0, :] != value[..., 1, :]).any(-1).all()):
        return
    if bool((value == value[..., :1, :]).flatten(-2).all(-1).any()):
        raise ValueError(f"{name} is constant over samples; its similarity is undefined")


def _gaussian(
    gram: Float[Tensor, "*batch sample sample"], bandwidth: float
) -> Float[Tensor, "*batch sample sample"]:
    """Gaussian kernel of the distances that inner products give."""
    norms = gram.diagonal(dim1=-2, dim2=-1)
    squared = (norms.unsqueeze(-1) + norms.unsqueeze(-2) - 2 * gram).clamp(min=0)
    rows, columns = torch.triu_indices(gram.shape[-2], gram.shape[-1], offset=1, device=gram.device)
    median = squared[..., rows, columns].median(-1).values
    if bool((median <= 0).any()):
        raise ValueError(
            "more than half of the pairs of samples coincide, so the median distance is 0; "
            "use kernel='linear'"
        )
    return (squared / (-2 * bandwidth**2 * median[..., None, None])).exp()


def _u_centered(
    gram: Float[Tensor, "*batch sample sample"],
) -> Float[Tensor, "*batch sample sample"]:
    """U-centring: the inner product of two such matrices is n (n - 3) HSIC_1 (Song 2012, eq. 5)."""
    n = gram.shape[-1]
    off = gram * (1 - torch.eye(n, dtype=gram.dtype, device=gram.device))
    rows = off.sum(-1) / (n - 2)
    total = off.sum((-2, -1)) / ((n - 1) * (n - 2))
    found = off - rows.unsqueeze(-1) - rows.unsqueeze(-2) + total[..., None, None]
    return found * (1 - torch.eye(n, dtype=gram.dtype, device=gram.device))
