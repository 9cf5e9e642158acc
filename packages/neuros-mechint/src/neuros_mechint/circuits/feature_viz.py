"""Stimuli that a unit answers to most: series, images, embeddings."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from neuros_mechint.activations import SiteLike
from neuros_mechint.circuits._stimulus_problem import (
    Objective,
    Problem,
    Regularizer,
    Stimulus,
)
from neuros_mechint.circuits._stimulus_reader import Reader, Unit
from neuros_mechint.circuits._stimulus_terms import (
    L2,
    Blur,
    Box,
    Constraint,
    Match,
    Maximize,
    Minimize,
    Naturalistic,
    NonNegative,
    NormBall,
    TotalVariation,
)

__all__ = [
    "L2",
    "ActivationMaximization",
    "Blur",
    "Box",
    "Constraint",
    "FeatureVisualizer",
    "Match",
    "Maximize",
    "Minimize",
    "Naturalistic",
    "NonNegative",
    "NormBall",
    "OptimalStimulus",
    "Stimulus",
    "TotalVariation",
]


class _Search:
    """A search for the stimuli of what a reader reads."""

    _reader: Reader
    _within: Constraint | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._reader})"

    def optimize(
        self,
        shape: Sequence[int],
        *,
        objective: Objective | None = None,
        regularizers: Sequence[Regularizer] = (),
        constraint: Constraint | None = None,
        n_stimuli: int = 1,
        diversity: float = 0.0,
        steps: int = 256,
        generator: torch.Generator | None = None,
        start: Tensor | None = None,
    ) -> Stimulus:
        """Search for stimuli.

        Args:
            shape: Shape of one stimulus, such as (time, channel), (channel, height, width) or
                (time, width of the embedding).
            objective: Function of the activations (n_stimuli,) that is maximised; None is
                `Maximize()`.
            regularizers: Penalties, blurs and priors; a penalty is any function of the stimuli
                (n_stimuli, ...) with one value per stimulus.
            constraint: Set that the stimuli stay in; None allows everything, and is `NormBall(1.0)`
                for an `OptimalStimulus`.
            n_stimuli: Number of stimuli per unit.
            diversity: Weight of the squared cosines between pairs of stimuli of one unit. Without
                `start`, the joint search begins with the best different ones of eight times as many
                stimuli.
            steps: Most steps of the search.
            generator: Source of the first stimuli, white noise of standard deviation 0.1.
            start: First stimuli in place of noise, shape (n_stimuli, ...) or `shape`; they give a
                function its data type.

        Returns:
            The stimuli with their activations: those of the first unit, then those of the second.

        Raises:
            ValueError: When the settings do not fit each other, the stimulus grows without bound,
                or the activation does not depend on it.

        Examples:
            >>> net = nn.Linear(2, 1, bias=False)
            >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
            >>> FeatureVisualizer(net, None, 0).optimize(
            ...     (2,), constraint=NormBall(1.0), start=torch.ones(2)
            ... ).x
            tensor([[0.6000, 0.8000]])
        """
        problem = Problem(
            reader=self._reader,
            objective=objective,
            regularizers=regularizers,
            constraint=self._within if constraint is None else constraint,
            n_stimuli=n_stimuli,
            diversity=diversity,
            steps=steps,
        )
        return problem.solve(shape, generator, start)


class FeatureVisualizer(_Search):
    """Find stimuli that give one unit the activation that an objective asks for.

    The search maximises objective minus penalties by projected gradients whose step lengths adapt
    themselves (Barzilai-Borwein), so that no learning rate has to be chosen. It finds a local
    optimum; ask for several stimuli to see more than one.

    Args:
        model: Any module, used in the mode it is in: call `model.eval()` first.
        site: Where the unit is; None is the model's output.
        unit: An int names a unit of the last dimension, for images (batch, channel, height, width)
            of dimension 1; a tuple such as `(-1, 5)` is an index into each row of the site's value.
            Over what is left, such as time, the activation is averaged; None averages over all.
        at: Site where the stimulus takes the place of the activation, such as the embedding of a
            model of tokens; None means that the stimulus is the first argument.
        inputs: What the model reads while the stimulus is put at `at`, one row.

    Raises:
        KeyError: When a module is not part of the model.
        ValueError: When `at` comes without `inputs` or the other way round, or `inputs` has more
            than one row.

    Examples:
        >>> net = nn.Linear(2, 1, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> found = FeatureVisualizer(net, None, 0).optimize(
        ...     (2,), objective=Match(2.5), constraint=NormBall(9.0), start=torch.ones(2)
        ... )
        >>> round(found.activation.item(), 4)
        2.5

    References:
        Erhan, D., Bengio, Y., Courville, A. & Vincent, P. (2009). Visualizing higher-layer features
        of a deep network. Technical report 1341, University of Montreal.
    """

    def __init__(
        self,
        model: nn.Module,
        site: SiteLike | None = None,
        unit: Unit = None,
        *,
        at: SiteLike | None = None,
        inputs: Any = None,
    ) -> None:
        self._reader = Reader(model, site, [unit], at=at, inputs=inputs)


class ActivationMaximization(_Search):
    """Find the strongest stimuli of one unit, or of several units in one search.

    Args:
        model: Any module, used in the mode it is in: call `model.eval()` first.
        site: Where the units are; None is the model's output.
        unit: One index as in `FeatureVisualizer`, or a list of them.
        at: Site where the stimulus takes the place of the activation; None means that the stimulus
            is the first argument.
        inputs: What the model reads while the stimulus is put at `at`, one row.

    Raises:
        KeyError: When a module is not part of the model.
        ValueError: When the list of units is empty, `at` comes without `inputs` or the other way
            round, or `inputs` has more than one row.

    Examples:
        >>> net = nn.Linear(2, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        >>> found = ActivationMaximization(net, None, [0, 1]).optimize(
        ...     (2,), constraint=NormBall(1.0), start=torch.ones(2)
        ... )
        >>> found.activation
        tensor([5., 2.])

    References:
        Erhan, D., Bengio, Y., Courville, A. & Vincent, P. (2009). Visualizing higher-layer features
        of a deep network. Technical report 1341, University of Montreal.
    """

    def __init__(
        self,
        model: nn.Module,
        site: SiteLike | None = None,
        unit: Unit | list[Unit] = None,
        *,
        at: SiteLike | None = None,
        inputs: Any = None,
    ) -> None:
        units = unit if isinstance(unit, list) else [unit]
        if not units:
            raise ValueError("unit needs an index or a list of at least one, got an empty list")
        self._reader = Reader(model, site, units, at=at, inputs=inputs)


class OptimalStimulus(_Search):
    r"""Find the stimulus of limited energy that excites a neuron most.

    The neuron is a unit of a model or any differentiable function, such as an encoding model that
    was fitted to a recording. Without another constraint the stimuli stay in the ball
    $\lVert x \rVert_2 \le 1$; with `Naturalistic` their coordinates do.

    Args:
        model: A module, or a function from stimuli (n_stimuli, ...) to responses.
        site: Where the unit is in a module; None is the output.
        unit: Index into each row of the value, as in `FeatureVisualizer`.

    Raises:
        KeyError: When a module is not part of the model.
        TypeError: When the model is not callable.

    Examples:
        >>> found = OptimalStimulus(lambda x: x @ torch.tensor([3.0, 4.0])).optimize(
        ...     (2,), start=torch.ones(2)
        ... )
        >>> found.x, found.activation
        (tensor([[0.6000, 0.8000]]), tensor([5.]))

    References:
        Walker, E. Y. et al. (2019). Inception loops discover what excites neurons most using deep
        predictive models. Nature Neuroscience 22, 2060-2065. doi:10.1038/s41593-019-0517-x
    """

    _within = NormBall(1.0)

    def __init__(
        self,
        model: nn.Module | Callable[[Tensor], Tensor],
        site: SiteLike | None = None,
        unit: Unit = None,
    ) -> None:
        if not callable(model):
            raise TypeError(f"model needs a module or a function, got {type(model).__name__}")
        module = model if isinstance(model, nn.Module) else _Function(model)
        self._reader = Reader(module, site, [unit], at=None, inputs=None)


class _Function(nn.Module):
    """A function in the clothes of a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Call the function."""
        return self.function(x)
