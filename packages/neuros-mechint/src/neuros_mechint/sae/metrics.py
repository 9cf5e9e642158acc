"""How good a sparse coder is: sparsity, reconstruction, what the model loses, what labels tell."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn

from neuros_mechint.activations import ActivationStore, SiteLike
from neuros_mechint.sae._evaluation import Evaluation
from neuros_mechint.sae._plan import Plan, plan_of
from neuros_mechint.sae._rows import Coding
from neuros_mechint.sae._sources import SiteKey
from neuros_mechint.sae.transcoders import Crosscoder

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
        absorption: Share of the rows of a class that one other feature codes while the features
            of the class stay silent, judged by projections. None without labels.
        probing: Number of features -> balanced accuracy of a probe on so many features, averaged
            over the classes; chance is 0.5. None without labels.
        probing_dense: The same for a probe on the activations. None without labels.
        absorption_ablation: Absorption judged by what the model depends on. None without
            `absorption_margin`.
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
    absorption_ablation: float | None = None


@overload
def evaluate_sae(
    coder: Crosscoder,
    data: Mapping[str, Tensor] | ActivationStore | Iterable[Any],
    model: nn.Module | None = None,
    site: SiteKey | None = None,
    metric: Callable[..., Tensor] | None = None,
    *,
    labels: ArrayLike | None = None,
    probe_sizes: Sequence[int] = (1, 2, 5),
    absorption_margin: float | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 1024,
) -> dict[str, SAEMetrics]: ...
@overload
def evaluate_sae(
    coder: Coding,
    data: Tensor | ActivationStore | Iterable[Any],
    model: nn.Module | None = None,
    site: SiteKey | None = None,
    metric: Callable[..., Tensor] | None = None,
    *,
    labels: ArrayLike | None = None,
    probe_sizes: Sequence[int] = (1, 2, 5),
    absorption_margin: float | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 1024,
) -> SAEMetrics: ...
def evaluate_sae(
    coder: Coding | Crosscoder,
    data: Tensor | Mapping[str, Tensor] | ActivationStore | Iterable[Any],
    model: nn.Module | None = None,
    site: SiteKey | None = None,
    metric: Callable[..., Tensor] | None = None,
    *,
    labels: ArrayLike | None = None,
    probe_sizes: Sequence[int] = (1, 2, 5),
    absorption_margin: float | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 1024,
) -> SAEMetrics | dict[str, SAEMetrics]:
    r"""Score a sparse coder.

    Everything is summed over batches in float64, so that the numbers do not depend on how the data
    are cut. The coder and the model run in evaluation mode without gradient.

    A `Transcoder` is scored on its target: `fvu` and `cosine` compare the prediction with what was
    there, and the loss recovered is that of the model with the target site replaced by the
    prediction from the input site. A `Crosscoder` is scored at each of its sites in turn, from
    features of all of them.

    With `metric`, every batch runs through the model as it is, with the site replaced by its
    reconstruction and with the site set to zero; then the data are read a second time, with the
    site set to its mean over all rows.

    With `labels`, each class is probed against the rest on the features whose class means differ
    most, and on rows that neither the probe nor the choice of features saw (three in ten).
    Activations and features are held in memory for it.

    Absorption (Chanin 2024) asks whether a more special feature has taken a concept's place. The
    main features of a class are those with the largest weights in a logistic regression on all
    features with an L1 penalty; one after the other is added until the next raises the F1 score by
    no more than 0.03. A held-out row of the class that a probe on the activations finds is a miss
    when the probe on the main features does not find it and all of them are 0. A miss is absorbed
    when one feature codes the concept instead:

    - `absorption`: the feature with the largest projection on the activations' probe carries at
      least 0.4 of the activation's own projection (both without the decoder's bias), at a cosine of
      at least 0.025. This is the form of SAEBench, by the same authors, and needs no model.
    - `absorption_ablation`, with `absorption_margin`: the feature whose ablation raises the metric
      most does so by `absorption_margin` more than any other, at a cosine of at least 0.025. The
      effects are integrated gradients of eight nodes at the row alone. This is the form of the
      paper; the metric has to ask for the concept, as a cross-entropy of the labels does.

    Both are the share among the held-out rows that the probe on the activations finds, averaged
    over the classes, without those that it never finds.

    Args:
        coder: A `SparseAutoencoder`, `Transcoder`, `Crosscoder`, or anything with `encode`,
            `decode` and `dictionary`.
        data: Without a model activations: a tensor (..., width), an `ActivationStore`, or an
            iterable of tensors. In place of a tensor a `Transcoder` takes a tuple of input and
            target, a `Crosscoder` a mapping from sites to tensors. With a model its inputs:
            batches, or a tensor that is cut into batches; they are read once more for `metric`, and
            again for `absorption_margin`.
        model: The model whose activations are coded.
        site: Where, in the model or in the store: for a `Transcoder` the tuple of input and target
            site, for a `Crosscoder` its sites in its order, or None for the names it was made with.
        metric: Loss of an output: one value per row, or a scalar that is a mean over rows. A
            function of two arguments is also given the batch, for the targets in it.
        labels: Class of every row of activations, in the order of the data.
        probe_sizes: Numbers of features to probe.
        absorption_margin: Lead that the feature with the largest effect needs, in the unit of the
            metric; the paper takes 1, in logits. None leaves `absorption_ablation` out.
        generator: Source of the split into train and test rows; needed with `labels`.
        batch_size: Rows that are coded at once, and inputs of a batch when `data` is a tensor.

    Returns:
        The scores; for a `Crosscoder` those of each site by its name.

    Raises:
        TypeError: When the coder or what the metric returns is of the wrong kind, or data that have
            to be read twice can be read once.
        ValueError: When data are empty, constant or not finite, or do not fit the coder; when a
            model comes without a site, a metric without a model, labels without a generator or a
            margin without labels and metric; when the metric does not change with the site set to
            zero or to its mean, or for a margin has no gradient; when labels do not fit the rows.

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
    plan = plan_of(coder)
    _check_arguments(
        data=data,
        model=model,
        metric=metric,
        labels=labels,
        probe_sizes=probe_sizes,
        absorption_margin=absorption_margin,
        generator=generator,
        batch_size=batch_size,
    )
    evaluation = Evaluation(
        plan=plan,
        data=data,
        model=model,
        sites=_sites(plan, site, model),
        metric=metric,
        labels=labels,
        probe_sizes=probe_sizes,
        absorption_margin=absorption_margin,
        generator=generator,
        batch_size=batch_size,
    )
    found = [SAEMetrics(**scores) for scores in evaluation.scores()]
    return dict(zip(plan.names, found, strict=True)) if plan.names else found[0]


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
    metric: Callable[..., Tensor] | None,
    labels: ArrayLike | None,
    probe_sizes: Sequence[int],
    absorption_margin: float | None,
    generator: torch.Generator | None,
    batch_size: int,
) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size needs at least 1, got {batch_size}")
    if model is not None and isinstance(data, ActivationStore):
        raise ValueError("model= needs data of model inputs, got a store of activations")
    if metric is not None and model is None:
        raise ValueError("metric= needs model= and site=, to run the model on reconstructions")
    if metric is not None and isinstance(data, Iterator):
        raise TypeError(
            f"with metric= data are read twice, which a {type(data).__name__} does not allow; "
            "give a list or a data loader"
        )
    if labels is not None:
        _check_labels(probe_sizes, generator)
    if absorption_margin is not None and (labels is None or metric is None):
        raise ValueError("absorption_margin= needs labels= and metric=, whose changes it bounds")
    if absorption_margin is not None and not absorption_margin >= 0:
        raise ValueError(f"absorption_margin needs a number of at least 0, got {absorption_margin}")


def _check_labels(probe_sizes: Sequence[int], generator: torch.Generator | None) -> None:
    if generator is None:
        raise ValueError("labels= needs generator=torch.Generator().manual_seed(...)")
    if not probe_sizes or min(probe_sizes) < 1:
        raise ValueError(f"probe_sizes needs numbers of at least 1, got {list(probe_sizes)}")


def _sites(plan: Plan, site: SiteKey | None, model: nn.Module | None) -> tuple[SiteLike, ...]:
    """Sites of the coder's parts, in its order; none for rows that come without a site."""
    if site is None:
        if model is not None and not plan.names:
            raise ValueError("model= needs site=, the place whose activations are coded")
        return plan.names
    sites = site if isinstance(site, tuple) else (site,)
    if len(sites) != plan.n_parts:
        raise ValueError(
            f"site needs {plan.n_parts} for this coder, in its order, got {len(sites)}: "
            f"{[str(one) for one in sites]}"
        )
    return sites
