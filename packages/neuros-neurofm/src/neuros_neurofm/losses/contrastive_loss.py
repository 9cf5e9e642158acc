"""Bring simultaneous embeddings of brain, behaviour and stimulus together."""

import math
from collections.abc import Mapping, Sequence
from typing import Final, SupportsFloat

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from neuros_neurofm.losses._bounded import bounded
from neuros_neurofm.losses._info_nce import SymmetricInfoNCE, attracting
from neuros_neurofm.losses._likelihood import at_least_float32
from neuros_neurofm.losses._positives import find_positives
from neuros_neurofm.ops._autograd import apply

__all__ = ["TriModalContrastiveLoss"]

_PAIRS: Final = ("neural_behavior", "neural_stimulus", "behavior_stimulus")
_MAX_LOGIT_SCALE: Final = 100.0


class TriModalContrastiveLoss(nn.Module):
    r"""Symmetric InfoNCE of the three pairs of neural, behaviour and stimulus embeddings.

    With unit rows $a_i$, $b_j$ and logits $\ell_{ij} = \min(1/\tau, 100)\, a_i \cdot b_j$, one
    direction of a pair is
    $-\frac1B \sum_i \frac1{|P_i|} \sum_{j \in P_i} \log \mathrm{softmax}_j(\ell_{ij})_j$, the pair
    is the mean of both directions, and the loss is the mean of the pairs weighted by
    `pair_weights`. $P_i$ holds i, every row of the same stimulus, and every row of the same session
    whose time is at most `temporal_window` away.

    The logits are worked on in tiles of rows, twice, and the positives as runs of sorted lists: no
    tensor of B x B elements is held for the backward pass.

    Args:
        temperature: $\tau$ > 0, its first value if it is learned. Below 0.01 the logit scale stays
            at 100.
        learnable_temperature: Learn $-\ln \tau$, the parameter `log_scale`.
        temporal_window: Largest distance in time of two positives, >= 0, in the unit of
            `temporal_indices`. With 0 only equal times are positives.
        pair_weights: Weights >= 0 of the pairs `neural_behavior`, `neural_stimulus` and
            `behavior_stimulus`, by name (a pair that is not named weighs 0) or in this order;
            1 each by default. A pair of weight 0 is not computed.

    Raises:
        ValueError: A temperature that is not positive, a negative window, or weights of unknown
            pairs, of the wrong number, negative or all 0.

    Examples:
        >>> import torch
        >>> loss, pairs = TriModalContrastiveLoss()(torch.ones(4, 3), torch.ones(4, 3))
        >>> round(float(loss.exp()), 4)  # all rows alike: log of the batch size
        4.0
        >>> sorted(pairs)
        ['neural_behavior']

    References:
        Radford, A. et al. (2021). Learning transferable visual models from natural language
        supervision. ICML. https://doi.org/10.48550/arXiv.2103.00020

        Khosla, P. et al. (2020). Supervised contrastive learning. NeurIPS.
        https://doi.org/10.48550/arXiv.2004.11362
    """

    log_scale: nn.Parameter | None

    def __init__(
        self,
        temperature: SupportsFloat = 0.07,
        *,
        learnable_temperature: bool = False,
        temporal_window: SupportsFloat = 0.0,
        pair_weights: Mapping[str, SupportsFloat] | Sequence[SupportsFloat] | None = None,
    ) -> None:
        temperature, window = float(temperature), float(temporal_window)
        if not 0.0 < temperature < math.inf:
            raise ValueError(f"temperature must be a finite number > 0, got {temperature}")
        if not 0.0 <= window < math.inf:
            raise ValueError(f"temporal_window must be a finite number >= 0, got {window}")
        super().__init__()
        self.temperature = temperature
        self.temporal_window = window
        self.pair_weights = _read_pair_weights(pair_weights)
        scale = torch.tensor(-math.log(temperature))
        self.log_scale = nn.Parameter(scale) if learnable_temperature else None

    @property
    def logit_scale(self) -> Tensor:
        """The factor of the cosines, at most 100, shape ()."""
        if self.log_scale is None:
            return torch.tensor(min(1.0 / self.temperature, _MAX_LOGIT_SCALE))
        return bounded(self.log_scale, -math.inf, math.log(_MAX_LOGIT_SCALE)).exp()

    def forward(  # noqa: PLR0917 - the order is part of the documented interface
        self,
        neural_emb: Tensor,
        behavior_emb: Tensor,
        stimulus_emb: Tensor | None = None,
        temporal_indices: Tensor | None = None,
        stimulus_ids: Tensor | None = None,
        session_ids: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Score one batch; row i of every embedding is of the same moment.

        Args:
            neural_emb: (batch, feature), of any length: rows are normalised here.
            behavior_emb: (batch, feature).
            stimulus_emb: (batch, feature); without it only neural and behaviour are paired.
            temporal_indices: Time of every row, (batch,). Needed if `temporal_window` > 0.
            stimulus_ids: Stimulus of every row, (batch,).
            session_ids: Session of every row, (batch,), all in one session by default. It limits
                the temporal positives and has no effect without `temporal_indices`.

        Returns:
            The loss, shape (), and the detached value of every pair that was computed, {pair:
            shape ()}.

        Raises:
            ValueError: Embeddings or ids of unequal or empty shape, a window without times, or no
                pair of positive weight.
        """
        embeddings = {"neural": neural_emb, "behavior": behavior_emb, "stimulus": stimulus_emb}
        _check_embeddings(embeddings)
        _check_ids(
            len(neural_emb),
            temporal_indices=temporal_indices,
            stimulus_ids=stimulus_ids,
            session_ids=session_ids,
        )
        if temporal_indices is None and self.temporal_window > 0:
            raise ValueError(
                f"temporal_window = {self.temporal_window} needs temporal_indices, got None; "
                "pass the time of every row or set temporal_window to 0"
            )
        pairs = self._present_pairs(stimulus_emb)
        # Autocast would round the cosines to bfloat16 before they are multiplied by up to 100.
        with torch.autocast(neural_emb.device.type, enabled=False):
            unit = {
                name: functional.normalize(at_least_float32(x), dim=1)
                for name, x in embeddings.items()
                if x is not None
            }
            positives = find_positives(
                temporal_indices, stimulus_ids, session_ids, self.temporal_window
            )
            scale = self.logit_scale.to(neural_emb.device)
            named = sorted({name for pair in pairs for name in pair.split("_")})
            pulls = {name: attracting(unit[name].detach(), positives) for name in named}
            values = {pair: _pair_loss(unit, pair, scale, pulls) for pair in pairs}
            total = sum((w * values[pair] for pair, w in pairs.items()), start=scale.new_zeros(()))
        return total / sum(pairs.values()), {pair: v.detach() for pair, v in values.items()}

    def _present_pairs(self, stimulus_emb: Tensor | None) -> dict[str, float]:
        pairs = {
            pair: weight
            for pair, weight in self.pair_weights.items()
            if weight > 0 and (stimulus_emb is not None or "stimulus" not in pair)
        }
        if not pairs:
            raise ValueError(
                "without stimulus_emb the only pair is 'neural_behavior', whose weight is 0; "
                "pass stimulus_emb or give that pair a weight"
            )
        return pairs


def _read_pair_weights(
    weights: Mapping[str, SupportsFloat] | Sequence[SupportsFloat] | None,
) -> dict[str, float]:
    if weights is None:
        return dict.fromkeys(_PAIRS, 1.0)
    if not isinstance(weights, Mapping):
        if len(weights) != len(_PAIRS):
            raise ValueError(
                f"pair_weights needs one weight for each of {', '.join(_PAIRS)}, got {len(weights)}"
            )
        weights = dict(zip(_PAIRS, weights, strict=True))
    unknown = sorted(set(weights) - set(_PAIRS))
    if unknown:
        raise ValueError(f"pair_weights may name {', '.join(_PAIRS)}, got {unknown}")
    read = {pair: float(weights.get(pair, 0.0)) for pair in _PAIRS}
    if not all(0.0 <= weight < math.inf for weight in read.values()) or not any(read.values()):
        raise ValueError(
            f"pair_weights must be finite numbers >= 0 and not all 0, got {list(read.values())}"
        )
    return read


def _check_embeddings(embeddings: Mapping[str, Tensor | None]) -> None:
    shapes = {name: tuple(x.shape) for name, x in embeddings.items() if x is not None}
    shape = shapes["neural"]
    if len(shape) != 2 or 0 in shape or set(shapes.values()) != {shape}:
        raise ValueError(
            f"embeddings must all be (batch, feature), of equal shape and not empty, got {shapes}"
        )


def _check_ids(n_rows: int, **ids: Tensor | None) -> None:
    for name, values in ids.items():
        if values is not None and values.shape != (n_rows,):
            raise ValueError(
                f"{name} must be (batch,) = ({n_rows},), got shape {tuple(values.shape)}"
            )


def _pair_loss(
    unit: Mapping[str, Float[Tensor, "batch feature"]],
    pair: str,
    scale: Float[Tensor, ""],
    pulls: Mapping[str, Float[Tensor, "batch feature"]],
) -> Float[Tensor, ""]:
    first, second = pair.split("_")
    given = unit[first], unit[second], scale, pulls[first], pulls[second]
    dtype = torch.promote_types(unit[first].dtype, unit[second].dtype)
    loss: Tensor = apply(SymmetricInfoNCE, *(x.to(dtype) for x in given))
    return loss
