"""Scores, the baselines that a score is read against, and their intervals."""

from neuros_neurofm.evaluation.bootstrap import BootstrapInterval, block_bootstrap
from neuros_neurofm.evaluation.forecasts import ARForecaster, persistence_forecast
from neuros_neurofm.evaluation.linear_decoders import RidgeDecoder, WienerDecoder
from neuros_neurofm.evaluation.metrics import bits_per_spike, poisson_nll, r2_score

__all__ = [
    "ARForecaster",
    "BootstrapInterval",
    "RidgeDecoder",
    "WienerDecoder",
    "bits_per_spike",
    "block_bootstrap",
    "persistence_forecast",
    "poisson_nll",
    "r2_score",
]
