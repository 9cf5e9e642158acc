"""Models and numbers that several files of these tests share."""

import pytest
import torch
from torch import Tensor, nn


class _Function(nn.Module):
    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def _normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _chain(
    activation: type[nn.Module], width: int = 12, depth: int = 3, seed: int = 0
) -> nn.Module:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
    net = nn.Sequential(*layers, nn.Linear(width, 3)).double()
    for parameter in net.parameters():
        parameter.data *= 2.0
    return net.eval()


def _rise(model: nn.Module, x: Tensor, start: Tensor, target: int) -> Tensor:
    with torch.no_grad():
        return (model(x) - model(start))[:, target]


@pytest.fixture(scope="session")
def gen():
    """Generator of a seed."""
    return lambda seed=0: torch.Generator().manual_seed(seed)


@pytest.fixture(scope="session")
def normal():
    """Standard normal numbers of a shape."""
    return _normal


@pytest.fixture(scope="session")
def chain():
    """Linear layers with an activation between them."""
    return _chain


@pytest.fixture(scope="session", name="Function")
def _function_module():
    """Any function as a module."""
    return _Function


@pytest.fixture(scope="session")
def rise():
    """By how much an output grows from the baseline to the input."""
    return _rise
