"""The neurons that a spiking network knows by name."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from neuros_mechint._arrays import Number, one_of
from neuros_mechint.biophysical._neuron import BiophysicalNeuronBase
from neuros_mechint.biophysical.adex import AdExNeuron
from neuros_mechint.biophysical.hodgkin_huxley import HodgkinHuxleyNeuron
from neuros_mechint.biophysical.izhikevich import IzhikevichNeuron
from neuros_mechint.biophysical.lif import LeakyIntegrateFireNeuron
from neuros_mechint.biophysical.quadratic_if import QuadraticIFNeuron

__all__ = ["NEURONS", "NeuronChoice", "choose_neuron"]


class _Known(NamedTuple):
    make: Callable[..., BiophysicalNeuronBase]
    # Deviation of the summed weights, in units of the model's current, that keeps a network
    # driven by inputs of variance 1 active.
    scale: float


NEURONS: dict[str, _Known] = {
    "lif": _Known(LeakyIntegrateFireNeuron, 5.0),
    "izhikevich": _Known(IzhikevichNeuron, 20.0),
    "hh": _Known(HodgkinHuxleyNeuron, 100.0),
    "adex": _Known(AdExNeuron, 10_000.0),
    "qif": _Known(QuadraticIFNeuron, 40.0),
}


class NeuronChoice(NamedTuple):
    """Neurons, and the scale of the first weights that suits them."""

    neuron: BiophysicalNeuronBase
    weight_scale: float


def choose_neuron(
    neuron_type: object,
    neuron_kwargs: Mapping[str, object] | None,
    weight_scale: Number | None,
) -> NeuronChoice:
    """The neurons of a name, or those given.

    Raises:
        TypeError: When it is neither a name nor neurons.
        ValueError: When the name is unknown, arguments are given for neurons that are made
            already, or the scale is not positive.
    """
    if weight_scale is not None and not 0 < weight_scale < math.inf:
        raise ValueError(f"weight_scale must be positive and finite, got {weight_scale}")
    if isinstance(neuron_type, BiophysicalNeuronBase):
        if neuron_kwargs:
            raise ValueError(
                "neuron_kwargs are for a neuron_type given by name; pass a neuron that has them"
            )
        return NeuronChoice(neuron_type, _scale_of(neuron_type, weight_scale))
    if not isinstance(neuron_type, str):
        raise TypeError(
            "neuron_type must be a name or a BiophysicalNeuronBase, "
            f"got {type(neuron_type).__name__}"
        )
    one_of("neuron_type", neuron_type, tuple(NEURONS))
    known = NEURONS[neuron_type]
    neuron = known.make(**(neuron_kwargs or {}))
    return NeuronChoice(neuron, _scale_of(neuron, weight_scale))


def _scale_of(neuron: BiophysicalNeuronBase, weight_scale: Number | None) -> float:
    if weight_scale is not None:
        return float(weight_scale)
    return next((known.scale for known in NEURONS.values() if known.make is type(neuron)), 1.0)
