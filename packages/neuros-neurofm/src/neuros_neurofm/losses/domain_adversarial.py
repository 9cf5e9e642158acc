"""Measure how well domains can be told apart: by a classifier, or by the mean of a kernel."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, SupportsFloat

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from neuros_neurofm.losses._likelihood import at_least_float32, check_weight

__all__ = ["DomainAdversarialLoss", "MMDLoss"]

_IGNORED: Final = -100
_KERNELS: Final = ("rbf", "linear", "multiscale")
_SCALES: Final = (0.25, 0.5, 1.0, 2.0, 4.0)


class DomainAdversarialLoss(nn.Module):
    r"""Cross-entropy of a domain classifier.

    $-\sum_i w_{y_i} \log \mathrm{softmax}(z_i)_{y_i} / \sum_i w_{y_i}$ over the rows whose label is
    not -100. The encoder becomes adversarial by a gradient reversal between it and the classifier.
    Without a labelled row, or with rows of weight 0 alone, the loss is 0 and has a gradient.

    It takes logits and labels, or, as an objective of `CombinedLoss`, outputs and batch: it then
    scores `outputs["domain_logits"]` on `batch["species"]`, and a batch without "species" gives 0.

    Args:
        class_weights: One weight >= 0 for each domain, (domain,); all 1 by default.
        label_smoothing: Share of every label that is spread over all domains, in [0, 1].
        weight: Factor of the loss, >= 0.
        name: Key of this objective in `CombinedLoss.terms`.

    Raises:
        ValueError: Weights that are negative, not finite, all 0 or not in one row, or a smoothing
            outside [0, 1].

    Examples:
        >>> import torch
        >>> loss = DomainAdversarialLoss()(torch.zeros(3, 4), torch.tensor([0, 3, -100]))
        >>> round(float(loss.exp()), 4)
        4.0
        >>> batch = {"species": torch.tensor([0, 3, -100])}
        >>> float(DomainAdversarialLoss()({"domain_logits": torch.zeros(3, 4)}, batch) == loss)
        1.0

    References:
        Ganin, Y. et al. (2016). Domain-adversarial training of neural networks. JMLR 17.
        https://doi.org/10.48550/arXiv.1505.07818
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        class_weights: Tensor | Sequence[SupportsFloat] | None = None,
        label_smoothing: SupportsFloat = 0.0,
        weight: float = 1.0,
        name: str = "domain",
    ) -> None:
        check_weight(weight)
        smoothing = float(label_smoothing)
        if not 0.0 <= smoothing <= 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1], got {smoothing}")
        super().__init__()
        self.weight = weight
        self.name = name
        self.label_smoothing = smoothing
        weights = None if class_weights is None else _read_class_weights(class_weights)
        self.register_buffer("class_weights", weights)

    def forward(
        self, logits: Tensor | Mapping[str, Any], labels: Tensor | Mapping[str, Any]
    ) -> Tensor:
        """Score the classifier.

        Args:
            logits: (..., domain), or a model's outputs with `domain_logits`.
            labels: Integers in [0, domain), or -100 for a row to leave out, (...); or a batch with
                `species`.

        Returns:
            The weighted loss, shape ().

        Raises:
            ValueError: Shapes that do not match, a label outside the domains (on the CPU), or
                outputs without `domain_logits`.
            TypeError: Labels that are not integers, or one tensor and one mapping.
        """
        if isinstance(logits, Mapping) and isinstance(labels, Mapping):
            logits, labels = _read_pair(logits, labels)
        if isinstance(logits, Mapping) or isinstance(labels, Mapping):
            raise TypeError(
                f"pass logits and labels, or outputs and batch, got {type(logits).__name__} and "
                f"{type(labels).__name__}"
            )
        self._check(logits, labels)
        logits = at_least_float32(logits).flatten(end_dim=-2)
        return self.weight * _cross_entropy(
            logits, labels.flatten().long(), self.class_weights, self.label_smoothing
        )

    def count(self, batch: Mapping[str, Any]) -> Tensor:
        """Say what the mean of a batch weighs beside that of another.

        Args:
            batch: As for the call.

        Returns:
            Number of labelled rows, each times its class weight in units of the smallest positive
            one, shape ().
        """
        labels: Tensor | None = batch.get("species")
        if labels is None:
            return torch.zeros((), dtype=torch.long)
        valid = labels != _IGNORED
        if self.class_weights is None:
            return valid.sum()
        unit = self.class_weights[self.class_weights > 0].min()
        rows = self.class_weights[labels.long().masked_fill(~valid, 0)]
        return (rows * valid).sum() / unit

    def _check(self, logits: Tensor, labels: Tensor) -> None:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be integers, got {labels.dtype}; convert them to int64")
        if logits.ndim < 2 or logits.shape[:-1] != labels.shape or logits.shape[-1] == 0:
            raise ValueError(
                f"logits must be (..., domain) and labels (...), got {tuple(logits.shape)} and "
                f"{tuple(labels.shape)}"
            )
        if self.class_weights is not None and len(self.class_weights) != logits.shape[-1]:
            raise ValueError(
                f"class_weights has {len(self.class_weights)} weights, logits have "
                f"{logits.shape[-1]} domains; they must be equally many"
            )


class MMDLoss(nn.Module):
    r"""Squared maximum mean discrepancy of two samples.

    $\mathrm{mean}\,k(x, x') + \mathrm{mean}\,k(y, y') - 2\, \mathrm{mean}\,k(x, y)$ with
    `rbf`: $k = \exp(-\|x - y\|^2 / 2\sigma^2)$; `multiscale`: the mean of five of these, with
    $\sigma / 4, \sigma / 2, \sigma, 2\sigma, 4\sigma$; `linear`: $k = x \cdot y$, which leaves
    $\|\bar x - \bar y\|^2$. The pairwise distances of all rows are held in memory, except for
    `linear`.

    Args:
        kernel: `rbf`, `linear` or `multiscale`.
        bandwidth: $\sigma$ > 0, or `median`: that of the distances > 0 between all rows of both
            samples (the lower of two middle values). It carries no gradient. `linear` has none.
        unbiased: Leave out each row's kernel with itself. The estimate then has the right mean and
            may be negative; the biased one is never negative.

    Raises:
        ValueError: An unknown kernel or bandwidth, or a bandwidth for the linear kernel.

    Examples:
        >>> import torch
        >>> x, y = torch.zeros(4, 2), torch.full((3, 2), 2.0)
        >>> float(MMDLoss("linear")(x, y))
        8.0
        >>> round(float(MMDLoss(bandwidth=2.0)(x, y)), 4)  # 2 - 2 / e
        1.2642

    References:
        Gretton, A. et al. (2012). A kernel two-sample test. JMLR 13, 723-773.
        https://doi.org/10.5555/2188385.2188410
    """

    def __init__(
        self,
        kernel: str = "rbf",
        *,
        bandwidth: str | SupportsFloat = "median",
        unbiased: bool = False,
    ) -> None:
        if kernel not in _KERNELS:
            raise ValueError(f"kernel must be one of {', '.join(_KERNELS)}, got {kernel!r}")
        if kernel == "linear" and bandwidth != "median":
            raise ValueError(f"the linear kernel has no bandwidth, got {bandwidth}; leave it out")
        super().__init__()
        self.kernel: str = kernel
        self.bandwidth = _read_bandwidth(bandwidth)
        self.unbiased = unbiased

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Compare two samples.

        Args:
            x: (batch, feature), at least 2 rows.
            y: (another batch, feature), at least 2 rows.

        Returns:
            The estimate of the squared discrepancy, shape ().

        Raises:
            ValueError: Samples that are not two-dimensional, have unequal features or one row.
        """
        if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
            raise ValueError(
                "x and y must be (batch, feature) with equally many features, got "
                f"{tuple(x.shape)} and {tuple(y.shape)}"
            )
        if min(len(x), len(y)) < 2:
            raise ValueError(f"x and y need at least 2 rows each, got {len(x)} and {len(y)}")
        # Autocast would round the products behind the distances to bfloat16.
        with torch.autocast(x.device.type, enabled=False):
            x, y = at_least_float32(x), at_least_float32(y)
            dtype = torch.promote_types(x.dtype, y.dtype)
            x, y = x.to(dtype), y.to(dtype)
            if self.kernel == "linear":
                return _linear_mmd(x, y, unbiased=self.unbiased)
            scales = _SCALES if self.kernel == "multiscale" else (1.0,)
            return _rbf_mmd(x, y, self.bandwidth, scales, unbiased=self.unbiased)


def _read_pair(outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    if "domain_logits" not in outputs:
        raise ValueError(
            f"outputs has no 'domain_logits', only {list(outputs)}; build the model with "
            f"use_domain_adversarial=True"
        )
    logits: Tensor = outputs["domain_logits"]
    unknown = torch.full(logits.shape[:-1], _IGNORED, device=logits.device)
    return logits, batch.get("species", unknown)


def _read_class_weights(class_weights: Tensor | Sequence[SupportsFloat]) -> Tensor:
    if not isinstance(class_weights, Tensor):
        class_weights = torch.tensor([float(weight) for weight in class_weights])
    weights = at_least_float32(class_weights.detach().clone())
    if weights.ndim != 1:
        raise ValueError(f"class_weights must be (domain,), got shape {tuple(weights.shape)}")
    if not (weights.isfinite().all() and (weights >= 0).all() and (weights > 0).any()):
        raise ValueError(
            f"class_weights must be finite numbers >= 0 and not all 0, got {weights.tolist()}"
        )
    return weights


def _read_bandwidth(bandwidth: str | SupportsFloat) -> float | None:
    if bandwidth == "median":
        return None
    if isinstance(bandwidth, str) or not 0.0 < float(bandwidth) < math.inf:
        raise ValueError(f"bandwidth must be 'median' or a finite number > 0, got {bandwidth!r}")
    return float(bandwidth)


def _cross_entropy(
    logits: Float[Tensor, "batch domain"],
    labels: Int[Tensor, " batch"],
    weights: Float[Tensor, " domain"] | None,
    smoothing: float,
) -> Float[Tensor, ""]:
    valid = labels != _IGNORED
    # The fill comes before the formula: an ignored inf or NaN would survive in the gradient.
    logits = logits.masked_fill(~valid[:, None], 0.0)
    weights = None if weights is None else weights.to(logits.dtype)
    try:
        summed = functional.cross_entropy(
            logits,
            labels,
            weight=weights,
            ignore_index=_IGNORED,
            label_smoothing=smoothing,
            reduction="sum",
        )
    except IndexError as error:
        raise ValueError(
            f"labels must lie in [0, {logits.shape[1]}), the last axis of logits, or be "
            f"{_IGNORED} for a row to leave out, got [{int(labels.min())}, {int(labels.max())}]"
        ) from error
    if weights is None:
        return summed / valid.sum().clamp(min=1)
    total = (weights[labels.masked_fill(~valid, 0)] * valid).sum()
    # Smoothing gives rows of weight 0 a sum that is not, over a total that is.
    return torch.where(total > 0, summed, 0.0 * summed) / torch.where(total > 0, total, 1.0)


def _linear_mmd(
    x: Float[Tensor, "batch feature"], y: Float[Tensor, "other feature"], *, unbiased: bool
) -> Float[Tensor, ""]:
    squared = (x.mean(0) - y.mean(0)).square().sum()
    if not unbiased:
        return squared
    # The means' own noise, which the squared difference contains.
    return squared - x.var(0).sum() / len(x) - y.var(0).sum() / len(y)


def _rbf_mmd(
    x: Float[Tensor, "batch feature"],
    y: Float[Tensor, "other feature"],
    bandwidth: float | None,
    scales: tuple[float, ...],
    *,
    unbiased: bool,
) -> Float[Tensor, ""]:
    rows = torch.cat([x, y])
    squared = _squared_distances(rows)
    sigma2 = _median_squared(squared) if bandwidth is None else bandwidth**2
    total = rows.new_zeros(())
    n = len(x)
    for scale in scales:
        k = (squared / (-2.0 * scale**2 * sigma2)).exp()
        within = _mean_within(k[:n, :n], unbiased=unbiased)
        within = within + _mean_within(k[n:, n:], unbiased=unbiased)
        total = total + within - 2.0 * k[:n, n:].mean()
    # Rounding alone can make the biased estimate, a squared norm, negative.
    return total / len(scales) if unbiased else (total / len(scales)).clamp(min=0.0)


def _mean_within(k: Float[Tensor, "batch batch"], *, unbiased: bool) -> Float[Tensor, ""]:
    # k(x, x) = 1 on the diagonal.
    n = len(k)
    return (k.sum() - n) / (n * (n - 1)) if unbiased else k.mean()


def _squared_distances(rows: Float[Tensor, "batch feature"]) -> Float[Tensor, "batch batch"]:
    # The distance does not depend on the origin, its rounding error does.
    rows = rows - rows.detach().mean(0)
    norms = rows.square().sum(1)
    sizes = norms[:, None] + norms
    squared = sizes - 2.0 * rows @ rows.mT
    # What is below the rounding error of the three terms counts as equal rows.
    rounding = 8.0 * torch.finfo(rows.dtype).eps * sizes.detach()
    same = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return squared.masked_fill((squared.detach() <= rounding) | same, 0.0)


def _median_squared(squared: Float[Tensor, "batch batch"]) -> Float[Tensor, ""]:
    squared = squared.detach()
    median = squared.masked_fill(squared == 0, torch.nan).nanmedian()
    # Without two different rows every distance is 0 and any bandwidth gives the same.
    return median.nan_to_num(nan=1.0)
