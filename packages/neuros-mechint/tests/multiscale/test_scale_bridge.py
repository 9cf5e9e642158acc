"""From spikes to EEG and BOLD: each step, and the derivative of a scan by a synaptic weight."""

import math

import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.biophysical import LeakyIntegrateFireNeuron
from neuros_mechint.multiscale import (
    BalloonWindkessel,
    LFPGenerator,
    MultiScaleBridge,
    dipole_leadfield,
)


def trains(*shape: int) -> Tensor:
    draws = torch.rand(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (draws < 0.05).double()


def test_each_step_is_its_model() -> None:
    spikes = trains(3, 200)
    lfp, balloon = LFPGenerator("alpha", tau=5.0), BalloonWindkessel(tau=1.5)
    bridge = MultiScaleBridge(lfp=lfp, balloon=balloon)
    field = bridge.spike_to_lfp(spikes, 100.0)
    assert torch.equal(field, lfp.generate(spikes, 100.0))
    gain = torch.tensor([[1.0, 0.0, 2.0], [0.0, -1.0, 0.5]], dtype=torch.float64)
    torch.testing.assert_close(bridge.lfp_to_eeg(field, gain), gain @ field)
    volumes = bridge.to_bold(field, 100.0, tr=0.75)
    assert torch.equal(volumes, balloon(field, 100.0)[:, [74, 149]])


def test_arrays_are_as_good_as_tensors() -> None:
    field, gain, bridge = trains(2, 40), torch.ones(3, 2, dtype=torch.float64), MultiScaleBridge()
    assert torch.equal(bridge.lfp_to_eeg(field.numpy(), gain), bridge.lfp_to_eeg(field, gain))
    assert torch.equal(bridge.to_bold(field.numpy(), 10.0), bridge.to_bold(field, 10.0))
    assert torch.equal(BalloonWindkessel()(field.numpy(), 10.0), BalloonWindkessel()(field, 10.0))


def test_an_average_reference_leaves_no_mean() -> None:
    field = trains(2, 3, 50)
    gain = torch.rand(5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    bridge = MultiScaleBridge()
    plain = bridge.lfp_to_eeg(field, gain)
    found = bridge.lfp_to_eeg(field, gain.numpy(), average_reference=True)
    torch.testing.assert_close(found, plain - plain.mean(-2, keepdim=True))


def test_fast_activity_reaches_the_balloon_as_its_mean() -> None:
    """A thousand samples a second, against the balloon at every one of them."""
    neural = MultiScaleBridge().spike_to_lfp(trains(2, 1500))
    found = MultiScaleBridge().to_bold(neural, 1000.0, tr=0.72)
    expected = BalloonWindkessel()(neural, 1000.0)[:, [719, 1439]]
    assert found.shape == (2, 2)
    # A block moves its activity by at most 5 ms.
    assert float((found - expected).abs().max()) < 1e-3 * float(expected.abs().max())


def test_volumes_lie_at_the_nearest_sample() -> None:
    neural = trains(1, 50)
    found = MultiScaleBridge().to_bold(neural, 10.0, tr=0.72)
    every = BalloonWindkessel()(neural, 10.0)
    ends = [round(7.2 * (k + 1)) - 1 for k in range(6)]
    assert torch.equal(found, every[:, ends])
    assert MultiScaleBridge().to_bold(neural[:, :20].half(), 10.0).dtype == torch.float16


def test_the_scan_has_a_derivative_by_a_synaptic_weight() -> None:
    """Spikes to currents by weights, to EEG and to BOLD: against finite differences."""
    spikes = trains(3, 60)
    start = torch.tensor([[0.5, 0.2, 0.1], [0.0, 0.4, 0.3]], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    places = 0.03 * torch.randn(2, 3, generator=generator, dtype=torch.float64)
    gain = dipole_leadfield(places, places, torch.eye(3, dtype=torch.float64) / 10)

    def chain(weights: Tensor) -> tuple[Tensor, Tensor]:
        bridge = MultiScaleBridge(lfp=LFPGenerator(tau=30.0, weights=nn.Parameter(start)))
        synapses = torch.func.functional_call(bridge.lfp, {"weights": weights}, (spikes, 50.0))
        eeg = bridge.lfp_to_eeg(synapses, gain, average_reference=True)
        return eeg[:, ::50], bridge.to_bold(synapses, 50.0, tr=0.6)

    weights = start.clone().requires_grad_()
    assert torch.autograd.gradcheck(
        chain, (weights,), eps=1e-6, atol=1e-9, rtol=1e-5, fast_mode=True
    )
    bold = chain(weights)[1]
    (gradient,) = torch.autograd.grad(bold[0, -1], weights)
    step = torch.zeros_like(start)
    step[0, 1] = 1e-5
    difference = (chain(start + step)[1] - chain(start - step)[1])[0, -1] / 2e-5
    assert float(gradient[0, 1]) == pytest.approx(float(difference), rel=1e-6)
    # Regions do not touch one another.
    assert not gradient[1].any()


def test_gradients_run_from_the_scan_through_spiking_neurons() -> None:
    weight = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    drive = trains(100, 1) * 10
    spikes = LeakyIntegrateFireNeuron()(weight * drive).spikes
    bridge = MultiScaleBridge()
    bold = bridge.to_bold(bridge.spike_to_lfp(spikes.mT, 50.0), 50.0, tr=1.0)
    (gradient,) = torch.autograd.grad(bold.sum(), weight)
    assert torch.isfinite(gradient)
    # More drive, more spikes; but for the undershoot, more signal.
    assert gradient > 0


def test_learnable_numbers_of_both_models_are_parameters_of_the_bridge() -> None:
    bridge = MultiScaleBridge(
        lfp=LFPGenerator(weights=nn.Parameter(torch.ones(1, 2))),
        balloon=BalloonWindkessel(learnable=("kappa",)),
    )
    assert sorted(name for name, _ in bridge.named_parameters()) == ["balloon.kappa", "lfp.weights"]


def test_bad_arguments_are_named() -> None:
    bridge, x = MultiScaleBridge(), torch.ones(3, 40)
    with pytest.raises((TypeError, ValueError), match=r"lfp must be a LFPGenerator|Type-check"):
        MultiScaleBridge(lfp=nn.Identity())
    with pytest.raises(TypeError, match="lfp must be a floating tensor or array, got torch"):
        bridge.lfp_to_eeg(x.long(), torch.ones(2, 3))
    with pytest.raises(ValueError, match="with 3 sources as in lfp, got shape"):
        bridge.lfp_to_eeg(x, torch.ones(2, 4))
    with pytest.raises(ValueError, match="forward_model holds NaN or inf"):
        bridge.lfp_to_eeg(x, torch.full((2, 3), math.nan))
    with pytest.raises(ValueError, match="sampling_rate must be positive and finite, in Hz, got 0"):
        bridge.to_bold(x, 0.0)
    with pytest.raises(ValueError, match="tr must lie between one sample and the 4 s of neural"):
        bridge.to_bold(x, 10.0, tr=5.0)
    with pytest.raises(ValueError, match="tr must lie between one sample and the 4 s of neural"):
        bridge.to_bold(x, 10.0, tr=0.05)
    with pytest.raises(TypeError, match="neural must be a floating tensor or array, got torch"):
        bridge.to_bold(x.long(), 10.0)
