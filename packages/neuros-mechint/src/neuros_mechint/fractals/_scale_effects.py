"""What a model loses with each time scale of a layer's activation."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from neuros_mechint.activations import Edit, EditContext, SiteLike, intervene
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.activations._state import preserved
from neuros_mechint.activations.site import as_site
from neuros_mechint.evidence import hierarchical_bootstrap
from neuros_mechint.interventions._time_bands import (
    band_components,
    daubechies,
    octave_bands,
    randomise_phases,
    wavelet_components,
    wavelet_depth,
)
from neuros_mechint.interventions.metrics import Metric
from neuros_mechint.interventions.scale_ablation import measure_edits

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CausalScaleAblation", "ScaleEffects"]

Band = tuple[float, float]


class ScaleEffects(NamedTuple):
    r"""A metric without each band of a layer, averaged over rows; tensors in double precision.

    Attributes:
        band: lower and upper edges in Hz, `(band, 2)`; of wavelets, the nominal ones.
        baseline: metric of the intact model.
        ablated: metric without each band, `(band,)`.
        delta: `ablated - baseline`, `(band,)`.
        relative: $\Delta / |M_{baseline}|$; nan where the baseline is 0.
        ci: bootstrap interval of `delta` over rows, `(band, 2)`; nan where the metric gives fewer
            than two rows, because one number has no spread.
    """

    band: Tensor
    baseline: float
    ablated: Tensor
    delta: Tensor
    relative: Tensor
    ci: Tensor

    @property
    def share(self) -> Tensor:
        r"""Share of every band in the sum of all effects, $|\Delta_k| / \sum_j |\Delta_j|$.

        Examples:
            >>> probe = CausalScaleAblation(nn.Sequential(nn.Identity()), "0", bands=[(0.0, 0.5)])
            >>> probe.run(torch.ones(2, 8, 1), lambda y: y.sum((1, 2))).share
            tensor([1.], dtype=torch.float64)
        """
        size = self.delta.abs()
        return size / size.sum()

    def to_frame(self) -> "pd.DataFrame":
        """Return one row per band.

        Returns:
            Frame with the columns low, high (Hz), baseline, ablated, delta, relative, ci_low and
            ci_high.

        Examples:
            >>> probe = CausalScaleAblation(nn.Sequential(nn.Identity()), "0", bands=[(0.0, 0.5)])
            >>> effects = probe.run(torch.ones(2, 8, 1), lambda y: y.sum((1, 2)))
            >>> effects.to_frame()[["low", "high", "baseline"]].values.tolist()
            [[0.0, 0.5, 8.0]]
        """
        import pandas as pd

        columns = {
            "low": self.band[:, 0],
            "high": self.band[:, 1],
            "baseline": torch.full_like(self.delta, self.baseline),
            "ablated": self.ablated,
            "delta": self.delta,
            "relative": self.relative,
            "ci_low": self.ci[:, 0],
            "ci_high": self.ci[:, 1],
        }
        return pd.DataFrame({name: column.tolist() for name, column in columns.items()})


class CausalScaleAblation:
    """Take one time scale after the other out of a layer, and see what a metric loses.

    The activation is a sum of bands along time. `bands` are cut out sharply in the spectrum of the
    activation with its ends reflected; without them they are the octaves below half the sampling
    rate, down to one period per activation. `wavelet` takes the octaves of a discrete wavelet
    transform instead, which are sharper in time.

    How sharp the answer can be, measured on white noise: of a model that reads the power of one
    octave, sharp bands put $1 - 0.6 / m$ of all effects into it, with m periods of its width in the
    activation (0.96 for m = 16). Wavelet octaves overlap in frequency, so that `"db4"` puts 0.72
    there; and they lie on a grid of samples, so that they find all of what is read on that grid.

    Args:
        model: any module.
        layer: site whose activation is divided.
        bands: lower and upper edges in Hz, not overlapping; a frequency on a shared edge belongs to
            the upper band.
        wavelet: `"db1"` to `"db20"`, such as `"db4"`; not together with `bands`.
        fs: sampling rate of the activation in Hz.
        axis: time axis of the activation.
        mode: `"remove"` takes a band out; `"randomise"` gives it random phases, the same ones for
            all channels of a row, and keeps its power and the channels' cross-spectra: what is
            lost then depended on when, not on how much.
        batch_size: most rows in one forward.
        n_bootstrap: data sets drawn for the intervals.
        confidence: coverage of the intervals, between 0 and 1.

    Raises:
        KeyError: when the layer names no module.
        ValueError: when bands overlap or leave 0 to fs / 2, both `bands` and `wavelet` are given,
            or an option is unknown or out of range.

    Examples:
        >>> time = torch.arange(128) / 128.0
        >>> waves = [torch.sin(2 * torch.pi * f * time) for f in (5.0, 40.0)]
        >>> x = torch.stack([waves[0] + waves[1], 2 * waves[0] + waves[1]])[..., None]
        >>> net = nn.Sequential(nn.Identity())
        >>> probe = CausalScaleAblation(net, "0", bands=[(2.0, 10.0), (20.0, 60.0)], fs=128.0)
        >>> slow, fast = probe.run(x, lambda y: y.square().mean((1, 2))).delta.tolist()
        >>> round(slow, 1), round(fast, 1)  # powers 0.5 and 2 of the slow waves, 0.5 of the fast
        (-1.2, -0.5)

    References:
        Daubechies (1988). Orthonormal bases of compactly supported wavelets. Communications on
        Pure and Applied Mathematics 41. https://doi.org/10.1002/cpa.3160410705
        Prichard & Theiler (1994). Generating surrogate data for time series with several
        simultaneously measured variables. Physical Review Letters 73.
        https://doi.org/10.1103/PhysRevLett.73.951
    """

    def __init__(
        self,
        model: nn.Module,
        layer: SiteLike,
        *,
        bands: Sequence[Band] | None = None,
        wavelet: str | None = None,
        fs: float = 1.0,
        axis: int = 1,
        mode: str = "remove",
        batch_size: int = 64,
        n_bootstrap: int = 2000,
        confidence: float = 0.95,
    ) -> None:
        if not fs > 0:
            raise ValueError(f"fs needs a positive sampling rate in Hz, got {fs}")
        if batch_size < 1:
            raise ValueError(f"batch_size needs at least 1 row, got {batch_size}")
        if mode not in ("remove", "randomise"):
            raise ValueError(f"mode needs 'remove' or 'randomise', got {mode!r}")
        if n_bootstrap < 1 or not 0 < confidence < 1:
            raise ValueError(
                f"n_bootstrap >= 1 and 0 < confidence < 1 are needed, got {n_bootstrap}, "
                f"{confidence}"
            )
        self.model = model
        self.layer = as_site(model, layer)
        self.bands = None if bands is None else _checked_bands(bands, fs)
        if wavelet is not None:
            if bands is not None:
                raise ValueError("bands and wavelet divide an activation in two ways; give one")
            daubechies(wavelet)
        self.wavelet = wavelet
        self.fs = fs
        self.axis = axis
        self.mode = mode
        self.batch_size = batch_size
        self.n_bootstrap = n_bootstrap
        self.confidence = confidence

    def __repr__(self) -> str:
        return (
            f"CausalScaleAblation({type(self.model).__name__}, '{self.layer}', "
            f"bands={self.bands!r}, wavelet={self.wavelet!r}, fs={self.fs!r}, axis={self.axis!r}, "
            f"mode={self.mode!r})"
        )

    def decompose(self, activation: Tensor) -> tuple[Tensor, Tensor]:
        """Divide an activation into its bands.

        Args:
            activation: floating point, with the time axis `axis`.

        Returns:
            The bands `(band, ...)` in the shape of the activation, the octaves highest first, and
            the rest: together they are the activation.

        Raises:
            ValueError: when the activation has no such axis, is not real floating point, or is too
                short for a band.

        Examples:
            >>> probe = CausalScaleAblation(nn.Sequential(nn.Identity()), "0", wavelet="db2")
            >>> x = torch.arange(64.0)[None, :, None] ** 2
            >>> bands, rest = probe.decompose(x)
            >>> len(bands), bool((bands.sum(0) + rest - x).abs().max() < 1e-2)
            (4, True)
        """
        signals = _time_last(activation, self.axis, str(self.layer))
        parts = self._split(self.bands or self._octaves(signals.shape[-1]))(signals)
        whole = parts.movedim(-1, self.axis % activation.ndim + 1).to(activation.dtype)
        return whole[:-1], whole[-1]

    def run(
        self,
        inputs: Any,
        metric_fn: Metric,
        *,
        clusters: Any = None,
        generator: torch.Generator | None = None,
    ) -> ScaleEffects:
        """Measure a metric without each band, without gradient.

        Args:
            inputs: what the model runs on: a tuple of positional arguments, a mapping whose every
                key names a parameter of the forward, or else the one argument.
            metric_fn: function of an output, one value per row or a scalar.
            clusters: labels of rows that resemble each other, as in `hierarchical_bootstrap`.
            generator: source of phases and of the bootstrap; None starts one from seed 0.

        Returns:
            The effects; of octaves, the highest first.

        Raises:
            RuntimeError: when the layer was not reached.
            TypeError: when the metric returns no tensor.
            ValueError: for the reasons of `decompose` and `hierarchical_bootstrap`.

        Examples:
            >>> probe = CausalScaleAblation(nn.Sequential(nn.Identity()), "0")
            >>> x = torch.randn(4, 64, 1, generator=torch.Generator().manual_seed(0))
            >>> probe.run(x, lambda y: y.var((1, 2))).band[0]
            tensor([0.2500, 0.5000], dtype=torch.float64)
        """
        if generator is None:
            generator = torch.Generator().manual_seed(0)
        bands = self.bands or self._octaves(self._length(inputs))
        edits = [self._edit(k, bands, generator) for k in range(len(bands))]
        intact, *without = measure_edits(
            self.model, inputs, self.layer, edits, metric_fn, batch_size=self.batch_size
        )
        baseline = float(intact.mean())
        differences = torch.stack(without) - intact
        delta = differences.mean(1).cpu()
        return ScaleEffects(
            band=torch.tensor(bands, dtype=torch.float64),
            baseline=baseline,
            ablated=torch.stack(without).mean(1).cpu(),
            delta=delta,
            relative=delta / abs(baseline) if baseline else torch.full_like(delta, math.nan),
            ci=self._intervals(differences, clusters, generator),
        )

    def _length(self, inputs: Any) -> int:
        """Samples of the activation; the shortest where there are several."""
        args, kwargs = call_arguments(self.model, inputs)
        captured = intervene(self.model, capture=[self.layer], stop=True)
        with torch.no_grad(), preserved(self.model), captured as cache:
            self.model(*args, **kwargs)
        calls = cache.calls(self.layer)
        return min(_time_last(x, self.axis, str(self.layer)).shape[-1] for x in calls)

    def _octaves(self, n: int) -> list[Band]:
        bands = octave_bands(n, self.fs) if n > 1 else []
        if self.wavelet is not None:
            bands = bands[: wavelet_depth(n, self.wavelet)]
        if not bands:
            what = "no octave" if self.wavelet is None else f"no octave of {self.wavelet!r}"
            raise ValueError(
                f"{what} fits into {n} samples along axis {self.axis} of the activation at "
                f"'{self.layer}'; take a shorter wavelet, another axis or a longer input"
            )
        return bands

    def _split(self, bands: Sequence[Band]) -> "_Split":
        if self.wavelet is not None:
            return partial(wavelet_components, wavelet=self.wavelet, n_octaves=len(bands))
        return partial(band_components, bands=bands, fs=self.fs)

    def _edit(self, k: int, bands: Sequence[Band], generator: torch.Generator) -> Edit:
        # Bands of the spectrum are found one by one, octaves of a wavelet one after the other.
        alone = self.wavelet is None
        split = self._split(bands[k : k + 1] if alone else bands)
        # One draw per band: the same phases whether sets share a forward or not.
        seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        phases = seed if self.mode == "randomise" else None
        return _WithoutPart(split, 0 if alone else k, self.axis, phases)

    def _intervals(
        self, differences: Float[Tensor, "band row"], clusters: Any, generator: torch.Generator
    ) -> Float[Tensor, "band 2"]:
        if differences.shape[1] < 2:
            return torch.full((len(differences), 2), math.nan, dtype=torch.float64)
        found = [
            hierarchical_bootstrap(
                rows,
                clusters,
                n_bootstrap=self.n_bootstrap,
                confidence=self.confidence,
                generator=generator,
            )
            for rows in differences
        ]
        return torch.tensor([(one.low, one.high) for one in found], dtype=torch.float64)


_Split = Callable[[Tensor], Tensor]


class _WithoutPart:
    """The edit that takes a part out of an activation, or gives it other phases."""

    def __init__(self, split: _Split, k: int, axis: int, seed: int | None) -> None:
        self.split, self.k, self.axis, self.seed = split, k, axis, seed

    def __call__(self, value: Tensor, context: EditContext) -> Tensor:
        signals = _time_last(value, self.axis, str(context.site))
        part = self.split(signals)[self.k]
        changed = signals - part
        if self.seed is not None:
            generator = torch.Generator().manual_seed(self.seed + context.call)
            changed = changed + randomise_phases(part, generator)
        return changed.movedim(-1, self.axis).to(value.dtype)


def _time_last(value: Tensor, axis: int, site: str) -> Float[Tensor, "*batch time"]:
    if not value.is_floating_point():
        raise ValueError(
            f"the activation at '{site}' needs to be real floating point, got {value.dtype}"
        )
    if not -value.ndim <= axis < value.ndim:
        raise ValueError(
            f"axis = {axis} is no axis of the activation at '{site}', of shape {tuple(value.shape)}"
        )
    # The CPU has no transform in half precision.
    wide = value.float() if value.dtype.itemsize < 4 else value
    return wide.movedim(axis, -1)


def _checked_bands(bands: Sequence[Band], fs: float) -> list[Band]:
    found = [(float(low), float(high)) for low, high in bands]
    if not found:
        raise ValueError("at least one band is needed, got none; None takes all octaves")
    highest = fs / 2 * (1 + 1e-9)
    for low, high in found:
        if not 0 <= low < high <= highest:
            raise ValueError(
                f"a band needs 0 <= low < high <= fs / 2 = {fs / 2:g} Hz, got ({low:g}, {high:g})"
            )
    ordered = sorted(found)
    for (_, high), (low, _) in itertools.pairwise(ordered):
        if low < high:
            raise ValueError(
                f"bands must not overlap, got one up to {high:g} Hz and one from "
                f"{low:g} Hz; their effects could not be told apart"
            )
    return found
