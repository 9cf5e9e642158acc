"""Coders whose features are matched to named concepts."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from neuros_mechint.sae._arguments import Activation
from neuros_mechint.sae._logistic import fit_logistic
from neuros_mechint.sae.coders import HierarchicalSAE

__all__ = ["ConceptAlignment", "ConceptSAE"]


class ConceptAlignment(NamedTuple):
    """Which feature stands for which concept.

    Attributes:
        concepts: Names, in the order of the values below.
        features: Number of the matched feature of each, shape (n_concepts,).
        auc: Area under the curve of that feature as a detector of the concept: the probability
            that it is larger where the concept is present, ties counting half; 0.5 is chance.
        best_other: Largest area among the features that were not matched to it; much below `auc`
            when one feature alone stands for the concept.
    """

    concepts: tuple[str, ...]
    features: Tensor
    auc: Tensor
    best_other: Tensor


class ConceptSAE(HierarchicalSAE):
    r"""Hierarchical autoencoder with one feature for each of some named concepts.

    It is trained like any coder, without labels. `align` then matches every concept with a feature
    of its own, such that the sum of the areas under the curve is as large as it can be, and fits
    $p_c(x) = \sigma(w_c f_{j(c)}(x) + b_c)$ to the labels. The match and the fit are saved with the
    coder.

    A concept can be bound to a level of the hierarchy: its feature is then looked for among the
    features of that level and of those before it, where a Matryoshka coder keeps what is general.

    Args:
        latent_dim: Width of the activations.
        levels: Rising numbers of features; the last one is the size of the dictionary.
        concepts: Names, or name -> number of its level; names alone use the whole dictionary.
        sparsity_coefficient: As in `SparseAutoencoder`.
        activation: As in `SparseAutoencoder`.
        k: As in `SparseAutoencoder`.
        tied_init: As in `SparseAutoencoder`.
        target_l0: As in `SparseAutoencoder`.
        bandwidth: As in `SparseAutoencoder`.
        generator: As in `SparseAutoencoder`.

    Raises:
        ValueError: When there is no concept, a name occurs twice, a level does not exist or has
            fewer features than concepts, or as in `HierarchicalSAE`.

    Examples:
        >>> coder = ConceptSAE(latent_dim=2, levels=[2, 4], concepts=["left", "right"])
        >>> state = {"W_enc": torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])}
        >>> _ = coder.load_state_dict(state, strict=False)
        >>> x = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.8]])
        >>> found = coder.align(coder.encode(x), torch.tensor([0, 0, 1, 1]))
        >>> found.features, found.auc
        (tensor([1, 0]), tensor([1., 1.], dtype=torch.float64))
        >>> (coder.concept_score(x) > 0.5).int()
        tensor([[1, 0],
                [1, 0],
                [0, 1],
                [0, 1]], dtype=torch.int32)

    References:
        B. Bussmann, N. Nabeshima, A. Karvonen, N. Nanda (2025). Learning multi-level features with
        Matryoshka sparse autoencoders. doi:10.48550/arXiv.2503.17547
    """

    concept_features: Tensor
    concept_weights: Tensor
    concept_biases: Tensor

    def __init__(
        self,
        *,
        latent_dim: int,
        levels: Sequence[int],
        concepts: Sequence[str] | Mapping[str, int],
        sparsity_coefficient: float = 0.01,
        activation: Activation = "relu",
        k: int | None = None,
        tied_init: bool = True,
        target_l0: float | None = None,
        bandwidth: float = 0.03,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(
            latent_dim=latent_dim,
            levels=levels,
            sparsity_coefficient=sparsity_coefficient,
            activation=activation,
            k=k,
            tied_init=tied_init,
            target_l0=target_l0,
            bandwidth=bandwidth,
            generator=generator,
        )
        last = len(levels) - 1
        bound = dict(concepts) if isinstance(concepts, Mapping) else dict.fromkeys(concepts, last)
        _check_concepts(bound, len(concepts), levels)
        self.concepts = bound
        n = len(bound)
        self.register_buffer("concept_features", torch.full((n,), -1))
        self.register_buffer("concept_weights", torch.zeros(n))
        self.register_buffer("concept_biases", torch.zeros(n))

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that make an equal coder."""
        return {**super().config, "concepts": dict(self.concepts)}

    @torch.no_grad()
    def align(self, features: Tensor, labels: Tensor) -> ConceptAlignment:
        """Match every concept with the feature that detects it.

        Args:
            features: What `encode` gives, shape (..., feature).
            labels: Which concepts are present: zeros and ones of shape (..., n_concepts), or the
                number of the one concept that is present, shape (...).

        Returns:
            The match, with its areas under the curve on these data; take others to judge it.

        Raises:
            ValueError: When shapes do not fit, features are not finite, labels are neither zeros
                and ones nor numbers of concepts, or a concept is never or always present.

        Examples:
            See the class.
        """
        from scipy.optimize import linear_sum_assignment

        f = _checked_features(features, self.dictionary_size)
        present = _checked_labels(labels, features.shape[:-1], list(self.concepts))
        auc = _areas(f, present)
        allowed = np.zeros_like(auc, dtype=bool)
        for c, level in enumerate(self.concepts.values()):
            allowed[c, : self.levels[level]] = True
        rows, columns = linear_sum_assignment(np.where(allowed, auc, -1e3), maximize=True)
        others = np.where(allowed, auc, -np.inf)
        others[rows, columns] = -np.inf
        for c, j in zip(rows.tolist(), columns.tolist(), strict=True):
            fit = fit_logistic(f[:, j : j + 1], present[:, c], balanced=False)
            self.concept_features[c] = j
            self.concept_weights[c] = float(fit.direction[0])
            self.concept_biases[c] = fit.bias
        return ConceptAlignment(
            tuple(self.concepts),
            self.concept_features.clone().cpu(),
            torch.from_numpy(auc[rows, columns]),
            torch.from_numpy(others.max(1)),
        )

    def concept_score(self, x: Tensor) -> Tensor:
        """Probability that each concept is present.

        Args:
            x: Activations, shape (..., latent_dim).

        Returns:
            Shape (..., n_concepts), in the order of `concepts`; differentiable.

        Raises:
            RuntimeError: Before `align`.
            TypeError: When `x` is not a floating-point tensor.
            ValueError: When its width is another.

        Examples:
            See the class.
        """
        if bool((self.concept_features < 0).any()):
            raise RuntimeError("concepts have no features yet; call align(features, labels) first")
        f = self.encode(x)[..., self.concept_features]
        score: Tensor = (self.concept_weights * f + self.concept_biases).sigmoid()
        return score

    def concept_directions(self) -> Tensor:
        """Directions of the matched features.

        Returns:
            Shape (n_concepts, latent_dim), in the order of `concepts`.

        Raises:
            RuntimeError: Before `align`.

        Examples:
            >>> coder = ConceptSAE(latent_dim=1, levels=[2], concepts=["up"])
            >>> _ = coder.load_state_dict({"W_enc": torch.tensor([[-1.0], [1.0]])}, strict=False)
            >>> x = torch.tensor([[1.0], [-1.0]])
            >>> _ = coder.align(coder.encode(x), torch.tensor([[1], [0]]))
            >>> torch.equal(coder.concept_directions(), coder.dictionary[1:])
            True
        """
        if bool((self.concept_features < 0).any()):
            raise RuntimeError("concepts have no features yet; call align(features, labels) first")
        return self.dictionary[self.concept_features]


def _checked_features(features: Tensor, n_features: int) -> NDArray[np.float64]:
    if not features.ndim or features.shape[-1] != n_features:
        raise ValueError(f"features needs shape (..., {n_features}), got {tuple(features.shape)}")
    if not bool(features.isfinite().all()):
        raise ValueError("features needs finite numbers, got NaN or infinity")
    return np.asarray(features.detach().reshape(-1, n_features).double().cpu())


def _checked_labels(
    labels: Tensor, shape: torch.Size, concepts: Sequence[str]
) -> NDArray[np.bool_]:
    """Which concepts are present in each row."""
    n = len(concepts)
    if labels.shape == shape and not labels.is_floating_point():
        if bool(((labels < 0) | (labels >= n)).any()):
            raise ValueError(f"labels needs numbers of concepts from 0 to {n - 1}")
        labels = torch.nn.functional.one_hot(labels.long(), n)
    if labels.shape != (*shape, n):
        raise ValueError(
            f"labels needs shape {(*shape, n)} of zeros and ones or {tuple(shape)} of whole "
            f"numbers for these features and {n} concepts, got {tuple(labels.shape)}"
        )
    if not bool(((labels == 0) | (labels == 1)).all()):
        raise ValueError("labels of shape (..., n_concepts) needs zeros and ones")
    present = np.asarray(labels.reshape(-1, n).bool().cpu())
    for name, share in zip(concepts, present.mean(0).tolist(), strict=True):
        if share in {0.0, 1.0}:
            raise ValueError(
                f"concept {name!r} is {'always' if share else 'never'} present; it needs rows of "
                "both kinds"
            )
    return present


def _check_concepts(bound: Mapping[str, int], n_named: int, levels: Sequence[int]) -> None:
    if not bound or len(bound) < n_named:
        raise ValueError(f"concepts needs at least one name, each of them once, got {list(bound)}")
    for name, level in bound.items():
        if not 0 <= level < len(levels):
            raise ValueError(
                f"concept {name!r} is bound to level {level}; levels are 0 to {len(levels) - 1}"
            )
    for level, size in enumerate(levels):
        n = sum(other <= level for other in bound.values())
        if n > size:
            raise ValueError(f"{n} concepts share the {size} features of levels up to {level}")


def _areas(f: NDArray[np.float64], present: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Area under the curve of every feature for every concept, by Mann and Whitney's statistic."""
    from scipy.stats import rankdata

    ranks = rankdata(f, axis=0)
    n_with = present.sum(0)[:, None]
    n_without = len(f) - n_with
    above = present.T.astype(np.float64) @ ranks - n_with * (n_with + 1) / 2
    return np.asarray(above / (n_with * n_without))
