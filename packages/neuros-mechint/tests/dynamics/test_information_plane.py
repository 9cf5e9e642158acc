import math

import pytest
import torch

from neuros_mechint.dynamics.information_plane import InformationPlane

pytestmark = pytest.mark.filterwarnings("ignore:the information between a deterministic layer")


def data() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] > 0).long()


@pytest.mark.parametrize("estimator", ["gcmi", "ksg"])
def test_noise_sets_the_information_about_the_input(estimator: str) -> None:
    x, _ = data()
    model = InformationPlane(estimator=estimator, noise_std=0.5)
    found = model.compute({"same": x, "none": 0 * x}, x, x[:, 0])
    # A Gaussian channel of signal to noise 4: ln(5) / 2.
    assert float(found.input_information[0]) == pytest.approx(0.5 * math.log(5), abs=0.08)
    assert abs(float(found.input_information[1])) < 0.08
    torch.testing.assert_close(found.label_information[0], found.input_information[0])


@pytest.mark.parametrize("estimator", ["gcmi", "ksg"])
def test_classes_far_apart_are_known(estimator: str) -> None:
    x, y = data()
    model = InformationPlane(estimator=estimator, noise_std=0.3)
    found = model.compute({"sign": (10.0 * y).unsqueeze(1), "noise": 0 * x}, x, y)
    # Ranks mix the classes' spacing, so the copula understates; it still ranks the layers.
    assert float(found.label_information[0]) > 0.4
    assert abs(float(found.label_information[1])) < 0.05
    if estimator == "ksg":
        assert float(found.label_information[0]) == pytest.approx(math.log(2), abs=0.02)


def test_bins_count_symbols() -> None:
    x = torch.arange(64.0).unsqueeze(1)
    y = (x[:, 0] >= 32).long()
    found = InformationPlane(estimator="binned", n_bins=4).compute({"a": x, "flat": 0 * x}, x, y)
    torch.testing.assert_close(
        found.input_information,
        torch.tensor([math.log(4), 0.0], dtype=torch.float64),
        atol=1e-9,
        rtol=0,
    )
    assert float(found.label_information[0]) == pytest.approx(math.log(2))
    report = found.to_dict()
    assert report["names"] == ["a", "flat"]
    assert report["n_bins"] == 4


@pytest.mark.filterwarnings("default:the information between a deterministic layer")
def test_every_call_says_whose_number_it_is() -> None:
    x, y = data()
    with pytest.warns(UserWarning, match=r"infinite or that of the data set.*noise_std=0\.1"):
        InformationPlane(noise_std=0.1).compute({"a": x}, x, y)


def test_wrong_input_is_refused_in_words() -> None:
    x, y = data()
    with pytest.raises(ValueError, match="estimator 'gcmi' needs noise_std and nothing else"):
        InformationPlane()
    with pytest.raises(ValueError, match="estimator 'binned' needs n_bins"):
        InformationPlane(estimator="binned", noise_std=1.0)
    with pytest.raises(ValueError, match="n_bins >= 2 or noise_std > 0 is needed"):
        InformationPlane(estimator="binned", n_bins=1)
    with pytest.raises((ValueError, TypeError), match=r"estimator must be one of|Type-check"):
        InformationPlane(estimator="kde")  # type: ignore[arg-type]
    model = InformationPlane(noise_std=0.1)
    with pytest.raises(ValueError, match="must have the same samples, got 2000, 2000 and 9"):
        model.compute({"a": x[:9]}, x, y)
    with pytest.raises(ValueError, match=r"x must be \(samples, features\)"):
        model.compute({"a": x}, x[None], y)
    rare = torch.zeros(2000, dtype=torch.long)
    rare[0] = 1
    with pytest.raises(ValueError, match="a class of 1 samples is too small for 1 features"):
        model.compute({"a": x}, x, rare)
    assert repr(model) == "InformationPlane(estimator='gcmi', noise_std=0.1, n_bins=None, k=3)"
