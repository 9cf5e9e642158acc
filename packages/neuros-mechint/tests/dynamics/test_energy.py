import numpy as np
import pytest
import torch

from neuros_mechint.dynamics._energy_ising import all_states, ising_energy
from neuros_mechint.dynamics.energy import DensityLandscape, EnergyLandscape, IsingLandscape


def double_well(n: int, barrier: float, seed: int = 0) -> torch.Tensor:
    """Independent states of the potential barrier (x^2 - 1)^2, by inverting its distribution."""
    grid = np.linspace(-3, 3, 20001)
    mass = np.cumsum(np.exp(-barrier * (grid**2 - 1) ** 2))
    u = np.random.default_rng(seed).random(n)
    return torch.as_tensor(np.interp(u, mass / mass[-1], grid))


def drawn(fields: np.ndarray, couplings: np.ndarray, n: int) -> torch.Tensor:
    states = all_states(len(fields))
    weight = np.exp(-ising_energy(states, fields, couplings))
    rng = np.random.default_rng(1)
    return torch.as_tensor(states[rng.choice(len(states), n, p=weight / weight.sum())])


def wiring(n: int, scale: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    j = np.triu(rng.normal(0, scale, (n, n)), 1)
    return rng.normal(0, 0.3, n), j + j.T


# A density on a plane needs a long walk between the wells.
@pytest.mark.slow
@pytest.mark.parametrize("n_components", [1, 2])
def test_a_double_well_has_its_minima_and_barrier(n_components: int) -> None:
    x = double_well(40000, 3.0)
    noise = torch.randn(40000, generator=torch.Generator().manual_seed(0)).double() * 0.4
    found = EnergyLandscape(n_components=n_components).compute(torch.stack([x, noise], 1))
    assert isinstance(found, DensityLandscape)
    assert len(found.minima) == 2
    assert sorted(found.minima[:, 0].tolist()) == pytest.approx([-1, 1], abs=0.1)
    assert float(found.barriers[0, 1]) == pytest.approx(3.0, rel=0.15)
    assert float(found.barriers[1, 0]) == pytest.approx(3.0, rel=0.15)
    assert len(found.tree) == 1
    side = found.minima[found.basins, 0].sign()
    assert float((side == x.sign()).double().mean()) > 0.99
    assert set(found.to_dict()) == {"minima", "minima_energy", "barriers", "tree"}


def test_one_well_has_no_barrier() -> None:
    x = torch.randn(3000, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 1, 1])
    found = EnergyLandscape().compute(x + 5)
    assert isinstance(found, DensityLandscape)
    assert len(found.minima) == 1
    assert found.tree == ()
    assert float((found.minima[0] - 5).norm()) < 1


@pytest.mark.slow  # fifty thousand states of eight units, as the definition of the bound says
def test_couplings_are_recovered() -> None:
    fields, couplings = wiring(8, 0.4)
    found = EnergyLandscape(method="ising").compute(drawn(fields, couplings, 50000))
    assert isinstance(found, IsingLandscape)
    pairs = np.triu_indices(8, 1)
    assert np.corrcoef(found.couplings.numpy()[pairs], couplings[pairs])[0, 1] >= 0.98
    assert np.abs(found.fields.numpy() - fields).max() < 0.1


def test_two_patterns_stored_in_a_network_are_its_minima() -> None:
    couplings = 0.6 * (np.ones((5, 5)) - np.eye(5))
    x = (drawn(np.zeros(5), couplings / 2, 4000) + 1) // 2
    found = EnergyLandscape(method="ising").compute(x)
    assert isinstance(found, IsingLandscape)
    assert sorted(found.minima.sum(1).tolist()) == [-5, 5]
    assert found.tree is not None
    assert len(found.tree) == 1
    assert found.tree[0].energy > float(found.minima_energy.max())
    major = (2 * x - 1).sum(1).sign()
    assert torch.equal(found.minima[found.basins].sum(1).sign(), major)
    assert len(found.to_dict()["tree"]) == 1


def test_many_units_are_fitted_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(3000, 1, generator=generator)
    x = common + torch.randn(3000, 17, generator=generator) > 0
    found = EnergyLandscape(method="ising").compute(x)
    assert isinstance(found, IsingLandscape)
    assert found.tree is None
    assert found.to_dict()["tree"] is None
    assert torch.equal(found.couplings, found.couplings.T)
    assert bool((found.minima_energy.diff() >= 0).all())
    # Every minimum is below all that differ in one unit.
    s = found.minima.double()
    assert bool((s * (found.fields + s @ found.couplings) >= 0).all())


def test_wrong_input_is_refused_in_words() -> None:
    x = torch.randn(50, 2)
    with pytest.raises((ValueError, TypeError), match=r"method must be one of|Type-check"):
        EnergyLandscape(method="potts")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="n_components must be 1 or 2, got 3"):
        EnergyLandscape(n_components=3)
    with pytest.raises(ValueError, match="n_grid must be at least 10, got 2"):
        EnergyLandscape(n_grid=2)
    with pytest.raises(ValueError, match="must not be negative"):
        EnergyLandscape(ridge=-1)
    with pytest.raises(ValueError, match=r"x must be \(samples, features\)"):
        EnergyLandscape().compute(x[None])
    with pytest.raises(ValueError, match="x has 1 features for n_components=2"):
        EnergyLandscape(n_components=2).compute(x[:, :1])
    with pytest.raises(ValueError, match="varies along fewer than n_components=1"):
        EnergyLandscape().compute(torch.ones(20, 2))
    with pytest.raises(ValueError, match="x must hold -1 and 1, or 0 and 1"):
        EnergyLandscape(method="ising").compute(x)
    with pytest.raises(ValueError, match=r"x has units \[0, 1\] that never change"):
        EnergyLandscape(method="ising").compute(torch.ones(20, 2))
    assert repr(EnergyLandscape()).startswith("EnergyLandscape(method='density', n_components=1")
