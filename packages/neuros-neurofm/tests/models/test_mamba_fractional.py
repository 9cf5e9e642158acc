import math

import numpy as np
import pytest
import torch
from torch import Tensor

from neuros_neurofm.models.mamba_fractional import FractionalMambaBlock
from neuros_neurofm.ops._fractional import fractional_kernel


def block_of(
    *, alpha: float = 0.8, seed: int = 0, **given: int | str | bool
) -> FractionalMambaBlock:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        chosen: dict[str, int | str | bool] = {"d_state": 3, "headdim": 8, **given}
        return FractionalMambaBlock(16, alpha=alpha, **chosen)


def draw(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def relative_error(given: Tensor, expected: Tensor) -> float:
    return float(((given - expected).abs().max() / expected.abs().max()).detach())


# 2048 steps in a Python loop.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "alpha", "length"), [("gl", 0.8, 2048), ("gl", 0.3, 256), ("power", 0.5, 256)]
)
def test_steps_equal_the_convolution(method: str, alpha: float, length: int) -> None:
    block = block_of(alpha=alpha, method=method)
    x = draw(2, length, 16)
    state, outputs = block.init_state(2), []
    with torch.no_grad():
        whole, last = block(x, return_state=True)
        for t in range(length):
            y, state = block.step(x[:, t], state)
            outputs.append(y)
    assert relative_error(torch.stack(outputs, 1), whole) <= 1e-4
    assert relative_error(state.ssm, last.ssm) <= 1e-4
    torch.testing.assert_close(state.conv, last.conv)


@pytest.mark.parametrize("method", ["gl", "power"])
@pytest.mark.parametrize("pieces", [(0, 60), (1, 1, 58), (7, 0, 53), (40, 20)])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_pieces_of_any_length_equal_one_run(
    pieces: tuple[int, ...], method: str, dtype: torch.dtype, atol: float
) -> None:
    block = block_of(method=method).to(dtype)
    x = draw(2, 60, 16, dtype=dtype)
    whole, last = block(x, return_state=True)
    state, outputs = block.init_state(2), []
    for part in x.split(list(pieces), 1):
        y, state = block(part, state=state, return_state=True)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), whole, atol=atol, rtol=atol)
    torch.testing.assert_close(state.ssm, last.ssm, atol=atol, rtol=atol)
    torch.testing.assert_close(state.conv, last.conv)


@pytest.mark.parametrize("cut", [60, 64, 150])
def test_later_inputs_leave_earlier_outputs_bit_equal(cut: int) -> None:
    block = block_of()
    x = draw(2, 200, 16)
    changed = x.clone()
    # Rounding of a Fourier transform would carry so large a future into the past.
    changed[:, cut:] = 1e4 * draw(2, 200 - cut, 16, seed=2)
    y, other = block(x), block(changed)
    assert torch.equal(y[:, :cut], other[:, :cut])
    assert (y[:, cut] - other[:, cut]).abs().max() > 1e-3


@pytest.mark.parametrize("length", [1, 63, 64, 65, 300])
def test_memory_is_the_sum_over_all_earlier_inputs(length: int) -> None:
    block = block_of().double()
    u, kernel = draw(2, length, 3, dtype=torch.float64), block.compute_kernel(length)
    expected = torch.stack(
        [torch.einsum("btc,t->bc", u[:, : t + 1], kernel[: t + 1].flip(0)) for t in range(length)],
        1,
    )
    torch.testing.assert_close(block._remember(u, None), expected, atol=1e-12, rtol=1e-12)


def test_fixed_modes_stay_when_alpha_moves() -> None:
    block = block_of(alpha=0.8)
    before = block.compute_kernel(5)
    block.fix_modes()
    with torch.no_grad():
        block.alpha_logit.zero_()
    assert torch.equal(block.compute_kernel(5), before)
    assert "fixed_modes" not in block.state_dict()


@pytest.mark.parametrize("method", ["gl", "power"])
def test_gradient_reaches_alpha_through_kernel_and_state(method: str) -> None:
    block = block_of(method=method).double()
    x, logit = draw(1, 30, 16, dtype=torch.float64), block.alpha_logit
    loss = block(x)[:, 20:].square().sum()
    (whole,) = torch.autograd.grad(loss, logit)
    _, state = block(x[:, :20], return_state=True)
    (carried,) = torch.autograd.grad(block(x[:, 20:], state=state).square().sum(), logit)
    assert abs(whole) > 1e-3
    torch.testing.assert_close(carried, whole, rtol=1e-10, atol=0)


def test_gradient_of_alpha_is_the_difference_quotient() -> None:
    block = block_of().double()
    x = draw(1, 30, 16, dtype=torch.float64)
    block(x).square().sum().backward()
    given, losses = block.alpha_logit.grad, []
    with torch.no_grad():
        for shift in (1e-5, -2e-5):
            block.alpha_logit += shift
            losses.append(block(x).square().sum())
    assert given is not None
    torch.testing.assert_close(given, (losses[0] - losses[1]) / 2e-5, rtol=1e-5, atol=0)


def test_gradient_flows_through_the_carried_state() -> None:
    block = block_of().double()
    x = draw(1, 30, 16, dtype=torch.float64).requires_grad_()
    (whole,) = torch.autograd.grad(block(x)[:, 20:].sum(), x)
    _, state = block(x[:, :20], return_state=True)
    (carried,) = torch.autograd.grad(block(x[:, 20:], state=state).sum(), x)
    torch.testing.assert_close(carried, whole, atol=1e-10, rtol=1e-10)


# 64 periodograms, averaged in 24 bands of at least 5 bins each: the standard error of the slope is
# below 0.01, so that a false alarm at 0.1 lies beyond ten of them.
@pytest.mark.parametrize("alpha", [0.3, 0.5, 0.8])
def test_memory_turns_white_noise_into_a_power_law_spectrum(alpha: float) -> None:
    block = block_of(alpha=alpha, d_state=32, headdim=16)
    length = 2**15
    with torch.no_grad():
        out = block._remember(draw(1, length, 64), None)[0].numpy()
    window = np.hanning(length)[:, None]
    power = (np.abs(np.fft.rfft(out * window, axis=0)) ** 2).mean(1)
    frequency = np.fft.rfftfreq(length)
    edges = np.geomspace(1e-3, 1e-1, 25)
    band = np.digitize(frequency, edges)
    centres = [np.log(frequency[band == i]).mean() for i in range(1, 25)]
    heights = [np.log(power[band == i].mean()) for i in range(1, 25)]
    slope = np.polyfit(centres, heights, 1)[0]
    assert abs(-slope - 2 * (1 - alpha)) <= 0.1


def test_packed_sequences_equal_separate_runs() -> None:
    block = block_of()
    x = draw(2, 23, 16)
    lengths = ((3, 9, 1, 10), (23,))
    seq_idx = torch.tensor([[4] * 3 + [5] * 9 + [1] + [7] * 10, [2] * 23])
    packed, last = block(x, seq_idx=seq_idx, return_state=True)
    for row, sizes in enumerate(lengths):
        runs = [block(part, return_state=True) for part in x[row : row + 1].split(list(sizes), 1)]
        alone = torch.cat([y for y, _ in runs], 1)
        torch.testing.assert_close(packed[row : row + 1], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(last.ssm[row : row + 1], runs[-1][1].ssm)
        torch.testing.assert_close(last.conv[row : row + 1], runs[-1][1].conv)
    assert last.seq_idx is not None
    assert last.seq_idx.tolist() == [7, 2]


@pytest.mark.parametrize("cut", [3, 5, 12])
def test_packed_sequences_continue_from_a_state(cut: int) -> None:
    block = block_of().double()
    x = draw(2, 20, 16, dtype=torch.float64)
    seq_idx = torch.tensor([[0] * 3 + [1] * 9 + [2] * 8, [3] * 20])
    whole, last = block(x, seq_idx=seq_idx, return_state=True)
    first, state = block(x[:, :cut], seq_idx=seq_idx[:, :cut], return_state=True)
    rest, state = block(x[:, cut:], state=state, seq_idx=seq_idx[:, cut:], return_state=True)
    torch.testing.assert_close(torch.cat([first, rest], 1), whole, atol=1e-10, rtol=1e-10)
    torch.testing.assert_close(state.ssm, last.ssm)


@pytest.mark.parametrize("packed", [False, True])
def test_masked_steps_equal_absent_ones(packed: bool) -> None:
    block = block_of().double()
    x = draw(3, 12, 16, dtype=torch.float64)
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[0, [0, 4, 5]] = False
    mask[1] = False
    seq_idx = torch.tensor([[0] * 6 + [1] * 6] * 3) if packed else None
    _, before = block(draw(3, 5, 16, seed=3, dtype=torch.float64), return_state=True)
    filled = x.masked_fill(~mask[..., None], math.nan)
    y, state = block(filled, mask=mask, seq_idx=seq_idx, state=before, return_state=True)
    for row in (0, 2):
        one = type(before)(before.conv[row : row + 1], before.ssm[row : row + 1])
        alone, after = block(
            x[row : row + 1, mask[row]],
            seq_idx=None if seq_idx is None else seq_idx[row : row + 1, mask[row]],
            state=one,
            return_state=True,
        )
        torch.testing.assert_close(y[row : row + 1, mask[row]], alone)
        torch.testing.assert_close(state.ssm[row : row + 1], after.ssm)
        torch.testing.assert_close(state.conv[row : row + 1], after.conv)
    assert y[~mask].eq(0).all()
    torch.testing.assert_close(state.ssm[1], before.ssm[1], atol=0, rtol=0)


def test_an_impulse_comes_out_of_the_memory_as_its_kernel() -> None:
    block = block_of(alpha=0.5)
    u = torch.zeros(1, 50, 6)
    u[:, 0] = 1
    expected = fractional_kernel(0.5, 50)[None, :, None].expand(1, 50, 6)
    torch.testing.assert_close(block._remember(u, None), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", ["gl", "power"])
@pytest.mark.parametrize(("n_modes", "bound"), [(32, 2e-7), (16, 2e-3)])
@pytest.mark.parametrize("alpha", [0.1, 0.5, 0.99])
def test_kernel_is_that_of_the_operation_over_the_horizon(
    method: str, n_modes: int, bound: float, alpha: float
) -> None:
    block = block_of(alpha=alpha, method=method, n_modes=n_modes).double()
    exact = fractional_kernel(block.alpha, 10_000, method)
    assert (block.compute_kernel(10_000) / exact - 1).abs().max() <= bound


def test_kernel_falls_short_of_the_power_law_beyond_the_horizon() -> None:
    block = block_of(alpha=0.8).double()
    ratio = block.compute_kernel(30_000)[-1] / fractional_kernel(block.alpha, 30_000)[-1]
    assert 0.98 < ratio < 1


@pytest.mark.parametrize("method", ["gl", "power"])
def test_gradient_of_alpha_through_the_kernel_is_that_of_the_operation(method: str) -> None:
    block, probe = block_of(alpha=0.6, method=method).double(), torch.cos(torch.arange(500.0) / 30)
    ours, exact = (
        torch.autograd.grad(kernel @ probe.double(), block.alpha_logit)[0]
        for kernel in (block.compute_kernel(500), fractional_kernel(block.alpha, 500, method))
    )
    torch.testing.assert_close(ours, exact, rtol=1e-5, atol=0)


def test_kernels_have_the_dtype_of_the_block() -> None:
    assert block_of().compute_kernel(4).dtype == torch.float32
    assert block_of().bfloat16().compute_kernel(4).dtype == torch.float32
    assert block_of().double().compute_kernel(4).dtype == torch.float64


def test_bidirectional_output_is_the_mean_of_both_directions() -> None:
    block, ahead, x = block_of(bidirectional=True), block_of(), draw(2, 9, 16)
    assert block.reverse is not None
    ahead.load_state_dict({k: v for k, v in block.state_dict().items() if "reverse" not in k})
    mask = torch.ones(2, 9, dtype=torch.bool)
    mask[1, 6:] = False
    seq_idx = torch.tensor([[0] * 4 + [1] * 5] * 2)
    back = block.reverse(x.flip(1), seq_idx=seq_idx.flip(1), mask=mask.flip(1)).flip(1)
    expected = (ahead(x, seq_idx=seq_idx, mask=mask) + back) / 2
    torch.testing.assert_close(block(x, seq_idx=seq_idx, mask=mask), expected)
    with pytest.raises(ValueError, match="has no state to carry"):
        block(x, return_state=True)
    with pytest.raises(ValueError, match="cannot step"):
        block.step(x[:, 0], ahead.init_state(2))


@pytest.mark.parametrize("alpha", [0.01, 0.5, 0.99])
def test_alpha_reads_what_was_given(alpha: float) -> None:
    block = block_of(alpha=alpha)
    assert float(block.alpha.detach()) == pytest.approx(alpha, rel=1e-6)
    assert f"alpha={alpha}" in repr(block)


def test_alpha_stays_below_one_where_float32_would_round_it() -> None:
    block = block_of()
    with torch.no_grad():
        block.alpha_logit.fill_(25.0)
    assert block.alpha < 1
    assert torch.isfinite(block(draw(1, 20, 16))).all()


def test_a_fixed_alpha_is_saved_but_not_trained() -> None:
    fixed, learned = block_of(learnable_alpha=False), block_of()
    assert set(fixed.state_dict()) == set(learned.state_dict())
    assert "alpha_logit" not in dict(fixed.named_parameters())
    assert "alpha_logit" in dict(learned.named_parameters())
    other = block_of(alpha=0.2, learnable_alpha=False, seed=5)
    other.load_state_dict(learned.state_dict())
    x = draw(1, 9, 16)
    torch.testing.assert_close(other(x), learned(x))


def test_autocast_keeps_the_memory_in_float32() -> None:
    block = block_of()
    x = draw(2, 40, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = block(x, return_state=True)
        step, _ = block.step(x[:, 0], state)
    assert y.dtype == torch.bfloat16
    assert state.ssm.dtype == torch.float32
    assert step.dtype == torch.float32
    assert relative_error(y.float(), block(x)) < 0.05


def test_every_parameter_is_trained() -> None:
    block = block_of()
    block(draw(2, 40, 16)).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_wrong_arguments_are_refused_in_words() -> None:
    for alpha in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="alpha needs 0 < alpha < 1"):
            FractionalMambaBlock(16, alpha=alpha)
    with pytest.raises(ValueError, match="method needs to be 'gl'"):
        FractionalMambaBlock(16, method="rl")
    with pytest.raises(ValueError, match=r"headdim needs to divide d_inner .* = 40, got 64"):
        FractionalMambaBlock(20)
    with pytest.raises(ValueError, match="n_modes needs to be an integer >= 1"):
        FractionalMambaBlock(32, n_modes=0)
    block = block_of()
    with pytest.raises(ValueError, match="seq_len needs to be an integer >= 1"):
        block.compute_kernel(0)
    with pytest.raises(ValueError, match="x needs d_model = 16 features"):
        block(torch.zeros(1, 4, 15))
    with pytest.raises(ValueError, match="x_t needs d_model = 16 features"):
        block.step(torch.zeros(1, 15), block.init_state(1))
    with pytest.raises(ValueError, match=r"state\.ssm needs shape \(2, 12, 32\)"):
        block(torch.zeros(2, 4, 16), state=block.init_state(2)._replace(ssm=torch.zeros(2, 12, 3)))
    with pytest.raises(ValueError, match=r"state\.conv needs shape"):
        block.step(torch.zeros(2, 16), block.init_state(1))
