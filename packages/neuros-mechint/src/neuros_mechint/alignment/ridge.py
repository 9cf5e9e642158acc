"""Encoding models: how well one representation predicts another through a ridge regression."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import as_real
from neuros_mechint.alignment._folds import contiguous_folds
from neuros_mechint.alignment._matrices import Matrix, Number, as_matrix, as_pair, one_of
from neuros_mechint.alignment.noise_ceiling import CeilingMethod, NoiseCeiling

__all__ = ["EncodingResult", "RidgeAlignment"]

RidgeScore = Literal["r2", "correlation"]
# Targets of re-ordered samples held at once: 16 MB of float64.
_ENTRIES = 2_000_000
_ALPHAS = (0.01, 0.1, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5)


class EncodingResult(NamedTuple):
    """Held-out score of every target beside what its noise lets a perfect model reach.

    Examples:
        >>> import torch
        >>> x = torch.linspace(-1, 1, 40).double().reshape(-1, 2)
        >>> found = RidgeAlignment((1e-6,), cv=4).evaluate(x, torch.stack([x, x]))
        >>> bool((found.score > 0.99).all()), found.ceiling.tolist()
        (True, [1.0, 1.0])
    """

    score: Tensor
    ceiling: Tensor
    ceiling_sem: Tensor
    alpha: Tensor

    @property
    def normalized(self) -> Tensor:
        """Score over ceiling, (..., targets); NaN where the ceiling is not above 0."""
        return torch.where(self.ceiling > 0, self.score / self.ceiling, torch.nan)

    def to_dict(self) -> dict[str, Tensor]:
        """The four tensors by name."""
        return self._asdict()


class _Fit(NamedTuple):
    mean_x: Tensor
    mean_y: Tensor
    weights: Tensor
    alpha: Tensor


class RidgeAlignment:
    r"""Ridge regression from x to every target of y, each with a penalty of its own.

    One singular value decomposition $X = U S V^\top$ of the centred features serves all penalties
    and targets: the leave-one-out errors are $e_i / (1 - h_i)$ with the fitted error $e$ and
    $h_i = 1/n + \sum_j U_{ij}^2 s_j^2 / (s_j^2 + \alpha)$, and every target takes the $\alpha$ with
    the smallest mean square.

    `compute` is the held-out score over contiguous folds; the penalty is chosen within the
    training samples of each. It has a gradient in x where the singular values are distinct.

    Args:
        alphas: Penalties to choose from.
        cv: Folds of `compute`; or None to leave one sample out.
        score: `"r2"`, the share of the variance about the mean, which is below 0 for a bad model,
            or the `"correlation"`.

    Examples:
        >>> import torch
        >>> x = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).double()
        >>> model = RidgeAlignment((1e-8, 1.0)).fit(x, x[:, :2] @ torch.ones(2, 1).double())
        >>> model.coefficients.round(decimals=4).tolist()
        [[1.0], [1.0], [0.0]]

    References:
        Golub, Heath & Wahba (1979), Technometrics 21, 215-223. doi:10.1080/00401706.1979.10489751
        Naselaris, Kay, Nishimoto & Gallant (2011), NeuroImage 56, 400-410.
            doi:10.1016/j.neuroimage.2010.07.073
    """

    def __init__(
        self,
        alphas: Sequence[Number] = _ALPHAS,
        cv: int | None = 5,
        *,
        score: RidgeScore = "r2",
    ) -> None:
        one_of("score", score, get_args(RidgeScore))
        if not len(alphas) or min(alphas) <= 0:
            raise ValueError(f"alphas needs at least one penalty, all above 0, got {alphas}")
        if cv is not None and cv < 2:
            raise ValueError(f"cv must be at least 2 folds or None, got {cv}")
        self.alphas = tuple(float(alpha) for alpha in alphas)
        self.cv = cv
        self.metric: RidgeScore = score
        self._fitted: _Fit | None = None

    def __repr__(self) -> str:
        return f"RidgeAlignment({self.alphas!r}, {self.cv!r}, score={self.metric!r})"

    def fit(self, x: Matrix, y: Matrix) -> "RidgeAlignment":
        """Choose the penalty of every target and find its weights.

        Args:
            x: Features, (..., samples, features).
            y: Targets, (..., samples, targets), of the same samples.

        Returns:
            The estimator itself.

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: When the samples differ.
        """
        self._fitted = _fit(*as_pair(x, y), self.alphas)
        return self

    @property
    def alpha(self) -> Tensor:
        """Chosen penalty of every target, (..., targets).

        Raises:
            ValueError: Before `fit`.
        """
        return self._fit().alpha

    @property
    def coefficients(self) -> Tensor:
        """Weights, (..., features, targets).

        Raises:
            ValueError: Before `fit`.
        """
        return self._fit().weights

    def predict(self, x: Matrix) -> Tensor:
        """Predicted targets.

        Args:
            x: Features, (..., samples, features).

        Returns:
            Targets (..., samples, targets).

        Raises:
            ValueError: Before `fit`, or when the features are not those that were fitted.
        """
        fit = self._fit()
        data = as_matrix("x", x, min_samples=1).to(fit.weights.dtype)
        if data.shape[-1] != fit.weights.shape[-2]:
            raise ValueError(
                f"x must have the {fit.weights.shape[-2]} features that were fitted, got "
                f"{data.shape[-1]}"
            )
        return (data - fit.mean_x) @ fit.weights + fit.mean_y

    def score(self, x: Matrix, y: Matrix) -> Tensor:
        """Mean score over the targets of other samples.

        Args:
            x: Features, (..., samples, features).
            y: Targets, (..., samples, targets).

        Returns:
            One value per batch item, (...).

        Raises:
            ValueError: Before `fit`, or when the features or targets are not those fitted.
        """
        _, truth = as_pair(x, y)
        predicted = self.predict(x)
        if truth.shape[-1] != predicted.shape[-1]:
            raise ValueError(
                f"y must have the {predicted.shape[-1]} targets that were fitted, got "
                f"{truth.shape[-1]}"
            )
        return _score(self.metric, truth, predicted).mean(-1)

    def compute(self, x: Matrix, y: Matrix) -> Tensor:
        """Mean held-out score over the targets.

        Args:
            x: Features, (..., samples, features).
            y: Targets, (..., samples, targets), of the same samples.

        Returns:
            One value per batch item, (...).

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: When the samples differ, or are fewer than two per fold.
        """
        return self.score_targets(x, y).mean(-1)

    def score_targets(self, x: Matrix, y: Matrix) -> Tensor:
        """Held-out score of every target, from the predictions of all folds together.

        Args:
            x: Features, (..., samples, features).
            y: Targets, (..., samples, targets), of the same samples.

        Returns:
            Scores (..., targets).

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: When the samples differ, or are fewer than two per fold.
        """
        first, second = as_pair(x, y)
        return _score(self.metric, second, self._held_out(first, second))

    def compute_permuted(self, x: Matrix, y: Matrix, orders: Tensor) -> Tensor:
        """`compute(x, y[order])` for many orders: a decomposition per fold serves many.

        Args:
            x: Features, (..., samples, features).
            y: Targets, (..., samples, targets).
            orders: Orders of the samples of y, (permutations, samples).

        Returns:
            Values (permutations, ...).

        Raises:
            TypeError: When x or y is not a real tensor or array.
            ValueError: When the samples differ, or are fewer than two per fold.
        """
        first, second = as_pair(x, y)
        # Targets are fitted one by one, so re-ordered targets are just more targets.
        found = []
        step = max(1, _ENTRIES // second.numel())
        for start in range(0, len(orders), step):
            block = orders[start : start + step].to(second.device)
            many = second[..., block, :].movedim(-3, -2).flatten(-2)
            scores = self.score_targets(first, many)
            shape = (*scores.shape[:-1], len(block), second.shape[-1])
            found.append(scores.reshape(shape).mean(-1))
        return torch.cat(found, -1).movedim(-1, 0)

    def evaluate(self, x: Matrix, repeats: Matrix) -> EncodingResult:
        """Held-out score of every target for its mean over repeats, beside its noise ceiling.

        The ceiling of `"r2"` is the explainable variance of the mean, that of `"correlation"` the
        square root of its Spearman-Brown reliability.

        Args:
            x: Features, (..., samples, features).
            repeats: Targets in repeated trials, (..., repeats, samples, targets).

        Returns:
            Score, ceiling with its standard error, and penalty of every target.

        Raises:
            TypeError: When x or repeats is not a real tensor or array.
            ValueError: When there are fewer than two repeats, or the samples differ.
        """
        axes = ("repeats", "samples", "targets")
        data = as_real("repeats", repeats, axes=axes, at_least=(2, 2, 1))
        first, mean = as_pair(x, data.mean(-3))
        r2 = self.metric == "r2"
        of_mean: CeilingMethod = "explainable_variance" if r2 else "spearman_brown"
        ceiling = NoiseCeiling(method=of_mean).compute(data)
        alpha = _fit(first, mean, self.alphas).alpha
        scores = self.score_targets(first, mean)
        return EncodingResult(scores, ceiling.upper, ceiling.sem, alpha)

    def _held_out(self, x: Tensor, y: Tensor) -> Tensor:
        n_samples = x.shape[-2]
        folds = n_samples if self.cv is None else self.cv
        if n_samples - -(-n_samples // folds) < 2:
            raise ValueError(
                f"{n_samples} samples are too few for {folds} folds: two must remain to fit"
            )
        parts = []
        for test in contiguous_folds(n_samples, folds):
            train = torch.ones(n_samples, dtype=torch.bool)
            train[test] = False
            fit = _fit(x[..., train, :], y[..., train, :], self.alphas)
            parts.append((x[..., test, :] - fit.mean_x) @ fit.weights + fit.mean_y)
        return torch.cat(parts, -2)

    def _fit(self) -> _Fit:
        if self._fitted is None:
            raise ValueError("this RidgeAlignment holds no weights yet; call fit(x, y) first")
        return self._fitted


def _fit(
    x: Float[Tensor, "*batch sample feature"],
    y: Float[Tensor, "*batch sample target"],
    alphas: tuple[float, ...],
) -> _Fit:
    n = x.shape[-2]
    mean_x, mean_y = x.mean(-2, keepdim=True), y.mean(-2, keepdim=True)
    left, values, right = torch.linalg.svd(x - mean_x, full_matrices=False)
    target = left.mT @ (y - mean_y)
    grid = torch.tensor(alphas, dtype=x.dtype, device=x.device)
    if len(alphas) == 1:
        alpha = grid.expand(y.shape[:-2] + y.shape[-1:])
    else:
        losses = []
        for one in grid:
            shrink = values.square() / (values.square() + one)
            error = y - mean_y - left @ (shrink.unsqueeze(-1) * target)
            kept = 1 - 1 / n - (left.square() @ shrink.unsqueeze(-1))
            losses.append((error / kept).square().mean(-2))
        alpha = grid[torch.stack(losses).argmin(0)]
    gain = values.unsqueeze(-1) / (values.square().unsqueeze(-1) + alpha.unsqueeze(-2))
    return _Fit(mean_x, mean_y, right.mT @ (gain * target), alpha)


def _score(
    metric: RidgeScore,
    truth: Float[Tensor, "*batch sample target"],
    predicted: Float[Tensor, "*batch sample target"],
) -> Float[Tensor, "*batch target"]:
    """Score of every target; 0 where the truth, or for a correlation the prediction, is flat."""
    away = truth - truth.mean(-2, keepdim=True)
    total = away.square().sum(-2)
    varies = (truth != truth[..., :1, :]).any(-2)
    if metric == "r2":
        error = (truth - predicted).square().sum(-2)
        return torch.where(varies, 1 - error / total.where(varies, 1.0), 0.0)
    guess = predicted - predicted.mean(-2, keepdim=True)
    size = (total * guess.square().sum(-2)).sqrt()
    varies = varies & (size > 0)
    return torch.where(varies, (away * guess).sum(-2) / size.where(varies, 1.0), 0.0)
