import math

import pytest
import torch
from torch import Tensor

from neuros_neurofm.tokenizers import UnitEmbedding
from neuros_neurofm.tokenizers._id_table import IdTable
from neuros_neurofm.tokenizers._statistics import LAGS, cumulative_moments, unit_statistics


def patches(x: Tensor, size: int = 5) -> tuple[Tensor, Tensor]:
    x = x.unflatten(1, (-1, size))
    return x, torch.ones_like(x, dtype=torch.bool)


def noise(batch: int = 2, time: int = 40, channels: int = 3) -> Tensor:
    return torch.randn(batch, time, channels, generator=torch.Generator().manual_seed(0))


def test_moments_are_those_of_all_samples_so_far() -> None:
    x = noise().double() * 3 + 1e5
    moments = cumulative_moments(*patches(x))
    for s in range(8):
        seen = x[:, : 5 * (s + 1)]
        # An offset of 1e5 costs sums of squares ten digits; sums of differences keep them.
        torch.testing.assert_close(moments.mean[:, s], seen.mean(1), rtol=1e-12, atol=0)
        torch.testing.assert_close(
            moments.var[:, s], seen.var(1, correction=0), rtol=1e-9, atol=1e-12
        )
    assert moments.n[0, :, 0].tolist() == [5.0 * (s + 1) for s in range(8)]


def test_moments_in_float32_survive_a_large_offset() -> None:
    x = noise() + 1e4
    var = cumulative_moments(*patches(x)).var[:, -1]
    torch.testing.assert_close(var, x.var(1, correction=0), rtol=1e-3, atol=0)


def test_autocorrelation_of_an_autoregressive_series_is_a_power() -> None:
    generator = torch.Generator().manual_seed(0)
    phi, n = 0.9, 200_000
    shocks = torch.randn(n, generator=generator, dtype=torch.float64)
    impulse = phi ** torch.arange(200, dtype=torch.float64)
    x = torch.nn.functional.conv1d(shocks.view(1, 1, -1), impulse.flip(0).view(1, 1, -1))
    x = x.view(1, -1, 1)[:, : (n - 199) // 5 * 5]
    lags = unit_statistics(*patches(x))[0, -1, 0, 4:]
    # The standard error of a lag is at most sqrt(2 / (1 - phi^2) / n) = 0.01; 5 of them.
    expected = torch.tensor([phi**lag for lag in LAGS], dtype=torch.float64)
    torch.testing.assert_close(lags, expected, atol=0.05, rtol=0)


def test_fano_factor_of_poisson_counts_is_one() -> None:
    rates = torch.full((1, 50_000, 1), 3.0)
    x = torch.poisson(rates, generator=torch.Generator().manual_seed(0))
    # tanh(log(1) / 4) = 0; the standard error of a variance ratio is sqrt(2 / n) = 0.006.
    assert abs(float(unit_statistics(*patches(x))[0, -1, 0, 2])) < 0.01


def test_statistics_before_the_first_patch_know_nothing() -> None:
    statistics = unit_statistics(*patches(noise()))
    assert statistics.shape == (2, 9, 3, 4 + len(LAGS))
    assert (statistics[:, 0] == 0).all()


def test_statistics_stay_of_order_one_for_volts_and_for_constants() -> None:
    for x in (noise() * 1e-6, torch.full((1, 40, 2), 7.0), torch.zeros(1, 40, 2)):
        statistics = unit_statistics(*patches(x))
        assert torch.isfinite(statistics).all()
        assert statistics.abs().max() <= 1.0


def test_two_channels_with_the_same_data_get_the_same_inferred_vector() -> None:
    units = UnitEmbedding(8).eval()
    x = noise()[..., [0, 1, 0]]
    vectors = units(*patches(x), units=["a", "b", "c"])
    torch.testing.assert_close(vectors[:, :, 0], vectors[:, :, 2])
    assert not torch.allclose(vectors[:, -1, 0], vectors[:, -1, 1], atol=1e-4)


def test_known_ids_have_one_vector_and_unknown_ids_are_inferred() -> None:
    units = UnitEmbedding(8).eval()
    units.extend(["a", "b"], generator=torch.Generator().manual_seed(0))
    known = units(*patches(noise()[..., :2]), units=["b", "a"])
    assert known.shape == (1, 1, 2, 8)
    assert torch.equal(known[0, 0], units.subset(["b", "a"]))
    mixed = units(*patches(noise()), units=["new", "b", "a"])
    assert mixed.shape == (2, 9, 3, 8)
    assert torch.equal(mixed[1, 4, 1], units.subset(["b"])[0])
    assert torch.equal(mixed[:, :, 0], units(*patches(noise()))[:, :, 0])


def test_extending_with_a_recording_starts_from_the_inferred_vector() -> None:
    units, x = UnitEmbedding(8).eval(), noise()
    units.extend(["a", "b", "c"], x)
    inferred = units.inferred(x.unsqueeze(1), torch.ones(2, 1, 40, 3, dtype=torch.bool))
    torch.testing.assert_close(units.weight.data, inferred[:, -1].mean(0))


def test_extending_keeps_the_learned_vectors_and_whether_they_train() -> None:
    units = UnitEmbedding(8)
    units.extend(["a"], generator=torch.Generator().manual_seed(0))
    before = units.subset(["a"]).detach().clone()
    units.requires_grad_(requires_grad=False)
    units.extend(["b"], generator=torch.Generator().manual_seed(1))
    assert torch.equal(units.subset(["a"]), before)
    assert not units.weight.requires_grad
    assert units.ids == ("a", "b")
    assert "n_ids=2" in repr(units)


def test_noise_comes_from_the_generator() -> None:
    drawn = []
    for _ in range(2):
        units = UnitEmbedding(8)
        units.extend(["a"], generator=torch.Generator().manual_seed(3))
        drawn.append(units.weight.detach())
    assert torch.equal(*drawn)


def test_training_sometimes_treats_every_id_as_unknown() -> None:
    x = patches(noise()[..., :1])
    for probability, steps in ((0.0, 1), (1.0, 9)):
        units = UnitEmbedding(8, id_dropout=probability)
        units.extend(["a"])
        assert units.train()(*x, units=["a"]).shape[1] == steps
        assert units.eval()(*x, units=["a"]).shape[1] == 1


def test_coordinates_enter_the_inferred_vector() -> None:
    units, x = UnitEmbedding(8).eval(), patches(noise())
    here, there = torch.zeros(3, 3), torch.full((3, 3), 0.1)
    assert not torch.equal(units(*x, coords=here), units(*x, coords=there))
    assert not torch.equal(units(*x, coords=here), units(*x))


def test_a_state_dict_of_another_size_loads() -> None:
    source, target = UnitEmbedding(8), UnitEmbedding(8)
    source.extend(["a", "µ", "日本"])
    target.extend(["x"])
    target.load_state_dict(source.state_dict())
    assert target.ids == ("a", "µ", "日本")
    assert torch.equal(target.weight, source.weight)
    target.load_state_dict(UnitEmbedding(8).state_dict())
    assert target.ids == ()


def test_ids_are_checked() -> None:
    units = UnitEmbedding(8)
    units.extend(["a"])
    with pytest.raises(ValueError, match=r"ids must be new, but \['a'\]"):
        units.extend(["a", "b"])
    with pytest.raises(ValueError, match=r"units must be unique, but \['b'\] occur more than once"):
        units.extend(["b", "b"])
    with pytest.raises(TypeError, match="units must be a sequence of str"):
        units.extend("cd")
    with pytest.raises(ValueError, match="units must name the 3 channels of x, got 1"):
        units.extend(["c"], noise())
    with pytest.raises(KeyError, match=r"unknown units \['z'\]"):
        units.subset(["a", "z"])
    with pytest.raises(ValueError, match=r"id_dropout must be a probability in \[0, 1\], got 2"):
        UnitEmbedding(8, id_dropout=2.0)
    assert units.ids == ("a",)


def test_an_empty_table_knows_no_row() -> None:
    table = IdTable()
    assert (len(table), table.ids, table.rows(["a"])) == (0, (), [-1])
    assert math.isclose(float(table.get_extra_state().sum()), sum(b"[]"))
