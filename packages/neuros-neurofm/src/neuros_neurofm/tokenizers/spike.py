"""Spikes of a population into tokens, as counts or as events."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_neurofm.tokenizers._channel_set import ChannelSetTokenizer, Standardised, Tokenised
from neuros_neurofm.tokenizers._event_set import EventSetTokenizer
from neuros_neurofm.tokenizers._events import SpikeEvents, bin_events
from neuros_neurofm.tokenizers._patches import patch_size
from neuros_neurofm.tokenizers._tokenizer import Tokenizer
from neuros_neurofm.tokenizers._tokens import Tokens

__all__ = ["SpikeTokenizer"]

_WIDTH = 64


class _SpikeFrontEnd(nn.Module):
    """Variance-stabilised counts per bin and per patch, and their running mean."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(size + 2, width)

    def forward(self, signal: Standardised) -> Float[Tensor, "batch patch channel width"]:
        """Features of each patch and unit."""
        valid = signal.valid.to(signal.x.dtype)
        n = valid.sum(2)
        # A patch that is partly masked is read as the count of a full patch.
        count = signal.x.sum(2) * (signal.x.shape[2] / n.clamp_min(1.0))
        stable = _anscombe(count) * (n > 0)
        seen = signal.memory.accumulate("seen", (n > 0).to(stable.dtype)).clamp_min(1.0)
        running = (signal.memory.accumulate("stable", stable) / seen).to(stable.dtype)
        bins = _anscombe(signal.x).transpose(2, 3)
        features: Tensor = self.mix(torch.cat([bins, torch.stack([stable, running], -1)], -1))
        return features


def _anscombe(count: Tensor) -> Tensor:
    # Anscombe (1948): 2 sqrt(c + 3/8) has unit variance for Poisson c; shifted so that 0 stays 0.
    stable: Tensor = 2.0 * ((count + 0.375).sqrt() - 0.375**0.5)
    return stable


def _check_mode(mode: str) -> None:
    if mode not in {"counts", "events"}:
        raise ValueError(f"spike: mode must be 'counts' or 'events', got {mode!r}")


class SpikeTokenizer(Tokenizer):
    r"""Tokens from spikes: one per bin of counts, or one per spike.

    `mode="counts"`: counts are variance-stabilised by $2\sqrt{c + 3/8}$ (Anscombe 1948) per bin and
    per patch. Patches that are partly masked are read at the rate of their valid bins.

    `mode="events"`: a spike of a unit with vector $v$ is the token $W v + s$ at the time of the
    spike, with a learned $s$ (Azabou et al. 2023). Rows have as many tokens as spikes, padded to
    the longest; padding is False in the mask and lies 1e9 s away. Tokens of equal time may stand in
    any order. Inferred unit vectors rest on the patches that are complete at the spike.

    Both modes take counts (batch, time, unit) or `SpikeEvents` (or a tuple of times, units and
    rows). Counts in events mode must be whole: a spike of bin i is then at (i + 1) / rate, when it
    is known. Events in counts mode are binned.

    Args:
        d_model: Width of the tokens.
        sampling_rate: Bins per second; needed for `SpikeEvents`.
        patch: Duration of a token (in events mode: of the interval after which inferred unit
            vectors are renewed) in seconds, in samples without `sampling_rate`; default 0.02 s, or
            1 bin without `sampling_rate`.
        dropout: Dropout on the tokens.
        unit_dim: Width of the unit vectors.
        mode: One token per patch of counts, or per spike.

    Raises:
        ValueError: `sampling_rate` or `patch` is not > 0, `patch` is no whole number of samples
            where no rate is given, or an unknown `mode`.

    Examples:
        >>> import torch
        >>> tokenizer = SpikeTokenizer(32, sampling_rate=100.0)
        >>> tokens = tokenizer(torch.ones(1, 6, 5))
        >>> tokens.values.shape, tokens.times[0].tolist()
        (torch.Size([1, 3, 32]), [0.02, 0.04, 0.06])
        >>> events = torch.tensor([0.031, 0.004]), torch.tensor([0, 1]), torch.tensor([0, 0])
        >>> tokens = SpikeTokenizer(32, sampling_rate=100.0, mode="events")(events)
        >>> tokens.values.shape, tokens.times.float()
        (torch.Size([1, 2, 32]), tensor([[0.0040, 0.0310]]))

    References:
        Anscombe (1948), The transformation of Poisson, binomial and negative-binomial data,
        Biometrika 35, doi:10.1093/biomet/35.3-4.246. Azabou et al. (2023), A unified, scalable
        framework for neural population decoding, NeurIPS, arXiv:2310.16046.
    """

    modality = "spike"

    def __init__(
        self,
        d_model: int,
        *,
        sampling_rate: float | None = None,
        patch: float | None = None,
        dropout: float = 0.0,
        unit_dim: int = 64,
        mode: Literal["counts", "events"] = "counts",
    ) -> None:
        size = patch_size(self.modality, sampling_rate, patch, 0.02)
        _check_mode(mode)
        super().__init__(
            ChannelSetTokenizer(
                self.modality,
                _SpikeFrontEnd(size, _WIDTH),
                d_model=d_model,
                width=_WIDTH,
                unit_dim=unit_dim,
                size=size,
                sampling_rate=sampling_rate,
                dropout=dropout,
                counts=True,
            )
            if mode == "counts"
            else EventSetTokenizer(
                self.modality,
                d_model=d_model,
                unit_dim=unit_dim,
                size=size,
                sampling_rate=sampling_rate,
                dropout=dropout,
            )
        )

    def forward(
        self,
        x: Tensor | SpikeEvents | tuple[Tensor, Tensor, Tensor],
        *,
        units: Sequence[str] | None = None,
        mask: Tensor | None = None,
        times: Tensor | None = None,
        coords: Tensor | None = None,
    ) -> Tokens:
        """One token per patch or per spike.

        Args:
            x: Counts >= 0, (batch, time, unit), any number of units; or events.
            units: Unit ids; unknown or absent ids get vectors inferred from the data.
            mask: True = valid; (batch, time, unit) or 3-D and broadcastable to it. With events, of
                the bins: spikes in masked bins are dropped.
            times: Seconds at which irregular bins are known, (batch, time) or (time,),
                non-decreasing; not with events.
            coords: Unit positions in metres, (unit, 3); read where the id is not known.

        Returns:
            `Tokens`, each resting on nothing later than its time.

        Raises:
            TypeError: `x` is neither a real tensor nor events, or the mask is not boolean.
            ValueError: wrong shape, NaN or infinity at a valid sample, a negative count, a count
                that is no whole number (in events mode), times that decrease, or events with times
                that are negative, past the end or NaN, or without a `sampling_rate`.
        """
        return self.tokenize(x, units=units, mask=mask, times=times, coords=coords).tokens

    def tokenize(
        self,
        x: Tensor | SpikeEvents | tuple[Tensor, Tensor, Tensor],
        *,
        units: Sequence[str] | None = None,
        mask: Tensor | None = None,
        times: Tensor | None = None,
        coords: Tensor | None = None,
        rate: float | None = None,
    ) -> Tokenised:
        """Like `forward`, with the unit vectors and the checked counts beside the tokens.

        Args:
            x: As in `forward`.
            units: As in `forward`.
            mask: As in `forward`.
            times: As in `forward`.
            coords: As in `forward`.
            rate: Bins per second where the tokenizer was built without a sampling rate.

        Returns:
            Tokens, unit vectors, counts and full mask.
        """
        if isinstance(x, Tensor):
            return super().tokenize(
                x, units=units, mask=mask, times=times, coords=coords, rate=rate
            )
        events = SpikeEvents(*x)
        step = self.core.sampling_rate or rate
        if step is None:
            raise ValueError(
                f"{self.modality}: events are binned and need a sampling_rate in bins per second"
            )
        if times is not None:
            raise ValueError(f"{self.modality}: events carry their times; leave `times` out")
        if events.n_units is None and units is not None:
            events = events._replace(n_units=len(units))
        counts, spikes = bin_events(self.modality, events, step)
        if isinstance(self.core, ChannelSetTokenizer):
            return super().tokenize(counts, units=units, mask=mask, coords=coords, rate=rate)
        result: Tokenised = self.core(
            counts, units=units, mask=mask, times=None, coords=coords, rate=rate, spikes=spikes
        )
        return result
