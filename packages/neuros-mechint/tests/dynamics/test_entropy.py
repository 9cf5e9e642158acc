import math

import pytest
import torch
from torch import Tensor

from neuros_mechint.dynamics.entropy import EntropyRate, GaussianEntropy, KLEntropy


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_a_gaussian_has_its_entropy(d: int) -> None:
    x = draw(10, 2000, d) * 2
    want = d * (0.5 * math.log(2 * math.pi * math.e) + math.log(2))
    for model in (GaussianEntropy(), KLEntropy()):
        assert float(model.compute(x).mean()) == pytest.approx(want, abs=0.05)
        torch.testing.assert_close(model.compute(x)[0], model.compute(x[0].numpy()))
        assert model.compute(x.half()[:1, :50]).dtype == torch.float32


def test_a_square_has_its_area() -> None:
    x = torch.rand(4000, 2, generator=torch.Generator().manual_seed(0)) * 3
    assert float(KLEntropy().compute(x)) == pytest.approx(math.log(9), abs=0.1)


def test_an_autoregression_has_the_entropy_of_its_noise() -> None:
    noise = draw(20000)
    x = noise.clone()
    for t in range(1, len(x)):
        x[t] += 0.9 * x[t - 1]
    # The sd of the log variance of 20000 samples is 0.01, half of it 0.005.
    want = 0.5 * math.log(2 * math.pi * math.e)
    assert float(EntropyRate(order=2).compute(x)) == pytest.approx(want, abs=0.03)


def test_symbols_have_the_rate_of_their_chain() -> None:
    coin = torch.randint(0, 2, (2, 20000), generator=torch.Generator().manual_seed(0))
    found = EntropyRate(method="discrete", order=2).compute(coin)
    torch.testing.assert_close(found, torch.full((2,), math.log(2)), atol=0.01, rtol=0)
    same = EntropyRate(method="discrete", order=2).compute(coin[0])
    assert float(same) == pytest.approx(float(found[0]))


def test_wrong_input_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        KLEntropy(k=0)
    with pytest.raises(ValueError, match="x needs more than k = 3 samples, got 3"):
        KLEntropy().compute(draw(3, 1))
    with pytest.raises(ValueError, match="occurs more than k = 3 times"):
        KLEntropy().compute(torch.ones(10, 1))
    with pytest.raises(ValueError, match="x needs more samples than its 5 features, got 4"):
        GaussianEntropy().compute(draw(4, 5))
    with pytest.raises(ValueError, match="order must be at least 1, got 0"):
        EntropyRate(order=0)
    with pytest.raises((ValueError, TypeError), match=r"method must be one of|Type-check"):
        EntropyRate(method="zip")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"time >= 14"):
        EntropyRate().compute(draw(13))
    names = [repr(m) for m in (GaussianEntropy(), KLEntropy(), EntropyRate())]
    assert names == [
        "GaussianEntropy()",
        "KLEntropy(k=3)",
        "EntropyRate(method='gaussian', order=5)",
    ]
