"""Recording of what layers answer to the same inputs while a model is trained."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, final

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from neuros_mechint.activations import Site, SiteLike, _hooks
from neuros_mechint.activations._inputs import call_arguments
from neuros_mechint.activations._probe import copied, moved
from neuros_mechint.activations._taps import Watch
from neuros_mechint.activations._undisturbed import undisturbed
from neuros_mechint.activations.intervene import intervene
from neuros_mechint.activations.site import as_site, find_module

if TYPE_CHECKING:
    from lightning.pytorch import Callback

__all__ = ["TrainingTrajectories", "TrajectoryRecorder"]


@dataclass(frozen=True, eq=False)
class TrainingTrajectories:
    """What layers answered to the probe inputs at every checkpoint.

    Attributes:
        steps: Number of updates before each checkpoint, (checkpoints,).
        activations: Layer -> activations, (checkpoints, ...) with the axes of the layer; on the CPU
            and in at least 32 bits.
    """

    steps: Tensor
    activations: dict[str, Tensor]

    def representations(self, layer: str, *, unit_axis: int = -1) -> Tensor:
        """Return one layer as `RepresentationDrift` takes it.

        Args:
            layer: Text of the site.
            unit_axis: Axis of the layer's activation that counts its units, such as 1 for the
                channels of a convolution; all others become samples.

        Returns:
            Activations (checkpoints, samples, units).

        Raises:
            KeyError: When the layer was not recorded.
            ValueError: When an activation has not two axes or more, or not that one.

        Examples:
            >>> net = nn.Sequential(nn.Conv1d(1, 3, 5))
            >>> with TrajectoryRecorder(net, ["0"], 1, torch.zeros(2, 1, 9)) as recorder:
            ...     recorder.step()
            >>> recorder.trajectories().representations("0", unit_axis=1).shape
            torch.Size([2, 10, 3])
        """
        if layer not in self.activations:
            raise KeyError(f"no layer {layer!r}; recorded are {[*self.activations]}")
        x = self.activations[layer]
        n_axes = x.ndim - 1
        if n_axes < 2 or not -n_axes <= unit_axis < n_axes:
            raise ValueError(
                f"unit_axis={unit_axis} needs an activation with that axis and one for samples, "
                f"layer {layer!r} gave {tuple(x.shape[1:])}"
            )
        units_last = x.movedim(unit_axis if unit_axis < 0 else unit_axis + 1, -1)
        return units_last.flatten(1, -2)

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists.

        Returns:
            Field name -> value.
        """
        activations = {layer: x.tolist() for layer, x in self.activations.items()}
        return {"steps": self.steps.tolist(), "activations": activations}


@final
class TrajectoryRecorder:
    """Follow representations of a model through its training.

    Every n-th update the model answers the same inputs in evaluation mode, and the layers' outputs
    are copied to the CPU. The training goes on as if nothing had happened: random state, modes,
    buffers and gradients are put back, also after an error.

    In a `with` block a forward of the model in training mode and with gradient stands for one
    update, which follows it. Where that is not so (gradient accumulation, a model whose forward is
    not called), call `step` after every update, from the first on: it takes over the count. The
    object is a `neuros_core.Callback` too, and `lightning_callback` serves Lightning; neither needs
    the block.

    Memory is bounded: beyond `max_checkpoints` every second one is dropped and `every` doubles from
    there on, so those kept are evenly spaced from the first on.

    Args:
        model: Any module, or the part of one that is to be followed; it has to run on the inputs.
        layers: Sites to record.
        every: Updates between two checkpoints.
        probe_inputs: Inputs of the model: a tuple of positional arguments, a mapping whose every
            key names a parameter of the forward, or else the one argument. They are copied.
        max_checkpoints: Most checkpoints that are kept, at least 2.

    Raises:
        KeyError: When a layer names no module.
        TypeError: When a layer is of the wrong kind.
        ValueError: When there is no layer, a number is too small, or a layer lies inside compiled
            code.

    Examples:
        >>> net = nn.Sequential(nn.Linear(2, 1))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> with TrajectoryRecorder(net, ["0"], 2, torch.ones(5, 2)) as recorder:
        ...     for _ in range(6):
        ...         net(torch.ones(1, 2)).sum().backward()
        ...         optimizer.step()
        >>> found = recorder.trajectories()
        >>> found.steps, found.activations["0"].shape
        (tensor([0, 2, 4, 6]), torch.Size([4, 5, 1]))

    References:
        Raghu, M., Gilmer, J., Yosinski, J. & Sohl-Dickstein, J. (2017). SVCCA: singular vector
        canonical correlation analysis for deep learning dynamics and interpretability. Advances in
        Neural Information Processing Systems 30. arXiv:1706.05806
    """

    def __init__(
        self,
        model: nn.Module,
        layers: SiteLike | Iterable[SiteLike],
        every: int,
        probe_inputs: Any,
        *,
        max_checkpoints: int = 100,
    ) -> None:
        if every < 1:
            raise ValueError(f"every needs at least 1, got {every}")
        if max_checkpoints < 2:
            raise ValueError(f"max_checkpoints needs at least 2, got {max_checkpoints}")
        likes = [layers] if isinstance(layers, (str, Site, nn.Module)) else list(layers)
        if not likes:
            raise ValueError("at least one layer is needed, got none")
        self.model = model
        self.every = every
        self.max_checkpoints = max_checkpoints
        self._sites = [as_site(model, like) for like in likes]
        for site in self._sites:
            find_module(model, site)
        self._probe = copied(probe_inputs)
        self._tap = Watch(self._forward_begins)
        self._active = False
        self._steps: list[int] = []
        self._kept: list[dict[str, Tensor]] = []
        self._stride = every
        self._last = 0
        # Whether updates are told, and no longer counted by forwards.
        self._told = False
        self._forwards = 0
        self._entry = 0

    def __repr__(self) -> str:
        layers = [str(site) for site in self._sites]
        return (
            f"TrajectoryRecorder({type(self.model).__name__}, {layers}, every={self.every}, "
            f"max_checkpoints={self.max_checkpoints})"
        )

    def __enter__(self) -> "TrajectoryRecorder":
        if self._active:
            raise RuntimeError("the recorder is active already; leave its block first")
        self._entry = self._last
        self._at(self._last)
        _hooks.attach(self.model, "input", self._tap)
        self._active = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        _hooks.detach(self.model, "input", self._tap)
        self._active = False
        if error is None and not self._told:
            if not self._forwards:
                raise RuntimeError(
                    f"the {type(self.model).__name__} was never called in training mode and with "
                    "gradient inside the `with` block, so no update was counted; call step() "
                    "after every update"
                )
            # The update of the last forward has no forward after it.
            self._at(self._forwards)

    def step(self, number: int | None = None) -> None:
        """Take note of an update, and record when it is time.

        Outside of a `with` block the first call records, and every n-th update after it.

        Args:
            number: Updates so far; None counts one more.

        Raises:
            RuntimeError: When a layer was not reached.
            ValueError: When the number is smaller than one before, a layer was reached several
                times without `@call`, or its activation changed its shape.

        Examples:
            >>> recorder = TrajectoryRecorder(nn.Sequential(nn.Identity()), ["0"], 5, torch.ones(2))
            >>> for _ in range(10):
            ...     recorder.step()
            >>> recorder.trajectories().steps
            tensor([1, 6])
        """
        if not self._told:
            self._told = True
            # Of the forwards counted so far in this block, none was followed by an update before.
            n_valid = sum(step <= self._entry for step in self._steps)
            del self._steps[n_valid:], self._kept[n_valid:]
            self._last = self._entry
        self._at(self._last + 1 if number is None else number)

    def on_step_end(self, _trainer: Any, step: int, _loss: float) -> None:
        """Take note of a trainer's update; part of `neuros_core.Callback`.

        Args:
            step: Updates so far.

        Raises:
            RuntimeError: As `step`.
            ValueError: As `step`.

        Examples:
            >>> recorder = TrajectoryRecorder(nn.Sequential(nn.Identity()), ["0"], 5, torch.ones(2))
            >>> recorder.on_step_end(None, 1, 0.5)
        """
        self.step(step)

    def on_epoch_end(self, _trainer: Any, _epoch: int, _metrics: Mapping[str, float]) -> None:
        """Do nothing; part of `neuros_core.Callback`.

        Examples:
            >>> recorder = TrajectoryRecorder(nn.Sequential(nn.Identity()), ["0"], 5, torch.ones(2))
            >>> recorder.on_epoch_end(None, 1, {})
        """

    def lightning_callback(self) -> "Callback":
        """Return a callback with which Lightning tells of its updates.

        Returns:
            A `lightning.pytorch.Callback`; steps are the trainer's `global_step`, beginning with
            the state before the first. With several processes, the first one records.

        Raises:
            ImportError: When Lightning is not installed.

        Examples:
            >>> recorder = TrajectoryRecorder(nn.Sequential(nn.Identity()), ["0"], 5, torch.ones(2))
            >>> type(recorder.lightning_callback()).__name__
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
            if trainer.is_global_zero:
                self.step(trainer.global_step)

        return LambdaCallback(on_train_start=note, on_train_batch_end=note)

    def trajectories(self) -> TrainingTrajectories:
        """Return what was recorded so far.

        Returns:
            The checkpoints that are kept.

        Raises:
            RuntimeError: When nothing was recorded.

        Examples:
            >>> recorder = TrajectoryRecorder(nn.Sequential(nn.Identity()), ["0"], 5, torch.ones(2))
            >>> recorder.trajectories()
            Traceback (most recent call last):
            RuntimeError: nothing was recorded yet; use a `with` block or call step()
        """
        if not self._steps:
            raise RuntimeError("nothing was recorded yet; use a `with` block or call step()")
        together = {
            layer: torch.stack([kept[layer] for kept in self._kept]) for layer in self._kept[0]
        }
        return TrainingTrajectories(torch.tensor(self._steps), together)

    def _forward_begins(self, _model: nn.Module) -> None:
        # The probes themselves run in evaluation mode and without gradient.
        if self._told or not (self.model.training and torch.is_grad_enabled()):
            return
        self._at(self._forwards)
        self._forwards += 1

    def _at(self, step: int) -> None:
        """Record the state after a number of updates when it is time."""
        if step < self._last:
            raise ValueError(
                f"steps must not decrease, got {step} after {self._last}; take a new recorder for "
                "a new training"
            )
        self._last = step
        if self._steps and step < self._steps[-1] + self._stride:
            return
        self._kept.append(self._measured())
        self._steps.append(step)
        if len(self._steps) > self.max_checkpoints:
            self._steps, self._kept = self._steps[::2], self._kept[::2]
            self._stride *= 2

    def _measured(self) -> dict[str, Shaped[Tensor, "..."]]:
        # A model that changes its input in place shall not change the probe of the next time.
        inputs = moved(copied(self._probe), self.model)
        args, kwargs = call_arguments(self.model, inputs)
        parameter = next(self.model.parameters(), torch.empty(0))
        # The first time the whole model runs, so that a layer that is called again is noticed.
        once = bool(self._steps)
        # A checkpoint at the end of a block lies outside of the autocast that others would see.
        with (
            undisturbed(self.model),
            torch.autocast(parameter.device.type, enabled=False),
            intervene(
                self.model, capture=self._sites, stop=once, clone=True, device="cpu"
            ) as cache,
        ):
            self.model(*args, **kwargs)
        found = {str(site): _widened(cache[site]) for site in self._sites}
        for layer, first in (self._kept[0] if once else {}).items():
            if found[layer].shape != first.shape:
                raise ValueError(
                    f"layer '{layer}' gave shape {tuple(found[layer].shape)}, at the first "
                    f"checkpoint {tuple(first.shape)}; the probe inputs need a fixed shape"
                )
        return found


def _widened(value: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    return value.float() if value.is_floating_point() and value.dtype.itemsize < 4 else value
