from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from neuros_neurofm.ops import ssd


class Inputs(NamedTuple):
    x: Tensor
    dt: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor
    dt_bias: Tensor
    h: Tensor


def draw(
    batch: int = 2,
    length: int = 9,
    head: int = 4,
    feature: int = 3,
    group: int = 2,
    latent: int = 5,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Inputs:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    return Inputs(
        x=normal(batch, length, head, feature),
        dt=normal(batch, length, head),
        A=-normal(head).exp(),
        B=normal(batch, length, group, latent),
        C=normal(batch, length, group, latent),
        D=normal(head),
        z=normal(batch, length, head, feature),
        dt_bias=normal(head),
        h=normal(batch, head, feature, latent),
    )


def recurrence(i: Inputs, seq_idx: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The definition, one step after the other."""
    per_group = i.x.shape[2] // i.B.shape[2]
    B, C = i.B.repeat_interleave(per_group, 2), i.C.repeat_interleave(per_group, 2)
    dt = functional.softplus(i.dt + i.dt_bias)
    h, ys = i.h, []
    for t in range(i.x.shape[1]):
        if seq_idx is not None and t:
            h = h * (seq_idx[:, t] == seq_idx[:, t - 1])[:, None, None, None]
        entered = (dt[:, t, :, None] * i.x[:, t])[..., None] * B[:, t, :, None, :]
        h = torch.exp(dt[:, t] * i.A)[..., None, None] * h + entered
        ys.append((h * C[:, t, :, None, :]).sum(-1) + i.D[:, None] * i.x[:, t])
    return torch.stack(ys, 1) * functional.silu(i.z), h


def run(i: Inputs, *, chunk_size: int = 4, seq_idx: Tensor | None = None) -> tuple[Tensor, Tensor]:
    return ssd(
        *i[:5],
        chunk_size=chunk_size,
        D=i.D,
        z=i.z,
        dt_bias=i.dt_bias,
        dt_softplus=True,
        initial_state=i.h,
        return_final_state=True,
        seq_idx=seq_idx,
    )


def piece(i: Inputs, start: int, stop: int, h: Tensor) -> Inputs:
    cut = {name: getattr(i, name)[:, start:stop] for name in ("x", "dt", "B", "C", "z")}
    return i._replace(**cut, h=h)


@settings(max_examples=40, derandomize=True, deadline=None)
@given(
    length=st.integers(1, 40),
    chunk_size=st.integers(1, 50),
    group=st.sampled_from([1, 2, 4]),
    packed=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_chunks_of_any_size_give_the_recurrence(
    length: int, chunk_size: int, group: int, packed: bool, seed: int
) -> None:
    i = draw(length=length, group=group, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    seq_idx = torch.randint(0, 2, (2, length), generator=generator).cumsum(1) if packed else None
    y, h = run(i, chunk_size=chunk_size, seq_idx=seq_idx)
    expected_y, expected_h = recurrence(i, seq_idx)
    torch.testing.assert_close(y, expected_y, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(h, expected_h, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("length", [1, 63, 200])
def test_chunk_size_does_not_change_the_numbers_in_float32(length: int) -> None:
    i = draw(length=length, dtype=torch.float32)
    y, h = run(i, chunk_size=64)
    for chunk_size in (1, 7, 50, 300):
        other_y, other_h = run(i, chunk_size=chunk_size)
        torch.testing.assert_close(other_y, y, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other_h, h, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pieces", [(0, 9), (1, 1, 7), (4, 5), (8, 1), (3, 0, 3, 3)])
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
    torch.testing.assert_close(torch.cat(ys, 1), whole, atol=atol, rtol=atol)
    torch.testing.assert_close(h, last, atol=atol, rtol=atol)


def test_gradients_flow_through_the_carried_state() -> None:
    i = Inputs(*(x.requires_grad_() for x in draw()))
    y, last = run(i)
    one_run = torch.autograd.grad(y.square().sum() + last.square().sum(), i)
    first, h = run(piece(i, 0, 5, i.h))
    rest, last = run(piece(i, 5, 9, h))
    loss = first.square().sum() + rest.square().sum() + last.square().sum()
    for given_grad, expected in zip(torch.autograd.grad(loss, i), one_run, strict=True):
        torch.testing.assert_close(given_grad, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("chunk_size", [3, 8])
def test_gradients_are_those_of_the_recurrence(packed: bool, chunk_size: int) -> None:
    i = Inputs(*(x.requires_grad_() for x in draw(length=13)))
    seq_idx = torch.tensor([[0] * 4 + [1] * 9, [5] * 6 + [2] + [3] * 6]) if packed else None
    grads = []
    for y, h in (run(i, chunk_size=chunk_size, seq_idx=seq_idx), recurrence(i, seq_idx)):
        grads.append(torch.autograd.grad((y.sin() * y).sum() + h.square().sum(), i))
    for ours, expected in zip(*grads, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-10, rtol=1e-10)


# Finite differences of every element of nine tensors: 2 x 400 runs.
@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_gradcheck_of_every_tensor_input(packed: bool) -> None:
    i = Inputs(*(x.requires_grad_() for x in draw(length=4, head=2, feature=2, latent=2, batch=1)))
    seq_idx = torch.tensor([[0, 1, 1, 1]]) if packed else None
    assert torch.autograd.gradcheck(
        lambda *x: run(Inputs(*x), chunk_size=2, seq_idx=seq_idx), tuple(i)
    )


def test_gradcheck_without_gate_and_skip() -> None:
    i = Inputs(*(x.requires_grad_() for x in draw(length=4, head=2, feature=2, latent=2, batch=1)))
    assert torch.autograd.gradcheck(lambda *x: ssd(*x, chunk_size=2), i[:5])


def test_packed_sequences_equal_separate_runs() -> None:
    i = draw(batch=1, length=11)
    seq_idx = torch.tensor([[3] * 4 + [9] * 7])
    packed, last = run(i._replace(h=torch.zeros_like(i.h)), seq_idx=seq_idx)
    zero = torch.zeros_like(i.h)
    first, _ = run(piece(i, 0, 4, zero))
    second, h = run(piece(i, 4, 11, zero))
    torch.testing.assert_close(packed, torch.cat([first, second], 1))
    torch.testing.assert_close(last, h)


def test_float32_stays_near_float64_behind_a_huge_step() -> None:
    # One step of decay exp(-30 000) followed by steps of exp(-0.01): a float32 running sum near
    # 3e4 has a spacing of 2e-3, so plain differences would be off by 1e-3.
    i = draw(batch=1, length=64)
    dt = torch.full_like(i.dt, 0.01)
    dt[:, 3] = 3e4
    A = torch.full_like(i.A, -1.0)
    exact = ssd(i.x, dt, A, i.B, i.C)[:, 4:]
    single = ssd(*(x.float() for x in (i.x, dt, A, i.B, i.C)))[:, 4:]
    # Step 3 enters with weight dt = 3e4 and dominates; compare relative to the largest output.
    assert float((single - exact).abs().max() / exact.abs().max()) < 2e-6


def test_strong_decay_keeps_outputs_and_gradients_finite() -> None:
    i = draw(dtype=torch.float32, length=70)
    A = (i.A * 1e4).requires_grad_()
    x = i.x.clone().requires_grad_()
    y = ssd(x, i.dt.exp(), A, i.B, i.C)
    y.square().sum().backward()
    assert all(bool(v.isfinite().all()) for v in (y, x.grad, A.grad))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_accumulate_in_float32(dtype: torch.dtype) -> None:
    # 4096 ones: the running sum stalls at 256 in bfloat16 and at 2048 in float16.
    x = torch.ones(1, 4096, 1, 1, dtype=dtype)
    y, h = ssd(x, x[..., 0], torch.zeros(1, dtype=dtype), x, x, return_final_state=True)
    assert y.dtype == dtype
    assert h.dtype == torch.float32
    assert float(h) == 4096.0
    assert float(y[0, -1]) == 4096.0


def test_autocast_does_not_change_the_numbers() -> None:
    i = draw(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside, _ = run(i)
    torch.testing.assert_close(inside, run(i)[0], atol=0, rtol=0)


def test_an_empty_piece_returns_the_state_it_was_given() -> None:
    i = draw(length=0)
    y, h = run(i)
    assert y.shape == (2, 0, 4, 3)
    torch.testing.assert_close(h, i.h, atol=0, rtol=0)


def test_inputs_need_not_be_contiguous_and_are_not_modified() -> None:
    i = draw()
    kept = [x.clone() for x in i]
    strided = Inputs(*(x.mT.contiguous().mT if x.ndim > 1 else x for x in i))
    torch.testing.assert_close(run(strided)[0], run(i)[0])
    assert all(torch.equal(a, b) for a, b in zip(i, kept, strict=True))


def test_rows_do_not_see_each_other() -> None:
    # 40 rows of 8 heads and 64 steps are several tiles.
    i = draw(batch=40, length=70, head=8, group=1)
    together, _ = run(i, chunk_size=64)
    alone, _ = run(Inputs(*(x[30:31] if x.ndim > 1 else x for x in i)), chunk_size=64)
    torch.testing.assert_close(together[30:31], alone)


def bad(**changes: object) -> dict[str, object]:
    i = draw()
    return {"x": i.x, "dt": i.dt, "A": i.A, "B": i.B, "C": i.C} | changes


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.zeros(2, 9, 4)}, ValueError, r"x needs 4 axes .* got shape \(2, 9, 4\)"),
        ({"x": torch.zeros(2, 9, 4, 3).int()}, TypeError, r"x needs a floating-point dtype"),
        ({"dt": torch.zeros(2, 8, 4)}, ValueError, r"dt needs shape .* = \(2, 9, 4\)"),
        ({"A": torch.zeros(3)}, ValueError, r"A needs shape .* = \(4,\), got \(3,\)"),
        ({"B": torch.zeros(2, 9, 3, 5)}, ValueError, r"divides the heads = 4, got 3 groups"),
        ({"B": torch.zeros(2, 8, 2, 5)}, ValueError, r"B needs shape .* = \(2, 9, 2, 5\)"),
        ({"C": torch.zeros(2, 9, 1, 5)}, ValueError, r"C needs shape .* = \(2, 9, 2, 5\)"),
        ({"D": torch.zeros(4, 3)}, ValueError, r"D needs 1 axes"),
        ({"dt_bias": torch.zeros(5)}, ValueError, r"dt_bias needs shape"),
        ({"z": torch.zeros(2, 9, 4, 2)}, ValueError, r"z needs shape"),
        ({"initial_state": torch.zeros(2, 4, 5, 3)}, ValueError, r"initial_state needs shape"),
        ({"chunk_size": 0}, ValueError, r"chunk_size needs to be an integer >= 1, got 0"),
        ({"seq_idx": torch.zeros(2, 9)}, TypeError, r"integer torch.Tensor, got torch.float32"),
        ({"seq_idx": torch.zeros(2, 8).int()}, ValueError, r"seq_idx needs shape"),
    ],
)
def test_errors_name_what_is_needed(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ssd(**bad(**changes))
