"""Representational similarity analysis: the geometry of conditions, compared between systems."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint._arrays import as_real
from neuros_mechint.alignment._matrices import Matrix, as_matrix, as_pair, one_of
from neuros_mechint.alignment._permuted import products_of_permuted
from neuros_mechint.alignment._rdm import cell_means, distances, label_codes, whiten
from neuros_mechint.alignment._rdm_compare import pair_scores, prepare

__all__ = ["RSA", "noise_covariance"]

Distance = Literal["correlation", "euclidean", "cosine", "mahalanobis", "crossnobis", "poisson"]
Comparison = Literal["spearman", "pearson", "cosine", "tau_a", "rho_a", "whitened"]
Shrinkage = Literal["diagonal", "identity"]
Labels: TypeAlias = Sequence[Any] | NDArray[Any] | Tensor


class RSA:
    r"""Representational similarity analysis: do two systems tell the same conditions apart?

    Each side becomes a matrix of dissimilarities between conditions; the two matrices are compared
    above their diagonals. All squared distances are divided by the number of channels.

    With $a$, $b$ the responses of $p$ channels to two conditions, `distance` is

    - `"correlation"`: $1 - r$ over channels; `"cosine"`: $1 - \cos$;
    - `"euclidean"`: $\|a - b\|^2 / p$;
    - `"mahalanobis"`: $(a - b)^\top \Sigma^{-1} (a - b) / p$, with the noise covariance $\Sigma$;
    - `"crossnobis"`: the mean of $(a_m - b_m)^\top \Sigma^{-1} (a_l - b_l) / p$ over ordered pairs
      of different folds: unbiased, so it may be negative, and it is never clipped;
    - `"poisson"`: the symmetrised Kullback-Leibler divergence of Poisson rates, over $p$; a weak
      prior (rate 1, weight 0.1) keeps it finite at a count of 0.

    `compare`: rank correlation (`"spearman"`), the same with ties broken at random on average
    (`"rho_a"`), Kendall's $\tau_a$ (`"tau_a"`), correlation (`"pearson"`), `"cosine"`, or the
    cosine after whitening by the covariance that independent noise gives to the distances
    (`"whitened"`, Diedrichsen 2021). Ranks have no gradient; the other three do.

    Args:
        distance: Between conditions.
        compare: Of the matrices.

    Examples:
        A rotation and a shift leave the distances as they are:

        >>> import torch
        >>> x = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 5.0], [3.0, 3.0]])
        >>> rsa = RSA(distance="euclidean")
        >>> rsa.rdm(x)[0].tolist()
        [0.0, 2.5, 8.5, 6.5]
        >>> round(float(rsa.compute(x, x.flip(-1) + 1)), 6)
        1.0

    References:
        Kriegeskorte, Mur & Bandettini (2008), Front. Syst. Neurosci. 2, 4.
            doi:10.3389/neuro.06.004.2008
        Nili et al. (2014), PLOS Comput. Biol. 10, e1003553. doi:10.1371/journal.pcbi.1003553
        Walther et al. (2016), NeuroImage 137, 188-200. doi:10.1016/j.neuroimage.2015.12.012
        Diedrichsen et al. (2021), NBDT 5 (3). arXiv:2007.02789
        Schütt et al. (2023), eLife 12, e82566. doi:10.7554/eLife.82566
    """

    def __init__(
        self, *, distance: Distance = "correlation", compare: Comparison = "spearman"
    ) -> None:
        one_of("distance", distance, get_args(Distance))
        one_of("compare", compare, get_args(Comparison))
        self.distance: Distance = distance
        self.compare: Comparison = compare

    def __repr__(self) -> str:
        return f"RSA(distance={self.distance!r}, compare={self.compare!r})"

    def rdm(
        self,
        x: Matrix,
        conditions: Labels | None = None,
        folds: Labels | None = None,
        noise: Matrix | None = None,
    ) -> Tensor:
        """Dissimilarity of every condition to every other one.

        Args:
            x: Responses, (..., samples, channels).
            conditions: One label per sample; samples of a condition are averaged, and conditions
                are sorted by label. None: every sample is a condition of its own.
            folds: One label per sample, for `"crossnobis"`; every fold holds every condition.
            noise: Covariance of the noise over channels, (..., channels, channels), for
                `"mahalanobis"`, and for `"crossnobis"`, where None stands for the identity.

        Returns:
            Symmetric matrix with a zero diagonal, (..., conditions, conditions).

        Raises:
            TypeError: When x or noise is not a real tensor or array.
            ValueError: When labels do not fit the samples, a fold lacks a condition, folds or
                noise are missing or have no use, or a distance is undefined.
        """
        data = as_matrix("x", x)
        self._check_use(conditions, folds, noise)
        if folds is not None and conditions is not None:
            means = _fold_means(data, conditions, folds)
        elif conditions is not None:
            codes, n_conditions = label_codes("conditions", conditions, data.shape[-2])
            means = cell_means(data, codes, n_conditions).unsqueeze(-3)
        else:
            means = data.unsqueeze(-3)
        if noise is not None:
            axes = ("channels", "channels")
            sigma = as_real("noise", noise, axes=axes, at_least=(1, 1))
            rows = whiten(means.flatten(-3, -2), sigma)
            means = rows.reshape(means.shape)
        return distances(self.distance, means)

    def compare_rdms(self, first: Matrix, second: Matrix) -> Tensor:
        """Similarity of two dissimilarity matrices.

        Args:
            first: Dissimilarities, (..., conditions, conditions); the part above the diagonal
                counts.
            second: Dissimilarities of the same conditions.

        Returns:
            One value per batch item, (...).

        Raises:
            TypeError: When a side is not a real tensor or array.
            ValueError: When a side is not square, the conditions differ or are fewer than 3, or all
                dissimilarities of a side are the same.
        """
        sides = as_pair(first, second)
        for name, side in zip(("first", "second"), sides, strict=True):
            n, width = side.shape[-2:]
            if n != width or n < 3:
                raise ValueError(
                    f"{name} must be (..., conditions, conditions) with at least 3 conditions, got "
                    f"shape {tuple(side.shape)}"
                )
        a, b = (prepare(self.compare, side) for side in sides)
        return pair_scores(self.compare, a, b)

    def compute(
        self,
        x: Matrix,
        y: Matrix,
        *,
        conditions: Labels | None = None,
        folds: Labels | None = None,
        noise: tuple[Matrix | None, Matrix | None] = (None, None),
    ) -> Tensor:
        """Similarity of the geometry of two representations.

        Args:
            x: First representation, (..., samples, channels_x).
            y: Second representation, (..., samples, channels_y), of the same samples.
            conditions: As for `rdm`, for both sides.
            folds: As for `rdm`, for both sides.
            noise: As for `rdm`, one covariance per side.

        Returns:
            One value per batch item, (...).

        Raises:
            TypeError: When a side is not a real tensor or array.
            ValueError: As for `rdm` and `compare_rdms`.
        """
        sides = zip(as_pair(x, y), noise, strict=True)
        first, second = (self.rdm(z, conditions, folds, sigma) for z, sigma in sides)
        return self.compare_rdms(first, second)

    def compute_permuted(self, x: Matrix, y: Matrix, orders: Tensor) -> Tensor:
        """`compute(x, y[order])` for many orders of the samples, each side analysed once.

        Args:
            x: First representation, (..., samples, channels_x), one sample per condition.
            y: Second representation, (..., samples, channels_y).
            orders: Orders of the samples of y, (permutations, samples).

        Returns:
            Values (permutations, ...).

        Raises:
            TypeError: When a side is not a real tensor or array.
            ValueError: As for `rdm` and `compare_rdms`.
        """
        first, second = (prepare(self.compare, self.rdm(z)) for z in as_pair(x, y))
        if self.compare != "tau_a":
            return products_of_permuted(first, second, orders)
        found = [pair_scores("tau_a", first, second[..., order, :][..., order]) for order in orders]
        return torch.stack(found)

    def _check_use(self, conditions: object, folds: object, noise: object) -> None:
        kind = self.distance
        if kind == "crossnobis" and (conditions is None or folds is None):
            raise ValueError(
                "distance='crossnobis' needs conditions= and folds=, one label per sample each"
            )
        if kind != "crossnobis" and folds is not None:
            raise ValueError(f"folds belong to distance='crossnobis', not to {kind!r}")
        if kind == "mahalanobis" and noise is None:
            raise ValueError(
                "distance='mahalanobis' needs noise=, a covariance of the channels such as "
                "noise_covariance(x, conditions); without it use distance='euclidean'"
            )
        if kind not in {"mahalanobis", "crossnobis"} and noise is not None:
            raise ValueError(
                f"noise belongs to distance='mahalanobis' or 'crossnobis', not to {kind!r}"
            )


def _fold_means(data: Tensor, conditions: Labels, folds: Labels) -> Tensor:
    """Mean of every condition in every fold, (..., folds, conditions, channels)."""
    codes, n_conditions = label_codes("conditions", conditions, data.shape[-2])
    fold_codes, n_folds = label_codes("folds", folds, data.shape[-2])
    cells = fold_codes * n_conditions + codes
    n_cells, n_filled = n_folds * n_conditions, int((torch.bincount(cells) > 0).sum())
    if n_filled < n_cells:
        raise ValueError(
            f"every fold must hold every condition: {n_folds} folds of {n_conditions} conditions "
            f"make {n_cells} cells, {n_filled} have samples"
        )
    means = cell_means(data, cells, n_cells)
    return means.reshape(*data.shape[:-2], n_folds, n_conditions, data.shape[-1])


def noise_covariance(x: Matrix, conditions: Labels, *, shrinkage: Shrinkage = "diagonal") -> Tensor:
    r"""Covariance of the channels within conditions, shrunk so that it can be inverted.

    $\hat\Sigma = (1 - \lambda) S + \lambda T$ with the target $T$ the diagonal of $S$ (Schäfer &
    Strimmer 2005) or its mean variance times the identity (Ledoit & Wolf 2004), and $\lambda$
    estimated from the data. Memory is that of the covariance, whatever the number of samples.

    Args:
        x: Responses, (..., samples, channels).
        conditions: One label per sample; the mean of each is taken away.
        shrinkage: Target of the shrinkage.

    Returns:
        Covariance (..., channels, channels).

    Raises:
        TypeError: When x is not a real tensor or array.
        ValueError: When labels do not fit, no condition has two samples, or a channel is constant
            within every condition.

    Examples:
        >>> import torch
        >>> x = torch.tensor([[0.0, 0.0], [2.0, 1.0], [10.0, 3.0], [12.0, 4.0]])
        >>> noise_covariance(x, ["a", "a", "b", "b"]).diagonal().tolist()
        [2.0, 0.5]

    References:
        Schäfer & Strimmer (2005), Stat. Appl. Genet. Mol. Biol. 4, 32. doi:10.2202/1544-6115.1175
        Ledoit & Wolf (2004), J. Multivar. Anal. 88, 365-411. doi:10.1016/S0047-259X(03)00096-4
    """
    one_of("shrinkage", shrinkage, get_args(Shrinkage))
    data = as_matrix("x", x)
    n_samples, n_channels = data.shape[-2:]
    codes, n_conditions = label_codes("conditions", conditions, n_samples)
    dof = n_samples - n_conditions
    if dof < 1:
        raise ValueError(
            f"conditions must repeat to tell noise from response, got {n_conditions} conditions in "
            f"{n_samples} samples"
        )
    means = cell_means(data, codes, n_conditions)
    rest = data - means[..., codes.to(data.device), :]
    # What is left of a constant is rounding of its mean.
    floor = n_samples * torch.finfo(data.dtype).eps * data.abs().amax(-2)
    if bool((rest.abs().amax(-2) <= floor).any()):
        raise ValueError("a channel of x is constant within every condition; leave it out")
    eye = torch.eye(n_channels, dtype=data.dtype, device=data.device)
    if shrinkage == "identity":
        S = rest.mT @ rest / n_samples
        fourth = (rest.square().mT @ rest.square() / n_samples - S.square()).sum((-2, -1))
        target = (S.diagonal(dim1=-2, dim2=-1).mean(-1))[..., None, None] * eye
        away = (S - target).square().sum((-2, -1))
        weight = (fourth / n_samples / away).clamp(0, 1)[..., None, None]
        return (weight * target + (1 - weight) * S) * (n_samples / dof)
    S = rest.mT @ rest / dof
    unit = rest / S.diagonal(dim1=-2, dim2=-1).sqrt().unsqueeze(-2)
    first = unit.mT @ unit / (n_samples - 1)
    second = unit.square().mT @ unit.square() / (n_samples - 1)
    spread = (n_samples / dof**2 * (second - first.square()) * (1 - eye)).sum((-2, -1))
    size = (first.square() * (1 - eye)).sum((-2, -1))
    weight = (spread / size.where(size > 0, 1.0)).clamp(0, 1)[..., None, None]
    return S * (eye + (1 - weight) * (1 - eye))
