"""From spikes to what an electrode, a cap and a scanner see."""

import math

from torch import Tensor, nn

from neuros_mechint._arrays import Array, Number, as_real
from neuros_mechint.multiscale._lfp_arguments import as_floating, check_rate
from neuros_mechint.multiscale._volumes import n_volumes, volumes
from neuros_mechint.multiscale.bold import BalloonWindkessel
from neuros_mechint.multiscale.lfp_generation import LFPGenerator

__all__ = ["MultiScaleBridge"]


class MultiScaleBridge(nn.Module):
    """One differentiable chain from spikes to field potential, EEG and BOLD.

    Every step is linear in time or has a gradient, so that the derivative of a scan by a synaptic
    weight is a number.

    Args:
        lfp: Makes the field potential; None takes an exponential kernel of 10 ms for each train.
        balloon: Makes the BOLD signal; None takes the published numbers.

    Raises:
        TypeError: When either is something else.

    Examples:
        >>> import torch
        >>> bridge = MultiScaleBridge()
        >>> spikes = torch.eye(3, 4000)
        >>> field = bridge.spike_to_lfp(spikes)
        >>> bridge.lfp_to_eeg(field, torch.ones(2, 3)).shape, bridge.to_bold(field, 1000.0).shape
        (torch.Size([2, 4000]), torch.Size([3, 2]))
    """

    def __init__(
        self, *, lfp: LFPGenerator | None = None, balloon: BalloonWindkessel | None = None
    ) -> None:
        super().__init__()
        self.lfp = LFPGenerator() if lfp is None else lfp
        self.balloon = BalloonWindkessel() if balloon is None else balloon
        for name, kind in (("lfp", LFPGenerator), ("balloon", BalloonWindkessel)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")

    def spike_to_lfp(self, spikes: Array, sampling_rate: Number = 1000.0) -> Tensor:
        """Field potential of spikes.

        Args:
            spikes: Spikes per sample, (..., units, time).
            sampling_rate: Samples per second.

        Returns:
            Potential, (..., channels, time).

        Raises:
            TypeError: When the spikes are no floating tensor or array.
            ValueError: When they do not fit the generator.
        """
        return self.lfp.generate(spikes, sampling_rate)

    def lfp_to_eeg(
        self, lfp: Array, forward_model: Array, *, average_reference: bool = False
    ) -> Tensor:
        """What sensors see of sources.

        Args:
            lfp: Activity of the sources, (..., sources, time).
            forward_model: What each source adds to each sensor, (sensors, sources), for instance
                from `dipole_leadfield` or the `sol` of a forward solution with fixed orientations.
            average_reference: Whether the mean over sensors is subtracted at every moment.

        Returns:
            Signals, (..., sensors, time), in the dtype of lfp.

        Raises:
            TypeError: When lfp is no floating tensor or array, or the model not real.
            ValueError: When one is not finite, or the model has other sources.
        """
        given = as_floating("lfp", lfp)
        x = as_real("lfp", given, axes=("sources", "time"), at_least=(1, 1))
        gain = as_real("forward_model", forward_model, axes=("sensors", "sources"), at_least=(1, 1))
        if gain.ndim != 2 or gain.shape[1] != x.shape[-2]:
            raise ValueError(
                f"forward_model must be (sensors, sources) with {x.shape[-2]} sources as in lfp, "
                f"got shape {tuple(gain.shape)}"
            )
        if average_reference:
            gain = gain - gain.mean(0)
        return (gain.to(x) @ x).to(given.dtype)

    def to_bold(self, neural: Array, sampling_rate: Number, tr: Number = 2.0) -> Tensor:
        """Volumes of the haemodynamic response.

        Activity sampled faster than 100 Hz reaches the balloon as its mean over 10 ms.

        Args:
            neural: Activity of the regions, (..., regions, time), 0 at rest.
            sampling_rate: Samples per second.
            tr: Time between volumes, s.

        Returns:
            BOLD at tr, 2 tr, ..., each at the nearest of its samples, (..., regions, volumes), in
            the unit of the balloon's V0 and the dtype of neural.

        Raises:
            TypeError: When neural is no floating tensor or array.
            ValueError: When it is shorter than tr, tr is shorter than a sample, or the balloon
                refuses it.
        """
        given = as_floating("neural", neural)
        x = as_real("neural", given, axes=("regions", "time"), at_least=(1, 1))
        check_rate(sampling_rate)
        rate, time = float(sampling_rate), float(tr)
        if not 1 <= rate * time < math.inf or n_volumes(x.shape[-1], rate, time) < 1:
            raise ValueError(
                f"tr must lie between one sample and the {x.shape[-1] / rate:g} s of neural, "
                f"got {tr:g} s"
            )
        return volumes(self.balloon, x, rate, time).to(given.dtype)
