"""The part of a step that all modalities share: fusion, backbone, aggregation and read-outs."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from neuros_neurofm.models import MambaState, MultiModalNeuroFMX
from neuros_neurofm.tokenizers import Tokens

__all__ = ["Core", "decoded", "first_core", "grid_step", "summary"]


class Core(NamedTuple):
    """What the model remembers besides its modalities.

    Attributes:
        backbone: One state per block.
        recent: The last `popt_window` latents, (batch, latent, latent_dim).
        read: What the first layer of the aggregation reads, its class token and these latents,
            (batch, latent + 1, 2 * latent_dim).
        n: Steps so far, () int64.
    """

    backbone: tuple[MambaState, ...]
    recent: Tensor
    read: Tensor
    n: Tensor


def first_core(model: MultiModalNeuroFMX, batch: int) -> Core:
    """The state before the first step."""
    recent = model.popt.cls.new_zeros(batch, model.popt_window, model.popt.d_model)
    with torch.no_grad():
        start = model.popt.first_read(None).expand(batch, -1, -1)
    read = torch.cat([start, start.new_zeros(batch, model.popt_window, start.shape[2])], 1)
    n = torch.zeros((), dtype=torch.int64, device=recent.device)
    return Core(model.backbone.init_state(batch), recent, read, n)


def grid_step(
    model: MultiModalNeuroFMX,
    tokens: Sequence[Tokens],
    time: Tensor,
    core: Core,
    *,
    reach: Sequence[float],
    slots: Sequence[int] | None = None,
) -> tuple[Tensor, Core]:
    """The latent, (batch, 1, latent_dim), and the state after the step.

    `time` is the end of the step, (1,) seconds; `tokens` hold those of its windows, and `reach`
    and `slots` are as in `PerceiverIO`.
    """
    seen = [_or_silence(part) for part in tokens]
    fused = model.fusion(seen, time, reach=reach, slots=slots)[:, 0]
    y, backbone = model.backbone.step(fused, core.backbone)
    latents = model.to_latent(y).unsqueeze(1)
    recent = torch.cat([core.recent[:, 1:], latents], 1)
    read = torch.cat([core.read[:, :1], core.read[:, 2:], model.popt.first_read(latents)], 1)
    return latents, Core(backbone, recent, read, core.n + 1)


def summary(model: MultiModalNeuroFMX, recent: Tensor, read: Tensor, n: Tensor) -> Tensor:
    """The aggregation of the last latents after `n` steps, (batch, latent_dim)."""
    # The first steps have fewer latents than the aggregation reads.
    age = torch.arange(recent.shape[1], 0, -1, device=recent.device)
    return model.popt.aggregate_read(recent, read, (age <= n).expand(recent.shape[:2]))


def _or_silence(tokens: Tokens) -> Tokens:
    # The fusion gathers from at least one token; a masked one is not seen.
    if tokens.mask.shape[1]:
        return tokens
    batch, _, width = tokens.values.shape
    return Tokens(
        tokens.values.new_zeros(batch, 1, width),
        tokens.times.new_zeros(batch, 1),
        tokens.mask.new_zeros(batch, 1),
    )


def decoded(model: MultiModalNeuroFMX, latents: Tensor) -> Tensor | None:
    """Behaviour at the end of the step, (batch, 1, behavior_dim)."""
    if "decoder" not in model.heads:
        return None
    index = torch.zeros(latents.shape[:2], dtype=torch.int64, device=latents.device)
    behavior: Tensor = model.heads["decoder"](latents, index, index.to(latents.dtype))
    return behavior
