import copy
from collections.abc import Sequence
from itertools import pairwise, starmap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuros_neurofm.models._mamba_packing import StateShapes, check_state
from neuros_neurofm.models.mamba import MambaBackbone, MambaBlock, MambaState


def small_block(
    *,
    version: int = 2,
    ngroups: int = 1,
    bidirectional: bool = False,
    chunk_size: int = 4,
    dtype: torch.dtype = torch.float64,
) -> MambaBlock:
    torch.manual_seed(0)
    block = MambaBlock(
        12,
        version=version,
        d_state=5,
        headdim=6,
        ngroups=ngroups,
        chunk_size=chunk_size,
        bidirectional=bidirectional,
    ).to(dtype)
    # Norm weights of one and gains of one would hide a part that is left out.
    if version == 2:
        nn.init.normal_(block.norm.weight)
    nn.init.normal_(block.D)
    return block


def signal(batch: int = 2, length: int = 11, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, 12, generator=generator, dtype=torch.float64)


def assert_same_state(a: MambaState, b: MambaState, atol: float = 1e-10) -> None:
    torch.testing.assert_close(a.conv, b.conv, atol=atol, rtol=atol)
    torch.testing.assert_close(a.ssm, b.ssm, atol=atol, rtol=atol)


def pieces_of(lengths: Sequence[int]) -> list[slice]:
    stops = torch.tensor([0, *lengths]).cumsum(0).tolist()
    return list(starmap(slice, pairwise(stops)))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("lengths", [(11,), (0, 11), (1, 1, 1, 8), (4, 0, 7), (10, 1)])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_pieces_of_any_length_equal_one_run(
    lengths: tuple[int, ...], dtype: torch.dtype, atol: float, version: int
) -> None:
    block, x = small_block(version=version, dtype=dtype), signal().to(dtype)
    whole, last = block(x, return_state=True)
    state, ys = None, []
    for part in pieces_of(lengths):
        y, state = block(x[:, part], state=state, return_state=True)
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys, 1), whole, atol=atol, rtol=atol)
    assert state is not None
    assert_same_state(state, last, atol)


@pytest.mark.parametrize(("version", "ngroups"), [(1, 1), (2, 1), (2, 2)])
def test_steps_equal_one_run(version: int, ngroups: int) -> None:
    block, x = small_block(version=version, ngroups=ngroups), signal()
    whole, last = block(x, return_state=True)
    state, ys = block.init_state(2), []
    for x_t in x.unbind(1):
        y, state = block.step(x_t, state)
        ys.append(y)
    torch.testing.assert_close(torch.stack(ys, 1), whole, atol=1e-10, rtol=1e-10)
    assert_same_state(state, last)


@pytest.mark.parametrize("version", [1, 2])
def test_a_stream_may_change_between_steps_and_pieces(version: int) -> None:
    block, x = small_block(version=version), signal()
    head, state = block(x[:, :6], return_state=True)
    middle, state = block.step(x[:, 6], state)
    rest = block(x[:, 7:], state=state)
    joined = torch.cat([head, middle[:, None], rest], 1)
    torch.testing.assert_close(joined, block(x), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("version", [1, 2])
def test_gradients_flow_through_the_carried_state(version: int) -> None:
    block, x = small_block(version=version), signal().requires_grad_()
    wanted = (x, *block.parameters())
    whole = torch.autograd.grad(block(x).square().sum(), wanted)
    first, state = block(x[:, :5], return_state=True)
    loss = first.square().sum() + block(x[:, 5:], state=state).square().sum()
    for ours, expected in zip(torch.autograd.grad(loss, wanted), whole, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("version", [1, 2])
def test_outputs_depend_on_no_later_sample(version: int) -> None:
    block, x = small_block(version=version), signal()
    changed = x.clone()
    changed[:, 6:] += 1
    torch.testing.assert_close(block(changed)[:, :6], block(x)[:, :6], atol=0, rtol=0)
    assert not torch.allclose(block(changed)[:, 6:], block(x)[:, 6:])


@pytest.mark.parametrize("version", [1, 2])
@settings(max_examples=15, derandomize=True, deadline=None)
@given(seed=st.integers(0, 10_000), packed=st.booleans())
def test_masked_steps_are_as_if_they_were_not_there(version: int, seed: int, packed: bool) -> None:
    block, x = small_block(version=version), signal(3, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(3, 11, generator=generator) < 0.6
    mask[2] = False
    seq_idx = None
    if packed:
        seq_idx = torch.randint(0, 2, (3, 11), generator=generator).cumsum(1)
    _, before = block(signal(3, seed=seed + 1), return_state=True)
    dirty = x.masked_fill(~mask[..., None], float("nan"))
    y, after = block(dirty, state=before, return_state=True, seq_idx=seq_idx, mask=mask)
    for row in range(3):
        keep = mask[row]
        numbers = None if seq_idx is None else seq_idx[row : row + 1, keep]
        begin = MambaState(before.conv[row : row + 1], before.ssm[row : row + 1])
        alone, reached = block(
            x[row : row + 1, keep], state=begin, return_state=True, seq_idx=numbers
        )
        torch.testing.assert_close(y[row, keep], alone[0], atol=1e-10, rtol=1e-10)
        assert bool((y[row, ~keep] == 0).all())
        assert_same_state(MambaState(after.conv[row : row + 1], after.ssm[row : row + 1]), reached)


@pytest.mark.parametrize("version", [1, 2])
def test_masked_steps_get_no_gradient(version: int) -> None:
    block, x = small_block(version=version), signal().requires_grad_()
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[0, 3:5] = False
    (grad,) = torch.autograd.grad(block(x, mask=mask).square().sum(), x)
    assert bool((grad[0, 3:5] == 0).all())
    assert bool((grad[0, 5] != 0).any())


@pytest.mark.parametrize("version", [1, 2])
def test_packed_sequences_equal_separate_runs(version: int) -> None:
    block, x = small_block(version=version), signal(1)
    seq_idx = torch.tensor([[0] * 3 + [1] + [2] * 7])
    packed, last = block(x, seq_idx=seq_idx, return_state=True)
    alone = [block(part, return_state=True) for part in x.split([3, 1, 7], 1)]
    torch.testing.assert_close(packed, torch.cat([y for y, _ in alone], 1), atol=1e-10, rtol=1e-10)
    assert_same_state(last, alone[-1][1])


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("lengths", [(3, 8), (4, 7), (1, 2, 1, 0, 7)])
@pytest.mark.parametrize("masked", [False, True])
def test_packed_sequences_may_be_cut_anywhere(
    lengths: tuple[int, ...], masked: bool, version: int
) -> None:
    # The cuts at 3 and 4 are where a new sequence begins: the state has to know where it ended.
    block, x = small_block(version=version), signal()
    seq_idx = torch.tensor([[0] * 3 + [1] + [2] * 7, [4] * 8 + [3] * 3])
    mask = torch.ones(2, 11, dtype=torch.bool)
    if masked:
        mask[0, 2:5] = False
        mask[1, :3] = False
    whole, last = block(x, seq_idx=seq_idx, mask=mask, return_state=True)
    state, ys = None, []
    for part in pieces_of(lengths):
        y, state = block(
            x[:, part],
            state=state,
            return_state=True,
            seq_idx=seq_idx[:, part],
            mask=mask[:, part] if masked else None,
        )
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys, 1), whole, atol=1e-10, rtol=1e-10)
    assert state is not None
    assert_same_state(state, last)


def test_bidirectional_output_is_the_mean_of_both_directions() -> None:
    block, x = small_block(bidirectional=True), signal()
    assert block.reverse is not None
    ahead = small_block()
    ahead.load_state_dict({k: v for k, v in block.state_dict().items() if "reverse" not in k})
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[1, 7:] = False
    seq_idx = torch.tensor([[0] * 5 + [1] * 6] * 2)
    back = block.reverse(x.flip(1), seq_idx=seq_idx.flip(1), mask=mask.flip(1)).flip(1)
    expected = (ahead(x, seq_idx=seq_idx, mask=mask) + back) / 2
    torch.testing.assert_close(block(x, seq_idx=seq_idx, mask=mask), expected)
    torch.testing.assert_close(block(x), (ahead(x) + block.reverse(x.flip(1)).flip(1)) / 2)


def test_parameters_of_the_recurrence_are_marked_against_weight_decay() -> None:
    block = small_block()
    marked = {n for n, p in block.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert marked == {"A_log", "dt_bias", "D"}
    block = small_block(version=1)
    marked = {n for n, p in block.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert marked == {"A_log", "D"}


def test_initial_steps_and_decays_lie_in_their_ranges() -> None:
    torch.manual_seed(0)
    block = MambaBlock(1024, headdim=8)
    steps, rates = nn.functional.softplus(block.dt_bias.detach()), block.A_log.detach().exp()
    assert 1e-3 * 0.999 <= float(steps.min()) < 2e-3
    assert 5e-2 < float(steps.max()) <= 1e-1 * 1.001
    assert 1 <= float(rates.min()) < 2
    assert 15 < float(rates.max()) <= 16
    first = MambaBlock(64, version=1)
    steps = nn.functional.softplus(first.dt_proj.bias.detach())
    assert 1e-3 * 0.999 <= float(steps.min()) <= float(steps.max()) <= 1e-1 * 1.001
    expected = torch.arange(1.0, 17.0).expand(128, 16)
    torch.testing.assert_close(first.A_log.detach().exp(), expected)


@pytest.mark.parametrize("version", [1, 2])
def test_autocast_keeps_the_recurrence_in_float32(version: int) -> None:
    block, x = small_block(version=version, dtype=torch.float32), signal().float()
    exact = block(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = block(x, return_state=True)
        y_t, _ = block.step(x[:, 0].bfloat16(), block.init_state(2))
    assert y.dtype == torch.bfloat16
    assert state.ssm.dtype == torch.float32
    assert block.A_log.dtype == torch.float32
    # Two matrix products in bfloat16 (relative spacing 2^-8).
    torch.testing.assert_close(y.float(), exact, atol=0.03, rtol=0.03)
    torch.testing.assert_close(y_t.float(), exact[:, 0], atol=0.03, rtol=0.03)
    y.float().square().sum().backward()
    assert block.A_log.grad is not None
    assert bool(block.A_log.grad.isfinite().all())


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_blocks_return_their_dtype_and_a_float32_state(
    dtype: torch.dtype, version: int
) -> None:
    block, x = small_block(version=version, dtype=torch.float32), signal().float()
    exact = block(x)
    y, state = copy.deepcopy(block).to(dtype)(x.to(dtype), return_state=True)
    assert y.dtype == dtype
    assert state.ssm.dtype == torch.float32
    torch.testing.assert_close(y.float(), exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("version", [1, 2])
def test_convolution_may_have_no_bias(version: int) -> None:
    block, x = small_block(version=version), signal()
    nn.init.zeros_(block.conv1d.bias)
    expected = block(x)
    block.conv1d.bias = None
    torch.testing.assert_close(block(x), expected)
    y, _ = block.step(x[:, 0], block.init_state(2))
    torch.testing.assert_close(y, expected[:, 0])


def test_repr_names_the_sizes() -> None:
    text = repr(small_block(ngroups=2))
    assert "12, d_state=5, d_conv=4, heads=4, headdim=6, ngroups=2, chunk_size=4" in text
    assert "12, d_state=5, d_conv=4, version=1, dt_rank=1" in repr(small_block(version=1))
    assert "GroupedRMSNorm(24, groups=2, eps=1e-05)" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, r"version needs to be 1 or 2, got 3"),
        ({"version": 1, "backend": "cuda"}, r"backend='cuda' needs version=2, got version=1"),
        ({"version": 1, "ngroups": 2}, r"ngroups = 2 needs version=2, got version=1"),
        ({"headdim": 7}, r"headdim needs to divide d_inner = expand \* d_model = 24, got 7"),
        ({"headdim": 8, "ngroups": 2}, r"number of heads = d_inner / headdim = 3, got 2"),
        ({"d_state": 0}, r"d_state needs to be an integer >= 1, got 0"),
        ({"expand": True}, r"expand needs to be an integer >= 1, got True"),
        ({"backend": "gpu"}, r"backend needs to be one of .*'auto', 'torch', 'cuda'.* got 'gpu'"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MambaBlock(**({"d_model": 12, "headdim": 6} | changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"x": torch.zeros(2, 12)}, ValueError, r"x needs 3 axes"),
        ({"x": torch.zeros(2, 5, 11)}, ValueError, r"d_model = 12 features .* got 11"),
        ({"seq_idx": torch.zeros(2, 4).int()}, ValueError, r"seq_idx needs shape"),
        ({"mask": torch.ones(2, 5)}, TypeError, r"mask needs to be a bool .* got torch.float32"),
        ({"mask": torch.ones(5, 2).bool()}, ValueError, r"mask needs shape .* = \(2, 5\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    changes: dict[str, object], error: type[Exception], message: str
) -> None:
    x = torch.zeros(2, 5, 12, dtype=torch.float64)
    for module in (small_block(), MambaBackbone(12, 1, headdim=6).double()):
        with pytest.raises(error, match=message):
            module(**({"x": x} | changes))


def test_states_that_do_not_fit_are_refused() -> None:
    block = small_block()
    x = signal()
    with pytest.raises(
        ValueError, match=r"state.conv needs shape \(2, 34, 3\) .* got \(3, 34, 3\)"
    ):
        block(x, state=block.init_state(3))
    with pytest.raises(TypeError, match=r"state needs to be a MambaState .* got tuple"):
        check_state((x, x), StateShapes((2, 34, 3), (2, 4, 6, 5)))
    state = block.init_state(2)
    with pytest.raises(ValueError, match=r"state.ssm needs shape \(2, 4, 6, 5\)"):
        block.step(x[:, 0], state._replace(ssm=state.ssm[:1]))
    with pytest.raises(ValueError, match=r"x_t needs 2 axes"):
        block.step(x, state)
    with pytest.raises(ValueError, match=r"x_t needs d_model = 12 features .* got 11"):
        block.step(x[:, 0, :11], state)


def test_a_bidirectional_block_has_no_state() -> None:
    block, x = small_block(bidirectional=True), signal()
    with pytest.raises(ValueError, match="has no state to carry"):
        block(x, return_state=True)
    with pytest.raises(ValueError, match="has no state to carry"):
        block(x, state=block.init_state(2))
    with pytest.raises(ValueError, match="cannot step"):
        block.step(x[:, 0], block.init_state(2))


# 70 optimiser steps; fewer do not separate learning from chance.
@pytest.mark.slow
def test_a_block_learns_a_leaky_integral() -> None:
    # y_t = 0.9 y_{t-1} + sqrt(1 - 0.9^2) x_t has variance 1; the convolution's 4 samples alone
    # leave 0.9^8 = 0.43 of it unexplained.
    torch.manual_seed(0)
    block = MambaBlock(8, d_state=16, headdim=8, chunk_size=16)
    optimizer = torch.optim.AdamW(block.parameters(), lr=3e-2)
    t = torch.arange(48.0)
    kernel = ((1 - 0.9**2) ** 0.5 * 0.9 ** (t[:, None] - t)).tril()
    losses = []
    for _ in range(70):
        x = torch.randn(16, 48, 8)
        loss = (block(x)[..., 0] - x[..., 0] @ kernel.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert float(torch.stack(losses[-10:]).mean()) < 0.3
