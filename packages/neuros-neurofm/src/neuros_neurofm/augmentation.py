"""Random changes of a batch that leave what it says about behaviour as it was.

Each takes `(batch, generator)` and returns a new batch, as a `NeuralMasker` does, so that they
chain (`Chain`) and serve as the `masker` of a trainer. None moves a sample to an earlier time, and
none changes whether an entry that was invalid is.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Num
from torch import Generator, Tensor

from neuros_core import Modality
from neuros_neurofm.losses._entries import read_entries, spared, uniform

__all__ = ["AmplitudeScale", "Chain", "ChannelNoise", "TimeJitter", "TimeMask", "UnitDropout"]

Step: TypeAlias = Callable[[Mapping[str, Any], Generator], Mapping[str, Any]]


class Chain:
    """Applies augmentations, and at the end a masker, one after the other.

    Args:
        steps: Each `(batch, generator) -> batch`.

    Raises:
        ValueError: No step.

    Examples:
        >>> import torch
        >>> from neuros_neurofm.losses import NeuralMasker
        >>> chain = Chain([UnitDropout(0.5), NeuralMasker("random", 0.25)])
        >>> batch = chain({"lfp": torch.ones(2, 10, 4)}, torch.Generator().manual_seed(0))
        >>> sorted(batch)
        ['lfp', 'masked', 'masks', 'targets']
    """

    def __init__(self, steps: Sequence[Step]) -> None:
        if not steps:
            raise ValueError("a Chain needs at least one step")
        self.steps = tuple(steps)

    def __repr__(self) -> str:
        return f"Chain({list(self.steps)!r})"

    def __call__(self, batch: Mapping[str, Any], generator: Generator) -> dict[str, Any]:
        """Return the batch after all steps.

        Args:
            batch: A `neuros_core.Batch` of tensors.
            generator: Where the randomness comes from.

        Returns:
            A new batch.
        """
        for step in self.steps:
            batch = step(batch, generator)
        return dict(batch)


class UnitDropout:
    """Hides whole channels of a row, so that a decoder does not lean on single units.

    A row keeps at least one channel of every modality that it has.

    Args:
        probability: Of hiding a channel, in [0, 1].

    Raises:
        ValueError: A probability outside [0, 1].

    Examples:
        >>> import torch
        >>> batch = UnitDropout(1.0)({"spike": torch.ones(1, 5, 8)}, torch.Generator())
        >>> int(batch["masks"]["spike"][0, 0].sum())
        1

    References:
        Azabou, M. et al. (2023). A unified, scalable framework for neural population decoding.
        NeurIPS. arXiv:2310.16046.
    """

    def __init__(self, probability: float) -> None:
        self.probability = _check_probability(probability)

    def __repr__(self) -> str:
        return f"UnitDropout({self.probability})"

    def __call__(self, batch: Mapping[str, Any], generator: Generator) -> dict[str, Any]:
        """Return a new batch with fewer valid channels.

        Args:
            batch: A `neuros_core.Batch` of tensors; modalities are (batch, time, channel).
            generator: Where the randomness comes from.

        Returns:
            The batch with new `masks`.

        Raises:
            ValueError: The batch has no modality.
        """
        values, valid = read_entries(batch)
        masks = {m: valid[m] & ~self._dropped(valid[m], generator) for m in values}
        return {**batch, "masks": masks}

    def _dropped(
        self, valid: Bool[Tensor, "batch time channel"], generator: Generator
    ) -> Bool[Tensor, "batch 1 channel"]:
        there = valid.any(dim=1)
        dropped = uniform(tuple(there.shape), generator, valid) < self.probability
        return spared(there, dropped, generator)[:, None, :]


class TimeMask:
    """Hides stretches of time, all channels at once.

    Args:
        probability: Share of the time that is hidden on average, in [0, 1).
        span: Samples of a stretch, >= 1.

    Raises:
        ValueError: A number out of its range.

    Examples:
        >>> import torch
        >>> batch = TimeMask(0.5, span=4)({"eeg": torch.ones(1, 8, 2)}, torch.Generator())
        >>> batch["masks"]["eeg"].shape
        torch.Size([1, 8, 2])

    References:
        Park, D. S. et al. (2019). SpecAugment. Interspeech.
        https://doi.org/10.21437/Interspeech.2019-2680
    """

    def __init__(self, probability: float, *, span: int) -> None:
        self.probability = _check_probability(probability)
        if span < 1:
            raise ValueError(f"span must be at least 1 sample, got {span}")
        self.span = span

    def __repr__(self) -> str:
        return f"TimeMask({self.probability}, span={self.span})"

    def __call__(self, batch: Mapping[str, Any], generator: Generator) -> dict[str, Any]:
        """Return a new batch with fewer valid samples.

        Args:
            batch: A `neuros_core.Batch` of tensors; modalities are (batch, time, channel).
            generator: Where the randomness comes from.

        Returns:
            The batch with new `masks`.

        Raises:
            ValueError: The batch has no modality.
        """
        values, valid = read_entries(batch)
        masks = {m: valid[m] & ~self._hidden(valid[m], generator) for m in values}
        return {**batch, "masks": masks}

    def _hidden(
        self, valid: Bool[Tensor, "batch time channel"], generator: Generator
    ) -> Bool[Tensor, "batch time 1"]:
        n_rows, n_times, _ = valid.shape
        # A sample is seen where none of the `span` places at which a stretch over it could begin
        # was drawn.
        begin = 1 - (1 - self.probability) ** (1 / self.span)
        drawn = uniform((n_rows, n_times + self.span - 1), generator, valid) < begin
        hidden: Tensor = drawn.unfold(1, self.span, 1).any(dim=-1)
        return hidden[:, :, None]


class TimeJitter:
    """Delays the recording of a row against its behaviour by a random number of samples.

    Recordings are delayed and never advanced: an advanced one would show a decoder the future. The
    first samples, for which nothing was recorded, are invalid.

    Args:
        max_delay: Largest delay in samples of each modality, >= 0; drawn uniformly from 0 on.

    Raises:
        ValueError: A negative delay.

    Examples:
        >>> import torch
        >>> x = torch.arange(4.0).reshape(1, 4, 1)
        >>> batch = TimeJitter(3)({"lfp": x}, torch.Generator().manual_seed(1))
        >>> batch["lfp"].flatten().tolist(), batch["masks"]["lfp"].flatten().tolist()
        ([0.0, 0.0, 1.0, 2.0], [False, True, True, True])
    """

    def __init__(self, max_delay: int) -> None:
        if max_delay < 0:
            raise ValueError(f"max_delay must be >= 0 samples, got {max_delay}")
        self.max_delay = max_delay

    def __repr__(self) -> str:
        return f"TimeJitter({self.max_delay})"

    def __call__(self, batch: Mapping[str, Any], generator: Generator) -> dict[str, Any]:
        """Return a new batch with delayed modalities.

        Args:
            batch: A `neuros_core.Batch` of tensors; modalities are (batch, time, channel).
            generator: Where the randomness comes from.

        Returns:
            The batch with new values and `masks`.

        Raises:
            ValueError: The batch has no modality, or irregular `times`.
        """
        if batch.get("times"):
            raise ValueError(
                f"TimeJitter delays by whole samples; {sorted(batch['times'])} have irregular times"
            )
        values, valid = read_entries(batch)
        changed, masks = {}, {}
        for m, x in values.items():
            n_rows, n_times, _ = x.shape
            delay = torch.randint(
                self.max_delay + 1, (n_rows, 1), generator=generator, device=generator.device
            ).to(x.device)
            source = torch.arange(n_times, device=x.device) - delay
            index = source.clamp(min=0)[:, :, None].expand_as(x)
            masks[m] = valid[m].gather(1, index) & (source >= 0)[:, :, None]
            changed[m] = x.gather(1, index).masked_fill((source < 0)[:, :, None], 0)
        return {**batch, **changed, "masks": masks}


class AmplitudeScale:
    r"""Multiplies every channel of a row by $e^{\sigma z}$, z standard normal.

    Electrodes drift. Spike counts are thinned instead: each spike stays with probability
    $e^{-\sigma |z|}$, which leaves Poisson counts Poisson.

    Args:
        deviation: $\sigma$, >= 0.

    Raises:
        ValueError: A negative deviation.

    Examples:
        >>> import torch
        >>> x = torch.ones(1, 3, 2)
        >>> batch = AmplitudeScale(0.1)({"ecog": x}, torch.Generator().manual_seed(0))
        >>> bool((batch["ecog"][0, 0] == batch["ecog"][0, 2]).all())
        True
    """

    def __init__(self, deviation: float) -> None:
        self.deviation = _check_deviation(deviation)

    def __repr__(self) -> str:
        return f"AmplitudeScale({self.deviation})"

    def __call__(self, batch: Mapping[str, Any], generator: Generator) -> dict[str, Any]:
        """Return a new batch with other amplitudes.

        Args:
            batch: A `neuros_core.Batch` of tensors; modalities are (batch, time, channel).
            generator: Where the randomness comes from.

        Returns:
            The batch with new values.

        Raises:
            ValueError: The batch has no modality.
        """
        values, _ = read_entries(batch)
        return {**batch, **{m: self._scaled(m, x, generator) for m, x in values.items()}}

    def _scaled(
        self, modality: str, x: Num[Tensor, "batch time channel"], generator: Generator
    ) -> Num[Tensor, "batch time channel"]:
        z = _normal((x.shape[0], 1, x.shape[2]), generator, x)
        if modality != Modality.SPIKE:
            return x * (self.deviation * z).exp().to(x.dtype)
        kept = (-self.deviation * z.abs()).exp().expand(x.shape)
        counts, chance = x.float().to(generator.device), kept.to(generator.device)
        return torch.binomial(counts, chance, generator=generator).to(x.device, x.dtype)


class ChannelNoise:
    """Adds Gaussian noise to every sample of a signal; spike counts stay.

    Args:
        deviation: Of the noise, in the unit of the signals (of z-scored ones: 1), >= 0.

    Raises:
        ValueError: A negative deviation.

    Examples:
        >>> import torch
        >>> batch = ChannelNoise(0.5)({"eeg": torch.zeros(4, 500, 3)}, torch.Generator())
        >>> round(float(batch["eeg"].std()), 1)
        0.5
    """

    def __init__(self, deviation: float) -> None:
        self.deviation = _check_deviation(deviation)

    def __repr__(self) -> str:
        return f"ChannelNoise({self.deviation})"

    def __call__(self, batch: Mapping[str, Any], generator: Generator) -> dict[str, Any]:
        """Return a new batch with noise.

        Args:
            batch: A `neuros_core.Batch` of tensors; modalities are (batch, time, channel).
            generator: Where the randomness comes from.

        Returns:
            The batch with new values.

        Raises:
            ValueError: The batch has no modality.
        """
        values, _ = read_entries(batch)
        noisy = {
            m: x + (self.deviation * _normal(tuple(x.shape), generator, x)).to(x.dtype)
            for m, x in values.items()
            if m != Modality.SPIKE
        }
        return {**batch, **noisy}


def _check_probability(probability: float) -> float:
    if not 0 <= probability <= 1:
        raise ValueError(f"probability must lie in [0, 1], got {probability}")
    return probability


def _check_deviation(deviation: float) -> float:
    if not 0 <= deviation < float("inf"):
        raise ValueError(f"deviation must be finite and >= 0, got {deviation}")
    return deviation


def _normal(shape: tuple[int, ...], generator: Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device).to(like.device)
