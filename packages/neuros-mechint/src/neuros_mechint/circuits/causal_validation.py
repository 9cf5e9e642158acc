r"""Does a latent circuit predict what happens to the full model when it is changed?"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.circuits._causal_perturb import (
    circuit_trajectories,
    correlations,
    full_trajectories,
    null_agreement,
)
from neuros_mechint.circuits._causal_system import System, as_system, trajectories
from neuros_mechint.circuits._latent_weights import haar
from neuros_mechint.circuits.latent_rnn import LatentCircuitModel

__all__ = ["CausalValidation", "WeightAgreement", "validate_causal"]

Kind = Literal["connectivity", "activity"]
Where = Literal["state", "input"]
Readout = Callable[[Tensor], Tensor] | Tensor
_STRENGTH = 0.1


class WeightAgreement(NamedTuple):
    r"""Recurrent weights of the circuit beside $Q^\top W Q$ of the full model.

    Attributes:
        correlation: Pearson correlation over entries.
        slope: Of the least-squares line through them, the circuit's weights over the projected.
    """

    correlation: float
    slope: float

    def to_dict(self) -> dict[str, float]:
        """The two numbers by name."""
        return self._asdict()


@dataclass(frozen=True)
class CausalValidation:
    r"""Predicted and observed effects of perturbations, one row per entry.

    Attributes:
        kind: "connectivity" or "activity".
        strength: $s$ of the perturbations.
        entries: Which nodes or connections, (entries, 1) or (entries, 2) as (to, from).
        predicted: Change of the circuit's states, (entries, trials, time, latents).
        observed: Change of the full model's projected activity, likewise.
        predicted_output: Change of the circuit's outputs, or None.
        observed_output: Change of the read-out of the full model, or None.
        correlation: Of predicted with observed over trials, times and nodes, (entries,); NaN where
            nothing changes.
        r2: $1 - \sum (o - p)^2 / \sum o^2$, (entries,).
        output_correlation: The correlation for the outputs, or None.
        sign_agreement: Share of trials and nodes whose change, averaged over time, has the
            predicted sign, (entries,).
        null_correlation: Correlations with random embeddings, (entries, n_null).
        p_value: Share of random embeddings that are predicted as well, itself counted, (entries,).
        weight_agreement: `w_rec` beside $Q^\top W Q$; None without a recurrent weight.
    """

    kind: str
    strength: float
    entries: Tensor
    predicted: Tensor
    observed: Tensor
    predicted_output: Tensor | None
    observed_output: Tensor | None
    correlation: Tensor
    r2: Tensor
    output_correlation: Tensor | None
    sign_agreement: Tensor
    null_correlation: Tensor
    p_value: Tensor
    weight_agreement: WeightAgreement | None

    def summary(self) -> str:
        """The verdict in words."""
        n_below = int((self.p_value <= 0.05).sum())
        signs = float(self.sign_agreement.nanmean())
        text = (
            f"{len(self.entries)} perturbations of {self.kind}: median correlation "
            f"{float(self.correlation.nanmedian()):.3f}, median R2 "
            f"{float(self.r2.nanmedian()):.3f}, signs right {signs:.0%}; {n_below} beat "
            "random embeddings (p <= 0.05)."
        )
        if self.weight_agreement is not None:
            text += (
                f"\nw_rec beside Q^T W Q: correlation {self.weight_agreement.correlation:.3f}, "
                f"slope {self.weight_agreement.slope:.3f}."
            )
        return text

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        fields = dict(vars(self))
        if self.weight_agreement is not None:
            fields["weight_agreement"] = self.weight_agreement.to_dict()
        return fields


def validate_causal(
    circuit: LatentCircuitModel,
    step: Any,
    stimuli: Array,
    *,
    readout: Readout | None = None,
    kind: Kind = "connectivity",
    strength: Number | None = None,
    entries: Sequence[Any] | Tensor | None = None,
    where: Where = "state",
    w_rec: Array | None = None,
    hidden: Array | None = None,
    n_null: int = 100,
    generator: torch.Generator | None = None,
) -> CausalValidation:
    r"""Perturb the full model where the circuit says that something is, and compare.

    "activity" adds $s q_i$ to the state of the full model before every step, and $s$ to node i of
    the circuit. "connectivity" adds $s q_i q_j^\top$ to the recurrent weight, and $s$ to
    $W_{rec}[i, j]$. The null are embeddings drawn uniformly, perturbed with the same norm and
    projected on themselves: if the circuit's embedding has nothing to do with the model, p-values
    are uniform. Entries share the draws.

    Args:
        circuit: The circuit.
        step: The full model: `nn.RNN`, `nn.RNNCell`, a module with a method `step(h, u)`, any other
            recurrent module, or a callable. One that is not an `nn.RNN` takes part in
            "connectivity" and `where="input"` by keywords: `drive=` is added before the
            nonlinearity, `w_rec=` replaces the recurrent weight. It stays as it is.
        stimuli: (trials, time, inputs).
        readout: Outputs of states of the full model: a callable, or a matrix (outputs, units).
        kind: What is perturbed.
        strength: $s$; None: a tenth of the root mean square of the projected activity, or of
            `circuit.w_rec`.
        entries: Nodes i, or pairs (i, j): to i from j; None: all.
        where: "state", or "input" to add $s q_i$ before the nonlinearity; for "activity" only.
        w_rec: Recurrent weight of a step that is a function, (units, units).
        hidden: First state of the full model, (units,) or (trials, units); None: zero.
        n_null: Random embeddings.
        generator: Where they come from.

    Returns:
        Effects, their agreement and p-values.

    Raises:
        TypeError: When an argument is of the wrong type.
        ValueError: When shapes do not fit, or the step cannot be perturbed in this way.

    Examples:
        >>> circuit = LatentCircuitModel(2, 6, activation="identity").double()
        >>> def step(h, u):
        ...     return circuit.step(h @ circuit.q, u) @ circuit.q.T
        >>> stimuli = torch.rand(4, 10, 2, dtype=torch.float64)
        >>> found = validate_causal(circuit, step, stimuli, kind="activity")
        >>> bool((found.predicted - found.observed).abs().max() < 1e-5)
        True

    References:
        Langdon & Engel (2025), Nature Neuroscience 28, 665-675. doi:10.1038/s41593-025-01869-7
    """
    one_of("kind", kind, get_args(Kind))
    one_of("where", where, get_args(Where))
    u = as_real("stimuli", stimuli, axes=("trials", "time", "inputs"), at_least=(1, 2, 1))
    if n_null < 1:
        raise ValueError(f"n_null must be at least 1, got {n_null}")
    if strength == 0:
        raise ValueError("strength must differ from 0; None takes a tenth of what is perturbed")
    if kind == "connectivity" and where == "input":
        raise ValueError("where='input' is a way to add activity; leave it out for connectivity")
    system = as_system(step, w_rec, u.dtype)
    _check_possible(system, circuit, kind, where, u)
    chosen = _entries(entries, circuit.n_latent, kind).to(u.device)
    with torch.no_grad():
        # A copy in the precision of the full model; the caller's circuit stays as it is.
        exact = copy.deepcopy(circuit).to(u.device, system.dtype)
        run = _Run(system, exact, u.to(system.dtype), hidden, where)
        size = strength if strength is not None else run.usual_strength(kind)
        bases = haar(circuit.n_observed, circuit.n_latent, generator, batch=n_null)
        return run.validate(kind, float(size), chosen, readout, bases)


def _check_possible(
    system: System, circuit: LatentCircuitModel, kind: str, where: str, stimuli: Tensor
) -> None:
    if system.n_states not in {None, circuit.n_observed}:
        raise ValueError(
            f"step must have the {circuit.n_observed} units of the circuit, got {system.n_states}"
        )
    if stimuli.shape[-1] != circuit.n_inputs or stimuli.ndim != 3:
        raise ValueError(
            f"stimuli must be (trials, time, {circuit.n_inputs}), got shape {tuple(stimuli.shape)}"
        )
    units = (circuit.n_observed, circuit.n_observed)
    if system.weight is not None and system.weight.shape != units:
        raise ValueError(f"w_rec must be {units}, got shape {tuple(system.weight.shape)}")
    if kind == "activity" and where == "input" and not system.driven:
        raise ValueError(
            "where='input' needs an nn.RNN, or a step that accepts drive=; use where='state'"
        )
    rewired = system.rewired is not None and system.weight is not None
    if kind == "connectivity" and not (system.driven or rewired):
        raise ValueError(
            "kind='connectivity' needs a recurrent weight: an nn.RNN, a step that accepts drive=, "
            "or one that accepts w_rec= beside the argument w_rec; or use kind='activity'"
        )


def _entries(
    entries: Sequence[Any] | Tensor | None, n: int, kind: str
) -> Int[Tensor, "entry index"]:
    width = 1 if kind == "activity" else 2
    if entries is None:
        nodes = torch.arange(n)
        return nodes[:, None] if width == 1 else torch.cartesian_prod(nodes, nodes)
    found = torch.as_tensor(entries)
    found = found[:, None] if found.ndim == 1 and width == 1 else found
    whole = not found.is_floating_point() and found.dtype != torch.bool
    if found.ndim != 2 or found.shape[1] != width or not len(found) or not whole:
        wanted = "nodes i" if width == 1 else "pairs (i, j)"
        raise ValueError(f"entries must be {wanted} of whole numbers, got {entries}")
    if bool(((found < 0) | (found >= n)).any()):
        raise ValueError(f"entries must lie in 0 to {n - 1}, got {entries}")
    return found.long()


class _Run:
    """One validation: the two models, what drives them, and where they are without a change."""

    def __init__(
        self,
        system: System,
        circuit: LatentCircuitModel,
        stimuli: Tensor,
        hidden: Array | None,
        where: str,
    ) -> None:
        self.system, self.circuit, self.stimuli, self.where = system, circuit, stimuli, where
        self.q = circuit.q
        self.start = stimuli.new_zeros(len(stimuli), circuit.n_observed)
        if hidden is not None:
            given = as_real("hidden", hidden, axes=("units",), at_least=(1,))
            if given.shape[-1] != circuit.n_observed or given.shape[:-1] not in {
                (),
                (len(stimuli),),
            }:
                raise ValueError(
                    f"hidden must be ({circuit.n_observed},) or {tuple(self.start.shape)}, got "
                    f"shape {tuple(given.shape)}"
                )
            self.start = given.to(stimuli).expand_as(self.start)
        self.base = trajectories(lambda h, u: system.advance(h, u, None), self.start, stimuli)
        self.latent_base = trajectories(circuit.step, self.start @ self.q, stimuli)

    def usual_strength(self, kind: str) -> float:
        """A tenth of the size of what is perturbed."""
        of = self.circuit.w_rec if kind == "connectivity" else self.base @ self.q
        return _STRENGTH * float(of.square().mean().sqrt())

    def validate(
        self,
        kind: str,
        strength: float,
        entries: Tensor,
        readout: Readout | None,
        bases: Tensor,
    ) -> CausalValidation:
        latents = circuit_trajectories(
            self.circuit, self.start @ self.q, self.stimuli, entries, strength, where=self.where
        )
        predicted = latents - self.latent_base
        columns = self.q.mT
        sources = columns[entries[:, 1]] if kind == "connectivity" else None
        read = None if readout is None else _reader(readout, self.circuit, self.base)
        both = self._full(sources, strength * columns[entries[:, 0]], read)
        n = self.circuit.n_latent
        observed, outputs = both[..., :n], both[..., n:]
        null = self._null(predicted, entries, strength, bases)
        n_null = len(bases)
        agreement = correlations(predicted.flatten(1), observed.flatten(1))
        error = (observed - predicted).square().flatten(1).sum(-1)
        beaten = (null.nan_to_num(0.0) >= agreement[:, None]).sum(-1)
        signs = predicted.mean(2).sign()
        counted = signs != 0
        right = ((observed.mean(2).sign() == signs) & counted).flatten(1).sum(-1)
        expected = None if read is None else self.circuit.readout(latents)
        if expected is not None:
            expected = expected - self.circuit.readout(self.latent_base)
        return CausalValidation(
            kind=kind,
            strength=strength,
            entries=entries,
            predicted=predicted,
            observed=observed,
            predicted_output=expected,
            observed_output=None if read is None else outputs,
            correlation=agreement,
            r2=1 - error / observed.square().flatten(1).sum(-1),
            output_correlation=None
            if expected is None
            else correlations(expected.flatten(1), outputs.flatten(1)),
            sign_agreement=right / counted.flatten(1).sum(-1),
            null_correlation=null,
            p_value=torch.where(agreement.isnan(), torch.nan, (1 + beaten) / (1 + n_null)),
            weight_agreement=self._weights(),
        )

    def _full(
        self,
        sources: Tensor | None,
        targets: Tensor,
        read: Callable[[Tensor], Tensor] | None,
        bases: Tensor | None = None,
    ) -> Tensor:
        """Change of the projected activity, and of what is read out, under every change."""

        def reduce(states: Tensor, part: slice) -> Tensor:
            change = states - self.base
            if bases is not None:
                return torch.einsum("ebtn,enk->ebtk", change, bases[part])
            shown = change @ self.q
            return shown if read is None else torch.cat([shown, read(states) - read(self.base)], -1)

        return full_trajectories(
            self.system, self.start, self.stimuli, sources, targets,
            where=self.where, reduce=reduce,
        )  # fmt: skip

    def _null(
        self,
        predicted: Float[Tensor, "entry trial time latent"],
        entries: Int[Tensor, "entry index"],
        strength: float,
        bases: Float[Tensor, "draw unit latent"],
    ) -> Float[Tensor, "entry draw"]:
        bases = bases.to(self.q)
        found = predicted.new_zeros(len(entries), len(bases))
        # A node onto itself pushes along the column that it is pulled from.
        onto_itself = entries[:, 0] == entries[:, -1]
        for source, chosen in ((0, onto_itself), (1, ~onto_itself)):
            if bool(chosen.any()):
                pulled = bases[:, :, source] if entries.shape[1] == 2 else None
                changes = self._full(pulled, strength * bases[:, :, 0], None, bases)
                found[chosen] = null_agreement(predicted[chosen], changes, entries[chosen])
        return found

    def _weights(self) -> WeightAgreement | None:
        if self.system.weight is None:
            return None
        projected = (self.q.mT @ self.system.weight.to(self.q) @ self.q).flatten()
        own = self.circuit.w_rec.flatten()
        centred = projected - projected.mean()
        slope = (centred * own).sum() / centred.square().sum()
        return WeightAgreement(float(correlations(own, projected)), float(slope))


def _reader(
    readout: Readout, circuit: LatentCircuitModel, states: Tensor
) -> Callable[[Tensor], Tensor]:
    if not circuit.n_outputs:
        raise ValueError("readout is given, but the circuit has n_outputs=0; fit it with outputs=")
    read = _as_function(readout, circuit)
    width = read(states).shape[-1]
    if width != circuit.n_outputs:
        raise ValueError(f"readout must give (..., {circuit.n_outputs}), got {width} channels")
    return read


def _as_function(readout: Readout, circuit: LatentCircuitModel) -> Callable[[Tensor], Tensor]:
    if isinstance(readout, Tensor):
        wanted = (circuit.n_outputs, circuit.n_observed)
        if readout.shape != wanted:
            raise ValueError(f"readout must be {wanted}, got shape {tuple(readout.shape)}")
        matrix = readout.detach()
        return lambda h: h @ matrix.to(h).mT
    if isinstance(readout, nn.Module):
        # The caller's module keeps its precision.
        dtype = next((p.dtype for p in readout.parameters()), None)
        return lambda h: readout(h if dtype is None else h.to(dtype)).to(h)
    return readout
