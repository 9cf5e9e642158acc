"""Attribution: which inputs, or parts of an activation, account for a change of the output."""

from neuros_mechint.attribution.conductance import LayerConductance, NeuronConductance
from neuros_mechint.attribution.methods import Attribution, AttributionResult

__all__ = ["Attribution", "AttributionResult", "LayerConductance", "NeuronConductance"]
