"""A brain as the simulator sees it: constants, connections, and what its records show."""

from dataclasses import replace

import torch
from torch import Tensor

from neuros_mechint.multiscale._brain_arguments import Clock, Sweep
from neuros_mechint.multiscale._brain_delays import connected
from neuros_mechint.multiscale._brain_run import Plan, run
from neuros_mechint.multiscale._brain_step import Embedding, States, Step
from neuros_mechint.multiscale._masses_equations import Equations
from neuros_mechint.multiscale.connectome import Connectome

__all__ = ["run_torch", "seen"]


def run_torch(
    equations: Equations,
    connectome: Connectome,
    sweep: Sweep,
    clock: Clock,
    *,
    speed: float,
    integrator: str,
    generator: torch.Generator | None,
    embedding: Embedding | None,
    checkpoint_every: int | None,
) -> States:
    """States (time, state, region, set), those of a model's own, and last field potentials."""
    state = sweep.state
    weights = connectome.weights.to(state)
    dt = 1000 * clock.dt
    delays = (connectome.tract_lengths / speed / dt).round().long().to(state.device)
    p = equations.constants(sweep.parameters)
    p = {**p, "strength": sweep.strength, "in_strength": weights.sum(1)[:, None]}
    if sweep.noise is not None:
        p["noise"] = sweep.noise
        generator = torch.Generator().manual_seed(0) if generator is None else generator
    if embedding is not None:
        embedding = replace(embedding, regions=embedding.regions.to(state.device))
    step = Step(equations, dt, integrator, embedding)
    plan = Plan(
        step,
        forth=connected(weights, delays, equations.n_sources),
        back=connected(weights.mT, delays.mT, equations.n_sources),
        n_transient=clock.n_transient,
        n_kept=clock.n_kept,
        every=clock.every,
        checkpoint_every=checkpoint_every,
        generator=None if sweep.noise is None else generator,
    )
    return run(plan, (state, *step.first(state)), p)


def seen(equations: Equations, embedding: Embedding | None, records: States) -> dict[str, Tensor]:
    """States and field potentials (set, ..., time) of records (time, ..., set)."""
    state, lfp = records[0].permute(3, 1, 2, 0), records[-1].permute(2, 1, 0)
    if embedding is None or embedding.readout is None:
        return {"state": state, "lfp": lfp}
    inner = records[1].permute(3, 1, 2, 0)
    # (set, d, k, time) as one batch of all sets and times.
    flat = inner.permute(0, 3, 2, 1).flatten(0, 1)
    activity = embedding.readout(flat)
    sent = torch.unflatten(equations.emit(activity)[0], 0, (len(inner), -1)).mT
    regions = embedding.regions.to(state.device)
    nothing = state.new_full((*state.shape[:2], len(regions), state.shape[-1]), torch.nan)
    return {
        "state": state.index_copy(2, regions, nothing),
        "lfp": lfp.index_copy(1, regions, sent),
        "embedded_state": inner,
    }
