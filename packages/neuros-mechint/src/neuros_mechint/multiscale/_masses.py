"""Neural masses: the equations of one region, and the model that a caller holds."""

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor

from neuros_mechint.multiscale._masses_columns import jansen_rit, wilson_cowan
from neuros_mechint.multiscale._masses_equations import Equations, Numbers
from neuros_mechint.multiscale._masses_oscillators import hopf, kuramoto, montbrio

__all__ = ["MODELS", "NeuralMassModel", "equations_of"]

MODELS: dict[str, Callable[[], Equations]] = {
    "jansen-rit": jansen_rit,
    "wilson-cowan": wilson_cowan,
    "kuramoto": kuramoto,
    "montbrio": montbrio,
    "hopf": hopf,
}


class NeuralMassModel(Mapping[str, object]):
    """A neural mass: its name, parameters and state variables, and its derivative.

    It reads like a dictionary with the keys `name`, `parameters` and `state_variables`;
    `VirtualBrainInterface.create_neural_mass_model` makes one.

    Args:
        equations: The equations.
        parameters: All parameters, numbers () or one per region (region,).

    Examples:
        >>> import torch
        >>> from neuros_mechint.multiscale import VirtualBrainInterface
        >>> brain = VirtualBrainInterface((torch.zeros(2, 2), torch.zeros(2, 2)))
        >>> model = brain.create_neural_mass_model("kuramoto", omega=0.5)
        >>> model["state_variables"], float(model["parameters"]["omega"])
        (('theta',), 0.5)
        >>> model.dfun(torch.zeros(1, 2), torch.tensor([[0.0, 0.25]]))
        tensor([[0.5000, 0.7500]])
    """

    def __init__(self, equations: Equations, parameters: Numbers) -> None:
        self.equations = equations
        self.parameters = parameters

    def __getitem__(self, key: str) -> object:
        held: dict[str, object] = {
            "name": self.equations.name,
            "parameters": self.parameters,
            "state_variables": self.equations.states,
        }
        return held[key]

    def __iter__(self) -> Iterator[str]:
        return iter(("name", "parameters", "state_variables"))

    def __len__(self) -> int:
        return 3

    def __repr__(self) -> str:
        return f"NeuralMassModel({self.equations.name!r})"

    def dfun(self, state: Tensor, coupling: Tensor) -> Tensor:
        """Derivative of the state, per ms.

        Args:
            state: State (..., n_state, region).
            coupling: What arrives from other regions, (..., c, region); c is 1, and 2 for `hopf`.

        Returns:
            Derivative in the shape of the state.

        Raises:
            ValueError: When a shape does not fit the model.
        """
        e = self.equations
        self._fits("state", state, len(e.states))
        self._fits("coupling", coupling, e.n_couplings)
        p = e.constants({k: x.to(state).reshape(-1, 1) for k, x in self.parameters.items()})
        rows = state.reshape(-1, *state.shape[-2:]).permute(1, 2, 0)
        received = coupling.reshape(-1, *coupling.shape[-2:]).permute(1, 2, 0)
        found = e.derivative(rows, received, p)
        return found.permute(2, 0, 1).reshape(state.shape)

    def _fits(self, name: str, x: Tensor, rows: int) -> None:
        if x.ndim < 2 or x.shape[-2] != rows:
            raise ValueError(
                f"{name} of {self.equations.name!r} must be (..., {rows}, region), "
                f"got shape {tuple(x.shape)}"
            )


def equations_of(model_type: str) -> Equations:
    """Equations of a model.

    Raises:
        ValueError: When there is no such model.
    """
    if model_type not in MODELS:
        raise ValueError(
            f"model_type must be one of {', '.join(map(repr, MODELS))}, got {model_type!r}"
        )
    return MODELS[model_type]()
