"""One step of a dynamical system: what a caller passes becomes a map on batches of states."""

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

__all__ = ["Map", "Step", "StepLike", "as_step", "functional_step", "jacobian", "push_forward"]

Map: TypeAlias = Callable[[Tensor, Tensor | None], Tensor]
StepLike: TypeAlias = nn.Module | Map
# Layers that draw numbers or update statistics in training mode.
_NOISY = (nn.Dropout, nn.AlphaDropout, nn.FeatureAlphaDropout, nn.BatchNorm1d)


class Step:
    """A map `(h, u) -> h_next` on states (..., n_states) and inputs (..., n_in) or None.

    Attributes:
        n_states: Number of states, None where only the data tell.

    Examples:
        >>> import torch
        >>> as_step(lambda h, u: 2 * h)(torch.ones(3), None).tolist()
        [2.0, 2.0, 2.0]
    """

    def __init__(self, module: nn.Module | None, call: Map, n_states: int | None) -> None:
        self.n_states = n_states
        self.module = module
        self.call = call

    def __call__(self, h: Tensor, u: Tensor | None = None) -> Tensor:
        return self.call(h, u)

    def cast(self, dtype: torch.dtype) -> Map:
        """The map with detached parameters of a dtype; the module keeps its own.

        Args:
            dtype: The dtype to compute in.

        Returns:
            A map that holds no graph to the parameters.
        """
        if self.module is None:
            return self.call
        holder = _Holder(self.module, self.call)
        tensors = [*holder.named_parameters(), *holder.named_buffers()]
        held = {
            name: value.detach().to(dtype) if value.is_floating_point() else value.detach().clone()
            for name, value in tensors
        }

        def call(h: Tensor, u: Tensor | None) -> Tensor:
            return cast("Tensor", functional_call(holder, held, (h, u)))

        return call


class _Holder(nn.Module):
    """Lets `functional_call` reach a method of a module that is not its forward."""

    def __init__(self, module: nn.Module, call: Map) -> None:
        super().__init__()
        # The mode of a child is its own: `train` is not called on it here.
        self.module = module
        self._call = call

    def forward(self, h: Tensor, u: Tensor | None) -> Tensor:
        return self._call(h, u)


def as_step(step: StepLike, *, n_states: int | None = None) -> Step:
    """Read a step from a callable, a recurrent layer or cell, or a module with `step(h, u)`.

    The state of an LSTM is `[h, c]`, concatenated; layers of a deep network follow one another.

    Args:
        step: What to read.
        n_states: Number of states, where the caller knows it.

    Returns:
        The step.

    Raises:
        TypeError: When the step cannot be called.
        ValueError: When a recurrent layer reads both directions or projects its state, a module
            draws dropout, or `n_states` contradicts the module.

    Examples:
        >>> as_step(torch.nn.GRUCell(3, 8)).n_states
        8
        >>> as_step(torch.nn.LSTM(3, 8)).n_states
        16
    """
    if isinstance(step, Step):
        found = step
    elif isinstance(step, nn.RNNBase | nn.RNNCellBase):
        found = _recurrent(step)
    elif isinstance(step, nn.Module):
        call = cast("Map", getattr(step, "step", step))
        size = getattr(step, "n_states", getattr(step, "n_latent", None))
        found = Step(step, call, size if isinstance(size, int) else None)
    elif callable(step):
        owner = getattr(step, "__self__", None)
        found = Step(owner if isinstance(owner, nn.Module) else None, step, None)
    else:
        raise TypeError(
            f"step must be a callable (h, u) -> h_next, a recurrent layer or a module with "
            f"step(h, u), got {type(step).__name__}"
        )
    _still(found)
    if n_states is not None and found.n_states not in (None, n_states):
        raise ValueError(f"n_states is {n_states}, but the step has {found.n_states} states")
    return found if n_states is None else Step(found.module, found.call, n_states)


# torch leaves both without types.
_dual = cast("Callable[[Tensor, Tensor], Tensor]", forward_ad.make_dual)
_undual = cast("Callable[[Tensor], tuple[Tensor, Tensor | None]]", forward_ad.unpack_dual)


def functional_step(step: StepLike, dtype: torch.dtype = torch.float64) -> Map:
    """The step in a dtype, on copies of its parameters; the module stays as it is.

    A plain callable is called with states of that dtype and must answer in it; the parameters it
    closes over cannot be reached, so pass the module itself instead.

    Args:
        step: As for `as_step`.
        dtype: The dtype to compute in.

    Returns:
        A map `(h, u) -> h_next` on states (batch, n) and inputs (batch, n_in) or None.

    Raises:
        TypeError: At a call, when a plain callable cannot compute in the dtype.
        ValueError: At a call, when the next state has another shape than the state.

    Examples:
        >>> cell = torch.nn.RNNCell(1, 2)
        >>> functional_step(cell)(torch.zeros(1, 2).double(), None).dtype, cell.weight_hh.dtype
        (torch.float64, torch.float32)
    """
    call = as_step(step).cast(dtype)

    def checked(h: Tensor, u: Tensor | None) -> Tensor:
        try:
            out = call(h, u)
        except RuntimeError as error:
            if "dtype" not in str(error):
                raise
            raise TypeError(
                f"step cannot compute in {dtype}: {error}; pass the nn.Module itself, or a "
                f"callable that follows the dtype of h"
            ) from error
        # A caller's function may answer anything.
        answer: object = out
        if not isinstance(answer, Tensor) or answer.shape != h.shape:
            shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise ValueError(
                f"step must return the next state of shape {tuple(h.shape)}, got {shape}"
            )
        return answer.to(dtype)

    return checked


def push_forward(call: Map, h: Tensor, u: Tensor | None, tangents: Tensor) -> tuple[Tensor, Tensor]:
    """The next states, and what the linearised map makes of tangent vectors.

    One evaluation on dual numbers whose batch holds every tangent.

    Args:
        call: A functional step.
        h: States (batch, n).
        u: Inputs (batch, n_in) or None.
        tangents: Directions (k, batch, n).

    Returns:
        The next states (batch, n) and tangents (k, batch, n).
    """
    k, batch, n = tangents.shape
    states = h.repeat(k, 1)
    inputs = None if u is None else u.repeat(k, 1)
    _load_forward_rules()
    with torch.no_grad(), forward_ad.dual_level():
        dual = _dual(states, tangents.reshape(k * batch, n))
        primal, moved = _undual(call(dual, inputs))
        moved = torch.zeros_like(primal) if moved is None else moved
    return primal[:batch], moved.reshape(k, batch, n)


def jacobian(
    call: Map, h: Tensor, u: Tensor | None, *, by_input: bool = False, chunk: int | None = None
) -> Tensor:
    """Exact Jacobians of the next state by the state, or by the input.

    Args:
        call: A functional step.
        h: States (batch, n).
        u: Inputs (batch, n_in) or None.
        by_input: Whether to differentiate by the input.
        chunk: Number of states at a time, None for all.

    Returns:
        Jacobians (batch, n, n) or (batch, n, n_in).
    """
    size = max(chunk or len(h), 1)
    parts = []
    for start in range(0, max(len(h), 1), size):
        x = h[start : start + size]
        v = None if u is None else u[start : start + size]
        if not by_input or v is None:
            base = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
            spread = base.unsqueeze(1).expand(-1, len(x), -1)
            parts.append(push_forward(call, x, v, spread)[1])
            continue
        base = torch.eye(v.shape[-1], dtype=x.dtype, device=x.device)
        parts.append(_by_input(call, x, v, base.unsqueeze(1).expand(-1, len(x), -1)))
    return torch.cat(parts, 1).permute(1, 2, 0)


def _by_input(call: Map, h: Tensor, u: Tensor, tangents: Tensor) -> Tensor:
    k, batch, n_in = tangents.shape
    states = h.repeat(k, 1)
    inputs = u.repeat(k, 1)
    _load_forward_rules()
    with torch.no_grad(), forward_ad.dual_level():
        dual = _dual(inputs, tangents.reshape(k * batch, n_in))
        primal, moved = _undual(call(states, dual))
        moved = torch.zeros_like(primal) if moved is None else moved
    return moved.reshape(k, batch, -1)


@cache
def _load_forward_rules() -> None:
    """Load what torch loads at the first dual number, without its deprecation warning.

    The rules are compiled with `torch.jit.script`, which warns its caller of itself.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import_module("torch._decomp.decompositions_for_jvp")


def _still(step: Step) -> None:
    """Refuse a module whose step is not a function of state and input."""
    if step.module is None:
        return
    for name, child in step.module.named_modules():
        if isinstance(child, _NOISY) and child.training:
            raise ValueError(
                f"the module's {name!r} is {type(child).__name__} in training mode, so its step "
                "is not a fixed map; call eval() on the module first"
            )


def _recurrent(layer: nn.RNNBase | nn.RNNCellBase) -> Step:
    """The equations of torch's layers and cells, which dual numbers can pass through."""
    if isinstance(layer, nn.RNNBase) and (layer.bidirectional or layer.proj_size):
        raise ValueError(
            "a recurrent layer with bidirectional=True or proj_size > 0 has no step (h, u); pass "
            "a callable (h, u) -> h_next"
        )
    n_layers = layer.num_layers if isinstance(layer, nn.RNNBase) else 1
    suffixes = [f"_l{k}" for k in range(n_layers)] if isinstance(layer, nn.RNNBase) else [""]
    kind = _kind(layer)
    size = layer.hidden_size
    per_layer = 2 * size if kind == "lstm" else size

    def call(h: Tensor, u: Tensor | None) -> Tensor:
        states = torch.split(h, size, -1)
        hidden, cells, below = [], [], u
        for k, suffix in enumerate(suffixes):
            drive = _drive(layer, suffix, below, states[k])
            recur = _affine(layer, "hh", suffix, states[k])
            if kind == "lstm":
                below, cell = _lstm(drive + recur, states[n_layers + k])
                cells.append(cell)
            else:
                below = _gru(drive, recur, states[k]) if kind == "gru" else _rnn(kind, drive, recur)
            hidden.append(below)
        return torch.cat([*hidden, *cells], -1)

    return Step(layer, call, per_layer * n_layers)


def _kind(layer: nn.RNNBase | nn.RNNCellBase) -> str:
    if isinstance(layer, nn.LSTM | nn.LSTMCell):
        return "lstm"
    if isinstance(layer, nn.GRU | nn.GRUCell):
        return "gru"
    return str(layer.nonlinearity)


def _affine(layer: nn.Module, which: str, suffix: str, x: Tensor) -> Tensor:
    weight = getattr(layer, f"weight_{which}{suffix}")
    bias = getattr(layer, f"bias_{which}{suffix}", None)
    return nn.functional.linear(x, weight, bias)


def _drive(layer: nn.Module, suffix: str, below: Tensor | None, like: Tensor) -> Tensor:
    """What the input adds; without one, that of an input of zeros."""
    if below is None:
        n_in = getattr(layer, f"weight_ih{suffix}").shape[1]
        below = like.new_zeros(*like.shape[:-1], n_in)
    return _affine(layer, "ih", suffix, below)


def _rnn(kind: str, drive: Tensor, recur: Tensor) -> Tensor:
    return (drive + recur).relu() if kind == "relu" else (drive + recur).tanh()


def _gru(drive: Tensor, recur: Tensor, h: Tensor) -> Tensor:
    reset_in, update_in, new_in = drive.chunk(3, -1)
    reset_h, update_h, new_h = recur.chunk(3, -1)
    update = (update_in + update_h).sigmoid()
    new = (new_in + (reset_in + reset_h).sigmoid() * new_h).tanh()
    return new + update * (h - new)


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    enter, forget, new, leave = gates.chunk(4, -1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * new.tanh()
    return leave.sigmoid() * cell.tanh(), cell
