"""What the model returns, by attribute and by key."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

from torch import Tensor

__all__ = ["NeuroFMXOutput"]


@dataclass(frozen=True, slots=True, eq=False)
class NeuroFMXOutput(Mapping[str, Tensor | dict[str, Tensor]]):
    """Outputs of `MultiModalNeuroFMX`, readable as `out.latents` and as `out["latents"]`.

    A mapping of the outputs that are present (not None).

    Attributes:
        latents: State on the time grid, (batch, latent, latent_dim).
        times: End of each grid step in seconds, (latent,), float64.
        pooled: Summary of the last `popt_window` latents, (batch, latent_dim).
        contrastive: Unit vector, (batch, 128).
        encoder: Expected samples per modality, (batch, time, channel); log-rates for spikes.
        decoder: Behaviour at the queries, (batch, query, behavior_dim), or None.
        forecast: The samples after the input per modality, (batch, horizon, channel), or None;
            log-rates for spikes.
        domain_logits: Logits of the domain discriminator, (batch, n_domains), or None without one.
        domain_labels: The `species_labels` of the call, (batch,) int64, or None.

    Examples:
        >>> import torch
        >>> x = torch.zeros(1, 2)
        >>> out = NeuroFMXOutput(x, x, x, x, {})
        >>> out["latents"] is out.latents, "decoder" in out
        (True, False)
    """

    latents: Tensor
    times: Tensor
    pooled: Tensor
    contrastive: Tensor
    encoder: dict[str, Tensor]
    decoder: Tensor | None = None
    forecast: dict[str, Tensor] | None = None
    domain_logits: Tensor | None = None
    domain_labels: Tensor | None = None

    def __getitem__(self, name: str) -> Tensor | dict[str, Tensor]:
        """The output of this name.

        Raises:
            KeyError: no such output, or it was not computed.
        """
        if name not in self:
            raise KeyError(f"no output {name!r}; this call returned {list(self)}")
        value: Tensor | dict[str, Tensor] = getattr(self, name)
        return value

    def __contains__(self, name: object) -> bool:
        """Whether the output is present."""
        return name in list(self)

    def __iter__(self) -> Iterator[str]:
        """Names of the outputs that are present."""
        return (f.name for f in fields(self) if getattr(self, f.name) is not None)

    def __len__(self) -> int:
        """Number of outputs that are present."""
        return sum(1 for _ in self)
