"""Brains of neural masses: known answers, sweeps, gradients, embedded models."""

import math
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from neuros_mechint.multiscale import BalloonWindkessel, VirtualBrainInterface
from neuros_mechint.multiscale._brain_delays import DelayLine, connected
from neuros_mechint.multiscale._brain_outputs import changes
from neuros_mechint.multiscale._masses_jansen_rit import derivative

MODELS = ("jansen-rit", "wilson-cowan", "kuramoto", "montbrio", "hopf")
STRENGTH = {"jansen-rit": 20.0, "wilson-cowan": 1.0, "kuramoto": 0.05, "montbrio": 1.0, "hopf": 0.1}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def brain(model: str = "jansen-rit", n_regions: int = 5, **params: object) -> VirtualBrainInterface:
    made = VirtualBrainInterface("random", n_regions=n_regions, generator=seeded(), speed=10.0)
    made.create_neural_mass_model(model, **params)
    return made


def start(made: VirtualBrainInterface, *sets: int) -> Tensor:
    shape = (*sets, len(made.model["state_variables"]), len(made.connectivity.labels))
    return 0.1 * torch.rand(shape, generator=seeded(1), dtype=torch.float64)


def pair(model: str, **params: object) -> VirtualBrainInterface:
    made = VirtualBrainInterface((1 - torch.eye(2), torch.zeros(2, 2)))
    made.create_neural_mass_model(model, **params)
    return made


def reference(
    made: VirtualBrainInterface, state: Tensor, n_steps: int, dt: float, strength: float
) -> Tensor:
    """The same brain with a list for a past and a loop over edges."""
    e = made.model.equations
    p = {k: x.reshape(-1, 1) for k, x in made.model.parameters.items()}
    p = {**e.constants(p), "in_strength": made.connectivity.weights.sum(1)[:, None]}
    weights, n = made.connectivity.weights, state.shape[-1]
    delays = (made.connectivity.tract_lengths / made.speed / dt).round().long()
    x = state[..., None]
    sent, states = [e.source(x, p)], []
    for k in range(n_steps):
        sums = torch.zeros_like(sent[0])
        for i in range(n):
            for j in range(n):
                sums[:, i] += weights[i, j] * sent[max(k - int(delays[i, j]), 0)][:, j]
        c = strength * e.couple(x, sums, p)
        first = e.derivative(x, c, p)
        x = x + dt / 2 * (first + e.derivative(x + dt * first, c, p))
        sent.append(e.source(x, p))
        states.append(x[..., 0])
    return torch.stack(states, -1)


@pytest.mark.parametrize("model", MODELS)
def test_a_run_equals_a_loop_over_edges_with_a_list_for_a_past(model: str) -> None:
    made = brain(model)
    state = start(made)
    found = made.simulate(0.06, coupling_strength=STRENGTH[model], initial_state=state)
    expected = reference(made, state, 60, 1.0, STRENGTH[model])
    torch.testing.assert_close(found["state"], expected, rtol=1e-11, atol=1e-12)
    # Coupling is at work in the run that is compared.
    alone = made.simulate(0.06, coupling_strength=0.0, initial_state=state)["state"]
    assert float((alone - expected).abs().max()) > 1e-5


def test_shapes_and_times_are_those_promised() -> None:
    found = brain().simulate(0.05, 0.0005, record_every=3, initial_state=None)
    assert found["state"].shape == (6, 5, 33)
    assert found["lfp"].shape == (5, 33)
    torch.testing.assert_close(found["time"], torch.arange(1, 34) * 0.0015)
    assert found["bold"].shape == (5, 0)
    assert found["connectivity_dynamics"].shape == (0, 5, 5)
    assert found["fcd"].shape == (0, 0)
    torch.testing.assert_close(found["lfp"], found["state"][1] - found["state"][2])


@pytest.mark.parametrize(("model", "row"), [("wilson-cowan", 0), ("montbrio", 0), ("hopf", 0)])
def test_field_potential_is_the_first_state(model: str, row: int) -> None:
    found = brain(model).simulate(0.01)
    assert torch.equal(found["lfp"], found["state"][row])


def test_recording_and_transients_only_choose_samples() -> None:
    made = brain()
    state = start(made)
    every = made.simulate(0.06, initial_state=state)["state"]
    some = made.simulate(0.04, initial_state=state, transient=0.02, record_every=4)["state"]
    assert torch.equal(some, every[..., 20:][..., 3::4])


@pytest.mark.parametrize("gap", [0.5, 1.6])
def test_two_oscillators_lock_at_the_arcsine_of_their_detuning(gap: float) -> None:
    strength = 0.1
    made = pair("kuramoto", omega=torch.tensor([0.06, 0.06 + gap * strength]))
    theta = made.simulate(
        0.2, initial_state=torch.zeros(1, 2, dtype=torch.float64), coupling_strength=strength
    )["state"][0]
    found = float(theta[1, -1] - theta[0, -1])
    assert found == pytest.approx(math.asin(gap / 2), abs=1e-4)


def test_two_oscillators_drift_beyond_twice_their_coupling() -> None:
    # The difference turns once in 2 pi / sqrt(gap^2 - 4 K^2), within which it is not uniform.
    strength, gap = 0.04, 0.1
    made = pair("kuramoto", omega=torch.tensor([0.06, 0.06 + gap]))
    theta = made.simulate(
        0.7, initial_state=torch.zeros(1, 2, dtype=torch.float64), coupling_strength=strength
    )["state"][0]
    apart = (theta[1] - theta[0])[-1]
    rate = math.sqrt(gap**2 - 4 * strength**2)
    assert float(apart) == pytest.approx(700 * rate, abs=2 * math.pi)
    assert float(apart) < 700 * gap - 20


def test_without_coupling_regions_do_not_hear_each_other() -> None:
    made = brain()
    state = start(made)
    other = state.clone()
    other[:, 1:] += 1.0
    a, b = (
        made.simulate(0.1, coupling_strength=0.0, initial_state=x)["state"][:, 0]
        for x in (state, other)
    )
    assert torch.equal(a, b)
    heard = made.simulate(0.1, coupling_strength=20.0, initial_state=other)["state"][:, 0]
    assert not torch.equal(a, heard)


def test_a_change_arrives_after_the_delay_of_the_tract() -> None:
    weights = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    made = VirtualBrainInterface((weights, 45 * torch.ones(2, 2)), speed=3.0)
    made.create_neural_mass_model("wilson-cowan", P=torch.tensor([1.0, 0.0]))
    state = torch.zeros(2, 2, dtype=torch.float64)
    E = made.simulate(0.05, initial_state=state)["state"][0]
    # 15 ms of travel; the first step of the sender is seen in the receiver's 17th.
    assert torch.count_nonzero(E[1, :16]) == 0
    assert bool((E[1, 16:] > 0).all())


def test_an_infinite_speed_leaves_no_delay() -> None:
    weights, lengths = torch.ones(3, 3), 50 * torch.ones(3, 3)
    found = []
    for tracts, speed in ((lengths, math.inf), (torch.zeros(3, 3), 3.0)):
        made = VirtualBrainInterface((weights, tracts), speed=speed)
        found.append(made.simulate(0.05, coupling_strength=5.0)["state"])
    assert torch.equal(*found)


def test_hopf_settles_on_a_circle_of_radius_sqrt_a() -> None:
    made = pair("hopf", a=0.04)
    x, y = made.simulate(0.3, coupling_strength=0.0)["state"][:, 0]
    # (a dt)^2 = 1.6e-3 bounds what the step of 1 ms leaves, and e^-24 is left to go.
    assert float((x * x + y * y).sqrt()[-1]) == pytest.approx(0.2, rel=2e-3)


def test_a_rate_model_rests_where_its_derivative_is_zero() -> None:
    made = pair("montbrio", eta=-1.0, J=0.0)
    found = made.simulate(0.4, coupling_strength=0.0)["state"][..., -1].double()
    slope = made.model.dfun(found, torch.zeros(1, 2, dtype=torch.float64))
    assert float(slope.abs().max()) < 1e-6
    # Firing rate in closed form: tau pi r = sqrt((eta + sqrt(eta^2 + Delta^2)) / 2).
    expected = math.sqrt((-1 + math.sqrt(2)) / 2) / (10 * math.pi)
    torch.testing.assert_close(found[0], torch.full((2,), expected).double(), rtol=1e-4, atol=0)


def test_euler_is_of_first_order_and_heun_of_second() -> None:
    made = VirtualBrainInterface("random", n_regions=3, speed=math.inf)
    made.create_neural_mass_model("hopf")
    state = 0.1 * torch.ones(2, 3, dtype=torch.float64)

    def last(integrator: str, dt: float) -> Tensor:
        run = made.simulate(
            0.064, dt, integrator=integrator, initial_state=state, coupling_strength=0.0
        )
        return run["state"][..., -1]

    truth = last("heun", 0.0001)
    for integrator, order in (("euler", 1), ("heun", 2)):
        coarse, fine = ((last(integrator, dt) - truth).abs().max() for dt in (0.002, 0.001))
        assert float(torch.log2(coarse / fine)) == pytest.approx(order, abs=0.15)


def test_a_sweep_equals_its_single_runs() -> None:
    made = brain()
    state = start(made, 7)
    A = torch.linspace(3.0, 3.6, 7, dtype=torch.float64)
    mu = 0.2 + 0.05 * torch.rand(7, 5, generator=seeded(2), dtype=torch.float64)
    strength = torch.linspace(0, 30, 7, dtype=torch.float64)
    found = made.simulate(
        0.1, params={"A": A, "mu": mu}, coupling_strength=strength, initial_state=state
    )
    assert found["state"].shape == (7, 6, 5, 100)
    for k in range(7):
        single = made.simulate(
            0.1, params={"A": float(A[k]), "mu": mu[k : k + 1]},
            coupling_strength=float(strength[k]), initial_state=state[k],
        )  # fmt: skip
        torch.testing.assert_close(found["lfp"][k], single["lfp"][0], rtol=0, atol=1e-10)


def test_one_number_per_set_is_not_one_per_region() -> None:
    made = brain(A=torch.linspace(3, 4, 5, dtype=torch.float64))
    by_region = made.simulate(0.05)
    by_set = made.simulate(0.05, params={"A": torch.linspace(3, 4, 5)})
    assert by_region["lfp"].shape == (5, 50)
    assert by_set["lfp"].shape == (5, 5, 50)
    regional = made.simulate(0.05, params={"A": torch.linspace(3, 4, 5)[None]})
    torch.testing.assert_close(regional["lfp"][0], by_region["lfp"], rtol=1e-4, atol=1e-6)


def loss_of(found: dict[str, Tensor]) -> Tensor:
    return found["lfp"].square().mean() + found["lfp"][..., -1].sum()


@pytest.mark.parametrize(
    ("model", "name", "value"),
    [
        ("jansen-rit", "A", 3.25), ("jansen-rit", "midpoint", 6.0), ("wilson-cowan", "c_ee", 12.0),
        ("kuramoto", "omega", 0.06), ("montbrio", "eta", -4.0), ("hopf", "a", 0.02),
        ("jansen-rit", "coupling_strength", 20.0), ("hopf", "coupling_strength", 0.1),
        ("kuramoto", "coupling_strength", 0.02),
    ],
)  # fmt: skip
def test_gradient_equals_finite_differences(model: str, name: str, value: float) -> None:
    made = brain(model, n_regions=3)
    state = start(made)
    # Alpha has two periods in 0.2 s; one model and one number of it suffice for a long run.
    duration = 0.2 if name == "A" else 0.05

    def loss(x: Tensor) -> Tensor:
        strength = x if name == "coupling_strength" else STRENGTH[model]
        params = {} if name == "coupling_strength" else {name: x}
        return loss_of(made.simulate(
            duration, params=params, coupling_strength=strength, initial_state=state
        ))  # fmt: skip

    x = torch.tensor(value, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss(x), x)
    h = 1e-5 * abs(value)
    with torch.no_grad():
        difference = (loss(x + h) - loss(x - h)) / (2 * h)
    assert float(slope) == pytest.approx(float(difference), rel=1e-4)


@pytest.mark.parametrize("sets", [1, 3])
def test_gradient_of_the_column_is_that_of_its_formula(sets: int) -> None:
    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_()

    generator = seeded(7)
    x, c = drawn(6, 2, sets), drawn(1, 2, sets)
    names = ("slope", "shift", "gain", "entry", "mu", "damping", "stiffness")
    shapes = [(3, 2, 1), (1, sets), (3, 1, 1), (2, sets), (2, 1), (3, 1, 1), (3, 1, sets)]
    numbers = [drawn(*shape) for shape in shapes]
    picks = torch.tensor([[0.0, 1, -1], [1, 0, 0], [1, 0, 0]], dtype=torch.float64)

    def slope(x: Tensor, c: Tensor, *numbers: Tensor) -> Tensor:
        return derivative(x, c, {"arguments": picks, **dict(zip(names, numbers, strict=True))})

    assert torch.autograd.gradcheck(slope, (x, c, *numbers))
    # Numbers that are not trained get no gradient, and need none.
    found = slope(x, c, *(value.detach() for value in numbers))
    assert torch.equal(found, slope(x, c, *numbers))
    found.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("model", MODELS)
def test_gradient_of_the_first_state_counts_the_past_before_it(model: str) -> None:
    made = brain(model, n_regions=3)
    state = start(made).requires_grad_()

    def loss(x: Tensor) -> Tensor:
        return loss_of(made.simulate(
            0.02, initial_state=x, coupling_strength=STRENGTH[model], record_every=2
        ))  # fmt: skip

    assert torch.autograd.gradcheck(loss, (state,), fast_mode=True)


def test_gradient_by_set_and_region_and_of_noise() -> None:
    made = brain(n_regions=3)
    state = start(made, 2)
    A = torch.tensor([3.0, 3.5], dtype=torch.float64, requires_grad=True)
    mu = torch.full((2, 3), 0.2, dtype=torch.float64, requires_grad=True)
    deviation = torch.tensor(0.01, dtype=torch.float64, requires_grad=True)

    def loss(A: Tensor, mu: Tensor, deviation: Tensor) -> Tensor:
        return loss_of(made.simulate(
            0.02, params={"A": A, "mu": mu}, noise={"y4": deviation}, initial_state=state,
            generator=seeded(3), coupling_strength=20.0,
        ))  # fmt: skip

    assert torch.autograd.gradcheck(loss, (A, mu, deviation), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("every", [1, 7, 40, 1000])
def test_checkpoints_change_no_bit_of_the_gradient(every: int) -> None:
    made = brain()
    state = start(made, 2).requires_grad_()
    A = torch.tensor([3.0, 3.5], dtype=torch.float64, requires_grad=True)

    def slopes(checkpoint_every: int | None) -> tuple[Tensor, ...]:
        found = made.simulate(
            0.1, params={"A": A}, initial_state=state, noise=0.01, generator=seeded(4),
            coupling_strength=20.0, transient=0.02, checkpoint_every=checkpoint_every,
        )  # fmt: skip
        return torch.autograd.grad(loss_of(found), (A, state))

    for a, b in zip(slopes(None), slopes(every), strict=True):
        assert torch.equal(a, b)


def test_the_way_back_leaves_the_generator_where_it_was() -> None:
    made = brain()
    generator = seeded(5)
    A = torch.tensor(3.25, requires_grad=True)
    found = made.simulate(0.02, params={"A": A}, noise=0.1, generator=generator, checkpoint_every=5)
    before = generator.get_state()
    found["lfp"].sum().backward()
    assert torch.equal(before, generator.get_state())


def test_noise_is_repeatable_and_of_the_stated_size() -> None:
    made = VirtualBrainInterface("random", n_regions=400)
    made.create_neural_mass_model("kuramoto", omega=0.0)
    first = torch.zeros(1, 400)

    def theta(seed: int) -> Tensor:
        return made.simulate(
            0.1, noise=0.05, coupling_strength=0.0, generator=seeded(seed), initial_state=first
        )["state"][0]

    # Diffusion: after 100 ms a deviation of 0.05 sqrt(100). Over 400 regions its estimate has a
    # relative deviation of 1 / sqrt(800) = 0.035; six of them are passed once in 5e8.
    assert float(theta(0)[:, -1].std()) == pytest.approx(0.5, rel=6 * 0.035)
    assert torch.equal(theta(0), theta(0))
    assert not torch.equal(theta(0), theta(1))


def test_noise_by_name_acts_on_that_state_alone() -> None:
    made = brain("hopf")
    state = torch.zeros(2, 5)
    found = made.simulate(0.001, noise={"y": 0.1}, initial_state=state)["state"]
    assert torch.count_nonzero(found[1]) == 5
    # Heun adds the slope of x at the shaken y, halved: -omega * dt / 2 times it.
    omega = float(made.model.parameters["omega"])
    torch.testing.assert_close(found[0], -omega / 2 * found[1], rtol=0.1, atol=0)


class Mass(nn.Module):
    """The mass of a brain, dressed as a torch model."""

    def __init__(self, made: VirtualBrainInterface) -> None:
        super().__init__()
        self.mass = made.model

    def forward(self, state: Tensor, coupling: Tensor) -> Tensor:
        return self.mass.dfun(state.mT, coupling.mT).mT


@pytest.mark.parametrize("model", MODELS)
def test_a_model_that_is_the_mass_changes_nothing(model: str) -> None:
    made = brain(model)
    state = start(made, 2)
    plain = made.simulate(0.05, initial_state=state, coupling_strength=STRENGTH[model])["state"]
    mapping = {made.connectivity.labels[3]: 0, made.connectivity.labels[1]: 1}
    made.embed_foundation_model(Mass(made), mapping, state_dim=len(plain[0]))
    found = made.simulate(0.05, initial_state=state, coupling_strength=STRENGTH[model])["state"]
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)


class Network(nn.Module):
    """Two layers on state and coupling."""

    def __init__(self, d: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(d + 1, 8, dtype=torch.float64)
        self.outer = nn.Linear(8, d, dtype=torch.float64)

    def forward(self, state: Tensor, coupling: Tensor) -> Tensor:
        return 0.1 * self.outer(self.inner(torch.cat([state, coupling], -1)).tanh())


class Readout(nn.Module):
    """A trained sum of the state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64))

    def forward(self, state: Tensor) -> Tensor:
        return (state * self.weight).sum(-1).sigmoid()


@pytest.mark.parametrize("mode", ["derivative", "map"])
def test_gradient_reaches_an_embedded_model_through_delays(mode: str) -> None:
    made = brain("wilson-cowan", n_regions=4)
    network, readout = Network(3), Readout()
    made.embed_foundation_model(
        network, {made.connectivity.labels[2]: 0, made.connectivity.labels[0]: 1}, mode=mode,
        state_dim=3, readout=readout, input_scale=2.0,
        initial_state=torch.tensor([[0.1, 0.2, 0.3], [0.0, -0.1, 0.4]]),
    )  # fmt: skip
    state = start(made)

    def loss() -> Tensor:
        # Only regions without the model: what they know of it came along the tracts.
        found = made.simulate(0.06, initial_state=state, coupling_strength=5.0)
        return found["lfp"][[1, 3]].square().mean()

    parameters = [network.inner.weight, network.outer.bias, readout.weight]
    slopes = torch.autograd.grad(loss(), parameters)
    for x, slope in zip(parameters, slopes, strict=True):
        place = (0,) * x.ndim
        with torch.no_grad():
            kept = float(x[place])
            values = []
            for h in (1e-5, -1e-5):
                x[place] = kept + h
                values.append(float(loss()))
            x[place] = kept
        difference = (values[0] - values[1]) / 2e-5
        assert abs(difference) > 1e-9
        assert float(slope[place]) == pytest.approx(difference, rel=1e-4)


def test_an_embedded_state_of_its_own_size_is_returned_beside_the_masses() -> None:
    made = brain("kuramoto")
    label = made.connectivity.labels[2]

    class Turn(nn.Module):
        def forward(self, state: Tensor, coupling: Tensor) -> Tensor:
            del coupling
            return state + torch.tensor([0.1, 0.0, 0.0])

    made.embed_foundation_model(
        Turn(), {label: 0}, mode="map", state_dim=3, readout=lambda x: x[..., 0]
    )
    found = made.simulate(0.03, params={"omega": torch.tensor([0.05, 0.06])})
    assert found["embedded_state"].shape == (2, 3, 1, 30)
    phase = 0.1 * torch.arange(1, 31)
    torch.testing.assert_close(found["embedded_state"][0, 0, 0], phase)
    torch.testing.assert_close(found["lfp"][1, 2], phase.sin())
    assert bool(found["state"][:, :, 2].isnan().all())
    assert bool(found["state"][:, :, [0, 1, 3, 4]].isfinite().all())
    # A new mass takes the model out.
    made.create_neural_mass_model("kuramoto")
    assert "embedded_state" not in made.simulate(0.01)


def test_a_fit_finds_the_parameters_that_made_the_target() -> None:
    made = brain("wilson-cowan", n_regions=3)
    state = start(made)
    truth = made.simulate(
        0.03, params={"c_ee": 13.0, "P": torch.tensor([0.6])}, coupling_strength=2.0,
        initial_state=state,
    )["lfp"][0]  # fmt: skip
    made.create_neural_mass_model("wilson-cowan", P=0.5)
    found = made.fit(
        truth, loss=lambda result, target: (result["lfp"] - target).square().mean(),
        params=["c_ee", "P", "coupling_strength"], duration=0.03, coupling_strength=1.5,
        initial_state=state, lr=0.1, steps=10,
    )  # fmt: skip
    assert float(found.loss.min()) < 0.3 * float(found.loss[0])
    assert found.loss.shape == (11,)


def test_a_fit_may_have_a_number_for_every_region() -> None:
    made = brain("kuramoto", n_regions=3, omega=torch.tensor([0.05, 0.05, 0.05]))
    state = torch.zeros(1, 3, dtype=torch.float64)
    wanted = torch.tensor([0.04, 0.05, 0.06], dtype=torch.float64)
    truth = made.simulate(
        0.03, params={"omega": wanted[None]}, coupling_strength=0.0, initial_state=state
    )["lfp"][0]
    found = made.fit(
        truth, loss=lambda result, target: (result["lfp"] - target).square().mean(),
        params=["omega"], duration=0.03, coupling_strength=0.0, initial_state=state, steps=15,
        lr=0.05, noise={"theta": 0.0},
    )  # fmt: skip
    torch.testing.assert_close(found.params["omega"], wanted, rtol=0.1, atol=0)


def test_a_model_reads_like_a_dictionary() -> None:
    made = brain("wilson-cowan", P=0.5)
    model = made.model
    assert list(model) == ["name", "parameters", "state_variables"]
    assert len(model) == 3
    assert model["name"] == "wilson-cowan"
    assert float(model["parameters"]["P"]) == 0.5
    assert repr(model) == "NeuralMassModel('wilson-cowan')"
    assert repr(made) == "VirtualBrainInterface(5 regions, 'wilson-cowan', speed=10)"
    with pytest.raises(ValueError, match=r"coupling of 'wilson-cowan' must be \(..., 1, region\)"):
        model.dfun(torch.zeros(2, 5), torch.zeros(2, 5))


def test_the_derivative_of_a_column_is_that_of_the_paper() -> None:
    # Jansen & Rit (1995), eq. 6, at a state of easy numbers.
    made = brain(n_regions=2)
    state = torch.tensor([[0.1, 8.0, 2.0, 0.3, -0.2, 0.5]], dtype=torch.float64).mT.expand(6, 2)
    found = made.model.dfun(state, torch.tensor([[0.0, 0.1]], dtype=torch.float64))

    def sigmoid(v: float) -> float:
        return 0.005 / (1 + math.exp(0.56 * (5.52 - v)))

    a, b = 0.1, 0.05
    expected = [
        0.3, -0.2, 0.5,
        3.25 * a * sigmoid(6.0) - 2 * a * 0.3 - a * a * 0.1,
        3.25 * a * (0.22 + 108 * sigmoid(13.5)) + 2 * a * 0.2 - a * a * 8,
        22 * b * 33.75 * sigmoid(3.375) - 2 * b * 0.5 - b * b * 2,
    ]  # fmt: skip
    torch.testing.assert_close(found[:, 0], torch.tensor(expected, dtype=torch.float64))
    assert float(found[4, 1] - found[4, 0]) == pytest.approx(3.25 * a * 0.1)


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.integers(0, 9), st.integers(1, 2))
def test_delayed_sums_read_the_right_steps(seed: int, n: int, longest: int, copies: int) -> None:
    generator = seeded(seed)
    weights = torch.rand(n, n, generator=generator) * (torch.rand(n, n, generator=generator) < 0.5)
    delays = torch.randint(0, longest + 1, (n, n), generator=generator)
    sent = torch.rand(15, copies, n, 2, generator=generator)
    line = DelayLine(connected(weights, delays, copies), sent[0])
    for k in range(15):
        found = line.send(sent[k])
        for i in range(n):
            expected = sum(
                weights[i, j] * sent[max(k - int(delays[i, j]), 0), :, j] for j in range(n)
            )
            torch.testing.assert_close(found[:, i], expected)


def test_a_run_that_leaves_the_numbers_warns() -> None:
    made = brain("montbrio", eta=50.0)
    with pytest.warns(RuntimeWarning, match="does not stay finite; lower dt"):
        made.simulate(0.5, 0.05)


def test_what_cannot_be_simulated_is_refused() -> None:
    made = brain()
    with pytest.raises(ValueError, match="duration must be positive and finite, in seconds"):
        made.simulate(0.0)
    with pytest.raises(ValueError, match="dt must be positive"):
        made.simulate(1.0, -0.001)
    with pytest.raises(ValueError, match="transient must be at least 0"):
        made.simulate(1.0, transient=-1.0)
    with pytest.raises(ValueError, match="record_every must lie between 1 and the 10 steps"):
        made.simulate(0.01, record_every=11)
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1"):
        made.simulate(0.01, checkpoint_every=0)
    with pytest.raises(ValueError, match="tr must be positive"):
        made.simulate(0.01, tr=0.0)
    with pytest.raises(ValueError, match=r"fcd_window must hold at least two tr = 1.44 s, got 1"):
        made.simulate(0.01, fcd_window=1.0)
    with pytest.raises(ValueError, match="integrator must be one of"):
        made.simulate(0.01, integrator="rk4")
    with pytest.raises(ValueError, match="engine must be one of"):
        made.simulate(0.01, engine="jax")
    with pytest.raises(ValueError, match=r"'omega' is no parameter of 'jansen-rit'; it has 'A'"):
        made.simulate(0.01, params={"omega": 1.0})
    with pytest.raises(ValueError, match=r"params\['A'\] must be a number, one per set"):
        made.simulate(0.01, params={"A": torch.ones(2, 4)})
    with pytest.raises(
        ValueError, match=r"same number of sets, got .*'A'.* 2, coupling_strength 3"
    ):
        made.simulate(0.01, params={"A": torch.ones(2)}, coupling_strength=torch.ones(3))
    with pytest.raises(ValueError, match=r"coupling_strength must be a number or one per set"):
        made.simulate(0.01, coupling_strength=torch.ones(2, 2))
    with pytest.raises(ValueError, match="noise must be at least 0, got -1"):
        made.simulate(0.01, noise=-1.0)
    with pytest.raises(ValueError, match="noise names 'V'"):
        made.simulate(0.01, noise={"V": 1.0})
    with pytest.raises(ValueError, match=r"initial_state must be \(6, 5\) or \(P, 6, 5\)"):
        made.simulate(0.01, initial_state=torch.zeros(6, 4))
    with pytest.raises(ValueError, match="initial_state holds NaN or inf"):
        made.simulate(0.01, initial_state=torch.full((6, 5), torch.nan))
    with pytest.raises(TypeError, match="initial_state must be a float32 or float64 tensor"):
        made.simulate(0.01, initial_state=torch.zeros(6, 5, dtype=torch.int64))
    with pytest.raises(TypeError, match="A must be a number or a floating tensor, got bool"):
        made.simulate(0.01, params={"A": True})


def test_without_its_library_the_other_engine_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("tvb", "tvb.simulator.lab"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"engine='tvb' needs tvb-library: .*neuros-mechint\[tvb"):
        brain().simulate(0.01, engine="tvb")


def test_what_is_no_brain_is_refused() -> None:
    made = brain()
    with pytest.raises(ValueError, match="speed must be positive, in mm/ms, got 0"):
        VirtualBrainInterface("random", n_regions=3, speed=0.0)
    with pytest.raises(ValueError, match=r"model_type must be one of 'jansen-rit', .* 'epileptor'"):
        made.create_neural_mass_model("epileptor")
    with pytest.raises(ValueError, match="'q' is no parameter"):
        made.create_neural_mass_model("kuramoto", q=1.0)
    with pytest.raises(ValueError, match=r"A must be a number or one per region, \(5,\), .*sweeps"):
        made.create_neural_mass_model("jansen-rit", A=torch.ones(3))


def test_what_cannot_be_embedded_is_refused() -> None:
    made = brain()
    one, two = made.connectivity.labels[:2]
    model = Mass(made)
    with pytest.raises(ValueError, match="region_mapping names 'V1'; the regions are 'region_0'"):
        made.embed_foundation_model(model, {"V1": 0}, state_dim=6)
    with pytest.raises(ValueError, match="region_mapping names no region"):
        made.embed_foundation_model(model, {}, state_dim=6)
    with pytest.raises(ValueError, match=r"gives two regions the same index, got \[0, 0\]"):
        made.embed_foundation_model(model, {one: 0, two: 0}, state_dim=6)
    with pytest.raises(ValueError, match=r"must number its regions 0 to 1, got \[0, 2\]"):
        made.embed_foundation_model(model, {one: 0, two: 2}, state_dim=6)
    with pytest.raises(ValueError, match="mode must be one of"):
        made.embed_foundation_model(model, {one: 0}, mode="step", state_dim=6)
    with pytest.raises(ValueError, match="state_dim must be 6 as in 'jansen-rit', got 3; or give"):
        made.embed_foundation_model(model, {one: 0}, state_dim=3)
    with pytest.raises(ValueError, match=r"goes with readout= and must be \(1, 6\)"):
        made.embed_foundation_model(model, {one: 0}, state_dim=6, initial_state=torch.zeros(1, 6))
    made.embed_foundation_model(model, {one: 0}, state_dim=6)
    with pytest.raises(ValueError, match="engine='tvb' runs no embedded model"):
        made.simulate(0.01, engine="tvb")


def test_what_cannot_be_fitted_is_refused() -> None:
    made = brain()
    target = torch.eye(5)
    with pytest.raises(ValueError, match="params names no parameter"):
        made.fit(target, params=[], duration=1.0)
    with pytest.raises(ValueError, match="params names 'omega'; there are 'A'"):
        made.fit(target, params=["omega"], duration=1.0)
    with pytest.raises(ValueError, match="lr must be positive"):
        made.fit(target, params=["A"], duration=1.0, lr=0.0)
    with pytest.raises(ValueError, match="steps must be at least 1"):
        made.fit(target, params=["A"], duration=1.0, steps=0)
    with pytest.raises(ValueError, match="loss must be one of 'bold_fc'"):
        made.fit(target, loss="fcd", params=["A"], duration=1.0)
    with pytest.raises(ValueError, match="the loss is NaN at the start"):
        made.fit(
            target, loss=lambda result, target: result["lfp"].sum() * torch.nan, params=["A"],
            duration=0.01, steps=2,
        )  # fmt: skip


def test_bold_is_the_balloon_of_the_field_potential_at_the_volumes() -> None:
    made = brain("wilson-cowan", P=torch.linspace(0.5, 1.5, 5))
    found = made.simulate(1.0, record_every=20, tr=0.1, fcd_window=0.3, fcd_step=0.2)
    lfp = found["lfp"]
    response = BalloonWindkessel()(lfp - lfp.mean(-1, keepdim=True), 50.0)
    # A volume every five samples, the first at the end of the first tenth of a second.
    torch.testing.assert_close(found["bold"], response[:, 4::5])


def test_bold_hears_the_mean_of_fast_samples() -> None:
    made = brain("wilson-cowan", P=1.0)
    found = made.simulate(0.5, tr=0.1, fcd_window=0.3)
    blocks = torch.unflatten(found["lfp"], -1, (25, 20)).mean(-1)
    response = BalloonWindkessel()(blocks - blocks.mean(-1, keepdim=True), 50.0)
    torch.testing.assert_close(found["bold"], response[:, 4::5])


def test_connectivity_over_time_is_the_correlation_in_windows() -> None:
    bold = torch.randn(2, 4, 50, generator=seeded(6), dtype=torch.float64)
    bold[0, 3] = 1.0
    views = changes(bold, tr=0.5, window=5.0, step=2.0)
    # 25 s hold windows of 5 s that start at 0, 2, ..., 20 s.
    assert views.connectivity.shape == (2, 11, 4, 4)
    assert views.fcd.shape == (2, 11, 11)
    expected = torch.corrcoef(bold[1, :, 12:22])
    torch.testing.assert_close(views.connectivity[1, 3], expected)
    assert torch.count_nonzero(views.connectivity[0, :, 3]) == 0
    row, column = torch.triu_indices(4, 4, 1).unbind()
    torch.testing.assert_close(views.fcd[1], torch.corrcoef(views.connectivity[1][:, row, column]))


def test_a_set_that_leaves_the_numbers_takes_no_other_along() -> None:
    made = brain("montbrio")
    with pytest.warns(RuntimeWarning, match="does not stay finite"):
        found = made.simulate(
            1.0, 0.005, params={"eta": torch.tensor([-5.0, 1e6])}, tr=0.2, fcd_window=0.4
        )
    assert bool(found["bold"][0].isfinite().all())
    assert bool(found["bold"][1].isnan().all())


def test_a_fit_moves_the_correlations_of_bold_towards_those_measured() -> None:
    made = brain("kuramoto", n_regions=3, omega=torch.tensor([0.01, 0.02, 0.03]))
    found = made.fit(
        torch.ones(3, 3), params=["coupling_strength"], duration=0.3, coupling_strength=0.01,
        lr=0.5, steps=2, tr=0.1,
    )  # fmt: skip
    assert float(found.loss[-1]) < float(found.loss[0])
    assert float(found.params["coupling_strength"]) != 0.01
