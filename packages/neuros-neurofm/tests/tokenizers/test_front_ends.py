"""Known answers of the features behind the tokens."""

import math

import pytest
import torch

from neuros_neurofm.tokenizers._channel_set import Standardised, frames
from neuros_neurofm.tokenizers._normalise import CausalNormalizer
from neuros_neurofm.tokenizers._patches import patch_signal
from neuros_neurofm.tokenizers._spectral import CausalLogPower
from neuros_neurofm.tokenizers.emg import _changes
from neuros_neurofm.tokenizers.spike import _anscombe, _SpikeFrontEnd


@pytest.mark.parametrize("cycles", [5, 12, 30])
def test_log_power_of_a_sine_peaks_in_the_band_of_its_frequency(cycles: int) -> None:
    power = CausalLogPower(25)
    t = torch.arange(200.0) / power.length
    x = torch.sin(2 * torch.pi * cycles * t).view(1, 8, 25, 1)
    out = power(x)
    band = int(power.bands[cycles].argmax())
    assert out[0, -1, 0].argmax() == band
    # The Hann window has mean square 3/8: the sine of mean square 1/2 holds 3/16 of unit power
    # per sample, spread over both signs of frequency and the three bins of the window.
    bins = power.bands > 0
    total = ((2 * out[0, -1, 0]).exp() - 1e-4) * bins.sum(0)
    assert float(total.sum()) == pytest.approx(power.length * 3 / 32, rel=0.03)


def test_every_frequency_above_zero_lies_in_exactly_one_band() -> None:
    for size in (1, 4, 50):
        power = CausalLogPower(size)
        inside = (power.bands > 0).sum(-1)
        assert inside[0] == 0
        assert (inside[1:] == 1).all()
        torch.testing.assert_close(power.bands.sum(0), torch.ones(power.n_bands))


def test_silence_has_the_floor_of_log_power() -> None:
    out = CausalLogPower(4)(torch.zeros(1, 3, 4, 1))
    torch.testing.assert_close(out, torch.full_like(out, 0.5 * math.log(1e-4)))


def test_frames_end_with_their_patch_and_begin_with_zeros() -> None:
    x = torch.arange(1.0, 7.0).view(1, 3, 2, 1)
    assert frames(x, 4)[0, :, 0].tolist() == [[0, 0, 1, 2], [1, 2, 3, 4], [3, 4, 5, 6]]
    assert frames(x, 1)[0, :, 0].tolist() == [[2], [4], [6]]


def test_a_patch_is_standardised_by_all_samples_up_to_its_end() -> None:
    x = torch.tensor([0.0, 2.0, 4.0, 6.0]).view(1, 4, 1)
    z, level = CausalNormalizer()(patch_signal(x, torch.ones_like(x, dtype=torch.bool), 2), None)
    std = math.sqrt(5)
    expected = torch.tensor([-1.0, 1.0, 1 / std, 3 / std])
    torch.testing.assert_close(z.flatten(), expected)
    amplitude = [math.tanh(0.0), math.tanh(math.log(std) / 4)]
    torch.testing.assert_close(level[0, :, 0, 0], torch.tensor(amplitude))
    torch.testing.assert_close(level[0, :, 0, 1], torch.tensor([1.0, 3.0]).tanh())


def test_calibrated_channels_keep_their_own_scale() -> None:
    norm = CausalNormalizer()
    norm.calibrate("lfp", torch.tensor([1.0, 3.0]).view(1, 2, 1), ["a"], None)
    x = torch.tensor([2.0, 4.0]).view(1, 2, 1)
    z, _ = norm(patch_signal(x, torch.ones_like(x, dtype=torch.bool), 2), ["a"])
    assert z.flatten().tolist() == [0.0, 2.0]
    norm.calibrate("lfp", torch.tensor([0.0, 8.0, 4.0, 0.0]).view(1, 2, 2), ["b", "a"], None)
    assert norm.table.ids == ("a", "b")
    assert norm.stored.tolist() == [[4.0, 4.0], [2.0, 2.0]]


def test_stabilised_counts_have_unit_variance() -> None:
    counts = torch.poisson(torch.full((200_000,), 20.0), generator=torch.Generator().manual_seed(0))
    # Anscombe: the variance is 1 + O(1 / m^2); its standard error here is sqrt(2 / n) = 0.003.
    assert float(_anscombe(counts).var()) == pytest.approx(1.0, abs=0.03)
    assert _anscombe(torch.zeros(1)).item() == 0.0


def test_a_partly_masked_patch_of_counts_is_read_at_its_rate() -> None:
    front = _SpikeFrontEnd(4, 8)
    with torch.no_grad():
        front.mix.weight[:, :4] = 0
    x = torch.tensor([2.0, 2.0, 0.0, 0.0]).view(1, 1, 4, 1)
    valid = torch.tensor([True, True, False, False]).view(1, 1, 4, 1)
    level = torch.zeros(1, 1, 1, 2)
    half = front(Standardised(x, valid, level))
    full = front(Standardised(torch.full_like(x, 2.0), torch.ones_like(valid), level))
    torch.testing.assert_close(half, full)


def test_zero_crossings_count_sign_changes_between_valid_neighbours() -> None:
    x = torch.tensor([1.0, -1.0, 2.0, 3.0, -4.0]).view(1, 1, 5, 1)
    valid = torch.ones_like(x)
    step, crossing = _changes(x, valid)
    assert crossing.flatten().tolist() == [1, 1, 0, 1]
    assert step.flatten().tolist() == [2, 3, 1, 7]
    valid[0, 0, 1] = 0
    assert _changes(x, valid)[1].flatten().tolist() == [0, 0, 0, 1]
