"""Analyses that a training can be watched with, by name."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["Analysis", "AnalysisContext", "find_analysis", "register_analysis"]

Analysis = Callable[..., Mapping[str, Any]]
_AnalysisT = TypeVar("_AnalysisT", bound=Analysis)

_REGISTRY: dict[str, Analysis] = {}


@dataclass(frozen=True)
class AnalysisContext:
    """What an analysis gets to see of a training.

    Attributes:
        activations: Text of a site -> its activations on the probe batches, (rows, ...), detached.
        model: The model, in evaluation mode.
        batches: The probe batches, on the device of the model.
        generator: Source of every draw, on the CPU; the same for every evaluation.
        epoch: Number of completed epochs.
        step: Number of the last step.

    Examples:
        >>> seen = {"0": torch.ones(4, 2)}
        >>> AnalysisContext(seen, nn.Identity(), [], torch.Generator(), epoch=1, step=20).step
        20
    """

    activations: Mapping[str, Tensor]
    model: nn.Module
    batches: Sequence[Any]
    generator: torch.Generator
    epoch: int
    step: int


def register_analysis(name: str) -> Callable[[_AnalysisT], _AnalysisT]:
    """Make an analysis known by a name.

    The analysis is a function of an `AnalysisContext` and of its own keyword arguments, which come
    from `analysis_configs`. It returns a mapping of numbers, strings, tensors, arrays, lists and
    mappings. Gradients are off; it may turn them on for parameters of its own.

    Args:
        name: The name.

    Returns:
        A decorator that returns the function unchanged.

    Raises:
        ValueError: When the name is taken.

    Examples:
        >>> @register_analysis("largest")
        ... def largest(context, *, absolute=True):
        ...     seen = context.activations.items()
        ...     return {site: (x.abs() if absolute else x).max() for site, x in seen}
        >>> find_analysis("largest", {"absolute": False}) is largest
        True
    """

    def register(analysis: _AnalysisT) -> _AnalysisT:
        if name in _REGISTRY:
            raise ValueError(f"an analysis named {name!r} is registered already; choose another")
        _REGISTRY[name] = analysis
        return analysis

    return register


def find_analysis(name: str, config: Mapping[str, Any]) -> Analysis:
    """Return an analysis that takes a configuration.

    Raises:
        TypeError: When the analysis does not take these keyword arguments.
        ValueError: When no analysis has that name.
    """
    if name not in _REGISTRY:
        raise ValueError(f"no analysis named {name!r}; known: {', '.join(sorted(_REGISTRY))}")
    analysis = _REGISTRY[name]
    try:
        inspect.signature(analysis).bind(None, **config)
    except TypeError as error:
        raise TypeError(f"analysis {name!r} does not take {dict(config)!r}: {error}") from error
    return analysis


@register_analysis("fractal_dims")
def _fractal_dims(context: AnalysisContext, *, k_max: int = 10, axis: int = 1) -> dict[str, Any]:
    """Higuchi dimension of every channel along time: mean and deviation over rows and channels."""
    from neuros_mechint.fractals import HiguchiFractalDimension

    estimator = HiguchiFractalDimension(k_max=k_max)
    found = {}
    for site, value in context.activations.items():
        dimensions = estimator.compute(value, dim=axis).double().flatten()
        defined = dimensions[dimensions.isfinite()]
        found[site] = {
            "mean": float(defined.mean()),
            "std": float(defined.std(correction=0)),
            "undefined": 1 - defined.numel() / max(dimensions.numel(), 1),
        }
    return found


@register_analysis("geometry")
def _geometry(context: AnalysisContext, *, unit_axis: int = -1) -> dict[str, Any]:
    """Dimension of the cloud of population activations at each site."""
    from neuros_mechint.neurons import NeuronActivationAnalyzer

    analyzer = NeuronActivationAnalyzer(nn.Identity())
    found = {}
    for site, value in context.activations.items():
        shape = analyzer.analyze_population_geometry([_rows(value, unit_axis).cpu()])
        found[site] = {
            "participation_ratio": shape.participation_ratio,
            "dimensionality": shape.dimensionality,
            "effective_rank": shape.effective_rank,
        }
    return found


@register_analysis("sae")
def _sae(
    context: AnalysisContext,
    *,
    dictionary_size: int,
    k: int = 8,
    steps: int = 200,
    batch_size: int = 256,
    unit_axis: int = -1,
) -> dict[str, Any]:
    """Scores of a top-k coder trained on three quarters of the rows, on the last quarter."""
    from neuros_mechint.sae import SparseAutoencoder, evaluate_sae

    found = {}
    for site, value in context.activations.items():
        # Whole trials are held out: positions of one trial resemble each other.
        n_train = len(value) - len(value) // 4
        train, test = (_rows(part, unit_axis) for part in (value[:n_train], value[n_train:]))
        coder = SparseAutoencoder(
            latent_dim=train.shape[1],
            dictionary_size=dictionary_size,
            activation="topk",
            k=k,
            generator=context.generator,
        ).to(value)
        with torch.enable_grad():
            coder.fit(train, steps=steps, batch_size=batch_size, generator=context.generator)
        scores = evaluate_sae(coder, test)
        found[site] = {
            name: number for name, number in scores._asdict().items() if number is not None
        }
    return found


@register_analysis("alignment")
def _alignment(
    context: AnalysisContext, *, reference: str | int, unit_axis: int = -1
) -> dict[str, Any]:
    """Likeness of each site to a member of the batches, such as a recording of a brain."""
    from neuros_mechint.alignment import CKA, Procrustes

    other = _rows(_member(context, reference), unit_axis)
    found = {}
    for site, value in context.activations.items():
        own = _rows(value, unit_axis)
        if len(own) != len(other):
            raise ValueError(
                f"site {site!r} has {len(own)} rows and positions, the reference {reference!r} "
                f"{len(other)}; both need the same samples"
            )
        pair = own, other.to(own)
        found[site] = {
            "cka": float(CKA(estimator="unbiased").compute(*pair)),
            "procrustes_distance": float(Procrustes().compute(*pair).distance),
        }
    return found


@register_analysis("dynamics")
def _dynamics(context: AnalysisContext, *, rank: int | None = None) -> dict[str, Any]:
    """The linear map that best takes each state of a sequence to the next one."""
    from neuros_mechint.dynamics import KoopmanAnalyzer

    found = {}
    for site, value in context.activations.items():
        states = _sequences(site, value)
        centred = states - states.mean((0, 1))
        modes = KoopmanAnalyzer(rank=rank).compute(centred, trials=True)
        found[site] = {
            "spectral_radius": float(modes.eigenvalues.abs().max()),
            "leading_frequency": float(modes.frequencies[0].abs()),
            "n_modes": modes.rank,
            "speed": float(states.diff(dim=1).norm(dim=-1).mean()),
        }
    return found


@register_analysis("latent_circuits")
def _latent_circuits(
    context: AnalysisContext,
    *,
    n_latent: int,
    inputs: str | int | None = None,
    n_restarts: int = 8,
    n_epochs: int = 300,
) -> dict[str, Any]:
    """A latent circuit fitted to three quarters of the trials, scored on the last quarter."""
    from neuros_mechint.circuits import CircuitFitter

    stimuli = _member(context, inputs)
    n_train = len(stimuli) - len(stimuli) // 4
    fitter = CircuitFitter(n_restarts=n_restarts, generator=context.generator)
    found = {}
    for site, value in context.activations.items():
        responses = _sequences(site, value)
        drive = stimuli.to(responses)
        with torch.enable_grad():
            circuit = fitter.fit(responses[:n_train], drive[:n_train], n_latent, n_epochs)
        found[site] = {
            "r2": float(circuit.score(responses[n_train:], drive[n_train:])),
            "w_rec": circuit.w_rec.detach(),
        }
    return found


def _member(context: AnalysisContext, key: str | int | None) -> Tensor:
    """One member of every probe batch, rows joined; None stands for the batch itself."""
    parts = [batch if key is None else batch[key] for batch in context.batches]
    if not all(isinstance(part, Tensor) for part in parts):
        kinds = sorted({type(part).__name__ for part in parts})
        raise TypeError(f"member {key!r} of a batch needs to be a tensor, got {', '.join(kinds)}")
    return torch.cat(parts)


def _sequences(site: str, value: Tensor) -> Float[Tensor, "row time unit"]:
    if value.ndim != 3:
        raise ValueError(
            f"site {site!r} needs activations (row, time, unit), got shape {tuple(value.shape)}"
        )
    return value


def _rows(value: Float[Tensor, "..."], unit_axis: int) -> Float[Tensor, "row unit"]:
    """Every row and position as a row of units."""
    return value.movedim(unit_axis, -1).flatten(0, -2)
