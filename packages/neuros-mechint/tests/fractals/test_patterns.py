"""Images of fractal sets against what is known of the sets."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint.fractals import BoxCountingDimension, FractalPatterns
from neuros_mechint.fractals._patterns_affine import attractor_frame, read_transforms

PATTERNS = FractalPatterns()
FERN = [
    [[0.0, 0.0, 0.0], [0.0, 0.16, 0.0]],
    [[0.85, 0.04, 0.0], [-0.04, 0.85, 1.6]],
    [[0.2, -0.26, 0.0], [0.23, 0.22, 1.6]],
    [[-0.15, 0.28, 0.0], [0.26, 0.24, 0.44]],
]
CARPET = [
    [[1 / 3, 0, i / 3], [0, 1 / 3, j / 3]] for i in range(3) for j in range(3) if (i, j) != (1, 1)
]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def naive_times(start, c, n, radius):
    """First iteration at which each pixel is outside, by the definition; n + 1 for never."""
    z, inside, times = start.astype(complex), np.ones(c.shape, bool), np.full(c.shape, n + 1)
    for k in range(n + 1):
        gone = inside & (np.abs(z) > radius)
        times[gone] = k
        inside &= ~gone
        z = np.where(inside, z * z + c, z)
    return times


def test_area_of_the_mandelbrot_set():
    inside = PATTERNS.generate_mandelbrot(1024) == 1
    area = inside.sum().item() * (3 / 1024) ** 2
    assert abs(area / 1.5066 - 1) < 0.02


@pytest.mark.parametrize("size", [101, 128])
@pytest.mark.parametrize("smooth", [False, True])
def test_the_mandelbrot_set_is_symmetric_about_the_real_axis(size, smooth):
    image = PATTERNS.generate_mandelbrot(size, smooth=smooth)
    assert torch.equal(image, image.flip(0))
    # Not only by construction: each half drawn alone is the mirror image of the other.
    above, below = (
        PATTERNS.generate_mandelbrot(size, 3.0, (-0.5, y), smooth=smooth) for y in (0.25, -0.25)
    )
    assert torch.equal(above, below.flip(0))


@pytest.mark.parametrize("max_iter", [1, 6, 37])
@pytest.mark.parametrize(
    ("zoom", "center"), [(1.0, (-0.5, 0.0)), (8.0, (-0.75, 0.1)), (0.2, (0.0, 0.0))]
)
def test_iterations_are_those_of_the_definition(zoom, center, max_iter):
    size = 60
    image = PATTERNS.generate_mandelbrot(
        size, zoom, center, max_iter, smooth=False, dtype=torch.float64
    )
    step = (np.arange(size) + 0.5 - size / 2) * 3 / zoom / size
    c = center[0] + step + 1j * (center[1] - step[:, None])
    expected = naive_times(np.zeros_like(c), c, max_iter, 2.0)
    # An escape at the very last iteration is held just below 1, which is left to the set.
    np.testing.assert_array_equal((image.numpy() * max_iter).round(), expected.clip(max=max_iter))
    np.testing.assert_array_equal(image.numpy() == 1, expected > max_iter)


def test_the_fraction_stays_near_the_whole_number():
    whole = PATTERNS.generate_mandelbrot(80, smooth=False, dtype=torch.float64) * 256
    smooth = PATTERNS.generate_mandelbrot(80, smooth=True, dtype=torch.float64) * 256
    # |z| at the escape lies between 2 and 6, and log2(log2 6) = 1.37; near the tip at -2 the next
    # squares grow by less than a square, which makes up for as much.
    assert (whole - smooth)[whole < 255].abs().max() < 1.5
    assert torch.equal(whole == 256, smooth == 256)


def test_the_smooth_image_has_no_bands():
    # Along a ray the count grows by steps that are small against the one iteration of a band.
    image = PATTERNS.generate_mandelbrot(400, 100.0, (0.4, 0.4), dtype=torch.float64) * 256
    assert image[200].max() - image[200].min() > 1
    assert image[200].diff().abs().max() < 0.01


def test_the_julia_set_of_zero_is_the_unit_disc():
    size = 301
    image = PATTERNS.generate_julia(size, 0j) == 1
    x = (torch.arange(size, dtype=torch.float64) + 0.5 - size / 2) * 4 / size
    assert torch.equal(image, x.square() + x.square()[:, None] <= 1)


@pytest.mark.parametrize("size", [100, 101])
@pytest.mark.parametrize("c", [-0.12 + 0.74j, 0.3 - 0.5j, -3.0 + 1j])
def test_a_julia_set_has_the_orbits_of_its_starts(c, size):
    image = PATTERNS.generate_julia(size, c, smooth=False, max_iter=40, dtype=torch.float64)
    assert torch.equal(image, image.flip(0, 1))
    step = (np.arange(size) + 0.5 - size / 2) * 4 / size
    z = step + 1j * -step[:, None]
    expected = naive_times(z, np.full(z.shape, c), 40, max(2, (1 + math.sqrt(1 + 4 * abs(c))) / 2))
    np.testing.assert_array_equal((image.numpy() * 40).round(), expected.clip(max=40))
    moved = PATTERNS.generate_julia(60, c, 2.0, (0.3, -0.2), smooth=False, dtype=torch.float64)
    turned = PATTERNS.generate_julia(60, c, 2.0, (-0.3, 0.2), smooth=False, dtype=torch.float64)
    assert torch.equal(moved, turned.flip(0, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_only_the_set_is_exactly_one(dtype):
    image = PATTERNS.generate_mandelbrot(64, max_iter=3, dtype=dtype)
    reference = PATTERNS.generate_mandelbrot(64, max_iter=3, dtype=torch.float64)
    assert image.dtype == dtype
    assert torch.equal(image == 1, reference == 1)
    assert bool(((image >= 0) & (image <= 1)).all())


def test_far_from_the_set_the_count_is_zero_and_not_lost():
    for zoom in (1e-2, 1e-20, 1e-200):
        image = PATTERNS.generate_mandelbrot(4, zoom, (0.1, 0.1))
        assert torch.equal(image, torch.zeros(4, 4))


@pytest.mark.parametrize("order", [1, 3, 5])
def test_the_carpet_has_eight_ninths_of_its_pixels_left_per_order(order):
    image = PATTERNS.generate_sierpinski(order=order, kind="carpet")
    assert image.shape == (3**order, 3**order)
    assert int(image.sum()) == 8**order
    assert torch.equal(image, PATTERNS.generate_sierpinski(3**order, kind="carpet"))


def test_the_triangle_is_pascals_modulo_two():
    image = PATTERNS.generate_sierpinski(order=6, dtype=torch.int64)
    pascal = [[math.comb(i, j) % 2 for j in range(64)] for i in range(64)]
    assert image.tolist() == pascal


@pytest.mark.parametrize(
    ("kind", "sizes", "expected"),
    [("triangle", None, math.log2(3)), ("carpet", [1, 3, 9, 27, 81], math.log(8, 3))],
)
def test_sierpinskis_sets_have_their_box_dimensions(kind, sizes, expected):
    image = PATTERNS.generate_sierpinski(order=8 if kind == "triangle" else 5, kind=kind)
    found = BoxCountingDimension(sizes=sizes).compute(image).dimension
    assert abs(found - expected) < 1e-9
    # At a size that no power meets, the grid of pixels costs some of it.
    odd = PATTERNS.generate_sierpinski(512, kind=kind)
    assert abs(BoxCountingDimension().compute(odd).dimension - expected) < 0.03


def test_a_size_between_two_powers_repeats_pixels_of_the_lower_order():
    image = PATTERNS.generate_sierpinski(6)
    rows = torch.tensor([0, 1, 1, 2, 3, 3])
    assert torch.equal(image, PATTERNS.generate_sierpinski(order=2)[rows][:, rows])


def test_the_chaos_game_draws_the_carpet():
    image = PATTERNS.generate_ifs(243, CARPET, 1_000_000, generator=seeded())
    carpet = PATTERNS.generate_sierpinski(order=5, kind="carpet")
    # Each of 8^5 pixels is missed with probability exp(-30).
    assert torch.equal((image > 0).float(), carpet)
    found = BoxCountingDimension(sizes=[1, 3, 9, 27, 81]).compute(image).dimension
    assert abs(found - math.log(8, 3)) < 1e-9
    counts = image[image > 0]
    share = counts / counts.sum() * 8**5
    assert abs(share.mean() - 1) < 1e-5
    # Poisson counts of mean 30.5 scatter by 0.18.
    assert abs(share.std() - 30.5**-0.5) < 0.01


def test_the_density_of_the_fern_is_stable():
    draws = [PATTERNS.generate_ifs(256, FERN, 300_000, generator=seeded(s)) for s in (0, 1)]
    first, second = (
        torch.nn.functional.avg_pool2d((x / x.sum())[None], 16)[0] * 256 for x in draws
    )
    # Total variation of 256 cells, of which a third are hit: about 0.008 by chance.
    assert (first - second).abs().sum() / 2 < 0.02
    dimensions = [BoxCountingDimension().compute(x).dimension for x in draws]
    assert abs(dimensions[0] - dimensions[1]) < 0.01


def test_the_fern_grows_upwards_within_its_frame():
    corner, width = attractor_frame(read_transforms(FERN))
    # Barnsley's frame: x from -2.182 to 2.6558, y from 0 to 9.9983.
    assert abs(width - 9.9983) < 1e-4
    assert abs(corner[1]) < 1e-6
    assert abs(float(corner[0]) + width / 2 - (2.6558 - 2.182) / 2) < 1e-3
    image = PATTERNS.generate_ifs(100, FERN, 100_000, generator=seeded())
    stem = image[-1].nonzero()[:, 0]
    assert len(stem) >= 1
    assert abs(float(stem.double().mean()) - (-float(corner[0]) / width * 100)) < 2


def test_points_follow_given_probabilities():
    halves = [[[0.5, 0, 0], [0, 0.5, 0]], [[0.5, 0, 1], [0, 0.5, 0]]]
    image = PATTERNS.generate_ifs(2, halves, 100_000, [0.75, 0.25], generator=seeded())
    # Both halves of a line in the row that holds it: a binomial share, 6 standard errors wide.
    left, right = image[image.sum(-1) > 0][0].tolist()
    assert left == 1
    assert abs(right - 1 / 3) < 6 * 4 / 9 / 0.75 * math.sqrt(0.75 * 0.25 / 100_000) * 2


def test_a_system_of_one_map_is_a_point():
    image = PATTERNS.generate_ifs(3, [[[0.5, 0, 1], [0, 0.5, 2]]], 10)
    assert image.tolist() == [[0, 0, 0], [0, 1, 0], [0, 0, 0]]
    flat = [[[0.5, 0, 0], [0, 0, 0]], [[0.5, 0, 1], [0, 0, 0]]]
    assert PATTERNS.generate_ifs(4, flat, 1000, generator=seeded()).sum(0).gt(0).all()


def test_equal_generators_give_equal_bits():
    first, again, other = (
        PATTERNS.generate_ifs(32, FERN, 5000, generator=seeded(s)) for s in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@settings(max_examples=15, derandomize=True, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.floats(-0.6, 0.6)] * 4, st.floats(-3, 3), st.floats(-3, 3)),
        min_size=1,
        max_size=4,
    )
)
def test_the_frame_holds_the_attractor_and_touches_it(numbers):
    maps = [[[0.7 * a, 0.7 * b, e], [0.7 * c, 0.7 * d, f]] for a, b, c, d, e, f in numbers]
    corner, width = attractor_frame(read_transforms(maps))
    rng = np.random.default_rng(0)
    systems = np.array(maps)
    points = np.zeros((4000, 2))
    for _ in range(100):
        drawn = systems[rng.integers(len(maps), size=len(points))]
        points = np.einsum("nij,nj->ni", drawn[..., :2], points) + drawn[..., 2]
    low, high = points.min(0), points.max(0)
    assert (low >= corner.numpy() - 1e-6 * (1 + width)).all()
    assert (high <= corner.numpy() + width + 1e-6 * (1 + width)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PATTERNS.generate_mandelbrot(1), "size must be at least 2 and max_iter"),
        (lambda: PATTERNS.generate_mandelbrot(8, max_iter=0), "max_iter at least 1, got 8 and 0"),
        (lambda: PATTERNS.generate_mandelbrot(8, 0.0), "zoom must be positive and center finite"),
        (lambda: PATTERNS.generate_julia(8, 0j, 1.0, (math.nan, 0.0)), "center finite"),
        (lambda: PATTERNS.generate_mandelbrot(512, 1e13), "zoom in less"),
        (lambda: PATTERNS.generate_julia(8, complex("nan")), "c must be finite"),
        (PATTERNS.generate_sierpinski, "give either size or order, got size = None"),
        (lambda: PATTERNS.generate_sierpinski(9, order=2), "give either size or order"),
        (lambda: PATTERNS.generate_sierpinski(order=0), "order must be at least 1, got 0"),
        (lambda: PATTERNS.generate_sierpinski(1), "size must be at least 2, got 1"),
        (lambda: PATTERNS.generate_ifs(1, FERN, 5), "size must be at least 2 and n_points"),
        (lambda: PATTERNS.generate_ifs(8, FERN, 0), "n_points at least 1, got 8 and 0"),
        (lambda: PATTERNS.generate_ifs(8, [[1, 2, 3]], 9), r"shape \(n, 2, 3\), got \(1, 3\)"),
        (
            lambda: PATTERNS.generate_ifs(8, [[[math.nan, 0, 0], [0, 0.5, 0]]], 9),
            "transforms must be finite",
        ),
        (
            lambda: PATTERNS.generate_ifs(8, [[[1.5, 0, 0], [0, 0.5, 0]]], 9),
            "must contract, got a map that stretches by 1.5",
        ),
        (lambda: PATTERNS.generate_ifs(8, FERN, 9, [0.5, 0.5]), "probabilities must be 4 numbers"),
        (
            lambda: PATTERNS.generate_ifs(8, torch.tensor(FERN), 9, torch.full((4,), 0.3)),
            "probabilities must sum to 1, got 1.2",
        ),
    ],
)
def test_unfit_settings_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_an_unknown_set_is_refused():
    # With shapes checked, the type of the argument is refused before our own message.
    with pytest.raises((ValueError, TypeError), match="kind"):
        PATTERNS.generate_sierpinski(8, kind="sponge")
