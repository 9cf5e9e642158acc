"""Wavelet scattering beside Scattering1D of kymatio."""

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import scipy.special
import torch

from neuros_neurofm.tokenizers.scale_encodings import WaveletScattering

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def kymatio() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        if not hasattr(scipy.special, "sph_harm"):
            # The peer imports a name that SciPy 1.17 took away, for its 3-D transform.
            def sph_harm(m: Any, n: Any, theta: Any, phi: Any) -> Any:
                return scipy.special.sph_harm_y(n, m, phi, theta)

            patch.setattr(scipy.special, "sph_harm", sph_harm, raising=False)
        yield pytest.importorskip("kymatio")


# (J, Q, T, length, order): powers of two and not, wide and narrow averages, the shortest length.
CASES = [
    (6, 8, None, 4096, 2),
    (4, 8, None, 1000, 2),
    (4, 8, None, 1040, 2),
    (1, 8, None, 40, 2),
    (3, 1, None, 64, 2),
    (5, 4, 8, 777, 2),
    (5, 4, 40, 777, 2),
    (7, 12, None, 5000, 1),
    (4, 8, None, 30001, 2),
    (1, 1, None, 33, 2),
    (2, 8, None, 5, 2),
    (4, 4, None, 17, 2),
    (4, 2, 1, 300, 2),
]


@pytest.mark.filterwarnings("ignore:Signal support is too small")
@pytest.mark.parametrize(("J", "Q", "T", "n", "order"), CASES)
def test_coefficients_equal_those_of_the_torch_front_end(
    kymatio: Any, J: int, Q: int, T: int | None, n: int, order: int
) -> None:
    peer = importlib.import_module("kymatio.torch").Scattering1D(
        J=J, shape=n, Q=Q, T=T, max_order=order
    )
    ours = WaveletScattering(J, Q=Q, T=T, order=order)
    x = torch.randn(3, n, generator=torch.Generator().manual_seed(n))
    expected, found = peer(x), ours(x)
    assert kymatio.__version__
    # Order 0 passes through 0: relative to the largest value of the coefficient.
    torch.testing.assert_close(
        found / expected.abs().amax(-1, keepdim=True),
        expected / expected.abs().amax(-1, keepdim=True),
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(found[:, 1:], expected[:, 1:], rtol=1e-4, atol=0.0)


@pytest.mark.filterwarnings("ignore:Signal support is too small")
# A wavelet of 64 samples on 64 samples gives 1e-5 of the signal: rounding in single precision.
@pytest.mark.parametrize(("J", "Q", "T", "n", "order"), [*CASES, (6, 8, None, 64, 2)])
def test_coefficients_in_double_precision_equal_those_of_the_numpy_front_end(
    kymatio: Any, J: int, Q: int, T: int | None, n: int, order: int
) -> None:
    peer = importlib.import_module("kymatio.numpy").Scattering1D(
        J=J, shape=n, Q=Q, T=T, max_order=order
    )
    ours = WaveletScattering(J, Q=Q, T=T, order=order)
    x = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    expected = torch.from_numpy(peer(x.numpy()))
    assert kymatio.__version__
    torch.testing.assert_close(ours(x), expected, rtol=1e-7, atol=1e-9)


def test_frequencies_are_those_of_the_peer(kymatio: Any) -> None:
    peer = importlib.import_module("kymatio.torch").Scattering1D(J=6, shape=512, Q=8)
    assert kymatio.__version__
    expected = torch.from_numpy(peer.meta()["xi"])
    torch.testing.assert_close(WaveletScattering(6).frequencies, expected, equal_nan=True)
