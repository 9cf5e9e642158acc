"""Fractal metrics of the activations of a running model."""

import math
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, final

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from neuros_mechint.activations import Site, SiteLike, _hooks
from neuros_mechint.activations._taps import Watch
from neuros_mechint.activations.site import find_module
from neuros_mechint.fractals._latent_taps import LayerTap, read_layouts
from neuros_mechint.fractals._signal_metrics import Estimator, SignalMetric, signal_metric

if TYPE_CHECKING:
    import pandas as pd
    from lightning.pytorch import Callback

__all__ = ["LatentFD", "LatentFDTracker"]

_Tap = tuple[nn.Module, _hooks.Side, _hooks.Tap]


class LatentFD(NamedTuple):
    """A fractal metric of one layer at one step.

    Attributes:
        step: number of the forward, counted from 0, or of the step that a trainer told.
        layer: text of the site; `site@k` for call k of a module that was called several times.
        metric: name of the metric.
        mean: mean over the signals of the layer that have a value; nan when none has.
        std: their standard deviation (divided by their number).
    """

    step: int
    layer: str
    metric: str
    mean: float
    std: float


@final
class LatentFDTracker:
    """Follow fractal metrics of activations while a model runs or trains.

    Inside a `with` block every n-th forward is measured; before and after it nothing of the tracker
    is on the model. Outputs stay the same objects, gradients and random state are left alone, and
    no graph is kept. (`nn.TransformerEncoderLayer` in evaluation mode and without gradient leaves
    its fused code as soon as any hook is on it, so there a measured forward differs in its last
    bits.)

    The object is a `neuros_core.Callback` too: a trainer that calls it tells the numbers of its
    steps. Outside of a `with` block it is then active from the end of the first step of an epoch to
    the end of the epoch (`stop` ends it after an error). `lightning_callback` serves Lightning.

    Args:
        model: any module; calls of it count as forwards.
        layers: sites to follow. An output in a tuple or dict is its first tensor, or the one that
            a key names, such as `"encoder:out.1"`.
        metrics: names (`"higuchi"`, `"dfa"`, `"hurst"`, `"beta"`, `"mf_width"`), or name ->
            estimator with `compute(x, dim=-1)`.
        every: how many forwards share one measurement; the first of them is measured.
        max_items: most signals measured per layer. Where there are more, the same ones are taken
            every time, spread evenly over rows and channels.
        layout: axes of an activation: `"btc"` is batch, time, channel; `"bct"`, `"tbc"`, `"bt"`
            and so on likewise, with letters repeated where there are more axes. `"bc"` has no time
            axis: its rows are consecutive samples, one signal per channel. A mapping gives every
            layer its own.

    Raises:
        KeyError: when a layer names no module, or a mapping has no layout for it.
        TypeError: when a metric is neither a name nor an estimator.
        ValueError: when there is no layer or metric, a number is not positive, or a layout or a
            metric is unknown.

    Examples:
        >>> model = nn.Sequential(nn.Linear(1, 3), nn.Identity())
        >>> ramp = torch.linspace(0.0, 1.0, 64)[None, :, None]
        >>> with LatentFDTracker(model, ["0"]) as tracker:
        ...     _ = model(ramp)
        >>> [(r.step, r.layer, r.metric, round(r.mean, 3)) for r in tracker.history]
        [(0, '0', 'higuchi', 1.0)]

    References:
        Higuchi (1988). Approach to an irregular time series on the basis of the fractal theory.
        Physica D 31. https://doi.org/10.1016/0167-2789(88)90081-4
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[SiteLike],
        *,
        metrics: Iterable[str] | Mapping[str, Estimator] = ("higuchi",),
        every: int = 1,
        max_items: int = 64,
        layout: str | Mapping[SiteLike, str] = "btc",
    ) -> None:
        for name, number in (("every", every), ("max_items", max_items)):
            if number < 1:
                raise ValueError(f"{name} needs at least 1, got {number}")
        self.model = model
        self.every = every
        self.max_items = max_items
        self.history: list[LatentFD] = []
        self._metrics = _functions(metrics)
        likes = [layers] if isinstance(layers, (str, Site, nn.Module)) else list(layers)
        if not likes:
            raise ValueError("at least one layer is needed, got none")
        self._layers = [
            LayerTap(site, axes, max_items, self._gather)
            for site, axes in read_layouts(model, likes, layout).items()
        ]
        # What stays on the model: a forward begins before every layer and ends after it, also where
        # the model is one. The other taps come for measured forwards only.
        ends: list[_Tap] = [(model, "input", Watch(self._begin))]
        self._passing: list[_Tap] = []
        for tap in self._layers:
            module = find_module(model, tap.site)
            (ends if module is model else self._passing).append((module, tap.site.io, tap))
        self._ends: list[_Tap] = [*ends, (model, "output", Watch(self._finish))]
        self._pending: list[tuple[Site, Tensor]] = []
        self._warned: set[tuple[str, str]] = set()
        self._active = False
        self._own = False
        self._measuring = False
        self._forwards = 0
        self._step = 0
        self._told: int | None = None

    def __repr__(self) -> str:
        layers = [str(tap.site) for tap in self._layers]
        return (
            f"LatentFDTracker({type(self.model).__name__}, {layers}, metrics={[*self._metrics]}, "
            f"every={self.every}, max_items={self.max_items})"
        )

    def __enter__(self) -> "LatentFDTracker":
        if self._own:
            # From here on the block decides when it ends.
            self.stop()
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._pending.clear()
        self.stop()
        if error is None:
            self._check_reached()

    def start(self) -> None:
        """Begin to follow the model; a `with` block does it by itself.

        Raises:
            RuntimeError: when the tracker is active already.

        Examples:
            >>> tracker = LatentFDTracker(nn.Sequential(nn.Identity()), ["0"])
            >>> tracker.start()
            >>> tracker.stop()
        """
        if self._active:
            raise RuntimeError(
                "the tracker is active already; leave its block or call stop() first"
            )
        for module, side, tap in self._ends:
            _hooks.attach(module, side, tap)
        self._active = True

    def stop(self) -> None:
        """Take everything off the model; `history` stays.

        Examples:
            >>> LatentFDTracker(nn.Sequential(nn.Identity()), ["0"]).stop()
        """
        if not self._active:
            return
        self._finish(self.model)
        for module, side, tap in reversed(self._ends):
            _hooks.detach(module, side, tap)
        self._active = self._own = False

    def to_frame(self) -> "pd.DataFrame":
        """Return the history as a table.

        Returns:
            Frame with the columns step, layer, metric, mean and std.

        Examples:
            >>> tracker = LatentFDTracker(nn.Sequential(nn.Identity()), ["0"])
            >>> list(tracker.to_frame())
            ['step', 'layer', 'metric', 'mean', 'std']
        """
        import pandas as pd

        return pd.DataFrame(self.history, columns=list(LatentFD._fields))

    def on_step_end(self, _trainer: Any, step: int, _loss: float) -> None:
        """Take note of a trainer's step; part of `neuros_core.Callback`.

        Args:
            step: number of the step; the forwards that follow belong to the next one.

        Examples:
            >>> tracker = LatentFDTracker(nn.Sequential(nn.Identity()), ["0"])
            >>> tracker.on_step_end(None, 7, 0.5)
            >>> _ = tracker.model(torch.arange(64.0)[None, :, None])
            >>> tracker.on_epoch_end(None, 1, {})
            >>> tracker.history[0].step
            8
        """
        self._told = step
        if not self._active:
            self.start()
            self._own = True

    def on_epoch_end(self, _trainer: Any, _epoch: int, _metrics: Mapping[str, float]) -> None:
        """End what `on_step_end` began; part of `neuros_core.Callback`.

        Examples:
            >>> tracker = LatentFDTracker(nn.Sequential(nn.Identity()), ["0"])
            >>> tracker.on_epoch_end(None, 1, {})
        """
        if self._own:
            self.stop()

    def lightning_callback(self) -> "Callback":
        """Return a callback with which Lightning keeps the tracker active during training.

        Returns:
            A `lightning.pytorch.Callback`; `step` is then the trainer's `global_step`.

        Raises:
            ImportError: when Lightning is not installed.

        Examples:
            >>> tracker = LatentFDTracker(nn.Sequential(nn.Identity()), ["0"])
            >>> type(tracker.lightning_callback()).__name__
            'LambdaCallback'
        """
        try:
            from lightning.pytorch.callbacks import LambdaCallback
        except ImportError as error:
            raise ImportError(
                "lightning_callback needs Lightning: pip install 'neuros-mechint[lightning]'; "
                "without it, a `with` block serves any loop"
            ) from error

        def note(trainer: Any, *_: Any) -> None:
            self._told = trainer.global_step - 1

        def begin(trainer: Any, *_: Any) -> None:
            note(trainer)
            self.start()

        return LambdaCallback(
            on_train_start=begin,
            on_train_batch_start=note,
            on_train_end=lambda *_: self.stop(),
            on_exception=lambda *_: self.stop(),
        )

    def _begin(self, model: nn.Module) -> None:
        # A forward that was stopped half-way left its layers here.
        self._finish(model)
        due = self._forwards % self.every == 0
        self._step = self._forwards if self._told is None else self._told + 1
        self._forwards += 1
        for layer in self._layers:
            layer.restart(due=due)
        if due:
            for module, side, tap in self._passing:
                _hooks.attach(module, side, tap)
            self._measuring = True

    def _finish(self, _model: nn.Module) -> None:
        if self._measuring:
            self._measuring = False
            for module, side, tap in reversed(self._passing):
                _hooks.detach(module, side, tap)
        for layer in self._layers:
            layer.restart(due=False)
        self._flush()

    def _gather(self, site: Site, rows: Shaped[Tensor, "item time"]) -> None:
        self._pending.append((site, rows))

    def _flush(self) -> None:
        """Measure what was gathered: signals of one kind together, whatever their layer."""
        gathered, self._pending = self._pending, []
        names = _numbered([site for site, _ in gathered])
        kinds: dict[object, list[int]] = {}
        for k, (_, rows) in enumerate(gathered):
            kinds.setdefault((rows.shape[1], rows.dtype, rows.device), []).append(k)
        found: dict[tuple[int, str], list[float]] = {}
        for members in kinds.values():
            together = [gathered[k][1] for k in members]
            for metric, values in self._measured(torch.cat(together), [names[k] for k in members]):
                parts = torch.split_with_sizes(values, [len(part) for part in together])
                for k, part in zip(members, parts, strict=True):
                    found[k, metric] = part.tolist()
        for k, name in enumerate(names):
            for metric in self._metrics:
                self._note(name, metric, found[k, metric])

    def _measured(
        self, rows: Shaped[Tensor, "item time"], names: list[str]
    ) -> list[tuple[str, Tensor]]:
        found = []
        for metric, function in self._metrics.items():
            try:
                # A silent unit is told once by `_note`, with the name of its layer.
                with torch.no_grad(), warnings.catch_warnings():
                    warnings.filterwarnings("ignore", message=".*their value is nan")
                    found.append((metric, function(rows).double().cpu()))
            except (TypeError, ValueError) as error:
                error.add_note(f"in the metric {metric!r} of the layers {names}")
                raise
        return found

    def _note(self, layer: str, metric: str, values: list[float]) -> None:
        defined = [value for value in values if math.isfinite(value)]
        if len(defined) < len(values) and (layer, metric) not in self._warned:
            self._warned.add((layer, metric))
            warnings.warn(
                f"{len(values) - len(defined)} of {len(values)} signals of layer '{layer}' have no "
                f"{metric} at step {self._step}, as constant ones have none; mean and std are "
                "those of the others, and this is said once",
                UserWarning,
                stacklevel=2,
            )
        mean = math.fsum(defined) / len(defined) if defined else math.nan
        spread = math.fsum((value - mean) ** 2 for value in defined)
        std = math.sqrt(spread / len(defined)) if defined else math.nan
        self.history.append(LatentFD(self._step, layer, metric, mean, std))

    def _check_reached(self) -> None:
        if not self._forwards:
            raise RuntimeError(
                f"the {type(self.model).__name__} was never called inside the `with` block, so "
                "there is nothing to follow; track the module that is called"
            )
        for tap in self._layers:
            if not tap.reached:
                raise RuntimeError(
                    f"the layer '{tap.site}' was never reached in a measured forward"
                )


def _functions(metrics: Iterable[str] | Mapping[str, Estimator]) -> dict[str, SignalMetric]:
    if isinstance(metrics, str):
        metrics = (metrics,)
    named = dict(metrics) if isinstance(metrics, Mapping) else {name: name for name in metrics}
    if not named:
        raise ValueError("at least one metric is needed, got none")
    return {name: signal_metric(metric) for name, metric in named.items()}


def _numbered(sites: list[Site]) -> list[str]:
    """Texts of sites, with the number of the call where one was reached several times."""
    counts, seen, names = Counter(sites), Counter[Site](), []
    for site in sites:
        names.append(f"{site}@{seen[site]}" if counts[site] > 1 else str(site))
        seen[site] += 1
    return names
