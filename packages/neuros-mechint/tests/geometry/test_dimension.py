import pytest
import torch
from torch import Tensor

from neuros_mechint.geometry import IntrinsicDimension, ParticipationRatio


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def sphere(d: int, n: int = 1000, batch: int = 8) -> Tensor:
    """Points of the d-sphere, turned into 20 dimensions."""
    x = draw(batch, n, d + 1, seed=d)
    return x / x.norm(dim=-1, keepdim=True) @ torch.linalg.qr(draw(20, d + 1)).Q.T


def test_equal_directions_are_counted() -> None:
    q = torch.linalg.qr(draw(50, 4) - draw(50, 4).mean(0)).Q
    for x in (q, q @ draw(4, 4).svd().U @ torch.eye(4, 80).double()):
        assert float(ParticipationRatio().compute(x)) == pytest.approx(4)
    torch.testing.assert_close(
        ParticipationRatio().compute(1e-30 * q[None] + 1e-28), torch.full((1,), 4.0).double()
    )


def test_few_samples_count_no_less_when_corrected() -> None:
    x = draw(400, 15, 10)
    assert float(ParticipationRatio().compute(x).mean()) < 7
    model = ParticipationRatio(unbiased=True)
    # Median of 400 draws: the ratio of unbiased parts is unbiased only in the limit.
    assert float(model.compute(draw(400, 60, 10)).median()) == pytest.approx(10, abs=0.3)
    assert float(model.compute(x).median()) == pytest.approx(10, abs=1.5)


@pytest.mark.parametrize("estimator", ["ml", "fit"])
@pytest.mark.parametrize(("d", "low", "high"), [(2, 1.85, 2.15), (5, 4.6, 5.4), (9, 7.65, 9.45)])
def test_spheres_have_their_dimension(estimator: str, d: int, low: float, high: float) -> None:
    found = IntrinsicDimension(estimator=estimator).compute(sphere(d))
    assert low < float(found.mean()) < high


@pytest.mark.parametrize("method", ["twonn", "mle", "correlation"])
def test_a_swiss_roll_is_a_surface(method: str) -> None:
    u = torch.rand(8, 1000, 2, generator=torch.Generator().manual_seed(0)).double()
    t = 1.5 * torch.pi * (1 + 2 * u[..., 0])
    roll = torch.stack([t * t.cos(), 21 * u[..., 1], t * t.sin()], -1)
    found = IntrinsicDimension(method=method, k=10).compute(roll).mean()
    assert float(found) == pytest.approx(2, abs=0.15)


def test_a_plane_spans_two_directions() -> None:
    x = draw(300, 2) @ draw(2, 10, seed=1)
    model = IntrinsicDimension(method="pca")
    assert float(model.compute(x)) == 2
    assert bool((model.local(x) == 2).all())
    circle = torch.linspace(0, 6, 500).double()
    curve = torch.stack([circle.cos(), circle.sin()], 1)
    assert float(model.compute(curve)) == 2
    assert bool((model.local(curve) == 1).all())


def test_local_values_average_to_the_dimension() -> None:
    x = sphere(3, batch=2)
    for method in ("twonn", "mle"):
        local = IntrinsicDimension(method=method).local(x)
        assert local.shape == (2, 1000)
        assert float(local.mean()) == pytest.approx(3, abs=0.3)
    # A harmonic mean of local values with k - 2 is what is computed, times (k - 1) / (k - 2).
    local = IntrinsicDimension(method="mle").local(x)
    whole = IntrinsicDimension(method="mle").compute(x)
    torch.testing.assert_close(whole, 19 / 18 / (1 / local).mean(-1))


def test_a_batch_equals_its_items_and_scale_changes_nothing() -> None:
    x = draw(3, 80, 4)
    for method in ("twonn", "mle", "correlation", "pca"):
        model = IntrinsicDimension(method=method)
        loop = torch.stack([model.compute(item.numpy()) for item in x])
        torch.testing.assert_close(model.compute(x), loop)
        torch.testing.assert_close(model.compute(x * 7 + 100), loop)
    assert IntrinsicDimension().compute(x.half()).dtype == torch.float32


def test_noise_adds_dimensions_at_small_scales_only() -> None:
    t = 20 * torch.rand(2048, 1, generator=torch.Generator().manual_seed(0)).double()
    x = torch.cat([t, torch.zeros(2048, 2)], 1) + 0.02 * draw(2048, 3)
    found = IntrinsicDimension().curve(x, n_sizes=6)
    assert float(found.dimension[0]) > 1.6
    assert float(found.dimension[-1]) < 1.45
    assert bool((found.scale.diff() > 0).all())
    assert 1 < found.plateau < 3
    assert found.to_dict()["n_points"] == [2048, 1024, 512, 256, 128, 64]
    assert float(IntrinsicDimension().scale(x, 64)) == pytest.approx(
        float(found.dimension[-1]), abs=0.2
    )
    one = IntrinsicDimension().curve(x, n_sizes=1)
    assert one.plateau == float(one.dimension[0])


def test_duplicates_are_left_out_with_a_warning() -> None:
    x = draw(100, 2)
    with pytest.warns(UserWarning, match="3 duplicate points were left out"):
        found = IntrinsicDimension().compute(torch.cat([x, x[:3]]))
    torch.testing.assert_close(found, IntrinsicDimension().compute(x))


def test_wrong_input_is_refused_in_words() -> None:
    x = draw(30, 3)
    with pytest.raises((ValueError, TypeError), match=r"method must be one of|Type-check"):
        IntrinsicDimension(method="box")  # type: ignore[arg-type]
    with pytest.raises((ValueError, TypeError), match=r"estimator must be one of|Type-check"):
        IntrinsicDimension(estimator="map")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="k must be at least 3, got 2"):
        IntrinsicDimension(k=2)
    with pytest.raises(ValueError, match=r"discard must lie in \[0, 1\), got 1"):
        IntrinsicDimension(discard=1)
    with pytest.raises(ValueError, match="at least 31 distinct points, got 30"):
        IntrinsicDimension(method="mle", k=30).compute(x)
    with pytest.raises(ValueError, match="at least 3 distinct points, got 1"):
        IntrinsicDimension().compute(torch.ones(10, 2))
    with pytest.raises(ValueError, match="has no local form"):
        IntrinsicDimension(method="correlation").local(x)
    with pytest.raises(ValueError, match="points that coincide"):
        IntrinsicDimension().local(torch.cat([x, x]))
    with pytest.raises(ValueError, match="samples >= 80, features"):
        IntrinsicDimension().curve(x)
    with pytest.raises(ValueError, match="n_points must lie between 5 and the samples of x"):
        IntrinsicDimension().scale(x, 31)
    with pytest.raises(ValueError, match="points that are all equal"):
        ParticipationRatio().compute(torch.zeros(4, 2))
    assert repr(ParticipationRatio()) == "ParticipationRatio(unbiased=False)"
    assert repr(IntrinsicDimension()) == (
        "IntrinsicDimension(method='twonn', k=20, discard=0.1, estimator='ml')"
    )
