"""Labels in training: some features are asked to tell where their concept is present."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from neuros_mechint.sae._coder import Coder
from neuros_mechint.sae._features import preactivations
from neuros_mechint.sae._sources import RowStore, TensorRows

__all__ = ["Supervision", "slots"]

_LABELS = "labels"


class Supervision:
    r"""Loss by which the pre-activations of chosen features follow labels.

    $\gamma \sum_c \frac12 \left( \langle \mathrm{softplus}(-u_c) \rangle_{present} +
    \langle \mathrm{softplus}(u_c) \rangle_{absent} \right)$: the cross-entropy of
    $\sigma(u_c)$ in which presence and absence of a concept count the same, whatever its share of
    the data. $u_c$ is the pre-activation above the threshold of firing, so that the feature learns
    also where it does not fire, and to fire where the concept is.

    Args:
        present: Which concepts are present, shape (row, concept).
        features: The feature of each concept.
        coefficient: $\gamma$.
    """

    def __init__(
        self,
        present: Bool[Tensor, "row concept"],
        features: Int64[Tensor, "concept"],
        coefficient: float,
    ) -> None:
        if not coefficient > 0:
            raise ValueError(f"concept_coefficient needs a number above 0, got {coefficient}")
        self.present = present
        self._share = present.double().mean(0)
        self.features = features
        self._coefficient = coefficient

    def beside(self, activations: Tensor) -> RowStore:
        """Rows with their labels."""
        return TensorRows({"": activations, _LABELS: self.present})

    def settings(self) -> dict[str, Any]:
        """What a checkpoint compares."""
        return {
            "concept_coefficient": self._coefficient,
            "concept_features": self.features.tolist(),
            "concept_shares": self._share.tolist(),
        }

    def loss(
        self,
        coder: Coder,
        x: Float[Tensor, "batch n_in"],
        present: Bool[Tensor, "batch concept"],
    ) -> Float[Tensor, ""]:
        """Loss of a batch, in the units of training."""
        which = self.features.to(x.device)
        u = torch.addmm(coder.encoder_bias()[which], x, coder.W_enc[which].T)
        u = u - _firing(coder, x, which)
        share = self._share.to(u)
        weight = torch.where(present, 0.5 / share, 0.5 / (1 - share))
        signed = torch.where(present, -u, u)
        return self._coefficient * (weight * torch.nn.functional.softplus(signed)).mean(0).sum()


@torch.no_grad()
def _firing(
    coder: Coder, x: Float[Tensor, "batch n_in"], which: Int64[Tensor, "concept"]
) -> Tensor:
    """What a pre-activation has to exceed for its feature to fire."""
    if coder.activation == "jumprelu":
        return coder.log_threshold[which].exp()
    if coder.activation == "batchtopk":
        return coder.threshold
    if coder.activation == "topk":
        # The weakest of the k features of the row; among them is the concept's own once it fires.
        weakest = preactivations(coder, x).topk(coder.k or 1, dim=1).values[:, -1:]
        return weakest.clamp_min(0)
    return x.new_zeros(())


def slots(concepts: Mapping[str, int], levels: Sequence[int]) -> list[int]:
    """A feature for each concept: the first free ones of its level, else of those before it."""
    taken: set[int] = set()
    found = []
    # The widest choice comes last, so that no concept takes another's only place.
    for name, level in sorted(concepts.items(), key=lambda item: item[1]):
        start = levels[level - 1] if level else 0
        places = [*range(start, levels[level]), *range(start)]
        chosen = next(place for place in places if place not in taken)
        taken.add(chosen)
        found.append((name, chosen))
    by_name = dict(found)
    return [by_name[name] for name in concepts]
