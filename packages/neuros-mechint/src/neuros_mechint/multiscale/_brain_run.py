"""A run over time, and its gradient by the adjoint recursion, with or without checkpoints."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from neuros_mechint._autograd import applied
from neuros_mechint.multiscale._brain_delays import DelayLine, Edges
from neuros_mechint.multiscale._brain_step import States, Step
from neuros_mechint.multiscale._masses_equations import Numbers

__all__ = ["Plan", "run"]


@dataclass
class Plan:
    """What a run does, apart from its tensors.

    Attributes:
        step: One step.
        forth: Connections.
        back: The same, from the region reached to the one that sends.
        n_transient: Steps before the first that is kept.
        n_kept: Steps that may be recorded.
        every: Record every so many steps.
        checkpoint_every: Steps between checkpoints of the gradient; None keeps every step.
        generator: Source of noise; None without noise.
        leaves: Trained tensors that the step reaches by itself: those of an embedded model.
        names: Names of the constants.
        n_states: Number of state tensors.
    """

    step: Step
    forth: Edges
    back: Edges
    n_transient: int
    n_kept: int
    every: int
    checkpoint_every: int | None
    generator: torch.Generator | None
    leaves: tuple[Tensor, ...] = ()
    names: tuple[str, ...] = ()
    n_states: int = 1

    @property
    def n_steps(self) -> int:
        """All steps."""
        return self.n_transient + self.n_kept

    def record_of(self, step: int) -> int | None:
        """Where the state after a step is recorded."""
        kept = step - self.n_transient + 1
        return kept // self.every - 1 if kept > 0 and kept % self.every == 0 else None


@dataclass
class _Chunk:
    """Steps in a row, from where they can be run again.

    Attributes:
        first: First step.
        states: States before every step; at first only of the first.
        sums: Delayed sums of every step.
        draws: Noise of every step.
        sent: What the first states send.
        line: The delay line before the first step; None where nothing has to be run again.
        noise: State of the generator before the first step.
    """

    first: int
    sent: Tensor
    states: list[States] = field(default_factory=list)
    sums: list[Tensor] = field(default_factory=list)
    draws: list[Tensor | None] = field(default_factory=list)
    line: tuple[Tensor, int] | None = None
    noise: Tensor | None = None


def run(plan: Plan, states: States, p: Numbers) -> States:
    """States after the recorded steps.

    Args:
        plan: What to do; its names and leaves are filled in here.
        states: States (state, region, set) to begin with.
        p: Constants of the run.

    Returns:
        States (time, state, region, set), those of an embedded model, and last the field
        potentials (time, region, set) of the masses.
    """
    sent = plan.step.source(states, p)
    plan.names, plan.n_states = tuple(p), len(states)
    plan.leaves = _leaves(plan.step)
    inputs = (*states, sent, *p.values(), *plan.leaves)
    if torch.is_grad_enabled() and any(x.requires_grad for x in inputs):
        found: States = applied(_Run, plan, *inputs)
        return found
    with torch.no_grad():
        return _forward(plan, states, sent, p, None)


def _leaves(step: Step) -> tuple[Tensor, ...]:
    e = step.embedding
    if e is None:
        return ()
    modules = [e.model, e.readout] if isinstance(e.readout, torch.nn.Module) else [e.model]
    found = {id(x): x for module in modules for x in module.parameters() if x.requires_grad}
    return tuple(found.values())


def _drawn(plan: Plan, x: Tensor) -> Tensor | None:
    if plan.generator is None:
        return None
    device = plan.generator.device
    return torch.randn(x.shape, generator=plan.generator, dtype=x.dtype, device=device).to(x.device)


def _forward(
    plan: Plan, states: States, sent: Tensor, p: Numbers, chunks: list[_Chunk] | None
) -> States:
    line = DelayLine(plan.forth, sent)
    n = plan.n_kept // plan.every
    records = tuple(x.new_empty(n, *x.shape) for x in states)
    # Beside the states, so that a gradient of potentials alone is no larger than they are.
    potentials = states[0].new_empty(n, *states[0].shape[1:])
    size = plan.checkpoint_every or plan.n_steps
    chunk = None
    for k in range(plan.n_steps):
        if chunks is not None and k % size == 0:
            chunk = _Chunk(k, sent, [states])
            if plan.checkpoint_every is not None:
                chunk.line = line.snapshot()
                chunk.noise = None if plan.generator is None else plan.generator.get_state()
            chunks.append(chunk)
        sums = line.send(sent)
        draw = _drawn(plan, states[0])
        if chunk is not None and plan.checkpoint_every is None:
            if k > chunk.first:
                chunk.states.append(states)
            chunk.sums.append(sums)
            chunk.draws.append(draw)
        states, sent = plan.step(states, sums, draw, p)
        place = plan.record_of(k)
        if place is not None:
            for record, x in zip(records, states, strict=True):
                record[place] = x
            potentials[place] = plan.step.equations.observe(states[0])
    return *records, potentials


def _replayed(plan: Plan, chunk: _Chunk, line: DelayLine, p: Numbers) -> _Chunk:
    """The chunk with all its states, run again from its checkpoint."""
    if chunk.line is None or plan.checkpoint_every is None:
        return chunk
    full = _Chunk(chunk.first, chunk.sent)
    line.restore(chunk.line)
    if plan.generator is not None and chunk.noise is not None:
        plan.generator.set_state(chunk.noise)
    states, sent = chunk.states[0], chunk.sent
    for _ in range(min(plan.checkpoint_every, plan.n_steps - chunk.first)):
        sums = line.send(sent)
        draw = _drawn(plan, states[0])
        full.states.append(states)
        full.sums.append(sums)
        full.draws.append(draw)
        states, sent = plan.step(states, sums, draw, p)
    return full


class _Run(torch.autograd.Function):
    """All steps at once: the graph holds states, and each step's own graph lives on the way back.

    A delayed sum reads what was sent; on the way back its adjoint reads, along the same
    connections turned around, what will be received: one more delay line.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> States:
        plan: Plan = args[0]
        ctx.plan, ctx.chunks = plan, []
        ctx.save_for_backward(*args[1:])
        ctx.set_materialize_grads(False)
        states, sent, p, _ = _sorted(plan, args[1:])
        return _forward(plan, states, sent, p, ctx.chunks)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        plan: Plan = ctx.plan
        before = None if plan.generator is None else plan.generator.get_state()
        steps = tuple(None if g is None else g.contiguous() for g in grads)
        found = _Adjoint(plan, ctx.saved_tensors).swept(ctx.chunks, steps)
        if plan.generator is not None and before is not None:
            plan.generator.set_state(before)
        return None, *found


def _sorted(
    plan: Plan, tensors: tuple[Tensor, ...]
) -> tuple[States, Tensor, Numbers, tuple[Tensor, ...]]:
    n, m = plan.n_states, plan.n_states + 1 + len(plan.names)
    p = dict(zip(plan.names, tensors[n + 1 : m], strict=True))
    return tensors[:n], tensors[n], p, tensors[m:]


def _at(grads: tuple[Tensor | None, ...], place: int | None) -> list[Tensor | None]:
    """Gradients of one record."""
    return [None if g is None or place is None else g[place] for g in grads]


class _Adjoint:
    """The recursion of the gradient, from the last step to the first."""

    def __init__(self, plan: Plan, tensors: tuple[Tensor, ...]) -> None:
        self.plan, self.tensors = plan, tensors
        self.states, self.sent, numbers, leaves = _sorted(plan, tensors)
        # Leaves of their own, so that no step's graph reaches into the caller's.
        self.p = {k: x.detach().requires_grad_(x.requires_grad) for k, x in numbers.items()}
        trained = [x for x in self.p.values() if x.requires_grad]
        self.trained = [*trained, *leaves]
        self.totals = [torch.zeros_like(x) for x in self.trained]
        self.line = DelayLine(plan.back, torch.zeros_like(self.sent))

    def swept(
        self, chunks: list[_Chunk], grads: tuple[Tensor | None, ...]
    ) -> tuple[Tensor | None, ...]:
        """Gradients of all tensors of the run."""
        plan = self.plan
        again = DelayLine(plan.forth, self.sent.detach())
        slopes = tuple(torch.zeros_like(x) for x in self.states)
        pull = torch.zeros_like(self.sent)
        for chunk in reversed(chunks):
            with torch.no_grad():
                full = _replayed(plan, chunk, again, self.p)
            for k in reversed(range(len(full.sums))):
                *given, seen = _at(grads, plan.record_of(full.first + k))
                pairs = zip(slopes, given, strict=True)
                slopes = tuple(s if g is None else s + g for s, g in pairs)
                slopes, received = self._step(full, k, slopes, pull, seen)
                pull = self.line.send(received)
        return (*slopes, self._past(pull), *self._leaves())

    def _step(
        self, chunk: _Chunk, at: int, slopes: States, pull: Tensor, seen: Tensor | None
    ) -> tuple[States, Tensor]:
        """Adjoints of the states and of what was received, of those after the step."""
        states = tuple(x.detach().requires_grad_() for x in chunk.states[at])
        sums = chunk.sums[at].detach().requires_grad_()
        with torch.enable_grad():
            after, sent = self.plan.step(states, sums, chunk.draws[at], self.p)
            potential = after[0] if seen is None else self.plan.step.equations.observe(after[0])
        inputs = (*states, sums, *self.trained)
        pairs = zip((*after, sent, potential), (*slopes, pull, seen), strict=True)
        outputs = [(y, g) for y, g in pairs if g is not None and y.requires_grad]
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            [y for y, _ in outputs], inputs, [g for _, g in outputs], allow_unused=True
        )
        n = len(states) + 1
        for k, g in enumerate(found[n:]):
            if g is not None:
                self.totals[k] += g
        heads = zip(inputs[:n], found[:n], strict=True)
        first = [torch.zeros_like(x) if g is None else g for x, g in heads]
        return tuple(first[:-1]), first[-1]

    def _past(self, pull: Tensor) -> Tensor:
        """What was sent at the first step was sent at all steps before it."""
        total = pull
        nothing = torch.zeros_like(pull)
        for _ in range(self.plan.back.depth - 1):
            total = total + self.line.send(nothing)
        return total

    def _leaves(self) -> tuple[Tensor | None, ...]:
        found = dict(zip(map(id, self.trained), self.totals, strict=True))
        m = self.plan.n_states + 1 + len(self.plan.names)
        numbers = (found.get(id(x)) for x in self.p.values())
        return (*numbers, *(found[id(x)] for x in self.tensors[m:]))
