"""How well a model predicts neurons that it does not see."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray

from neuros_neurofm.evaluation._arrays import Array, Data, as_float64
from neuros_neurofm.evaluation._training import evaluating
from neuros_neurofm.evaluation.metrics import bits_per_spike
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX
from neuros_neurofm.tokenizers import SpikeTokenizer

__all__ = ["CoSmoothing", "co_smoothing"]

_ROWS_PER_PASS = 32


class CoSmoothing(NamedTuple):
    """Predicted rates of neurons that were held out, and their score.

    Attributes:
        rates: Expected counts per bin of the held-out neurons, (trial, time, neuron), or
            (time, neuron) for a single stretch.
        bits_per_spike: Score of all held-out neurons together.
        per_neuron: Score of each, (neuron,); NaN for a neuron without a spike.
        held_out: Indices of the held-out neurons, (neuron,).
        known: Whether the model has a learned vector of each, (neuron,). Those without one share a
            vector, as nothing but their name tells them apart; all True for a function.
    """

    rates: Array
    bits_per_spike: float
    per_neuron: Array
    held_out: NDArray[np.int64]
    known: NDArray[np.bool_]


def co_smoothing(
    model: MultiModalNeuroFMX | Callable[[Array], Data],
    counts: Data,
    held_out: Sequence[int] | NDArray[np.generic],
    *,
    units: Sequence[str] | None = None,
) -> CoSmoothing:
    r"""Predict held-out neurons from the others of the same bins.

    The counts of the held-out neurons never reach the model: a `MultiModalNeuroFMX` gets zeros that
    are masked in their place and is asked for their rates by their ids; a function gets the other
    neurons alone. Changing held-out counts therefore leaves the rates equal to the bit. The score
    is `bits_per_spike` of the held-out counts; their own mean rates score 0.

    Train with `NeuralMasker("co-smooth", ratio)` or `"neuron"` and `MaskedModelingLoss`. A neuron
    is told from others by its learned vector: name them at training (`add_units`) and here.

    Args:
        model: A model with spikes, or a function from held-in counts (trial, time, neuron), NaN
            where missing, to the expected counts (trial, time, held-out neuron), such as a GLM.
        counts: Spikes per bin at the rate of the model, (trial, time, unit) or (time, unit); NaN
            where not recorded.
        held_out: Indices of the held-out neurons, or a boolean per unit; at least one neuron
            stays.
        units: Ids of all units.

    Returns:
        Rates and scores.

    Raises:
        ValueError: Counts of another number of axes or negative, held-out neurons that are none,
            all, repeated or not there, ids that are not one per unit, a model without spikes, rates
            of another shape, or no spike of a held-out neuron.

    Examples:
        >>> import numpy as np
        >>> counts = np.random.default_rng(0).poisson(1.0, size=(50, 4))
        >>> own_mean = counts[:, 3:].mean()
        >>> result = co_smoothing(lambda held_in: np.full((1, 50, 1), own_mean), counts, [3])
        >>> result.bits_per_spike, result.rates.shape
        (0.0, (50, 1))

    References:
        Pei, F. et al. (2021). Neural Latents Benchmark '21. NeurIPS Datasets and Benchmarks.
        https://doi.org/10.48550/arXiv.2109.04463
    """
    given = _checked_counts(counts)
    n_units = given.shape[-1]
    chosen = _checked_held_out(held_out, n_units)
    if units is not None and len(units) != n_units:
        raise ValueError(f"units must name the {n_units} units of counts, got {len(units)} ids")
    trials = given if given.ndim == 3 else given[None]
    if isinstance(model, MultiModalNeuroFMX):
        rates = _model_rates(model, trials, chosen, units)
        learned = set(_spike_ids(model))
        known = np.array([units is not None and units[i] in learned for i in chosen], dtype=bool)
    else:
        rates = as_float64("rates", model(np.delete(trials, chosen, axis=-1)))
        known = np.ones(len(chosen), dtype=bool)
    truth = trials[..., chosen]
    if rates.shape != truth.shape:
        raise ValueError(
            f"the model must return rates (trial, time, neuron) = {truth.shape}, got {rates.shape}"
        )
    each = [
        bits_per_spike(rates[..., [k]], truth[..., [k]]) if np.nansum(truth[..., k]) else np.nan
        for k in range(len(chosen))
    ]
    score = bits_per_spike(rates, truth)
    return CoSmoothing(rates if given.ndim == 3 else rates[0], score, np.array(each), chosen, known)


def _checked_counts(counts: Data) -> Array:
    given = as_float64("counts", counts)
    if given.ndim not in (2, 3) or 0 in given.shape:
        raise ValueError(
            f"counts must be (trial, time, unit) or (time, unit) and not empty, got {given.shape}"
        )
    if np.isinf(given).any() or np.nanmin(given, initial=0.0) < 0:
        raise ValueError("counts must be >= 0 and finite, or NaN where not recorded")
    return given


def _checked_held_out(
    held_out: Sequence[int] | NDArray[np.generic], n_units: int
) -> NDArray[np.int64]:
    given = np.asarray(held_out)
    if given.dtype == np.bool_ and given.shape == (n_units,):
        given = np.flatnonzero(given)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise ValueError(
            f"held_out must be indices of units, or one boolean for each of the {n_units} units, "
            f"got {given.dtype} of shape {given.shape}"
        )
    if not 0 < given.size < n_units or given.min() < 0 or given.max() >= n_units:
        raise ValueError(
            f"held_out must name 1 to {n_units - 1} of the {n_units} units by indices in "
            f"[0, {n_units}), got {given.tolist()[:10]}"
        )
    if len(np.unique(given)) < given.size:
        raise ValueError(f"held_out must name each unit once, got {given.tolist()[:10]}")
    return given.astype(np.int64)


def _spike_ids(model: MultiModalNeuroFMX) -> tuple[str, ...]:
    if "spike" not in model.modalities:
        raise ValueError(
            f"the model was built without 'spike'; its modalities are {list(model.modalities)}"
        )
    return cast("SpikeTokenizer", model.tokenizers["spike"]).units.ids


def _model_rates(
    model: MultiModalNeuroFMX,
    trials: Array,
    held_out: NDArray[np.int64],
    units: Sequence[str] | None,
) -> Array:
    _spike_ids(model)
    seen = np.isfinite(trials)
    seen[..., held_out] = False
    shown = np.where(seen, trials, 0.0)
    named = None if units is None else {"spike": tuple(units)}
    weight, parts = model.fusion.latent, []
    for start in range(0, len(trials), _ROWS_PER_PASS):
        rows = slice(start, start + _ROWS_PER_PASS)
        counts = torch.as_tensor(shown[rows]).to(weight)
        mask = torch.as_tensor(seen[rows]).to(weight.device)
        with evaluating(model):
            output = model({"spike": counts}, units=named, masks={"spike": mask})
        log_rates = output.encoder["spike"][..., held_out.tolist()]
        parts.append(log_rates.double().exp().cpu().numpy())
    return np.concatenate(parts)
