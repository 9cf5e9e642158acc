"""Decompositions side by side: planted factors, and beside scikit-learn."""

import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from neuros_mechint.circuits import FactorDecomposition
from neuros_mechint.circuits.factors import _amari, _hoyer


def mixed(n_trials: int = 12) -> tuple[Tensor, Tensor]:
    """Sparse positive scores of three disjoint positive factors over nine channels."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.kron(torch.eye(3), torch.tensor([[0.2, 1.0, 0.5]]))
    active = torch.rand(n_trials, 60, 3, generator=generator) < 0.3
    scores = active * torch.rand(n_trials, 60, 3, generator=generator)
    noise = 0.01 * torch.rand(n_trials, 60, 9, generator=generator)
    return scores @ factors + noise, factors


def decomposed(methods: tuple[str, ...], activity: Tensor, n: int = 3, **settings: object):
    generator = torch.Generator().manual_seed(1)
    return FactorDecomposition(n, methods=methods, generator=generator, **settings).fit(activity)


def test_principal_axes_are_those_of_scikit_learn() -> None:
    activity = torch.randn(8, 40, 6, generator=torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)
    row = FactorDecomposition(3, methods=("pca",), generator=generator).fit(activity)["pca"]
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    samples = activity[order[2:]].flatten(0, 1)
    peer = PCA(3).fit(samples.numpy())
    signs = (row.factors.numpy() * peer.components_).sum(1, keepdims=True)
    torch.testing.assert_close(
        row.factors, torch.as_tensor(signs.round() * peer.components_), atol=1e-6, rtol=0
    )
    assert row.r2_train == pytest.approx(peer.explained_variance_ratio_.sum(), abs=1e-6)


@pytest.mark.slow  # three methods, each fitted eight times
def test_parts_are_found_by_nmf_and_ica_and_not_by_pca() -> None:
    activity, factors = mixed()
    found = decomposed(("pca", "ica", "nmf"), activity)
    truth = found.compare_to(factors)
    assert truth["nmf"].correlation > 0.99
    assert truth["ica"].correlation > 0.99
    assert truth["nmf"].amari < 0.05
    assert truth["pca"].amari > truth["nmf"].amari
    for row in found.rows:
        assert row.r2_train > 0.99
        assert row.r2_held_out > 0.98
        assert row.seconds > 0
    assert found["nmf"].stability > 0.99
    assert found["nmf"].split_half > 0.99
    assert found["nmf"].sparsity > found["pca"].sparsity
    assert found.to_dict()["ica"]["scores"].shape == (9, 60, 3)


@pytest.mark.slow  # DUNL is fitted four times
def test_a_kernel_in_time_is_found_by_dunl() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = torch.nn.functional.normalize(torch.exp(-torch.arange(8.0) / 2), dim=0)
    codes = torch.zeros(16, 60, 2)
    for trial in range(16):
        codes[trial, torch.randperm(6, generator=generator)[:2] * 9, trial % 2] = 1.0
    signal = torch.nn.functional.conv1d(
        torch.nn.functional.pad(codes.mT.flatten(0, 1)[:, None], (7, 0)), kernel.flip(0)[None, None]
    )
    activity = signal.reshape(16, 2, 60).mT
    activity = activity + 0.02 * torch.randn(activity.shape, generator=generator)
    found = decomposed(("dunl",), activity, n=1, kernel_length=8, n_bootstrap=1)
    assert found.compare_to(kernel[None])["dunl"].correlation > 0.99
    assert found["dunl"].r2_held_out > 0.8
    assert found["dunl"].stability > 0.99


def test_amari_and_hoyer_at_their_ends() -> None:
    axes = torch.eye(3)
    assert _amari(axes[[2, 0, 1]] * torch.tensor([[2.0], [-1.0], [3.0]]), axes) == pytest.approx(
        0.0
    )
    assert _amari(torch.ones(3, 3), axes) == pytest.approx(1.0)
    assert _amari(axes[:1], axes[:1]) == 0.0
    assert _hoyer(torch.ones(2, 8, 1)) == pytest.approx(0.0)
    one = torch.zeros(2, 8, 1)
    one[0, 3] = 5.0
    assert _hoyer(one) == pytest.approx(1.0)
    assert _hoyer(torch.zeros(2, 8, 1)) == 1.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_factors": 0}, "n_factors must be at least 1"),
        ({"n_bootstrap": 0}, "n_bootstrap must be at least 1"),
        ({"methods": ()}, "methods must name at least one of pca, ica, nmf, dunl"),
        ({"methods": ("svd",)}, "methods must be one of 'pca'"),
        ({"held_out": 1.0}, "held_out must be between 0 and 1"),
    ],
)
def test_wrong_settings_are_refused_in_words(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FactorDecomposition(**{"n_factors": 2, **settings})


def test_wrong_activity_is_refused_in_words() -> None:
    pca = FactorDecomposition(2, methods=("pca",))
    with pytest.raises(ValueError, match=r"activity must be \(trials, time, channels\)"):
        pca.fit(torch.zeros(1, 5, 5, 5))
    with pytest.raises(ValueError, match="at least 4 trials beside the 1 held out, got 4"):
        pca.fit(torch.zeros(4, 5, 5))
    with pytest.raises(ValueError, match="n_factors must be at most the 1 channels"):
        pca.fit(torch.zeros(8, 5, 1))
    with pytest.raises(ValueError, match="nmf takes activity of at least 0, got -1"):
        FactorDecomposition(2, methods=("nmf",)).fit(-torch.ones(8, 5, 3))
    with pytest.raises(ValueError, match="time >= 16"):
        FactorDecomposition(2, methods=("dunl",)).fit(torch.zeros(8, 5, 3))
    found = pca.fit(mixed()[0])
    with pytest.raises(ValueError, match="truth must have the shape of some method's factors"):
        found.compare_to(torch.ones(2, 4))
    with pytest.raises(KeyError, match="'ica' is not among pca"):
        found["ica"]
