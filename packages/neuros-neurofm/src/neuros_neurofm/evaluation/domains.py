"""How much latents tell about where they come from."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from neuros_neurofm.evaluation._arrays import Array, Data, as_finite

__all__ = ["DomainLeakage", "domain_leakage"]

_SHRINKAGE = 0.1


class DomainLeakage(NamedTuple):
    """Accuracy of a probe for the domain, beside that of probes for shuffled domains.

    Attributes:
        accuracy: Balanced accuracy on held-out groups: the mean over domains of the share of their
            samples that is recognised.
        chance: One over the number of domains.
        null: Balanced accuracies with the domains shuffled over the groups, (permutation,).
        p_value: Share of the shuffles, counting the data as one more, that reach the accuracy.
        domains: The domains, sorted.
        recall: Share of each domain's samples that is recognised, (domain,).
    """

    accuracy: float
    chance: float
    null: Array
    p_value: float
    domains: tuple[str | int, ...]
    recall: Array


def domain_leakage(
    latents: Data,
    domain_ids: Sequence[str] | Sequence[int] | NDArray[np.generic],
    *,
    generator: Generator,
    groups: Sequence[str] | Sequence[int] | NDArray[np.generic] | None = None,
    n_folds: int = 5,
    n_permutations: int = 200,
) -> DomainLeakage:
    r"""Cross-validated probe for the domain of latents, beside its permutation null.

    The probe is a linear discriminant with equal priors: the nearest class mean
    $\arg\min_k \|W(z - m_k)\|$, where $W^\top W$ inverts the covariance of all latents (a tenth of
    it replaced by a multiple of the identity) and the means come from the training folds. Whole
    groups are held out, and the null shuffles the domains over whole groups, folds drawn anew each
    time: latents of one recording resemble each other, so single samples are neither independent
    test cases nor exchangeable. Under the null a p-value of at most $\alpha$ has probability at
    most $\alpha$. The smallest p-value is $1 / (1 + n)$, and few groups allow few different
    shuffles: two domains of two groups each never give much less than 1/3.

    Args:
        latents: (sample, dim), or (batch, latent, dim) as the model returns them.
        domain_ids: Domain of every sample, or of every row of a batch.
        generator: Where folds and shuffles come from.
        groups: Recording of every sample or row; a group has one domain. None: every sample (row)
            is a group of its own, right only where they are independent.
        n_folds: Parts of the groups that are held out in turn, >= 2; every domain is spread evenly
            over them.
        n_permutations: Shuffles, >= 1.

    Returns:
        The accuracy and its null.

    Raises:
        ValueError: Latents of another number of axes or not finite, ids or groups that are not one
            per sample, fewer than two domains, a domain with fewer than two groups, a group with
            two domains, latents that do not vary, or numbers out of range.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> latents = rng.normal(size=(60, 4))
        >>> latents[30:, 0] += 10.0
        >>> result = domain_leakage(latents, ["mouse"] * 30 + ["rat"] * 30, generator=rng)
        >>> result.accuracy, result.chance, round(result.p_value, 3)
        (1.0, 0.5, 0.005)

    References:
        Ojala, M. and Garriga, G. C. (2010). Permutation tests for studying classifier performance.
        Journal of Machine Learning Research 11, 1833-1863. Phipson, B. and Smyth, G. K. (2010).
        Permutation p-values should never be zero. Statistical Applications in Genetics and
        Molecular Biology 9. https://doi.org/10.2202/1544-6115.1585
    """
    if n_folds < 2 or n_permutations < 1:
        raise ValueError(
            f"n_folds must be >= 2 and n_permutations >= 1, got {n_folds} and {n_permutations}"
        )
    z, rows = _checked_latents(latents)
    n_rows = int(rows[-1]) + 1
    domains, domain_of_row = _codes("domain_ids", domain_ids, n_rows)
    own = np.arange(n_rows) if groups is None else groups
    _, group_of_row = _codes("groups", own, n_rows)
    domain_of_group = _domain_of_groups(domain_of_row, group_of_row, domains)
    whitened, group = _whitened(z), group_of_row[rows]

    def recall(labels: NDArray[np.int64]) -> Array:
        return _recall(whitened, group, labels, _folds(labels, n_folds, generator))

    observed = recall(domain_of_group)
    null = np.array(
        [recall(generator.permutation(domain_of_group)).mean() for _ in range(n_permutations)]
    )
    accuracy = float(observed.mean())
    # 1e-9: equal accuracies may differ by the rounding of a mean.
    n_reached = int((null >= accuracy - 1e-9).sum())
    p_value = (1 + n_reached) / (1 + n_permutations)
    return DomainLeakage(accuracy, 1 / len(domains), null, p_value, domains, observed)


def _checked_latents(latents: Data) -> tuple[Array, NDArray[np.int64]]:
    """Latents (sample, dim), and the row of each sample."""
    z = as_finite("latents", latents)
    if z.ndim not in (2, 3) or 0 in z.shape:
        raise ValueError(
            f"latents must be (sample, dim) or (batch, latent, dim) and not empty, got {z.shape}"
        )
    n_rows, per_row = len(z), z.shape[1] if z.ndim == 3 else 1
    return z.reshape(-1, z.shape[-1]), np.repeat(np.arange(n_rows), per_row)


def _codes(
    name: str, ids: Sequence[str] | Sequence[int] | NDArray[np.generic], n_rows: int
) -> tuple[tuple[str | int, ...], NDArray[np.int64]]:
    given = np.asarray(ids)
    if given.shape != (n_rows,):
        raise ValueError(f"{name} must be one id for each of {n_rows} rows, got {given.shape}")
    values, codes = np.unique(given, return_inverse=True)
    return tuple(values.tolist()), codes.astype(np.int64)


def _domain_of_groups(
    domain: NDArray[np.int64], group: NDArray[np.int64], domains: tuple[str | int, ...]
) -> NDArray[np.int64]:
    pairs = np.unique(np.stack([group, domain]), axis=1)
    if pairs.shape[1] > group.max() + 1:
        raise ValueError("every group must have one domain; give recordings of two domains two ids")
    n_groups = np.bincount(pairs[1], minlength=len(domains))
    if len(domains) < 2 or n_groups.min() < 2:
        named = dict(zip(domains, n_groups.tolist(), strict=True))
        raise ValueError(
            f"domain_ids must hold at least two domains of at least two groups each, got {named}"
        )
    of_groups: NDArray[np.int64] = pairs[1]
    return of_groups


def _whitened(z: Array) -> Array:
    centered = z - z.mean(axis=0)
    covariance = centered.T @ centered / len(z)
    level = covariance.trace() / len(covariance)
    if level <= 0:
        raise ValueError("latents do not vary; there is nothing to probe")
    values, vectors = np.linalg.eigh(covariance)
    shrunk = (1 - _SHRINKAGE) * np.maximum(values, 0.0) + _SHRINKAGE * level
    whitened: Array = (centered @ vectors) / np.sqrt(shrunk)
    return whitened


def _folds(labels: NDArray[np.int64], n_folds: int, generator: Generator) -> NDArray[np.int64]:
    """Fold of every group: the groups of each domain in random order, dealt out in turn.

    A domain has two groups or more, so that no fold holds all of them.
    """
    order = generator.permutation(len(labels))
    dealt = order[np.argsort(labels[order], kind="stable")]
    folds = np.empty_like(labels)
    folds[dealt] = np.arange(len(labels)) % n_folds
    return folds


def _recall(
    z: Array, group: NDArray[np.int64], labels: NDArray[np.int64], folds: NDArray[np.int64]
) -> Array:
    """Share of the samples of each domain that the means of the other folds recognise."""
    sample_label, sample_fold = labels[group], folds[group]
    n_domains = int(labels.max()) + 1
    members = (sample_label[:, None] == np.arange(n_domains)).astype(np.float64)
    total, n_total = members.T @ z, members.sum(axis=0)
    hits = np.zeros(n_domains)
    for fold in np.unique(folds):
        held = sample_fold == fold
        n = n_total - members[held].sum(axis=0)
        means = (total - members[held].T @ z[held]) / n[:, None]
        # |z - m|^2 less |z|^2, which all domains share.
        distance = (means**2).sum(axis=1) - 2 * z[held] @ means.T
        found = distance.argmin(axis=1) == sample_label[held]
        hits += members[held].T @ found
    recall: Array = hits / n_total
    return recall
