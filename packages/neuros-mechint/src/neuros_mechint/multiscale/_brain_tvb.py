"""The same brain run by The Virtual Brain, for comparison."""

import importlib
import math
import warnings
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint.multiscale._brain_arguments import Clock, Sweep
from neuros_mechint.multiscale._masses_equations import Equations, Numbers
from neuros_mechint.multiscale.connectome import Connectome

__all__ = ["run_tvb"]

# Parameters of our masses that belong to the coupling there.
_COUPLING_OF = {"cmax": "cmax", "midpoint": "midpoint", "steepness": "r"}
_MODELS = {
    "jansen-rit": ("JansenRit", "SigmoidalJansenRit"),
    "wilson-cowan": ("WilsonCowan", "Linear"),
    "kuramoto": ("Kuramoto", "Kuramoto"),
    "montbrio": ("MontbrioPazoRoxin", "Linear"),
    "hopf": ("SupHopf", "Difference"),
}


def run_tvb(
    equations: Equations,
    connectome: Connectome,
    sweep: Sweep,
    clock: Clock,
    *,
    speed: float,
    integrator: str,
    generator: torch.Generator | None,
) -> Float[Tensor, "time state region sets"]:
    """States of every recorded step, one set after the other.

    Raises:
        ImportError: When tvb-library is not installed.
        ValueError: When a set's parameters of the coupling differ between regions.
    """
    lab = _lab()
    run = partial(_one, lab, equations, connectome, clock=clock, speed=speed, integrator=integrator)
    n_sets = sweep.state.shape[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = [run(_set(sweep, k), seed=seed) for k, seed in enumerate(_seeds(n_sets, generator))]
    first = clock.n_transient + clock.every - 1
    kept = np.stack(runs, axis=-1)[first :: clock.every]
    return torch.from_numpy(kept).to(sweep.state)


def _lab() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("tvb.simulator.lab")
    except ImportError as error:
        raise ImportError(
            "engine='tvb' needs tvb-library: pip install 'neuros-mechint[tvb]', "
            "or choose engine='torch'"
        ) from error


def _seeds(n: int, generator: torch.Generator | None) -> list[int]:
    source = torch.Generator().manual_seed(0) if generator is None else generator
    drawn = torch.randint(2**31, (n,), generator=source, device=source.device)
    return [int(x) for x in drawn]


def _set(sweep: Sweep, k: int) -> Sweep:
    """One set of the sweep."""

    def of(x: Tensor) -> Tensor:
        return x.detach()[..., min(k, x.shape[-1] - 1)]

    return Sweep(
        {name: of(x) for name, x in sweep.parameters.items()},
        of(sweep.strength),
        None if sweep.noise is None else of(sweep.noise),
        of(sweep.state),
        sweep.batched,
    )


def _array(x: Tensor) -> Any:
    return x.detach().cpu().double().reshape(-1).numpy().copy()


def _split(equations: Equations, p: Numbers) -> tuple[dict[str, Any], dict[str, Any]]:
    """Parameters of the model, and of the coupling."""
    model = {k: _array(x) for k, x in p.items()}
    if equations.name != "jansen-rit":
        return model, {}
    regional = [k for k in _COUPLING_OF if model[k].size > 1]
    if regional:
        raise ValueError(
            f"engine='tvb' takes {', '.join(regional)} as one number for all regions; "
            "choose engine='torch'"
        )
    return model, {theirs: model.pop(ours) for ours, theirs in _COUPLING_OF.items()}


def _one(
    lab: Any,
    equations: Equations,
    connectome: Connectome,
    sweep: Sweep,
    *,
    clock: Clock,
    speed: float,
    integrator: str,
    seed: int,
) -> Any:
    dt = 1000 * clock.dt
    model_name, coupling_name = _MODELS[equations.name]
    numbers, sent = _split(equations, sweep.parameters)
    model = getattr(lab.models, model_name)(variables_of_interest=equations.states, **numbers)
    lengths = _table(connectome.tract_lengths)
    conn = lab.connectivity.Connectivity(
        weights=_table(connectome.weights),
        tract_lengths=lengths if math.isfinite(speed) else np.zeros_like(lengths),
        region_labels=np.array(connectome.labels),
        centres=np.zeros((len(connectome.labels), 3)),
        speed=np.array([speed if math.isfinite(speed) else 1.0]),
    )
    conn.configure()
    conn.set_idelays(dt)
    state = sweep.state.cpu().double().numpy()
    sim = lab.simulator.Simulator(
        model=model,
        connectivity=conn,
        coupling=getattr(lab.coupling, coupling_name)(a=_array(sweep.strength), **sent),
        integrator=_integrator(lab, integrator, dt, sweep.noise, seed),
        monitors=(lab.monitors.Raw(),),
        initial_conditions=np.tile(state[None, :, :, None], (conn.horizon, 1, 1, 1)),
    ).configure()
    n_steps = clock.n_transient + clock.n_kept
    # Half a step more than the last, so that rounding does not leave it out.
    ((_, found),) = sim.run(simulation_length=(n_steps + 0.5) * dt)
    return found[:n_steps, ..., 0]


def _table(x: Tensor) -> Any:
    return x.detach().cpu().double().numpy()


def _integrator(lab: Any, name: str, dt: float, noise: Tensor | None, seed: int) -> Any:
    kind = name.capitalize()
    if noise is None:
        return getattr(lab.integrators, f"{kind}Deterministic")(dt=dt)
    # Their dispersion D stands for increments of sqrt(2 D dt).
    spread = lab.noise.Additive(nsig=_array(noise) ** 2 / 2, noise_seed=seed)
    return getattr(lab.integrators, f"{kind}Stochastic")(dt=dt, noise=spread)
