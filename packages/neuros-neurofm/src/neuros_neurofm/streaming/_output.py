"""What a stream returns for each step of the grid."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from neuros_neurofm.models import MultiModalNeuroFMX
from neuros_neurofm.streaming._core import summary

__all__ = ["StepOutput"]


@dataclass(frozen=True, eq=False)
class StepOutput:
    """Outputs of one step of the grid, in the shapes of a `NeuroFMXOutput` with one latent.

    `pooled` and what rests on it are computed where they are first read: a decoder does without
    them.

    Attributes:
        latents: State at the end of the step, (batch, 1, latent_dim).
        times: End of the step in seconds since the start of the stream, (1,), float64.
        encoder: Expected samples of the step per modality that had any, (batch, time, channel);
            log-rates for spikes.
        decoder: Behaviour at the end of the step, (batch, 1, behavior_dim), or None.
        forecast: The samples after the step per modality in the stream,
            (batch, horizon, channel), or None; log-rates for spikes.
        modalities: The modalities that were in the stream.
        recent: The last `popt_window` latents, (batch, latent, latent_dim).
        read: What the first layer of the aggregation reads, its class token and these latents,
            (batch, latent + 1, 2 * latent_dim).
        n: Number of steps so far, () int64.
        model: The model.

    Examples:
        >>> import torch
        >>> from neuros_neurofm import MultiModalNeuroFMX
        >>> from neuros_neurofm.streaming import StreamingSession
        >>> model = MultiModalNeuroFMX(
        ...     32, 1, 8, 16, modalities=("spike",), sampling_rates={"spike": 100.0}, window=0.16
        ... )
        >>> (step,) = StreamingSession(model).push({"spike": torch.ones(1, 2, 5)})
        >>> step.latents.shape, step.encoder["spike"].shape, step.pooled.shape
        (torch.Size([1, 1, 16]), torch.Size([1, 2, 5]), torch.Size([1, 16]))
    """

    latents: Tensor
    times: Tensor
    encoder: dict[str, Tensor]
    decoder: Tensor | None
    forecast: dict[str, Tensor] | None
    modalities: tuple[str, ...]
    recent: Tensor = field(repr=False)
    read: Tensor = field(repr=False)
    n: Tensor = field(repr=False)
    model: MultiModalNeuroFMX = field(repr=False)

    @cached_property
    def pooled(self) -> Tensor:
        """Summary of the last `popt_window` latents, (batch, latent_dim)."""
        with torch.no_grad():
            return summary(self.model, self.recent, self.read, self.n)

    @cached_property
    def contrastive(self) -> Tensor:
        """Unit vector of the summary, (batch, 128)."""
        with torch.no_grad():
            vector: Tensor = self.model.heads["contrastive"](self.pooled)
            return vector

    @cached_property
    def domain_logits(self) -> Tensor | None:
        """Logits of the domain discriminator, (batch, n_domains), or None without one."""
        if self.model.domain is None:
            return None
        with torch.no_grad():
            logits: Tensor = self.model.domain(self.pooled)
            return logits
