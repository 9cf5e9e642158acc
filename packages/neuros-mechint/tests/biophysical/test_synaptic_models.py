"""Synapses: kernels in closed form, sums over spikes, closed recursions of release."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from neuros_mechint.biophysical import ShortTermPlasticity, SynapticDynamics

KINDS = ("exponential", "alpha", "biexponential", "AMPA", "NMDA", "GABA_A", "GABA_B")
TIMES = torch.linspace(-5, 400, 4051, dtype=torch.float64)


def one_spike(n: int) -> torch.Tensor:
    return torch.zeros(n, dtype=torch.float64).index_fill(0, torch.tensor(0), 1.0)


def published(kind: str, t: float) -> float:
    """The kernel as the textbooks write it."""
    if t < 0:
        return 0.0
    if kind == "exponential":
        return math.exp(-t / 5)
    if kind == "alpha":
        return t / 5 * math.exp(1 - t / 5)
    rise, decay = {
        "biexponential": (1, 5), "AMPA": (0.5, 3), "NMDA": (4, 100), "GABA_A": (0.5, 8),
        "GABA_B": (30, 150),
    }[kind]  # fmt: skip

    def difference(t: float) -> float:
        return math.exp(-t / decay) - math.exp(-t / rise)

    peak = math.log(decay / rise) / (1 / rise - 1 / decay)
    return difference(t) / difference(peak)


@pytest.mark.parametrize("kind", KINDS)
def test_a_spike_gives_the_kernel_at_any_step(kind: str) -> None:
    synapse = SynapticDynamics(kind)
    for dt in (0.1, 1.0, 7.0):
        g = synapse(one_spike(300), dt)
        expected = torch.tensor([published(kind, k * dt) for k in range(300)], dtype=torch.float64)
        torch.testing.assert_close(g, expected, rtol=1e-12, atol=1e-13)
        at = torch.arange(300, dtype=torch.float64) * dt
        torch.testing.assert_close(synapse.kernel(at), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_the_peak_or_the_area_is_one(kind: str) -> None:
    fine = torch.arange(0, 4000, 0.02, dtype=torch.float64)
    assert float(SynapticDynamics(kind).kernel(fine).max()) == pytest.approx(1, abs=2e-5)
    area = torch.trapezoid(SynapticDynamics(kind, normalize="area").kernel(fine), dx=0.02)
    assert float(area) == pytest.approx(1, abs=1e-4)
    assert bool((SynapticDynamics(kind).kernel(TIMES)[TIMES < 0] == 0).all())


def test_a_rise_that_meets_the_decay_is_the_alpha_function() -> None:
    alpha = SynapticDynamics("alpha", tau=6.0).kernel(TIMES)
    for gap, far in ((0.0, 1e-14), (1e-12, 1e-12), (1e-9, 1e-9), (1e-7, 1e-7), (1e-6, 1e-6)):
        both = SynapticDynamics("biexponential", tau_rise=6.0 * (1 - gap), tau_decay=6.0)
        torch.testing.assert_close(both.kernel(TIMES), alpha, rtol=0, atol=far)
        at = torch.arange(200, dtype=torch.float64) / 2
        torch.testing.assert_close(both(one_spike(200), 0.5), both.kernel(at), rtol=0, atol=1e-13)
    # On both sides of the switch to the series.
    near = [
        SynapticDynamics("biexponential", tau_rise=6.0 / (1 + x), tau_decay=6.0).kernel(TIMES)
        for x in (0.999e-3, 1.001e-3)
    ]
    torch.testing.assert_close(*near, rtol=0, atol=1e-6)


def test_many_spikes_add_up_over_a_long_run_without_drift() -> None:
    spikes = (torch.rand(100_000, 2, generator=torch.Generator().manual_seed(0)) < 0.02).double()
    synapse = SynapticDynamics("NMDA", g_max=torch.tensor([1.0, 2.0], dtype=torch.float64))
    g = synapse(spikes, 0.5)
    for unit in range(2):
        for t in (10, 31, 32, 5000, 99_999):
            times = (t - torch.nonzero(spikes[: t + 1, unit]).squeeze(1)).double() / 2
            expected = (unit + 1) * synapse.kernel(times).sum()
            torch.testing.assert_close(g[t, unit], expected, rtol=1e-12, atol=0)


@given(n=st.integers(1, 200), at=st.integers(0, 199), seed=st.integers(0, 1000))
@settings(max_examples=30, derandomize=True, deadline=None)
def test_later_spikes_change_no_bit_of_earlier_conductance(n: int, at: int, seed: int) -> None:
    at = at % n
    spikes = torch.rand(2, n, 3, generator=torch.Generator().manual_seed(seed))
    changed = spikes.clone()
    changed[:, at:] += 1
    synapse = SynapticDynamics("GABA_A")
    assert torch.equal(synapse(spikes)[:, :at], synapse(changed)[:, :at])


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_the_whole_run(kind: str) -> None:
    spikes = torch.rand(150, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    synapse = SynapticDynamics(kind)
    state, steps = synapse.init_state(spikes[0]), []
    for row in spikes.unbind(0):
        g, state = synapse.step(row, state, 0.5)
        steps.append(g)
    torch.testing.assert_close(torch.stack(steps), synapse(spikes, 0.5), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("normalize", ["peak", "area"])
@pytest.mark.parametrize("pair", [(1.0, 5.0), (3.0, 3.0), (2.9995, 3.0)])
def test_time_constants_have_their_gradient(pair: tuple[float, float], normalize: str) -> None:
    spikes = torch.rand(70, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights = torch.rand(70, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def total(rise: torch.Tensor, decay: torch.Tensor, spikes: torch.Tensor) -> torch.Tensor:
        synapse = SynapticDynamics(
            "biexponential", tau_rise=rise, tau_decay=decay, normalize=normalize
        )
        return (synapse(spikes) * weights).sum()

    rise, decay = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in pair)
    if pair[0] == pair[1]:
        # Rise may not exceed decay: the difference quotient is one-sided.
        value = total(rise, decay, spikes)
        (slope,) = torch.autograd.grad(value, decay)
        ahead = total(rise.detach(), decay.detach() + 1e-6, spikes)
        assert float(slope) == pytest.approx(float((ahead - value).detach()) / 1e-6, rel=1e-4)
    else:
        inputs = (rise, decay, spikes.requires_grad_())
        assert torch.autograd.gradcheck(total, inputs, eps=1e-6, atol=1e-6, rtol=1e-5)


def test_currents_drive_to_the_reversal_potential_and_magnesium_blocks() -> None:
    g, v = torch.tensor(2.0), torch.tensor([-70.0, 0.0, 40.0])
    assert SynapticDynamics("GABA_A").current(g, v).tolist() == [0.0, -140.0, -220.0]
    blocked = [-2 * x / (1 + math.exp(-0.062 * x) / 3.57) for x in v.tolist()]
    nmda = SynapticDynamics("NMDA").current(g, v)
    torch.testing.assert_close(nmda, torch.tensor(blocked))
    torch.testing.assert_close(SynapticDynamics("NMDA", mg=0.0).current(g, v), -2 * v)
    assert float(SynapticDynamics(E_rev=-20.0).current(g, v)[0]) == 100.0


def test_shapes_and_dtypes_are_those_of_the_spikes() -> None:
    spikes = torch.ones(2, 5, 3)
    synapse = SynapticDynamics(g_max=0.5, learnable=("tau", "g_max"))
    assert synapse(spikes).shape == (2, 5, 3)
    assert synapse(spikes[0, :, 0]).shape == (5,)
    assert synapse(spikes.half()).dtype == torch.float16
    assert sorted(dict(synapse.named_parameters())) == ["g_max", "tau"]
    assert repr(synapse) == "SynapticDynamics('exponential', tau=5, g_max=0.5, E_rev=0)"


def test_bad_synapses_are_named() -> None:
    with pytest.raises(ValueError, match="tau_rise must be at most tau_decay, got 6 and 5 ms"):
        SynapticDynamics("biexponential", tau_rise=6.0)
    with pytest.raises(ValueError, match="kind='AMPA' has no tau; it takes tau_rise and tau_decay"):
        SynapticDynamics("AMPA", tau=3.0)
    with pytest.raises(ValueError, match="tau must be positive, got 0"):
        SynapticDynamics(tau=0.0)
    with pytest.raises(ValueError, match=r"tau_rise must be a single number, got shape \(3,\)"):
        SynapticDynamics("AMPA", tau_rise=torch.full((3,), 0.5))
    with pytest.raises(ValueError, match="g_max must be at least 0, got -1"):
        SynapticDynamics(g_max=-1.0)
    with pytest.raises(ValueError, match="learnable names 'tau_rise'; the numbers here are 'tau'"):
        SynapticDynamics(learnable=("tau_rise",))
    with pytest.raises(TypeError, match=r"spikes must be a floating tensor, got torch.bool"):
        SynapticDynamics()(torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="spikes holds NaN or inf"):
        SynapticDynamics()(torch.tensor([math.nan]))
    with pytest.raises(ValueError, match=r"spikes must be \(\.\.\., time >= 1, n\) or"):
        SynapticDynamics()(torch.ones(2, 0, 3))
    with pytest.raises(ValueError, match="dt must be positive and finite, in ms, got 0"):
        SynapticDynamics()(torch.ones(3), 0.0)
    with pytest.raises(TypeError, match="t must be a floating tensor"):
        SynapticDynamics().kernel(torch.arange(3))


@pytest.mark.parametrize("n_steps", [1, 4, 20])
@pytest.mark.parametrize("preset", ["depressing", "facilitating"])
def test_regular_spikes_follow_the_closed_recursions_at_any_step(preset: str, n_steps: int) -> None:
    synapse = getattr(ShortTermPlasticity, preset)()
    U, rec, facil = (float(getattr(synapse, k)) for k in ("U", "tau_rec", "tau_facil"))
    gap = 40.0
    spikes = torch.zeros(30 * n_steps, dtype=torch.float64)
    spikes[::n_steps] = 1
    found = synapse(spikes, gap / n_steps)
    u, x = U, 1.0
    for k in range(30):
        at = k * n_steps
        assert float(found.u[at]) == pytest.approx(u, abs=1e-12)
        assert float(found.x[at]) == pytest.approx(x, abs=1e-12)
        assert float(found.release[at]) == pytest.approx(u * x, abs=1e-12)
        x = 1 - (1 - x * (1 - u)) * math.exp(-gap / rec)
        u = U + u * (1 - U) * (math.exp(-gap / facil) if facil else 0)
    assert float(found.release.sum()) == pytest.approx(float(found.release[::n_steps].sum()))


def test_a_long_train_reaches_the_fixed_point() -> None:
    synapse = ShortTermPlasticity.facilitating()
    found = synapse(torch.ones(5000, dtype=torch.float64), 20.0)
    keeps, stays = math.exp(-20 / 530), math.exp(-20 / 130)
    u = 0.15 / (1 - 0.85 * keeps)
    x = (1 - stays) / (1 - stays * (1 - u))
    assert float(found.u[-1]) == pytest.approx(u, abs=1e-12)
    assert float(found.x[-1]) == pytest.approx(x, abs=1e-12)


def test_release_does_not_drift_over_a_long_run() -> None:
    generator = torch.Generator().manual_seed(6)
    spikes = (torch.rand(100_000, generator=generator) < 0.02).double()
    found = ShortTermPlasticity.facilitating()(spikes, 0.5).release
    keeps, stays = math.exp(-0.5 / 530), math.exp(-0.5 / 130)
    u, x, expected = 0.0, 1.0, []
    for spike in spikes.tolist():
        u, x = u * keeps, 1 - (1 - x) * stays
        u += 0.15 * (1 - u) * spike
        expected.append(u * x * spike)
        x -= expected[-1]
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
    )


def test_between_spikes_both_go_back_to_rest() -> None:
    spikes = one_spike(200)
    found = ShortTermPlasticity.facilitating()(spikes, 10.0)
    t = 10.0 * torch.arange(1, 200, dtype=torch.float64)
    torch.testing.assert_close(found.u[1:], 0.15 * (-t / 530).exp(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.x[1:], 1 - 0.15 * (-t / 130).exp(), rtol=0, atol=1e-12)


def test_every_unit_has_numbers_of_its_own_and_gradients() -> None:
    spikes = (torch.rand(2, 60, 3, generator=torch.Generator().manual_seed(5)) < 0.3).double()
    numbers = {
        "U": torch.tensor([0.2, 0.5, 1.0]), "tau_rec": torch.tensor([100.0, 300.0, 800.0]),
        "tau_facil": torch.tensor([0.0, 50.0, 500.0]),
    }  # fmt: skip
    numbers = {name: x.double() for name, x in numbers.items()}
    together = ShortTermPlasticity(**numbers)(spikes, 5.0)
    for n in range(3):
        alone = ShortTermPlasticity(**{name: float(x[n]) for name, x in numbers.items()})
        release = alone(spikes[..., [n]], 5.0).release
        torch.testing.assert_close(together.release[..., [n]], release)
    start = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.4, 200.0, 80.0)]

    def release(U, tau_rec, tau_facil):
        return ShortTermPlasticity(U, tau_rec, tau_facil)(spikes[0], 5.0).release

    assert torch.autograd.gradcheck(release, start, eps=1e-6, atol=1e-6)
    learned = ShortTermPlasticity(learnable=("U",))
    learned(spikes[0]).release.sum().backward()
    assert float(learned.U.grad) > 0


def test_bad_release_is_named() -> None:
    with pytest.raises(ValueError, match=r"spikes must be 0 or 1, got 0\.5"):
        ShortTermPlasticity()(torch.tensor([0.0, 0.5]))
    with pytest.raises(ValueError, match=r"U must be at most 1, got 1\.5"):
        ShortTermPlasticity(1.5)
    with pytest.raises(ValueError, match="U must be positive, got 0"):
        ShortTermPlasticity(0.0)
    with pytest.raises(ValueError, match="tau_facil must be at least 0, got -1"):
        ShortTermPlasticity(tau_facil=-1.0)
    assert (
        repr(ShortTermPlasticity()) == "ShortTermPlasticity(U=0.5, tau_rec=800, tau_facil=0, A=1)"
    )
