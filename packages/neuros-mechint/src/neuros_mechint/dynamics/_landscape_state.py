"""Moving the parameters of a model and putting them back bit by bit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from neuros_mechint.activations._state import preserved

__all__ = ["as_point", "held", "put"]


@contextmanager
def held(model: nn.Module) -> Iterator[dict[str, nn.Parameter]]:
    """Give all parameters a gradient for a block; then they and the buffers are as they were."""
    parameters = dict(model.named_parameters())
    kept = [(p, p.detach().clone(), p.grad, p.requires_grad) for p in parameters.values()]
    modes = [(module, module.training) for module in model.modules()]
    with preserved(model):
        try:
            for parameter, _, _, _ in kept:
                parameter.grad = None
                parameter.requires_grad_(parameter.is_floating_point())
            yield parameters
        finally:
            for parameter, value, gradient, wanted in kept:
                with torch.no_grad():
                    parameter.copy_(value)
                parameter.requires_grad_(wanted)
                parameter.grad = gradient
            for module, training in modes:
                module.training = training


def put(parameters: Mapping[str, nn.Parameter], point: Mapping[str, Tensor]) -> None:
    """Set the parameters."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(point[name])


def as_point(
    name: str, theta: Mapping[str, Tensor], parameters: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """Checked copies of the parameters of a mapping such as a state dict.

    Raises:
        TypeError: When theta is no mapping.
        ValueError: When a parameter is missing or of another shape, or holds NaN or inf.
    """
    if not isinstance(theta, Mapping):
        raise TypeError(f"{name} must map names to tensors, got {type(theta).__name__}")
    point = {}
    for key, parameter in parameters.items():
        if key not in theta:
            raise ValueError(f"{name} lacks the parameter {key!r}; pass a whole state_dict()")
        value = theta[key].detach()
        if value.shape != parameter.shape:
            raise ValueError(
                f"{name}[{key!r}] has shape {tuple(value.shape)}, the model needs "
                f"{tuple(parameter.shape)}"
            )
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name}[{key!r}] holds NaN or inf")
        point[key] = value.to(parameter, copy=True)
    return point
