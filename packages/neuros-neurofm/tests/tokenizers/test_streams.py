"""Streams of every tokenizer: chunks give the tokens of the whole recording."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuros_neurofm import tokenizers
from neuros_neurofm.tokenizers import Tokens
from neuros_neurofm.tokenizers._samples import TokenizerState

D, RATE, LENGTH = 16, 40.0, 61
NAMES = sorted(name for name in tokenizers.__all__ if name.endswith("Tokenizer"))
every = pytest.mark.parametrize("name", NAMES)
SIGNALS = [name for name in NAMES if name != "SpikeTokenizer"]


def build(name: str, patch: int) -> nn.Module:
    torch.manual_seed(0)
    return getattr(tokenizers, name)(D, sampling_rate=RATE, patch=patch / RATE).eval()


def signal(name: str, time: int = LENGTH, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if name == "SpikeTokenizer":
        return torch.poisson(torch.full((2, time, 4), 1.5), generator=generator)
    return torch.randn(2, time, 4, generator=generator).cumsum(1) + 3


def streamed(
    tok: nn.Module, x: Tensor, cuts: list[int], **options: Tensor | list[str]
) -> tuple[Tokens, TokenizerState]:
    """The tokens of a recording that arrives in pieces."""
    state = tok.init_state(x.shape[0], x.shape[2])
    found = []
    for start, stop in zip([0, *cuts], [*cuts, x.shape[1]], strict=True):
        piece = {k: v[..., start:stop] if k == "times" else v for k, v in options.items()}
        if "mask" in piece:
            piece["mask"] = options["mask"][:, start:stop]
        tokens, state = tok.step(x[:, start:stop], state, **piece)
        found.append(tokens)
    return Tokens(*(torch.cat(parts, 1) for parts in zip(*found, strict=True))), state


def assert_streams(tok: nn.Module, x: Tensor, cuts: list[int], **options: object) -> None:
    got, _ = streamed(tok, x, cuts, **options)
    n = x.shape[1] // tok.core.size
    whole = tok(x, **options)
    assert got.mask.shape[1] == n
    torch.testing.assert_close(got.mask, whole.mask[:, :n])
    torch.testing.assert_close(got.times, whole.times[:, :n], atol=1e-12, rtol=0)
    torch.testing.assert_close(got.values, whole.values[:, :n], atol=1e-5, rtol=1e-5)


cuttings = st.lists(st.integers(1, LENGTH - 1), max_size=12, unique=True).map(sorted)


@every
@settings(max_examples=8, derandomize=True, deadline=None)
@given(cuts=cuttings, patch=st.sampled_from([1, 4, 7]))
def test_any_chunking_gives_the_tokens_of_the_whole_recording(
    name: str, cuts: list[int], patch: int
) -> None:
    assert_streams(build(name, patch), signal(name), cuts)


@every
@settings(max_examples=5, derandomize=True, deadline=None)
@given(cuts=cuttings, known=st.sampled_from([0, 2, 4]), value=st.sampled_from([math.nan, 1e9]))
def test_masks_units_and_coordinates_hold_in_streams(
    name: str, cuts: list[int], known: int, value: float
) -> None:
    tok, x, ids = build(name, 4), signal(name), ["a", "b", "c", "d"]
    tok.units.extend(ids[:known], generator=torch.Generator().manual_seed(0))
    if name in SIGNALS:
        tok.calibrate(x, units=["a", "x", "b", "y"])
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) > 0.3
    mask[0, :17] = False
    mask[1, 30:50, :2] = False
    x = torch.where(mask, x, torch.full_like(x, value))
    assert_streams(tok, x, cuts, mask=mask, units=ids, coords=torch.rand(4, 3) / 10)


@every
def test_sample_by_sample_gives_the_tokens_of_the_whole_recording(name: str) -> None:
    assert_streams(build(name, 4), signal(name, 150), list(range(1, 150)))


@every
def test_irregular_times_hold_in_streams(name: str) -> None:
    gaps = torch.rand(LENGTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    tok, x, times = build(name, 4), signal(name), gaps.cumsum(0)
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(5)) > 0.7
    assert_streams(tok, x, [1, 5, 6, 33, 50], mask=mask, times=times)
    state = tok.init_state(2, 4)
    _, state = tok.step(x[:, :6], state, times=times[20:26])
    with pytest.raises(ValueError, match="times must not decrease along a row"):
        tok.step(x[:, :3], state, times=times[:3])


@every
def test_the_state_does_not_grow(name: str) -> None:
    tok, sizes = build(name, 4), []
    state = tok.init_state(2, 4)
    for seconds in range(1, 12):
        _, state = tok.step(signal(name, 40, seed=seconds), state)
        tensors = [*state.memory.values(), *state[1:]]
        sizes.append(sum(t.untyped_storage().nbytes() for t in tensors))
    assert len(set(sizes)) == 1


@pytest.mark.parametrize("scale", [1e-6, 1e4])
@pytest.mark.parametrize("name", SIGNALS)
def test_an_offset_costs_a_stream_no_digits(name: str, scale: float) -> None:
    x = scale * (signal(name) + 100)
    assert_streams(build(name, 4), x, list(range(3, LENGTH, 3)))


@every
@pytest.mark.parametrize("n", [0, 1, 4, 170, 5_000])
def test_skipping_equals_masked_samples_of_any_number(name: str, n: int) -> None:
    tok, x = build(name, 4), signal(name, 60)
    mask = torch.ones(2, 60 + n, 1, dtype=torch.bool)
    mask[:, 30 : 30 + n] = False
    gap = torch.cat([x[:, :30], x.new_zeros(2, n, 4), x[:, 30:]], 1)
    whole = tok(gap, mask=mask)
    state = tok.init_state(2, 4)
    _, state = tok.step(x[:, :30], state)
    if n:
        skipped, state = tok.core.skip(n, state, units=None, coords=None)
        assert skipped.tokens.mask.shape[1] < 100
    tokens, _ = tok.step(x[:, 30:], state)
    first = (30 + n) // 4
    after = whole.values[:, first : first + tokens.mask.shape[1]]
    torch.testing.assert_close(tokens.values, after, atol=1e-5, rtol=1e-5)
    at = whole.times[:, first : first + tokens.mask.shape[1]]
    torch.testing.assert_close(tokens.times, at, atol=1e-12, rtol=0)


@every
def test_a_step_refuses_what_forward_refuses_and_other_channels(name: str) -> None:
    tok, x = build(name, 4), signal(name)
    state = tok.init_state(2, 4)
    _, state = tok.step(x[:, :3], state)
    with pytest.raises(ValueError, match=r"began with \(batch, channel\) = \(2, 4\), got \(2, 3\)"):
        tok.step(x[:, :3, :3], state)
    with pytest.raises(ValueError, match=f"{tok.modality}: 1 NaN or infinite values"):
        tok.step(torch.where(torch.arange(4) == 1, torch.nan, x[:1, :1]), tok.init_state(1, 4))
    with pytest.raises(ValueError, match="x must have 3 axes"):
        tok.step(x[0], state)
