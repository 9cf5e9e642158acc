"""How good a sparse coder is: sparsity, reconstruction, what the model loses, what labels tell."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from neuros_mechint.activations import ActivationStore, SiteLike
from neuros_mechint.sae._probing import score_labels
from neuros_mechint.sae._recovery import LossRecovery
from neuros_mechint.sae._rows import (
    Coding,
    ModelBatch,
    check_coder,
    coding,
    model_batches,
    pieces,
    row_batches,
)
from neuros_mechint.sae._scores import CodeScores

__all__ = ["SAEMetrics", "evaluate_sae", "hungarian_mcs", "mmcs"]


class SAEMetrics(NamedTuple):
    r"""Scores of a coder on held-out activations.

    Attributes:
        n_rows: Number of activations.
        l0: Mean number of features that are not zero.
        l1: Mean sum of the features' absolute values.
        fvu: Fraction of variance unexplained, $\sum \|x - \hat x\|^2 / \sum \|x - \bar x\|^2$.
        explained_variance: $1 - fvu$.
        cosine: Mean cosine between activation and reconstruction, over activations that are not
            zero.
        dead_fraction: Share of features that never fire.
        dense_fraction: Share of features that fire on more than a tenth of the activations.
        loss_recovered: $(L_{zero} - L_{sae}) / (L_{zero} - L_{clean})$; 1 when the model works as
            well on reconstructions. None without a metric.
        loss_recovered_mean: The same beside the site's mean instead of zero.
        absorption: Share of the rows of a class that one feature codes although the features of
            the class stay silent. None without labels.
        probing: Number of features -> balanced accuracy of a probe on so many features, averaged
            over the classes; chance is 0.5. None without labels.
        probing_dense: The same for a probe on the activations. None without labels.
    """

    n_rows: int
    l0: float
    l1: float
    fvu: float
    explained_variance: float
    cosine: float
    dead_fraction: float
    dense_fraction: float
    loss_recovered: float | None = None
    loss_recovered_mean: float | None = None
    absorption: float | None = None
    probing: dict[int, float] | None = None
    probing_dense: float | None = None


def evaluate_sae(
    coder: Coding,
    data: Tensor | ActivationStore | Iterable[Any],
    model: nn.Module | None = None,
    site: SiteLike | None = None,
    metric: Callable[..., Tensor] | None = None,
    *,
    labels: ArrayLike | None = None,
    probe_sizes: Sequence[int] = (1, 2, 5),
    generator: torch.Generator | None = None,
    batch_size: int = 1024,
) -> SAEMetrics:
    r"""Score a sparse coder.

    Everything is summed over batches in float64, so that the numbers do not depend on how the data
    are cut. The coder and the model run in evaluation mode without gradient.

    With `metric`, every batch runs through the model as it is, with the site replaced by its
    reconstruction and with the site set to zero; then the data are read a second time, with the
    site set to its mean over all rows.

    With `labels`, each class is probed against the rest on the features whose class means differ
    most, and on rows that neither the probe nor the choice of features saw (three in ten). A row
    counts as absorbed when the probe on the activations finds it, no feature of the class fires
    (features are added until one more raises F1 by no more than 0.03), and the feature with the
    largest projection on the probe carries at least 0.4 of the activation's projection at a cosine
    of at least 0.025. That is the projection form of the measure; it needs no model. Activations
    are held in memory for it.

    Args:
        coder: A `SparseAutoencoder` or anything with `encode`, `decode` and `dictionary`.
        data: Without a model activations: a tensor (..., width), an `ActivationStore`, or an
            iterable of tensors. With a model its inputs: batches, or a tensor that is cut into
            batches. It is read twice when a metric is given.
        model: The model whose activations are coded.
        site: Where, in the model or in the store.
        metric: Loss of an output: one value per row, or a scalar that is a mean over rows. A
            function of two arguments is also given the batch, for the targets in it.
        labels: Class of every row of activations, in the order of the data.
        probe_sizes: Numbers of features to probe.
        generator: Source of the split into train and test rows; needed with `labels`.
        batch_size: Rows that are coded at once, and inputs of a batch when `data` is a tensor.

    Returns:
        The scores.

    Raises:
        TypeError: When the coder or what the metric returns is of the wrong kind, or data that have
            to be read twice can be read once.
        ValueError: When data are empty, constant or not finite; when a model comes without a site,
            a metric without a model or labels without a generator; when the metric does not change
            with the site set to zero or to its mean; when labels do not fit the rows.

    Examples:
        >>> from neuros_mechint.sae import SparseAutoencoder
        >>> coder = SparseAutoencoder(latent_dim=2, dictionary_size=2)
        >>> eye = torch.eye(2)
        >>> _ = coder.load_state_dict({"W_enc": eye, "W_dec": eye}, strict=False)
        >>> scores = evaluate_sae(coder, torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, 0.0]]))
        >>> scores.l0, scores.l1, scores.dead_fraction
        (0.6666666666666666, 1.0, 0.0)

    References:
        D. Chanin et al. (2024). A is for absorption. doi:10.48550/arXiv.2409.14507
        W. Gurnee et al. (2023). Finding neurons in a haystack: case studies with sparse probing.
            doi:10.48550/arXiv.2305.01610
        A. Karvonen et al. (2025). SAEBench. doi:10.48550/arXiv.2503.09532
    """
    check_coder(coder)
    _check_arguments(
        data=data,
        model=model,
        site=site,
        metric=metric,
        labels=labels,
        probe_sizes=probe_sizes,
        generator=generator,
        batch_size=batch_size,
    )
    scores, held = CodeScores(), []
    losses = None
    if model is not None and site is not None and metric is not None:
        losses = LossRecovery(coder, model, site, metric)
    with coding(coder, model):
        for batch in _batches(data, model, site, batch_size, whole=metric is not None):
            value = batch.value if isinstance(batch, ModelBatch) else batch
            rows = value.reshape(-1, value.shape[-1])
            _score_rows(coder, scores, rows, batch_size)
            if labels is not None:
                held.append(rows.cpu())
            if losses is not None and isinstance(batch, ModelBatch):
                losses.update(batch)
        found: dict[str, Any] = {"n_rows": scores.n_rows, **scores.values()}
        if losses is not None:
            losses.ablate(data, scores.mean, batch_size)
            found |= losses.values()
        if labels is not None and generator is not None:
            rows = torch.cat(held)
            told = score_labels(
                coder, rows, labels, ks=probe_sizes, generator=generator, batch_size=batch_size
            )
            found |= told._asdict()
    return SAEMetrics(**found)


def mmcs(D1: Tensor, D2: Tensor) -> float:
    r"""Mean max cosine similarity, $\frac{1}{n} \sum_i \max_j \cos(D1_i, D2_j)$.

    It is not symmetric: with the true directions first it asks whether each of them was learned.

    Args:
        D1: Directions, shape (n, width).
        D2: Directions, shape (m, width).

    Returns:
        At most 1.

    Raises:
        ValueError: When the shapes do not fit or a direction is zero or not finite.

    Examples:
        >>> mmcs(torch.eye(2), torch.tensor([[3.0, 0.0], [0.0, -1.0], [1.0, 1.0]])) > 0.85
        True

    References:
        L. Sharkey, D. Braun, B. Millidge (2022). Taking features out of superposition with sparse
        autoencoders. AI Alignment Forum.
    """
    return float(_cosines(D1, D2).max(1).values.mean())


def hungarian_mcs(D1: Tensor, D2: Tensor) -> float:
    r"""Mean cosine under the best one-to-one match of two sets of directions.

    Unlike `mmcs` it does not reward two true directions for sharing one learned direction.

    Args:
        D1: Directions, shape (n, width).
        D2: Directions, shape (m, width).

    Returns:
        Mean over the min(n, m) matched pairs, at most 1. Symmetric.

    Raises:
        ValueError: As `mmcs`.

    Examples:
        >>> hungarian_mcs(torch.eye(2), torch.tensor([[0.0, 2.0], [5.0, 0.0]]))
        1.0
        >>> hungarian_mcs(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2))
        0.5

    References:
        H. W. Kuhn (1955). The Hungarian method for the assignment problem.
        doi:10.1002/nav.3800020109
    """
    from scipy.optimize import linear_sum_assignment

    cosines = _cosines(D1, D2).numpy()
    pairs = linear_sum_assignment(cosines, maximize=True)
    return float(cosines[pairs].mean())


def _cosines(D1: Tensor, D2: Tensor) -> Tensor:
    for name, directions in (("D1", D1), ("D2", D2)):
        if directions.ndim != 2 or not len(directions):
            shape = tuple(directions.shape)
            raise ValueError(f"{name} needs directions of shape (n, width), n >= 1, got {shape}")
        norms = directions.detach().double().norm(dim=1)
        if not bool(((norms > 0) & norms.isfinite()).all()):
            raise ValueError(f"{name} holds a direction that is zero or not finite")
    if D1.shape[1] != D2.shape[1]:
        raise ValueError(
            f"D1 and D2 need directions of one width, got {D1.shape[1]} and {D2.shape[1]}"
        )
    unit = [nn.functional.normalize(d.detach().double().cpu(), dim=1) for d in (D1, D2)]
    cosines: Tensor = unit[0] @ unit[1].T
    return cosines


def _check_arguments(
    *,
    data: Any,
    model: nn.Module | None,
    site: SiteLike | None,
    metric: Callable[..., Tensor] | None,
    labels: ArrayLike | None,
    probe_sizes: Sequence[int],
    generator: torch.Generator | None,
    batch_size: int,
) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size needs at least 1, got {batch_size}")
    if model is not None and site is None:
        raise ValueError("model= needs site=, the place whose activations are coded")
    if model is not None and isinstance(data, ActivationStore):
        raise ValueError("model= needs data of model inputs, got a store of activations")
    if metric is not None and model is None:
        raise ValueError("metric= needs model= and site=, to run the model on reconstructions")
    if metric is not None and isinstance(data, Iterator):
        raise TypeError(
            f"with metric= data are read twice, which a {type(data).__name__} does not allow; "
            "give a list or a data loader"
        )
    if labels is not None and generator is None:
        raise ValueError("labels= needs generator=torch.Generator().manual_seed(...)")
    if labels is not None and (not probe_sizes or min(probe_sizes) < 1):
        raise ValueError(f"probe_sizes needs numbers of at least 1, got {list(probe_sizes)}")


def _batches(
    data: Any, model: nn.Module | None, site: SiteLike | None, batch_size: int, *, whole: bool
) -> Iterator[Tensor | ModelBatch]:
    if model is None or site is None:
        return row_batches(data, site, batch_size)
    return model_batches(model, data, site, batch_size, whole=whole)


def _score_rows(coder: Coding, scores: CodeScores, rows: Tensor, batch_size: int) -> None:
    for part in pieces(rows, batch_size):
        f = coder.encode(part)
        scores.update(part, f, coder.decode(f))
