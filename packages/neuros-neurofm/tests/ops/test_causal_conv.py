import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from neuros_neurofm.ops import causal_conv1d


def draw(
    batch: int = 2, channel: int = 6, length: int = 11, k: int = 4, *, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((batch, channel, length), (channel, k), (channel,), (batch, channel, k - 1))
    x, w, b, h = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return x, w, b, h


@settings(max_examples=15, derandomize=True, deadline=None)
@given(length=st.integers(1, 30), k=st.integers(1, 6), biased=st.booleans(), silu=st.booleans())
def test_output_is_that_of_a_padded_convolution(
    length: int, k: int, biased: bool, silu: bool
) -> None:
    x, w, b, _ = (v.float() for v in draw(length=length, k=k))
    bias = b if biased else None
    expected = functional.conv1d(x, w[:, None], bias, padding=k - 1, groups=6)[..., :length]
    expected = functional.silu(expected) if silu else expected
    given_out = causal_conv1d(x, w, bias, "silu" if silu else None)
    torch.testing.assert_close(given_out, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("pieces", [(0, 11), (1, 1, 1, 8), (2, 9), (5, 0, 6)])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_pieces_of_any_length_equal_one_run(
    pieces: tuple[int, ...], packed: bool, dtype: torch.dtype, atol: float
) -> None:
    x, w, b, h = (v.to(dtype) for v in draw())
    # The second piece of every split lies inside a sequence of row 0, as the state demands.
    seq_idx = torch.tensor([[0] * 11, [0] * 11]) if packed else None
    whole, last = causal_conv1d(x, w, b, "swish", h, return_final_state=True, seq_idx=seq_idx)
    ys, start = [], 0
    for length in pieces:
        stop = start + length
        part = None if seq_idx is None else seq_idx[:, start:stop]
        y, h = causal_conv1d(
            x[..., start:stop], w, b, "swish", h, return_final_state=True, seq_idx=part
        )
        ys.append(y)
        start = stop
    torch.testing.assert_close(torch.cat(ys, -1), whole, atol=atol, rtol=atol)
    torch.testing.assert_close(h, last, atol=0, rtol=0)


def test_gradients_flow_through_the_carried_state() -> None:
    wanted = tuple(v.requires_grad_() for v in draw())
    x, w, b, h = wanted
    whole = torch.autograd.grad(causal_conv1d(x, w, b, "silu", h).square().sum(), wanted)
    first, state = causal_conv1d(x[..., :5], w, b, "silu", h, return_final_state=True)
    rest = causal_conv1d(x[..., 5:], w, b, "silu", state)
    loss = first.square().sum() + rest.square().sum()
    for ours, expected in zip(torch.autograd.grad(loss, wanted), whole, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-10, rtol=1e-10)


def test_packed_sequences_equal_separate_runs() -> None:
    x, w, b, _ = draw(batch=1)
    seq_idx = torch.tensor([[4] * 3 + [5] * 6 + [1] * 2])
    packed, last = causal_conv1d(x, w, b, return_final_state=True, seq_idx=seq_idx)
    parts = [causal_conv1d(part, w, b) for part in x.split([3, 6, 2], -1)]
    torch.testing.assert_close(packed, torch.cat(parts, -1))
    _, alone = causal_conv1d(x[..., 9:], w, b, return_final_state=True)
    torch.testing.assert_close(last, alone)


def test_packed_convolution_without_bias_equals_the_one_with_zero_bias() -> None:
    x, w, b, _ = draw()
    seq_idx = torch.zeros(2, 11, dtype=torch.int64)
    zero = torch.zeros_like(b)
    torch.testing.assert_close(
        causal_conv1d(x, w, seq_idx=seq_idx), causal_conv1d(x, w, zero, seq_idx=seq_idx)
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("activation", [None, "silu"])
def test_gradcheck_of_every_tensor_input(packed: bool, activation: str | None) -> None:
    inputs = [v.requires_grad_() for v in draw(channel=2, length=5, k=3)]
    seq_idx = torch.tensor([[0, 0, 1, 1, 1], [2, 2, 2, 2, 3]]) if packed else None

    def both(x: Tensor, w: Tensor, b: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return causal_conv1d(x, w, b, activation, h, return_final_state=True, seq_idx=seq_idx)

    assert torch.autograd.gradcheck(both, inputs)


@pytest.mark.parametrize("wanted", ["x", "weight"])
def test_gradients_of_a_part_of_the_inputs_equal_those_of_all(wanted: str) -> None:
    x, w, b, _ = draw(batch=5, channel=300, length=300)
    x, w = x.requires_grad_(wanted == "x"), w.requires_grad_(wanted == "weight")
    leaf = x if wanted == "x" else w
    (ours,) = torch.autograd.grad(causal_conv1d(x, w, b).square().sum(), leaf)
    reference = functional.conv1d(x, w[:, None], b, padding=3, groups=300)[..., :300].square().sum()
    torch.testing.assert_close(ours, torch.autograd.grad(reference, leaf)[0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_inputs_accumulate_in_float32(dtype: torch.dtype) -> None:
    # 3000 ones: a running sum stalls at 256 in bfloat16 and at 2048 in float16.
    x = torch.ones(1, 1, 3000, dtype=dtype)
    y = causal_conv1d(x, torch.ones(1, 3000, dtype=dtype))
    assert y.dtype == dtype
    assert float(y[0, 0, -1]) == float(torch.tensor(3000.0, dtype=dtype))


def test_autocast_does_not_change_the_numbers() -> None:
    x, w, b, h = (v.float() for v in draw())
    with torch.autocast("cpu", torch.bfloat16):
        inside = causal_conv1d(x, w, b, "silu", h)
    torch.testing.assert_close(inside, causal_conv1d(x, w, b, "silu", h), atol=0, rtol=0)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.zeros(6, 11)}, ValueError, "x needs 3 axes"),
        ({"weight": torch.zeros(6, 1, 4)}, ValueError, "weight needs 2 axes"),
        ({"weight": torch.zeros(5, 4)}, ValueError, r"channel = 6 and lag >= 1, got \(5, 4\)"),
        ({"weight": torch.zeros(6, 0)}, ValueError, r"channel = 6 and lag >= 1, got \(6, 0\)"),
        ({"bias": torch.zeros(5)}, ValueError, "bias needs shape"),
        ({"initial_state": torch.zeros(2, 6, 4)}, ValueError, "initial_state needs shape"),
        ({"activation": "relu"}, ValueError, "activation needs to be None, 'silu' or 'swish'"),
        ({"seq_idx": torch.zeros(2, 11)}, TypeError, "seq_idx needs to be an integer"),
    ],
)
def test_errors_name_what_is_needed(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    x, w, _, _ = draw()
    with pytest.raises(error, match=message):
        causal_conv1d(**({"x": x, "weight": w} | changes))
