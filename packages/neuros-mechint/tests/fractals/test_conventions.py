"""What every estimator promises about its input and output."""

import ast
import subprocess
import sys
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint import fractals
from neuros_mechint.fractals import HiguchiFractalDimension, SpectralSlope

ESTIMATORS = [
    HiguchiFractalDimension(),
    HiguchiFractalDimension(k_max=5, weights="inverse_k"),
    SpectralSlope(),
    SpectralSlope(method="auto", fit="ols", detrend="linear"),
    SpectralSlope(method="periodogram", fit="robust"),
    SpectralSlope(method="hann", exclude=((0.1, 0.12),)),
    SpectralSlope(method="welch", nperseg=64),
    SpectralSlope(knee=True),
]
estimators = pytest.mark.parametrize("estimator", ESTIMATORS, ids=repr)
Estimator = HiguchiFractalDimension | SpectralSlope


def walks(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).cumsum(-1)


def test_all_public_names_are_sorted_and_exist() -> None:
    assert sorted(fractals.__all__) == fractals.__all__
    assert all(hasattr(fractals, name) for name in fractals.__all__)


@pytest.mark.slow  # a new interpreter imports torch
def test_importing_the_package_loads_no_heavy_library() -> None:
    code = (
        "import sys, neuros_mechint.fractals\n"
        "heavy = {'scipy', 'networkx', 'matplotlib', 'sklearn', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@estimators
def test_the_time_axis_is_removed(estimator: Estimator) -> None:
    x = walks(2, 3, 300)
    assert estimator.compute(x).shape == (2, 3)
    assert estimator.compute(x[0, 0]).shape == ()
    assert estimator.compute(x[:0]).shape == (0, 3)


@estimators
def test_any_axis_can_be_time(estimator: Estimator) -> None:
    x = walks(2, 3, 300)
    expected = estimator.compute(x)
    torch.testing.assert_close(estimator.compute(x.mT, dim=1), expected)
    torch.testing.assert_close(estimator.compute(x.movedim(-1, 0), dim=0), expected)


@estimators
def test_a_batch_equals_its_items(estimator: Estimator) -> None:
    x = walks(7, 300)
    batch = estimator.compute(x)
    for i in range(len(x)):
        torch.testing.assert_close(batch[i], estimator.compute(x[i]), rtol=0, atol=1e-10)
    single = estimator.compute(x.float())
    for i in range(len(x)):
        torch.testing.assert_close(single[i], estimator.compute(x[i].float()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("layout", ["rows", "channels last", "few long slabs"])
def test_blocks_of_a_large_batch_do_not_change_the_result(layout: str) -> None:
    x = walks(6, 200, 400)
    if layout == "channels last":
        x = x.mT.contiguous().mT
    if layout == "few long slabs":
        x = x.reshape(2, 600, 400).mT.contiguous().mT
    for estimator in (HiguchiFractalDimension(), SpectralSlope()):
        whole = estimator.compute(x)
        parts = torch.stack([estimator.compute(part.contiguous()) for part in x])
        torch.testing.assert_close(whole, parts, rtol=0, atol=1e-10)


@estimators
def test_numpy_in_is_numpy_out(estimator: Estimator) -> None:
    x = walks(2, 300)
    result = estimator.compute(x.numpy())
    assert isinstance(result, np.ndarray)
    np.testing.assert_array_equal(result, estimator.compute(x).numpy())


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x[:, ::-1][:, ::-1],
        lambda x: x.astype(">f8"),
        np.asfortranarray,
        lambda x: x.astype(np.longdouble),
    ],
    ids=["negative strides", "big endian", "column order", "long double"],
)
def test_every_memory_layout_is_read(change: Callable[[np.ndarray], np.ndarray]) -> None:
    x = walks(2, 300).numpy()
    np.testing.assert_allclose(
        HiguchiFractalDimension().compute(change(x)), HiguchiFractalDimension().compute(x)
    )


def test_read_only_memory_is_not_written_and_gives_no_warning() -> None:
    x = walks(2, 300).numpy()
    x.setflags(write=False)
    assert np.isfinite(SpectralSlope().compute(x)).all()


@estimators
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(estimator: Estimator, dtype: torch.dtype) -> None:
    x = walks(2, 300).to(dtype)
    result = estimator.compute(x)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, estimator.compute(x.float()))


def test_autocast_does_not_lower_the_precision() -> None:
    x = walks(4, 300).float()
    for estimator in (HiguchiFractalDimension(), SpectralSlope()):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = estimator.compute(x)
        torch.testing.assert_close(inside, estimator.compute(x))


def test_integers_take_the_default_dtype() -> None:
    x = (10 * walks(2, 300)).round().to(torch.int64)
    result = HiguchiFractalDimension().compute(x)
    assert result.dtype == torch.get_default_dtype()
    torch.testing.assert_close(result, HiguchiFractalDimension().compute(x.float()))


@estimators
@settings(max_examples=10, derandomize=True, deadline=None)
@given(
    exponent=st.floats(-12, 12),
    offset=st.floats(-1e3, 1e3),
    seed=st.integers(0, 2**31),
)
def test_unit_and_offset_do_not_matter(
    estimator: Estimator, exponent: float, offset: float, seed: int
) -> None:
    x = walks(2, 300, seed=seed)
    scale = 10.0**exponent
    moved = scale * (x + offset * x.std(-1, keepdim=True))
    torch.testing.assert_close(estimator.compute(moved), estimator.compute(x), rtol=1e-6, atol=1e-6)


@estimators
@pytest.mark.parametrize("constant", [0.0, 0.1, -1e12])
def test_a_constant_item_is_nan_with_one_warning_and_no_gradient(
    estimator: Estimator, constant: float
) -> None:
    x = walks(3, 300)
    x[1] = constant
    x.requires_grad_()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = estimator.compute(x)
    assert [w.category for w in caught] == [UserWarning]
    assert "1 of 3 items" in str(caught[0].message)
    assert result.isnan().tolist() == [False, True, False]
    others = estimator.compute(x.detach()[[0, 2]])
    torch.testing.assert_close(result.detach()[[0, 2]], others, rtol=0, atol=1e-10)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert gradient.isfinite().all()
    assert (gradient[1] == 0).all()
    assert (gradient[0] != 0).any()


@estimators
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_their_count(
    estimator: Estimator, bad: float
) -> None:
    x = walks(5, 300)
    x[1, 7] = x[3, 0] = x[3, 1] = bad
    with pytest.raises(ValueError, match=r"finite, got NaN or infinity in 2 of 5 items"):
        estimator.compute(x)


def test_finite_values_whose_sum_overflows_are_accepted() -> None:
    x = torch.tensor([1e38, -1e38]).repeat(1, 50) * torch.rand(
        100, generator=torch.Generator().manual_seed(0)
    )
    x = torch.cat([x, x.abs()])
    slope = SpectralSlope().compute(x)
    torch.testing.assert_close(slope, SpectralSlope().compute(x / 1e38), rtol=1e-3, atol=1e-3)


@estimators
def test_a_list_is_refused(estimator: Estimator) -> None:
    # The second message is that of the shape checker, which sees the argument first when it is on.
    with pytest.raises(TypeError, match=r"or a numpy.ndarray, got list|Type-check error"):
        estimator.compute([1.0, 2.0])


def test_complex_and_text_are_refused() -> None:
    with pytest.raises(TypeError, match=r"must be real, got torch.complex64"):
        HiguchiFractalDimension().compute(torch.zeros(50, dtype=torch.complex64))
    with pytest.raises(TypeError, match="real numbers, got an array of dtype <U1"):
        HiguchiFractalDimension().compute(np.array(["a"]))


def test_a_missing_axis_is_refused() -> None:
    with pytest.raises(ValueError, match=r"time axis dim = 2, got an array of shape \(5, 50\)"):
        HiguchiFractalDimension().compute(walks(5, 50), dim=2)


@estimators
def test_the_gradient_passes_gradcheck(estimator: Estimator) -> None:
    x = walks(2, 128, seed=3).requires_grad_()
    # Fast mode compares one random projection of the Jacobian: 200 times fewer evaluations.
    assert torch.autograd.gradcheck(estimator.compute, (x,), fast_mode=True)


@estimators
def test_repr_rebuilds_the_estimator(estimator: Estimator) -> None:
    options = repr(estimator).removeprefix(type(estimator).__name__)
    arguments = ast.parse(f"f{options}", mode="eval").body
    assert isinstance(arguments, ast.Call)
    values = {word.arg: ast.literal_eval(word.value) for word in arguments.keywords}
    assert repr(type(estimator)(**values)) == repr(estimator)


@pytest.mark.parametrize(
    "call", ["HiguchiFractalDimension().compute", "SpectralSlope().compute", "SpectralSlope().fit"]
)
def test_a_warning_points_at_the_line_of_the_caller(call: str) -> None:
    # In a process of its own: the checks of shapes in this one put frames between the two.
    name = call.split("(", maxsplit=1)[0]
    code = f"""
import warnings, torch
from neuros_mechint.fractals import {name}
with warnings.catch_warnings(record=True) as caught:
    {call}(torch.ones(2, 512))
print([(w.filename, w.lineno) for w in caught])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[('<string>', 5)]"
