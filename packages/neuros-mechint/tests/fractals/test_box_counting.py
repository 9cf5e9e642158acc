"""Box counting on sets whose dimension is known."""

import math

import numpy as np
import pytest
import torch

from neuros_mechint.fractals import BoxCountingDimension


def carpet(order):
    """Sierpinski's carpet: eight of nine squares, again and again."""
    cell = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])
    image = np.ones((1, 1), dtype=int)
    for _ in range(order):
        image = np.kron(image, cell)
    return image


def test_the_carpet_has_its_dimension():
    found = BoxCountingDimension(sizes=[1, 3, 9, 27, 81]).compute(carpet(5))
    assert found.counts.tolist() == [8.0**k for k in (5, 4, 3, 2, 1)]
    assert abs(found.dimension - math.log(8) / math.log(3)) <= 0.01


def test_squares_lines_and_points_have_whole_dimensions():
    canvas = torch.zeros(4, 128, 128)
    canvas[0] = 1
    canvas[1, 77] = 1
    canvas[2, :, 31] = 1
    canvas[3, 5, 99] = 1
    found = BoxCountingDimension().compute(canvas).dimension
    assert (found - torch.tensor([2.0, 1.0, 1.0, 0.0])).abs().max() <= 0.02


def test_a_volume_and_a_row_are_counted_along_their_axes():
    volume = BoxCountingDimension(n_offsets=2).compute(torch.ones(16, 16, 16), ndim=3)
    assert volume.dimension == pytest.approx(3)
    assert BoxCountingDimension().compute(torch.ones(32), ndim=1).dimension == pytest.approx(1)
    cantor = torch.ones(1)
    for _ in range(5):
        cantor = torch.cat([cantor, torch.zeros_like(cantor), cantor])
    found = BoxCountingDimension(sizes=[1, 3, 9, 27, 81]).compute(cantor, ndim=1)
    assert found.dimension == pytest.approx(math.log(2) / math.log(3))


def test_the_best_offset_of_the_grid_counts():
    image = torch.zeros(1, 16, 16)
    image[0, 3:7, 2:6] = 1
    # A square of four fits one box of four, wherever it lies.
    counts = BoxCountingDimension(sizes=[2, 4]).compute(image).counts
    assert counts[0].tolist() == [4.0, 1.0]
    fixed = BoxCountingDimension(sizes=[2, 4], n_offsets=1).compute(image).counts
    assert fixed[0].tolist() == [6.0, 4.0]


def test_a_batch_is_its_items():
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) > 0.9
    whole = BoxCountingDimension().compute(images)
    assert whole.dimension.shape == (2, 3)
    one = BoxCountingDimension().compute(images[1, 2].numpy())
    assert np.array_equal(one.counts, whole.counts[1, 2])


def test_an_empty_image_has_no_dimension():
    images = torch.stack([torch.zeros(16, 16), torch.ones(16, 16)])
    with pytest.warns(UserWarning, match="1 of 2 items are empty; their value is nan"):
        found = BoxCountingDimension().compute(images).dimension
    assert found.isnan().tolist() == [True, False]


def test_clouds_of_points_have_the_dimension_of_what_they_fill():
    generator = torch.Generator().manual_seed(0)
    square = torch.rand(200_000, 2, generator=generator)
    assert abs(BoxCountingDimension().of_points(square).dimension - 2) <= 0.03
    angle = torch.rand(50_000, generator=generator) * 2 * math.pi
    circle = torch.stack([angle.cos(), angle.sin()], -1).numpy()
    assert abs(BoxCountingDimension().of_points(circle).dimension - 1) <= 0.05
    whole = BoxCountingDimension(sizes=[1, 2, 4]).of_points(torch.arange(16.0)[:, None])
    # Sixteen points span fifteen boxes: those on an edge belong to the box before it.
    assert whole.counts.tolist() == [15.0, 8.0, 4.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: BoxCountingDimension(n_offsets=0), "n_offsets must be at least 1"),
        (lambda: BoxCountingDimension(sizes=[2]), "at least 2 different numbers >= 1"),
        (lambda: BoxCountingDimension().compute(torch.ones(4)), "at least ndim axes"),
        (lambda: BoxCountingDimension().compute(torch.ones(5, 5)), "shortest side of 5"),
        (
            lambda: BoxCountingDimension(sizes=[1, 9]).compute(torch.ones(8, 8)),
            "shortest side of 8",
        ),
        (
            lambda: BoxCountingDimension().compute(torch.full((16, 16), math.nan)),
            "image must be finite",
        ),
        (lambda: BoxCountingDimension().of_points(torch.ones(3)), r"finite \(N, d\) array"),
        (lambda: BoxCountingDimension().of_points(torch.ones(3, 2)), "two different places"),
    ],
)
def test_unfit_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_lists_are_not_images():
    with pytest.raises(TypeError, match="image"):
        BoxCountingDimension().compute([[1, 0], [0, 1]])
    assert repr(BoxCountingDimension()) == "BoxCountingDimension(sizes=None, n_offsets=4)"
