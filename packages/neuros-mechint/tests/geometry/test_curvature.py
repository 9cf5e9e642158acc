import math

import pytest
import torch
from torch import Tensor

from neuros_mechint.geometry import (
    GeodesicDistance,
    ManifoldCurvature,
    Straightness,
    TangentSubspace,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def circle(n: int, radius: float = 1.0) -> Tensor:
    t = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    return radius * torch.stack([t.cos(), t.sin()], 1)


@pytest.mark.parametrize("radius", [0.5, 3.0])
def test_a_sphere_bends_by_one_over_its_squared_radius(radius: float) -> None:
    x = draw(2, 1500, 3)
    x = radius * x / x.norm(dim=-1, keepdim=True) @ torch.linalg.qr(draw(6, 3)).Q.T
    found = ManifoldCurvature().compute(x)
    assert found.mean.shape == (2, 1500)
    assert float(found.gaussian.median()) == pytest.approx(1 / radius**2, rel=0.1)
    assert float(found.mean.median()) == pytest.approx(1 / radius, rel=0.1)
    assert set(found.to_dict()) == {"mean", "gaussian"}


def test_a_cylinder_is_flat_inside_and_bent_outside() -> None:
    t = 2 * math.pi * torch.rand(2000, generator=torch.Generator().manual_seed(0)).double()
    x = torch.stack([t.cos(), t.sin(), draw(2000)], 1)
    found = ManifoldCurvature().compute(x)
    assert abs(float(found.gaussian.median())) < 0.03
    assert float(found.mean.median()) == pytest.approx(0.5, rel=0.1)


def test_a_curve_has_no_gaussian_curvature() -> None:
    found = ManifoldCurvature(dimension=1, k=10).compute(circle(300, 2.0))
    assert float(found.mean.median()) == pytest.approx(0.5, rel=0.02)
    assert bool((found.gaussian == 0).all())


def test_a_circle_bends_by_one_over_its_radius() -> None:
    x = circle(200, 2.0).expand(3, 200, 2)
    found = ManifoldCurvature().trajectory(x, dt=0.1)
    torch.testing.assert_close(
        found.curvature, torch.full((3, 198), 0.5).double(), rtol=1e-6, atol=0
    )
    # A chord of 2 pi / 200 radians is short by a part in 24000.
    want = 2 * 2 * math.pi / 200 / 0.1
    assert float(found.speed.mean()) == pytest.approx(want, rel=1e-4)
    assert float(ManifoldCurvature().trajectory(x[:, :1].repeat(1, 5, 1)).curvature.max()) == 0
    assert set(found.to_dict()) == {"speed", "curvature"}


def test_a_line_is_straight_and_a_circle_turns_evenly() -> None:
    line = torch.arange(10.0)[:, None] * torch.tensor([1.0, 2.0])
    found = Straightness().compute(line)
    assert float(found.angle) == pytest.approx(0, abs=1e-6)
    assert float(found.ratio) == pytest.approx(1)
    around = Straightness().compute(circle(100))
    assert float(around.angle) == pytest.approx(2 * math.pi / 100)
    resting = torch.cat([circle(100)[:50], circle(100)[49:]])
    assert float(Straightness().compute(resting).angle) == pytest.approx(
        2 * math.pi / 100, rel=0.03
    )
    assert set(found.to_dict()) == {"angle", "ratio"}


def test_paths_follow_a_circle() -> None:
    n = 200
    found = GeodesicDistance(k=4).compute(circle(n).expand(2, n, 2))
    steps = torch.arange(n)
    arc = torch.minimum(steps, n - steps) * (2 * math.pi / n)
    assert found.shape == (2, n, n)
    # Two links of a path may skip a point; a chord over two points is short by 2e-4.
    torch.testing.assert_close(found[1, 0], arc.double(), rtol=0.02, atol=0)


def test_a_graph_in_parts_names_the_k_that_connects_it() -> None:
    x = torch.cat([draw(20, 2), draw(20, 2, seed=1) + 100])
    with pytest.raises(ValueError, match=r"falls into 2 parts; the smallest k .* is 20"):
        GeodesicDistance(k=5).compute(x)
    assert bool(GeodesicDistance(k=20).compute(x).isfinite().all())
    joined = GeodesicDistance(k=5, connect=True).compute(x)
    assert bool(joined.isfinite().all())
    assert float(joined[0, 30]) > 100
    twice = GeodesicDistance(k=1, connect=True).compute(torch.tensor([[0.0], [0.0], [1.0]]))
    assert float(twice[0, 1]) == pytest.approx(0, abs=1e-30)


def test_tangents_of_a_plane_are_the_plane() -> None:
    frame = torch.linalg.qr(draw(5, 2)).Q
    x = draw(3, 60, 2) @ frame.T
    model = TangentSubspace(2, k=8)
    bases = model.compute(x)
    assert bases.shape == (3, 60, 5, 2)
    assert float(model.angles(bases, frame).max()) < 1e-7
    assert TangentSubspace(2).compute(x).shape == (3, 5, 2)


def test_angles_are_those_that_were_made() -> None:
    eye = torch.eye(6, dtype=torch.float64)
    made = torch.tensor([1e-9, 0.3, 1.5], dtype=torch.float64)
    other = eye[:, :3] * made.cos() + eye[:, 3:] * made.sin()
    model = TangentSubspace(3)
    torch.testing.assert_close(model.angles(eye[:, :3], other), made, rtol=1e-6, atol=1e-15)
    torch.testing.assert_close(model.angles(other, eye[:, :2]), model.angles(eye[:, :2], other))


def test_wrong_input_is_refused_in_words() -> None:
    x = draw(20, 3)
    with pytest.raises(ValueError, match="dimension must be at least 1, got 0"):
        ManifoldCurvature(dimension=0)
    with pytest.raises(ValueError, match="k must be at least 6, the coefficients"):
        ManifoldCurvature(k=5)
    with pytest.raises(ValueError, match="samples >= 31, features >= 3"):
        ManifoldCurvature().compute(x)
    with pytest.raises(ValueError, match="dt must be positive, got 0"):
        ManifoldCurvature().trajectory(x, dt=0)
    with pytest.raises(ValueError, match="a trajectory that never moves"):
        Straightness().compute(torch.zeros(5, 2))
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        GeodesicDistance(k=0)
    with pytest.raises(ValueError, match="dimension must be at least 1, got 0"):
        TangentSubspace(0)
    with pytest.raises(ValueError, match="k must be at least dimension = 3, got 2"):
        TangentSubspace(3, k=2)
    eye = torch.eye(3)
    with pytest.raises(ValueError, match="must have the same features, got 3 and 2"):
        TangentSubspace(1).angles(eye, eye[:2, :2])
    with pytest.raises(ValueError, match="second must have orthonormal columns"):
        TangentSubspace(1).angles(eye, 2 * eye)
    models = (ManifoldCurvature(), Straightness(), GeodesicDistance(), TangentSubspace(2))
    assert [repr(m) for m in models] == [
        "ManifoldCurvature(dimension=2, k=30)",
        "Straightness()",
        "GeodesicDistance(k=10, connect=False)",
        "TangentSubspace(2, k=None)",
    ]
