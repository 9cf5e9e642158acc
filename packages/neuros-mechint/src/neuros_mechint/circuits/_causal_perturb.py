"""What a perturbation does to a full model and to its latent circuit."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuros_mechint.circuits._causal_system import System, trajectories

if TYPE_CHECKING:
    from neuros_mechint.circuits.latent_rnn import LatentCircuitModel

__all__ = ["circuit_trajectories", "correlations", "full_trajectories", "null_agreement"]

# Numbers in the states of one chunk of perturbations: 64 MB.
_CHUNK = 8_000_000


def full_trajectories(
    system: System,
    start: Float[Tensor, "trial unit"],
    stimuli: Float[Tensor, "trial time input"],
    sources: Float[Tensor, "change unit"] | None,
    targets: Float[Tensor, "change unit"],
    *,
    where: str,
    reduce: Callable[[Tensor, slice], Tensor],
) -> Tensor:
    r"""States under every change, reduced chunk by chunk.

    With sources the recurrent weight gains `targets` times `sources` transposed; without them the
    targets are added to the state before every step, or before the nonlinearity.
    """
    rows = max(1, _CHUNK // max(1, stimuli.shape[0] * stimuli.shape[1] * start.shape[1]))
    found = []
    for first in range(0, len(targets), rows):
        part = slice(first, first + rows)
        push, pull = targets[part], None if sources is None else sources[part]
        if pull is not None and not system.driven:
            states = _rewired(system, start, stimuli, torch.stack([push, pull], -1))
        else:
            advance = _perturbed(system, pull, push, where)
            states = trajectories(advance, start.expand(len(push), *start.shape), stimuli)
        found.append(reduce(states, part))
    return torch.cat(found)


def _perturbed(
    system: System, sources: Tensor | None, targets: Tensor, where: str
) -> Callable[[Tensor, Tensor], Tensor]:
    push = targets[:, None, :]

    def rank_one(h: Tensor, u: Tensor) -> Tensor:
        return system.advance(h, u.expand(*h.shape[:-1], -1), (h @ pull) * push)

    def before_nonlinearity(h: Tensor, u: Tensor) -> Tensor:
        return system.advance(h, u.expand(*h.shape[:-1], -1), push.expand_as(h))

    def on_state(h: Tensor, u: Tensor) -> Tensor:
        return system.advance(h + push, u.expand(*h.shape[:-1], -1), None)

    if sources is None:
        return on_state if where == "state" else before_nonlinearity
    pull = sources[:, :, None]
    return rank_one


def _rewired(
    system: System, start: Tensor, stimuli: Tensor, pairs: Float[Tensor, "change unit side"]
) -> Tensor:
    """States with one weight after the other, as a step that is given its weight takes them."""
    # Checked where the arguments come in.
    replaced, own = cast("Any", system.rewired), cast("Tensor", system.weight)
    found = []
    for push, pull in pairs.mT:
        weight = own + torch.outer(push, pull)

        def advance(h: Tensor, u: Tensor, weight: Tensor = weight) -> Tensor:
            return cast("Tensor", replaced(h, u, weight))

        found.append(trajectories(advance, start, stimuli))
    return torch.stack(found)


def circuit_trajectories(
    circuit: "LatentCircuitModel",
    start: Float[Tensor, "trial latent"],
    stimuli: Float[Tensor, "trial time input"],
    entries: Int[Tensor, "change index"],
    strength: float,
    *,
    where: str,
) -> Float[Tensor, "change trial time latent"]:
    """The circuit's states under the same changes, along its own nodes."""
    eye = torch.eye(circuit.n_latent, dtype=start.dtype, device=start.device)
    push = strength * eye[entries[:, 0]][:, None, :]

    def advance(h: Tensor, u: Tensor) -> Tensor:
        if entries.shape[1] == 2:
            pulled = h.gather(-1, entries[:, None, 1:].expand(*h.shape[:-1], 1))
            return circuit.step(h, u, drive=pulled * push)
        return circuit.step(h + push, u) if where == "state" else circuit.step(h, u, drive=push)

    return trajectories(advance, start.expand(len(entries), *start.shape), stimuli)


def correlations(
    predicted: Float[Tensor, "*batch value"], observed: Float[Tensor, "*batch value"]
) -> Float[Tensor, "*batch"]:
    """Pearson correlations along the last axis; NaN where a side does not vary."""
    a, b = (z - z.mean(-1, keepdim=True) for z in (predicted, observed))
    return (a * b).sum(-1) / (a.square().sum(-1) * b.square().sum(-1)).sqrt()


def null_agreement(
    predicted: Float[Tensor, "change trial time latent"],
    changes: Float[Tensor, "draw trial time latent"],
    entries: Int[Tensor, "change index"],
) -> Float[Tensor, "change draw"]:
    """Correlation of each prediction with what random embeddings show.

    A draw was pushed along its first column (and pulled from its second). For the entry (i, j) its
    columns are named so that these are i and j: an embedding drawn without regard to the model.
    """
    n = changes.shape[-1]
    found = []
    for entry, wanted in zip(entries.tolist(), predicted, strict=True):
        named = list(dict.fromkeys(entry))
        places = named + [k for k in range(n) if k not in named]
        order = torch.tensor(places, device=changes.device).argsort()
        shown = changes[..., order].flatten(1)
        found.append(correlations(wanted.flatten().expand_as(shown), shown))
    return torch.stack(found)
