"""The guarantees that every tokenizer gives, one test each over all of them."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuros_neurofm import tokenizers
from neuros_neurofm.tokenizers import Tokens

D = 16
# Rates at which the default patch is 1 to 8 samples: short inputs then have many tokens.
RATES = {
    "SpikeTokenizer": 100.0,
    "LFPTokenizer": 100.0,
    "CalciumTokenizer": 10.0,
    "EEGTokenizer": 40.0,
    "fMRITokenizer": 0.5,
    "ECoGTokenizer": 100.0,
    "EMGTokenizer": 100.0,
}
NAMES = sorted(name for name in tokenizers.__all__ if name.endswith("Tokenizer"))
every = pytest.mark.parametrize("name", NAMES)
Build = Callable[[], nn.Module]


def build(name: str, *, patch: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    cls = getattr(tokenizers, name)
    rate = RATES[name]
    seconds = None if patch is None else patch / rate
    return cls(D, sampling_rate=rate, patch=seconds).eval()


def signal(name: str, batch: int = 2, time: int = 30, channels: int = 4, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if name == "SpikeTokenizer":
        rates = torch.full((batch, time, channels), 1.5)
        return torch.poisson(rates, generator=generator)
    return torch.randn(batch, time, channels, generator=generator).cumsum(1)


def assert_same(a: Tokens, b: Tokens, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a.mask, b.mask)
    torch.testing.assert_close(a.times, b.times, atol=1e-12, rtol=0)
    torch.testing.assert_close(a.values, b.values, atol=tolerance, rtol=1e-5)


def test_every_modality_has_a_tokenizer_under_its_name() -> None:
    assert {getattr(tokenizers, name).modality for name in NAMES} == {
        "spike", "lfp", "calcium", "eeg", "fmri", "ecog", "emg",
    }  # fmt: skip
    assert tokenizers.__all__ == sorted(tokenizers.__all__)


@every
@pytest.mark.parametrize(("time", "patch"), [(1, 8), (7, 1), (7, 3), (24, 8)])
def test_number_of_tokens_is_the_time_over_the_patch_rounded_up(
    name: str, time: int, patch: int
) -> None:
    tokens = build(name, patch=patch)(signal(name, time=time))
    assert tokens.values.shape == (2, math.ceil(time / patch), D)
    ends = [min((s + 1) * patch, time) / RATES[name] for s in range(math.ceil(time / patch))]
    torch.testing.assert_close(tokens.times[0], torch.tensor(ends, dtype=torch.float64))
    assert tokens.mask.all()


@every
def test_permuting_channels_with_ids_and_coords_leaves_the_tokens_unchanged(name: str) -> None:
    tok, x = build(name, patch=4), signal(name, channels=5)
    tok.units.extend(["a", "b", "c"], generator=torch.Generator().manual_seed(2))
    ids, coords = ["a", "x", "b", "y", "c"], torch.randn(5, 3)
    mask = torch.rand(2, 30, 5) > 0.2
    order = [3, 0, 4, 2, 1]
    assert_same(
        tok(x, units=ids, coords=coords, mask=mask),
        tok(
            x[..., order],
            units=[ids[i] for i in order],
            coords=coords[order],
            mask=mask[..., order],
        ),
    )


@every
def test_masked_channels_of_any_value_leave_the_tokens_unchanged(name: str) -> None:
    tok, x = build(name, patch=4), signal(name)
    values = torch.tensor([math.nan, math.inf, -1e30, 1e30, 0.0])
    wide = torch.cat([x, values.expand(2, 30, 5)], dim=-1)
    mask = torch.tensor([True] * 4 + [False] * 5).view(1, 1, 9)
    assert_same(tok(x), tok(wide, mask=mask))


@every
@settings(max_examples=6, derandomize=True, deadline=None)
@given(keep=st.integers(1, 29), value=st.sampled_from([math.nan, 7.0, -math.inf]))
def test_masking_the_last_samples_equals_not_having_them(
    name: str, keep: int, value: float
) -> None:
    tok, x = build(name, patch=4), signal(name)
    long = x.clone()
    long[:, keep:] = value
    mask = (torch.arange(30) < keep).view(1, 30, 1)
    short, masked = tok(x[:, :keep]), tok(long, mask=mask)
    n = short.mask.shape[1]
    assert_same(short, Tokens(*(part[:, :n] for part in masked)))
    assert not masked.mask[:, n:].any()
    assert (masked.values[:, n:] == 0).all()


@every
def test_masking_whole_first_patches_equals_starting_later(name: str) -> None:
    tok, x = build(name, patch=4), signal(name, time=32)
    mask = (torch.arange(32) >= 12).view(1, 32, 1)
    late, masked = tok(x[:, 12:]), tok(x, mask=mask)
    torch.testing.assert_close(late.values, masked.values[:, 3:], atol=1e-5, rtol=1e-5)
    assert not masked.mask[:, :3].any()


@every
def test_values_under_the_mask_are_never_read(name: str) -> None:
    tok, x = build(name, patch=4), signal(name)
    mask = torch.rand(2, 30, 4, generator=torch.Generator().manual_seed(3)) > 0.4
    noise = torch.where(mask, x, torch.full_like(x, math.nan))
    first, second = tok(x, mask=mask), tok(noise, mask=mask)
    assert torch.equal(first.values, second.values)


@every
@pytest.mark.parametrize("patch", [1, 4])
def test_a_token_rests_on_samples_of_its_own_and_earlier_patches_only(
    name: str, patch: int
) -> None:
    tok, x = build(name, patch=patch), signal(name)
    for cut in (1, 2, 5):
        changed = x.clone()
        changed[:, cut * patch :] = signal(name, seed=9)[:, cut * patch :] * 3
        a, b = tok(x), tok(changed)
        assert torch.equal(a.values[:, :cut], b.values[:, :cut])
        assert not torch.equal(a.values[:, cut:], b.values[:, cut:])


@every
@pytest.mark.parametrize("channels", [1, 2_000])
def test_any_number_of_channels_gives_finite_tokens(name: str, channels: int) -> None:
    values = build(name, patch=4)(signal(name, batch=1, time=8, channels=channels)).values
    assert values.shape == (1, 2, D)
    assert torch.isfinite(values).all()


@every
def test_all_masked_input_gives_finite_tokens_that_are_masked(name: str) -> None:
    x = torch.full((2, 9, 3), math.nan)
    tokens = build(name, patch=4)(x, mask=torch.zeros(2, 1, 1, dtype=torch.bool))
    assert torch.isfinite(tokens.values).all()
    assert torch.isfinite(tokens.times).all()
    assert not tokens.mask.any()


@every
def test_constant_channels_give_finite_tokens_and_gradients(name: str) -> None:
    tok = build(name, patch=4)
    x = torch.full((1, 12, 2), 3.0, requires_grad=True)
    tokens = tok(x)
    tokens.values.square().mean().backward()
    assert torch.isfinite(tokens.values).all()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in tok.parameters() if p.grad is not None)


@every
def test_other_number_types_are_computed_in_the_type_of_the_weights(name: str) -> None:
    x = signal(name).round().clamp(-50, 50)
    tok = build(name, patch=4)
    tokens = tok(x)
    for dtype in (torch.float16, torch.bfloat16, torch.float64, torch.int32):
        assert_same(tokens, tok(x.to(dtype)))


@every
def test_float64_weights_give_float64_tokens(name: str) -> None:
    assert build(name, patch=4).double()(signal(name)).values.dtype == torch.float64


@every
def test_bfloat16_autocast_stays_finite_and_near(name: str) -> None:
    tok, x = build(name, patch=4), signal(name)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = tok(x).values
    # Three layers of relative rounding 2^-8 on values of order 1.
    torch.testing.assert_close(values.float(), tok(x).values, atol=0.1, rtol=0.1)


@every
def test_a_signal_in_volts_gives_tokens_as_finite_as_a_standardised_one(name: str) -> None:
    x = signal(name) * (1.0 if name == "SpikeTokenizer" else 1e-6)
    assert torch.isfinite(build(name, patch=4)(x).values).all()


@every
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nan_among_valid_samples_names_the_modality_and_the_count(name: str, bad: float) -> None:
    tok, x = build(name), signal(name)
    x[0, 3, 1] = x[1, 4, 2] = bad
    with pytest.raises(ValueError, match=f"{tok.modality}: 2 NaN or infinite values"):
        tok(x)


@every
def test_wrong_shapes_and_types_are_refused_in_words(name: str) -> None:
    tok, x = build(name), signal(name)
    with pytest.raises(ValueError, match=f"{tok.modality}: x must have 3 axes"):
        tok(x[0])
    with pytest.raises(ValueError, match="at least 1 row, 1 sample and 1 channel"):
        tok(x[..., :0])
    with pytest.raises(TypeError, match="must be a real tensor"):
        tok(x.to(torch.complex64))
    with pytest.raises(TypeError, match="mask must be bool"):
        tok(x, mask=torch.ones(2, 30, 4))
    with pytest.raises(ValueError, match="mask must be 3-D and broadcast"):
        tok(x, mask=torch.ones(2, 30, dtype=torch.bool))
    with pytest.raises(ValueError, match="mask must be 3-D and broadcast"):
        tok(x, mask=torch.ones(2, 29, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="units must name the 4 channels of x, got 2"):
        tok(x, units=["a", "b"])
    with pytest.raises(ValueError, match="coords must be finite positions"):
        tok(x, coords=torch.zeros(4, 2))


@every
def test_irregular_times_are_kept_and_checked(name: str) -> None:
    tok, x = build(name, patch=4), signal(name, time=8)
    times = torch.tensor([0.0, 0.1, 0.2, 0.7, 0.8, 1.5, 2.5, 4.0])
    tokens = tok(x, times=times)
    assert tokens.times.tolist() == [pytest.approx([0.7, 4.0])] * 2
    assert torch.equal(tokens.values, tok(x).values)
    with pytest.raises(ValueError, match="times must not decrease"):
        tok(x, times=times.flip(0))
    with pytest.raises(ValueError, match=r"times must be \(batch, time\)"):
        tok(x, times=times[:-1])
    with pytest.raises(ValueError, match="times of valid samples must be finite"):
        tok(x, times=torch.where(times == 0.7, torch.nan, times))


@every
def test_times_of_padding_are_not_read(name: str) -> None:
    tok, x = build(name, patch=4), signal(name, time=8)
    times = torch.tensor([0.0, 0.1, 0.2, 0.7, 0.8, 1.5, torch.nan, 0.0])
    mask = (torch.arange(8) < 6).view(1, 8, 1)
    assert tok(x, times=times, mask=mask).times[0].tolist() == pytest.approx([0.7, 1.5])


@every
def test_sizes_outside_their_range_are_refused(name: str) -> None:
    cls = getattr(tokenizers, name)
    with pytest.raises(ValueError, match="sampling_rate must be > 0 Hz"):
        cls(D, sampling_rate=0.0)
    with pytest.raises(ValueError, match="patch must be > 0"):
        cls(D, sampling_rate=10.0, patch=-1.0)
    with pytest.raises(ValueError, match="needs a sampling_rate to be read as seconds"):
        cls(D, patch=0.05)


@every
def test_without_a_rate_a_token_is_one_sample_or_as_many_as_asked(name: str) -> None:
    cls, x = getattr(tokenizers, name), signal(name)
    assert cls(D)(x).values.shape == (2, 30, D)
    assert cls(D, patch=7.0)(x).values.shape == (2, 5, D)
    assert cls(D)(x).times[0, -1] == 30


@every
def test_all_weights_learn_from_known_and_unknown_units(name: str) -> None:
    tok, x = build(name, patch=4), signal(name)
    tok.units.extend(["a", "b"], generator=torch.Generator().manual_seed(0))
    tok(x, units=["a", "b", "c", "d"]).values.square().sum().backward()
    silent = [n for n, p in tok.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@every
def test_state_dict_restores_tokens_and_ids_bit_for_bit(name: str) -> None:
    tok, x = build(name, patch=4), signal(name)
    tok.units.extend(["β1", "c2"], generator=torch.Generator().manual_seed(0))
    other = build(name, patch=4)
    other.load_state_dict(tok.state_dict())
    assert other.units.ids == ("β1", "c2")
    ids = ["c2", "β1", "new", "other"]
    assert torch.equal(tok(x, units=ids).values, other(x, units=ids).values)
    assert "patch=4 samples" in repr(tok)


@pytest.mark.parametrize("name", [n for n in NAMES if n != "SpikeTokenizer"])
def test_calibration_fixes_the_scale_of_named_channels(name: str) -> None:
    tok, x = build(name, patch=4), signal(name)
    ids = ["a", "b", "c", "d"]
    before = tok(x, units=ids).values
    tok.calibrate(torch.cat([x, 2 * x]), units=ids)
    calibrated = tok(x, units=ids).values
    assert not torch.allclose(before, calibrated, atol=1e-3)
    # Another scale and offset of the recording with its own calibration is the same recording;
    # inferred unit vectors would see the change of unit, so the units are known here.
    tok.units.extend(ids, generator=torch.Generator().manual_seed(0))
    calibrated = tok(x, units=ids).values
    scaled = 5 * x + 3
    tok.calibrate(torch.cat([scaled, 2 * scaled - 3]), units=ids)
    torch.testing.assert_close(tok(scaled, units=ids).values, calibrated, atol=1e-4, rtol=1e-4)
    other = build(name, patch=4)
    other.load_state_dict(tok.state_dict())
    assert torch.equal(other(scaled, units=ids).values, tok(scaled, units=ids).values)
    partly = tok(scaled, units=["a", "b", "new1", "new2"]).values
    assert torch.isfinite(partly).all()


@pytest.mark.parametrize("name", [n for n in NAMES if n != "SpikeTokenizer"])
def test_calibration_refuses_channels_without_variation(name: str) -> None:
    tok = build(name)
    with pytest.raises(ValueError, match=r"needs samples that vary, but \['flat'\]"):
        tok.calibrate(torch.zeros(1, 9, 1), units=["flat"])
    with pytest.raises(ValueError, match="units must name the 1 channels"):
        tok.calibrate(torch.randn(1, 9, 1), units=["a", "b"])


def test_negative_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="counts must be >= 0, got a minimum of -1"):
        build("SpikeTokenizer")(torch.full((1, 4, 2), -1.0))


def test_counts_have_nothing_to_calibrate() -> None:
    with pytest.raises(ValueError, match="nothing to calibrate"):
        build("SpikeTokenizer").core.calibrate(torch.ones(1, 4, 1), ["a"], None)
