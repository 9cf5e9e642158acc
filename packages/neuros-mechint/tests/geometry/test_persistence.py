import math
import sys

import pytest
import torch
from torch import Tensor

from neuros_mechint.geometry import PersistenceResult, PersistentHomology
from neuros_mechint.geometry._persistence_extras import critical_lengths, landmarks


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def circle(n: int) -> Tensor:
    t = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    return torch.stack([t.cos(), t.sin()], 1)


def made() -> PersistenceResult:
    zero = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, math.inf]])
    return PersistenceResult((zero, torch.tensor([[1.0, 3.0]])), None, 0.0)


def test_a_diagram_is_summed_up() -> None:
    found = made()
    assert found.betti(0.5).tolist() == [3, 0]
    assert found.betti(2).tolist() == [1, 1]
    torch.testing.assert_close(found.entropy(), torch.tensor([math.log(2), 0.0]))
    tent = found.landscape(n_layers=2, n_points=5)
    assert tent.tolist() == [[0, 0.5, 1, 0.5, 0], [0, 0, 0, 0, 0]]
    image = found.persistence_image(n_pixels=60, sigma=0.1)
    # A lifetime of 2 spread over pixels of side 3 / 60.
    assert float(image.sum() * 0.05**2) == pytest.approx(2, rel=1e-3)
    assert divmod(int(image.argmax()), 60) in {(19, 39), (20, 39), (19, 40), (20, 40)}
    assert found.persistence_image(0).shape == (20, 20)
    empty = PersistenceResult((torch.empty(0, 2),), None, 0.0)
    assert float(empty.landscape(0).sum() + empty.persistence_image(0).sum()) == 0
    assert len(found) == 2
    assert found.to_dict()["diagrams"][0][2] == [0, None]


def test_landmarks_are_far_apart_and_cover() -> None:
    x = torch.arange(9.0).unsqueeze(1)
    chosen, radius = landmarks(torch.cdist(x, x), 3)
    assert chosen.tolist() == [4, 0, 8]
    assert radius == 2


def test_critical_lengths_are_edges_with_a_gradient() -> None:
    x = draw(8, 2).requires_grad_()
    gap = (x.unsqueeze(1) - x).square().sum(-1).add(torch.eye(8)).sqrt()
    want = gap[2, 5]
    found = critical_lengths(gap, want.detach().float().double().reshape(1))
    torch.testing.assert_close(found[0], want)
    assert torch.autograd.grad(found.sum(), x)[0].abs().sum(1).nonzero()[:, 0].tolist() == [2, 5]


# The first import of ripser takes two seconds.
@pytest.mark.slow
def test_a_circle_has_a_loop_and_a_sphere_a_void() -> None:
    pytest.importorskip("ripser")
    found = PersistentHomology().compute(circle(40))
    life = found[1].diff(dim=1)
    assert len(life) == 1
    assert float(life[0]) > 1
    ball = draw(120, 3)
    ball = ball / ball.norm(dim=1, keepdim=True)
    void = PersistentHomology(max_dim=2).compute(ball)[2].diff(dim=1)
    assert int((void > 0.5).sum()) == 1


def test_a_torus_has_two_loops() -> None:
    pytest.importorskip("ripser")
    t = circle(20)
    x = torch.cat([t.repeat_interleave(20, 0), t.repeat(20, 1)], 1)
    assert int((PersistentHomology().compute(x)[1].diff(dim=1) > 1).sum()) == 2


def test_clusters_are_components() -> None:
    pytest.importorskip("ripser")
    x = torch.cat([draw(30, 2, seed=k) * 0.1 + 10 * k for k in range(3)])
    gap = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    found = PersistentHomology(max_dim=0, metric="precomputed").compute(gap)
    assert found.betti(2.0).tolist() == [3]


def test_noise_is_not_significant_and_a_loop_is() -> None:
    pytest.importorskip("ripser")
    loop = PersistentHomology().significance(circle(200), n_bootstrap=50)
    assert int(loop.significant[1].sum()) == 1
    noise = PersistentHomology().significance(draw(150, 2), n_bootstrap=50)
    assert noise.to_dict()["n_significant"][1] == 0


def test_many_points_are_covered_by_landmarks_with_a_warning() -> None:
    pytest.importorskip("ripser")
    with pytest.warns(UserWarning, match="400 points are too many for max_dim=2; 300 landmarks"):
        found = PersistentHomology(max_dim=2, threshold=0.2).compute(circle(400))
    assert found.landmarks is not None
    assert len(found.landmarks) == 300
    assert 0 < found.covering_radius < 0.05


def test_total_persistence_has_the_gradient_of_finite_differences() -> None:
    pytest.importorskip("ripser")
    x = circle(12) * (1 + 0.05 * draw(12, 1))
    model = PersistentHomology()
    y = x.clone().requires_grad_()
    for dim in (0, 1):
        (slope,) = torch.autograd.grad(model.total_persistence(y, dim), y)
        step = 1e-4 * draw(12, 2, seed=1)
        rise = model.total_persistence(x + step, dim) - model.total_persistence(x - step, dim)
        assert float(rise / 2) == pytest.approx(float((slope * step).sum()), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("name", ["ripser", "persim"])
def test_a_missing_peer_names_the_extra(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    model = PersistentHomology()
    with pytest.raises(ImportError, match=rf"needs {name}: pip install neuros-mechint\[topology\]"):
        model.compute(circle(5)) if name == "ripser" else model.distance(made()[1], made()[1])


def test_wrong_input_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="max_dim must be 0, 1 or 2, got 3"):
        PersistentHomology(max_dim=3)
    with pytest.raises(ValueError, match="threshold must be positive or None, got 0"):
        PersistentHomology(threshold=0)
    with pytest.raises(ValueError, match="n_landmarks must be at least 3 or None, got 2"):
        PersistentHomology(n_landmarks=2)
    with pytest.raises(ValueError, match="coeff must be a prime, got 4"):
        PersistentHomology(coeff=4)
    with pytest.raises((ValueError, TypeError), match=r"metric must be one of|Type-check"):
        PersistentHomology(metric="cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="x must be one cloud"):
        PersistentHomology().compute(circle(5)[None])
    with pytest.raises(ValueError, match="must be a symmetric matrix of distances"):
        PersistentHomology(metric="precomputed").compute(circle(5))
    with pytest.raises(ValueError, match="dim must lie between 0 and max_dim = 1, got 2"):
        PersistentHomology().total_persistence(circle(5), 2)
    with pytest.raises(ValueError, match="n_bootstrap >= 1 and 0 < level < 1"):
        PersistentHomology().significance(circle(5), n_bootstrap=0)
    with pytest.raises((ValueError, TypeError), match=r"metric must be one of|Type-check"):
        PersistentHomology().distance(made()[1], made()[1], "l2")  # type: ignore[arg-type]
    assert repr(PersistentHomology()).startswith("PersistentHomology(max_dim=1, threshold=None")
