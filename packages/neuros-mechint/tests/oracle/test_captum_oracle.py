"""Attributions beside captum's, on the same models and inputs."""

import functools
import warnings

import pytest
import torch
from torch import nn

from neuros_mechint.attribution import Attribution, LayerConductance, NeuronConductance

captum = pytest.importorskip("captum.attr")
pytestmark = [
    pytest.mark.oracle,
    # DeepLift announces its hooks; the perturbation methods warn about single precision.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
CLOSE = {"atol": 1e-6, "rtol": 0.0}
PEER = "captum"


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def chain(activation: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 10), activation(), nn.Linear(10, 9), activation(), nn.Linear(9, 3)]
    return nn.Sequential(*layers).double().eval()


def images() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Softplus(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    ).double().eval()  # fmt: skip


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.GELU])
@pytest.mark.parametrize("steps", [5, 50])
def test_integrated_gradients_are_captums(activation, steps: int) -> None:
    net, x, start = chain(activation), normal(4, 8), normal(4, 8, seed=1)
    theirs, gap = captum.IntegratedGradients(net).attribute(
        x, start, target=1, n_steps=steps, return_convergence_delta=True
    )
    ours = Attribution(net, target=1).attribute(x, start, steps=steps)
    torch.testing.assert_close(ours.values, theirs, **CLOSE)
    torch.testing.assert_close(ours.delta, gap, **CLOSE)


def test_integrated_gradients_of_images_and_of_a_layer_are_captums() -> None:
    net, x = images(), normal(2, 2, 8, 8)
    targets = torch.tensor([2, 0])
    theirs = captum.IntegratedGradients(net).attribute(x, target=targets, n_steps=30)
    ours = Attribution(net, target=targets).attribute(x, steps=30).values
    torch.testing.assert_close(ours, theirs, **CLOSE)
    theirs = captum.LayerIntegratedGradients(net, net[1]).attribute(x, target=2, n_steps=30)
    ours = Attribution(net, site="1", target=2).attribute(x, steps=30).values
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_gradient_x_input_is_captums() -> None:
    net, x = chain(nn.GELU), normal(4, 8)
    theirs = captum.InputXGradient(net).attribute(x, target=0)
    ours = Attribution(net, "gradient_x_input", target=0).attribute(x).values
    torch.testing.assert_close(ours, theirs, **CLOSE)
    theirs = captum.LayerGradientXActivation(net, net[1]).attribute(x, target=0)
    ours = Attribution(net, "gradient_x_input", site="1", target=0).attribute(x).values
    torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("site", [None, 1])
def test_methods_taken_from_captum_are_captums(site: int | None) -> None:
    net, x, start = chain(nn.ReLU), normal(4, 8), normal(4, 8, seed=1)
    name = None if site is None else str(site)
    deep = Attribution(net, "deeplift", site=name, target=1).attribute(x, start).values
    if site is None:
        theirs = captum.DeepLift(net).attribute(x, start, target=1)
        blank = captum.FeatureAblation(net).attribute(x, start, target=1)
        ours = Attribution(net, "feature_ablation", target=1).attribute(x, start).values
        torch.testing.assert_close(ours, blank, **CLOSE)
    else:
        theirs = captum.LayerDeepLift(net, net[site]).attribute(x, start, target=1)
    torch.testing.assert_close(deep, theirs, **CLOSE)


OPTIONS = {
    "feature_ablation": ("FeatureAblation", {}),
    "feature_permutation": ("FeaturePermutation", {}),
    "occlusion": ("Occlusion", {"sliding_window_shapes": (3,)}),
    "lime": ("Lime", {"n_samples": 40}),
    "kernel_shap": ("KernelShap", {"n_samples": 40}),
    "shapley_value_sampling": ("ShapleyValueSampling", {"n_samples": 6}),
}


@pytest.mark.parametrize("method", OPTIONS)
@pytest.mark.parametrize("site", [None, "1"])
def test_perturbation_methods_are_captums_for_the_same_draws(method: str, site: str | None) -> None:
    net, x, start = chain(nn.ReLU), normal(4, 8), normal(4, 8, seed=1)
    kind, options = OPTIONS[method]
    ours = Attribution(
        net, method, site=site, target=1, window=(3,) if method == "occlusion" else None
    ).attribute(
        x,
        start,
        steps=options.get("n_samples", 1),
        batch_size=20,
        generator=torch.Generator().manual_seed(7),
    )
    model, ends = net, (x, start)
    if site is not None:
        model = net[2:]
        with torch.no_grad():
            ends = (net[:2](x), net[:2](start))
    # Ours seeds captum's generators with the first number of the one that it is given.
    seed = int(torch.randint(2**31, (), generator=torch.Generator().manual_seed(7)))
    given = {} if method == "feature_permutation" else {"baselines": ends[1]}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        theirs = getattr(captum, kind)(model).attribute(
            ends[0], target=1, perturbations_per_eval=5, **given, **options
        )
    torch.testing.assert_close(ours.values, theirs.to(ours.values), **CLOSE)


def limit(attribute) -> torch.Tensor:
    """Limit of many steps: captum's sum has an error of a / n + b / n^2 + ..."""
    first, second, third = (
        attribute(n_steps=n, method="riemann_trapezoid") for n in (200, 400, 800)
    )
    return (4 * (2 * third - second) - (2 * second - first)) / 3


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_conductance_is_the_limit_of_captums(layer: int) -> None:
    net, x, start = chain(nn.Tanh), normal(3, 8), normal(3, 8, seed=1)
    method = captum.LayerConductance(net, net[layer])
    theirs = limit(functools.partial(method.attribute, x, start, target=1))
    ours = LayerConductance(net, str(layer), target=1).attribute(x, start)
    torch.testing.assert_close(ours.values, theirs, **CLOSE)
    assert ours.delta.abs().max() < 1e-9


def test_a_neurons_conductance_is_the_limit_of_captums() -> None:
    net, x, start = chain(nn.Tanh), normal(3, 8), normal(3, 8, seed=1)
    method = captum.NeuronConductance(net, net[1])
    theirs = limit(functools.partial(method.attribute, x, 4, start, target=1))
    ours = NeuronConductance(net, "1", 4, target=1).attribute(x, start)
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_fifty_nodes_leave_captum_a_gap_that_is_not_there() -> None:
    net, x, start = chain(nn.Tanh), 2 * normal(3, 8), normal(3, 8, seed=1)
    with torch.no_grad():
        change = (net(x) - net(start))[:, 1]
    with warnings.catch_warnings():
        theirs = captum.LayerConductance(net, net[1]).attribute(x, start, target=1, n_steps=50)
    ours = LayerConductance(net, "1", target=1).attribute(x, start, steps=50)
    assert (theirs.sum(1) - change).abs().max() > 1e-4
    assert (ours.values.sum(1) - change).abs().max() <= 1e-6
