"""What the analyses of neurons return."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BehaviorInformation",
    "MonosemanticNeuron",
    "PopulationGeometry",
    "PredictiveNeurons",
    "Selectivity",
]

Numbers = NDArray[np.float64]


class Selectivity(NamedTuple):
    """How much activations depend on a variable.

    Attributes:
        selectivity: The index: a number, or one per neuron.
        tuning: Mean activation per category, shape (category,) or (neuron, category).
        categories: Value of each category, or mean of each bin.
        p_value: Of the F test that all categories have the same mean, whatever the index.
    """

    selectivity: float | Numbers
    tuning: Numbers
    categories: NDArray[np.generic]
    p_value: float | Numbers


class PredictiveNeurons(NamedTuple):
    """Neurons that tell most about a behaviour.

    Attributes:
        neurons: Indices, most informative first.
        mi_scores: Mutual information of each in nats.
    """

    neurons: NDArray[np.int64]
    mi_scores: Numbers


class BehaviorInformation(NamedTuple):
    """What every neuron tells about a behaviour.

    Attributes:
        mi_scores: Mutual information in nats, shape (neuron,).
        p_values: Share of shuffled behaviours that give as much, None without permutations.
        false_discovery_rates: The same adjusted for the number of neurons (Benjamini-Hochberg).
    """

    mi_scores: Numbers
    p_values: Numbers | None = None
    false_discovery_rates: Numbers | None = None


class PopulationGeometry(NamedTuple):
    r"""Shape of the cloud of population activations.

    Attributes:
        participation_ratio: $(\sum \lambda)^2 / \sum \lambda^2$.
        silhouette_score: Separation of the labels between -1 and 1, NaN without labels.
        dimensionality: Principal components that hold 90 % of the variance.
        effective_rank: Exponential of the entropy of the normalised variances.
        eigenvalues: Variances of the principal components, largest first.
    """

    participation_ratio: float
    silhouette_score: float
    dimensionality: int
    effective_rank: float
    eigenvalues: Numbers


class MonosemanticNeuron(NamedTuple):
    """A neuron that depends on one variable.

    Attributes:
        neuron: Its index.
        variable: Name of the variable.
        score: Share of its variance that the variable explains.
    """

    neuron: int
    variable: str
    score: float
