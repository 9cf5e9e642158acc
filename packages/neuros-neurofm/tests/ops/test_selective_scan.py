from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from neuros_neurofm.ops import selective_scan


class Inputs(NamedTuple):
    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    delta_bias: Tensor
    h: Tensor


def draw(
    batch: int = 2,
    channel: int = 6,
    length: int = 9,
    group: int = 2,
    latent: int = 3,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return Inputs(
        u=normal(batch, channel, length),
        delta=normal(batch, channel, length),
        A=-normal(channel, latent).exp(),
        B=normal(batch, group, latent, length),
        C=normal(batch, group, latent, length),
        D=normal(channel),
        z=normal(batch, channel, length),
        delta_bias=normal(channel),
        h=normal(batch, channel, latent),
    )


def recurrence(i: Inputs, seq_idx: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The definition, one step after the other."""
    within = i.u.shape[1] // i.B.shape[1]
    B, C = i.B.repeat_interleave(within, 1), i.C.repeat_interleave(within, 1)
    delta = functional.softplus(i.delta + i.delta_bias[:, None])
    h, ys = i.h, []
    for t in range(i.u.shape[2]):
        if seq_idx is not None and t:
            h = h * (seq_idx[:, t] == seq_idx[:, t - 1])[:, None, None]
        step = delta[..., t, None]
        h = torch.exp(step * i.A) * h + step * B[..., t] * i.u[..., t, None]
        ys.append((h * C[..., t]).sum(-1) + i.D * i.u[..., t])
    return torch.stack(ys, -1) * functional.silu(i.z), h


def run(i: Inputs, seq_idx: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return selective_scan(
        *i[:5],
        D=i.D,
        z=i.z,
        delta_bias=i.delta_bias,
        delta_softplus=True,
        initial_state=i.h,
        return_last_state=True,
        seq_idx=seq_idx,
    )


def piece(i: Inputs, start: int, stop: int, h: Tensor) -> Inputs:
    cut = {name: getattr(i, name)[..., start:stop] for name in ("u", "delta", "B", "C", "z")}
    return i._replace(**cut, h=h)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(
    length=st.integers(1, 40),
    group=st.sampled_from([1, 2, 3, 6]),
    packed=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_output_is_that_of_the_recurrence(length: int, group: int, packed: bool, seed: int) -> None:
    i = draw(length=length, group=group, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    seq_idx = torch.randint(0, 2, (2, length), generator=generator).cumsum(1) if packed else None
    for ours, expected in zip(run(i, seq_idx), recurrence(i, seq_idx), strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-10, rtol=1e-10)


# The recurrence over 5 rows of 256 x 64 elements with gradients: smaller ones are a single tile.
@pytest.mark.slow
def test_outputs_and_gradients_hold_over_many_tiles() -> None:
    # 5 rows of 256 x 64 elements per step are three tiles of rows, 37 steps five of time.
    i = Inputs(*(x.requires_grad_() for x in draw(5, 256, 37, 2, 64)))
    seq_idx = (torch.arange(37) // 10).expand(5, 37)
    grads = []
    for y, h in (run(i, seq_idx), recurrence(i, seq_idx)):
        grads.append((y, h, *torch.autograd.grad(y.square().sum() + h.square().sum(), i)))
    for ours, expected in zip(*grads, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("pieces", [(0, 9), (1, 1, 7), (4, 5), (3, 0, 6)])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_pieces_of_any_length_equal_one_run(
    pieces: tuple[int, ...], dtype: torch.dtype, atol: float
) -> None:
    i = draw(dtype=dtype)
    whole, last = run(i)
    h, ys, start = i.h, [], 0
    for length in pieces:
        y, h = run(piece(i, start, start + length, h))
        ys.append(y)
        start += length
    torch.testing.assert_close(torch.cat(ys, -1), whole, atol=atol, rtol=atol)
    torch.testing.assert_close(h, last, atol=atol, rtol=atol)


def test_gradients_flow_through_the_carried_state() -> None:
    i = Inputs(*(x.requires_grad_() for x in draw()))
    y, last = run(i)
    one_run = torch.autograd.grad(y.square().sum() + last.square().sum(), i)
    first, h = run(piece(i, 0, 5, i.h))
    rest, last = run(piece(i, 5, 9, h))
    loss = first.square().sum() + rest.square().sum() + last.square().sum()
    for ours, expected in zip(torch.autograd.grad(loss, i), one_run, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("packed", [False, True])
def test_gradcheck_of_every_tensor_input(packed: bool) -> None:
    i = tuple(x.requires_grad_() for x in draw(2, 2, 4, 1, 2))
    seq_idx = torch.tensor([[0, 0, 1, 1], [0, 0, 0, 7]]) if packed else None
    assert torch.autograd.gradcheck(lambda *x: run(Inputs(*x), seq_idx), i)


def test_maps_without_a_group_axis_are_one_group() -> None:
    i = draw(group=1)
    bare = selective_scan(i.u, i.delta.exp(), i.A, i.B[:, 0], i.C[:, 0])
    torch.testing.assert_close(bare, selective_scan(i.u, i.delta.exp(), i.A, i.B, i.C))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_accumulate_in_float32(dtype: torch.dtype) -> None:
    # 4096 ones: the running sum stalls at 256 in bfloat16 and at 2048 in float16.
    u = torch.ones(1, 1, 4096, dtype=dtype)
    A = torch.zeros(1, 1, dtype=dtype)
    y, h = selective_scan(u, u, A, u, u, return_last_state=True)
    assert y.dtype == dtype
    assert h.dtype == torch.float32
    assert float(h) == float(y[0, 0, -1]) == 4096.0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"u": torch.zeros(6, 9)}, ValueError, r"u needs 3 axes"),
        ({"delta": torch.zeros(2, 6, 8)}, ValueError, r"delta needs shape .* = \(2, 6, 9\)"),
        ({"A": torch.zeros(6)}, ValueError, r"A needs 2 axes"),
        ({"A": torch.zeros(5, 3)}, ValueError, r"A needs shape .* = \(6, 3\), got \(5, 3\)"),
        ({"B": torch.zeros(2, 9)}, ValueError, r"B needs to be a tensor .* got shape \(2, 9\)"),
        ({"B": torch.zeros(2, 4, 3, 9)}, ValueError, r"divides the channels = 6, got 4"),
        ({"C": torch.zeros(2, 1, 3, 9)}, ValueError, r"C needs as many groups as B = 2, got 1"),
        ({"C": torch.zeros(2, 2, 4, 9)}, ValueError, r"C needs shape .* = \(2, 2, 3, 9\)"),
        ({"D": torch.zeros(5)}, ValueError, r"D needs shape .* = \(6,\)"),
        ({"z": torch.zeros(2, 6, 8)}, ValueError, r"z needs shape"),
        ({"delta_bias": torch.zeros(5)}, ValueError, r"delta_bias needs shape"),
        ({"initial_state": torch.zeros(2, 6, 4)}, ValueError, r"initial_state needs shape"),
        ({"seq_idx": torch.zeros(2, 9)}, TypeError, r"integer torch.Tensor, got torch.float32"),
    ],
)
def test_errors_name_what_is_needed(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    i = draw()
    given_inputs = {"u": i.u, "delta": i.delta, "A": i.A, "B": i.B, "C": i.C} | changes
    with pytest.raises(error, match=message):
        selective_scan(**given_inputs)
