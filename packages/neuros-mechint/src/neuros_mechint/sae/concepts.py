"""Coders whose features are matched to named concepts."""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuros_mechint.sae._arguments import Activation
from neuros_mechint.sae._concept_labels import (
    areas,
    check_concepts,
    checked_features,
    checked_labels,
)
from neuros_mechint.sae._logistic import fit_logistic
from neuros_mechint.sae._recipe import Recipe, Revive, StepCallback, TrainLog
from neuros_mechint.sae._rows import pieces
from neuros_mechint.sae._sources import Activations, SiteKey
from neuros_mechint.sae._stream import SAMPLE_ROWS
from neuros_mechint.sae._supervision import Supervision, slots
from neuros_mechint.sae.coders import HierarchicalSAE
from neuros_mechint.sae.training import fit

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

    Trained without labels it is a coder like any other. With `fit(..., labels=)` one feature of
    each concept also learns to fire where the concept is present, by the cross-entropy of the
    labels. `align` matches every concept with a feature of its own, such that the sum of the areas
    under the curve is as large as it can be, and fits $p_c(x) = \sigma(w_c f_{j(c)}(x) + b_c)$ to
    the labels. The match and the fit are saved with the coder.

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
        check_concepts(bound, len(concepts), levels)
        self.concepts = bound
        n = len(bound)
        self.register_buffer("concept_features", torch.full((n,), -1))
        self.register_buffer("concept_weights", torch.zeros(n))
        self.register_buffer("concept_biases", torch.zeros(n))

    @property
    def config(self) -> dict[str, Any]:
        """Arguments that make an equal coder."""
        return {**super().config, "concepts": dict(self.concepts)}

    def fit(
        self,
        activations: Activations,
        *,
        labels: Tensor | None = None,
        concept_coefficient: float = 1.0,
        site: SiteKey | None = None,
        steps: int | None = None,
        num_epochs: int | None = None,
        batch_size: int = 1024,
        lr: float | None = None,
        revive: Revive | None = None,
        dead_after: int | None = None,
        generator: torch.Generator | None = None,
        callbacks: Iterable[StepCallback] = (),
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int = 1000,
    ) -> TrainLog:
        r"""Train on activations, with labels also on the concepts.

        With labels the loss has the further term `"concept"`, the mean over presence and absence of
        $\gamma \log(1 + e^{\mp u_c})$, summed over the concepts: $u_c$ is the pre-activation of the
        concept's feature above the threshold of firing. A concept without a match gets the first
        free feature of its level; one that `align` has matched keeps its feature. The training ends
        with `align` on up to 8192 of its rows, spread evenly.

        Args:
            activations: As in `SparseAutoencoder.fit`; with labels a tensor (..., latent_dim).
            labels: Which concepts are present, as in `align`; None trains without them.
            concept_coefficient: $\gamma$, without effect when there are no labels.
            site: As in `SparseAutoencoder.fit`.
            steps: As in `SparseAutoencoder.fit`.
            num_epochs: As in `SparseAutoencoder.fit`.
            batch_size: As in `SparseAutoencoder.fit`.
            lr: As in `SparseAutoencoder.fit`.
            revive: As in `SparseAutoencoder.fit`.
            dead_after: As in `SparseAutoencoder.fit`.
            generator: As in `SparseAutoencoder.fit`.
            callbacks: As in `SparseAutoencoder.fit`.
            checkpoint: As in `SparseAutoencoder.fit`.
            checkpoint_every: As in `SparseAutoencoder.fit`.

        Returns:
            Course of the training.

        Raises:
            TypeError: As in `SparseAutoencoder.fit`, or when labels come with anything but a
                tensor of activations.
            ValueError: As in `SparseAutoencoder.fit`, or when labels do not fit, as in `align`, or
                `concept_coefficient` is not above 0.

        Examples:
            >>> generator = torch.Generator().manual_seed(0)
            >>> x = torch.randn(512, 4, generator=generator)
            >>> coder = ConceptSAE(latent_dim=4, levels=[8], concepts=["up"], generator=generator)
            >>> labels = (x[:, :1] > 0).long()
            >>> log = coder.fit(x, labels=labels, steps=200, batch_size=64, lr=0.01)
            >>> bool(((coder.concept_score(x) > 0.5) == labels).float().mean() > 0.9)
            True
        """
        supervision, rows = None, activations
        if labels is not None:
            if not isinstance(activations, Tensor) or site is not None:
                raise TypeError(
                    "labels= needs activations in a tensor, whose rows they belong to, and no "
                    f"site=, got a {type(activations).__name__} and site={site!r}"
                )
            supervision = self._supervision(activations, labels, concept_coefficient)
            rows = supervision.beside(activations)
        log = fit(
            self,
            rows,
            Recipe(lr, revive, dead_after, batch_size, tuple(callbacks)),
            names=self.site_names(site),
            steps=steps,
            num_epochs=num_epochs,
            generator=generator,
            checkpoint=checkpoint,
            checkpoint_every=checkpoint_every,
            supervision=supervision,
        )
        if supervision is not None and isinstance(activations, Tensor):
            self._bind(supervision, activations)
        return log

    def _supervision(self, activations: Tensor, labels: Tensor, coefficient: float) -> Supervision:
        present = checked_labels(labels, activations.shape[:-1], list(self.concepts))
        features = self.concept_features.cpu().clone()
        if bool((features < 0).any()):
            features = torch.tensor(slots(self.concepts, self.levels))
        return Supervision(torch.from_numpy(present), features, coefficient)

    @torch.no_grad()
    def _bind(self, supervision: Supervision, activations: Tensor) -> None:
        """Match the concepts with the features that were trained on them."""
        rows = activations.reshape(-1, self.latent_dim)
        which = supervision.features
        columns = [self.encode(part)[:, which] for part in pieces(rows, SAMPLE_ROWS)]
        self._set_match(which, torch.cat(columns).double().cpu(), supervision.present)

    def _set_match(self, which: Tensor, columns: Tensor, present: Tensor) -> None:
        for c, (j, column) in enumerate(zip(which.tolist(), columns.unbind(1), strict=True)):
            fitted = fit_logistic(column[:, None].numpy(), present[:, c].numpy(), balanced=False)
            self.concept_features[c] = j
            self.concept_weights[c] = float(fitted.direction[0])
            self.concept_biases[c] = fitted.bias

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

        f = checked_features(features, self.dictionary_size)
        present = checked_labels(labels, features.shape[:-1], list(self.concepts))
        auc = areas(f, present)
        allowed = np.zeros_like(auc, dtype=bool)
        for c, level in enumerate(self.concepts.values()):
            allowed[c, : self.levels[level]] = True
        rows, columns = linear_sum_assignment(np.where(allowed, auc, -1e3), maximize=True)
        others = np.where(allowed, auc, -np.inf)
        others[rows, columns] = -np.inf
        # The rows of the match are the concepts in their order.
        chosen = torch.from_numpy(columns)
        self._set_match(chosen, torch.from_numpy(f[:, columns]), torch.from_numpy(present))
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
