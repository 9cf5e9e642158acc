r"""Latent circuits: a small recurrent network that lies in the activity of a large one."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from neuros_mechint._arrays import Array, Number, as_real
from neuros_mechint.circuits._latent_fit import CircuitFitter
from neuros_mechint.circuits._latent_identifiability import CircuitIdentifiability
from neuros_mechint.circuits._latent_recurrence import LatentRecurrence, shown
from neuros_mechint.circuits._latent_result import CircuitFitResult, r_squared
from neuros_mechint.circuits._latent_weights import (
    Constraint,
    Mask,
    activation_named,
    check_room,
    check_sizes,
    dale_constraint,
    haar,
    mask_constraint,
    recurrent_start,
)

if TYPE_CHECKING:
    from neuros_mechint.circuits._latent_problem import Weights

__all__ = [
    "CircuitFitResult",
    "CircuitFitter",
    "CircuitIdentifiability",
    "LatentCircuitModel",
    "LatentCircuitOutput",
]


class LatentCircuitOutput(NamedTuple):
    """What a latent circuit does.

    Attributes:
        responses: Activity of the observed units, (..., time, n_observed).
        latents: States of the circuit, (..., time, n_latent).
    """

    responses: Tensor
    latents: Tensor

    def to_dict(self) -> dict[str, Tensor]:
        """The two tensors by name."""
        return self._asdict()


class LatentCircuitModel(nn.Module):
    r"""A recurrent circuit of a few nodes, and how the observed units show it.

    $$x_{t+1} = (1 - \alpha) x_t + \alpha\, \phi(W_{rec} x_t + W_{in} u_t), \qquad
    y_t = Q x_t, \qquad z_t = W_{out} x_t$$

    with $x_0 = 0$ and orthonormal columns of $Q$. A sequence has the length of its input and begins
    with $x_0$; the last input sample has no effect. There is no offset: responses are compared as
    they are.

    Signs and zeros of the weights, and the columns of $Q$, hold whatever an optimiser does to the
    parameters: the weights are functions of them.

    Args:
        n_latent: Nodes of the circuit.
        n_observed: Units that were recorded.
        n_inputs: Channels of the stimulus; None: as many as nodes.
        n_outputs: Channels of the output.
        alpha: Step over time constant, in (0, 1].
        activation: "relu", "tanh", "softplus", "identity", or an elementwise function.
        input_mask: "diagonal": input i reaches node i alone, with a weight of at least 0; a boolean
            tensor (n_latent, n_inputs): weights of any sign where it is True; None: everywhere.
        output_mask: "diagonal": output k reads node `n_latent - n_outputs + k` alone, with a weight
            of at least 0; or as the input mask, (n_outputs, n_latent).
        enforce_dales: Whether every column of `w_rec` has one sign.
        dale_signs: That sign, +1 or -1, of every node; None: + for the first 80 %.
        generator: Source of the first weights.

    Raises:
        TypeError: When a mask is no boolean tensor.
        ValueError: When a size or a mask does not fit.

    Examples:
        >>> model = LatentCircuitModel(2, 3, alpha=0.5, activation="identity")
        >>> with torch.no_grad():
        ...     _ = model.w_rec.zero_()
        ...     _ = model.w_in.copy_(torch.eye(2))
        >>> responses, latents = model(torch.ones(3, 2))
        >>> latents
        tensor([[0.0000, 0.0000],
                [0.5000, 0.5000],
                [0.7500, 0.7500]], grad_fn=<StackBackward0>)
        >>> responses.shape
        torch.Size([3, 3])

    References:
        Langdon & Engel (2025), Nature Neuroscience 28, 665-675. doi:10.1038/s41593-025-01869-7
    """

    def __init__(
        self,
        n_latent: int = 10,
        n_observed: int = 100,
        *,
        n_inputs: int | None = None,
        n_outputs: int = 0,
        alpha: Number = 0.2,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        input_mask: Mask = "diagonal",
        output_mask: Mask = "diagonal",
        enforce_dales: bool = False,
        dale_signs: Sequence[int] | Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        n_inputs = n_latent if n_inputs is None else n_inputs
        check_sizes(n_latent, n_observed, n_inputs, n_outputs, alpha)
        check_room(n_latent, n_inputs, n_outputs, input_mask, output_mask)
        self.n_latent, self.n_observed = n_latent, n_observed
        self.n_inputs, self.n_outputs = n_inputs, n_outputs
        self.alpha, self.enforce_dales = float(alpha), enforce_dales
        self.activation = activation_named(activation)
        if dale_signs is not None and not enforce_dales:
            raise ValueError("dale_signs needs enforce_dales=True, got enforce_dales=False")
        eye = torch.eye(n_latent, dtype=torch.bool)
        rec = Constraint(torch.ones_like(eye), torch.zeros(n_latent, n_latent))
        rec = dale_constraint(n_latent, dale_signs) if enforce_dales else rec
        inp = mask_constraint("input_mask", input_mask, (n_latent, n_inputs), eye[:, :n_inputs])
        last = eye[max(0, n_latent - n_outputs) :]
        out = mask_constraint("output_mask", output_mask, (n_outputs, n_latent), last)
        for name, tensor in (("out_mask", out.mask), ("out_sign", out.sign)):
            self.register_buffer(name, tensor, persistent=False)
        self._constraints = (rec, inp, out)
        w_rec, w_in, w_out = self.draw_weights(1, generator)
        self.latent_rnn = LatentRecurrence(w_rec[0], w_in[0], rec, inp)
        self.output = nn.Parameter(w_out[0])
        q = haar(n_observed, n_latent, generator)[0]
        self.embedding = nn.Parameter(q.to(torch.get_default_dtype()))

    out_mask: Tensor
    out_sign: Tensor

    @property
    def constraints(self) -> tuple[Constraint, Constraint, Constraint]:
        """Free entries and signs of `w_rec`, `w_in` and `w_out`."""
        return self._constraints

    def draw_weights(self, n: int, generator: torch.Generator | None = None) -> "Weights":
        """Starting weights of n circuits that obey the constraints of this one.

        Args:
            n: How many.
            generator: Their source.

        Returns:
            `w_rec` (n, n_latent, n_latent) of spectral radius 0.9, `w_in` and `w_out`.

        Examples:
            >>> model = LatentCircuitModel(3, 8)
            >>> w_rec, _, _ = model.draw_weights(4)
            >>> torch.linalg.eigvals(w_rec).abs().amax(-1)
            tensor([0.9000, 0.9000, 0.9000, 0.9000])
        """
        rec, inp, out = self._constraints
        w_rec = recurrent_start(n, rec, generator)
        drawn = []
        for c in (inp, out):
            size = 0.5 + torch.rand(n, *c.mask.shape, generator=generator)
            free = torch.randn(size.shape, generator=generator) / math.sqrt(max(1, c.mask.shape[1]))
            drawn.append(c.apply(torch.where(c.sign == 0, free, size)))
        return w_rec, drawn[0], drawn[1]

    def extra_repr(self) -> str:
        """Sizes and nonlinearity, for `repr`."""
        return (
            f"{self.n_latent}, {self.n_observed}, n_inputs={self.n_inputs}, "
            f"n_outputs={self.n_outputs}, alpha={self.alpha}, activation={self.activation.name!r}, "
            f"enforce_dales={self.enforce_dales}"
        )

    @property
    def w_rec(self) -> Tensor:
        """Recurrent weights, (to, from); the storage of `latent_rnn.weight_hh_l0`."""
        return self.latent_rnn.weight_hh_l0

    @property
    def w_in(self) -> Tensor:
        """Input weights, (n_latent, n_inputs); the storage of `latent_rnn.weight_ih_l0`."""
        return self.latent_rnn.weight_ih_l0

    @property
    def w_out(self) -> Tensor:
        """Output weights, (n_outputs, n_latent)."""
        return shown(self.output, Constraint(self.out_mask, self.out_sign))

    @property
    def q(self) -> Tensor:
        """Orthonormal columns that embed the circuit, (n_observed, n_latent)."""
        q, r = torch.linalg.qr(self.embedding)
        # With the signs of R an orthonormal parameter is its own factor.
        embedding: Tensor = q * torch.where(r.diagonal() < 0, -1.0, 1.0)
        return embedding

    def step(self, h: Tensor, u: Tensor | None = None, *, drive: Tensor | None = None) -> Tensor:
        r"""One step, $h \mapsto (1 - \alpha) h + \alpha \phi(W_{rec} h + W_{in} u + d)$.

        Args:
            h: State, (..., n_latent).
            u: Input, (..., n_inputs); None: zero.
            drive: Added before the nonlinearity, (..., n_latent); None: zero.

        Returns:
            The next state, (..., n_latent).

        Examples:
            >>> model = LatentCircuitModel(2, 4, alpha=0.25)
            >>> model.step(torch.zeros(2), drive=torch.tensor([1.0, -1.0])).tolist()
            [0.25, 0.0]
        """
        w_rec, w_in = self.latent_rnn.effective()
        total = h @ w_rec.mT
        total = total if u is None else total + u @ w_in.mT
        total = total if drive is None else total + drive
        return h + self.alpha * (self.activation.function(total) - h)

    def forward(
        self,
        inputs: Array,
        hidden: Array | None = None,
        *,
        noise_std: Number = 0.0,
        generator: torch.Generator | None = None,
    ) -> LatentCircuitOutput:
        r"""Responses and states for a sequence of inputs.

        Args:
            inputs: (..., time, n_inputs).
            hidden: First state, (..., n_latent); None: zero.
            noise_std: $\sigma$ of the noise $\sqrt{2 \alpha}\, \sigma N(0, 1)$ inside the
                nonlinearity.
            generator: Source of that noise.

        Returns:
            Responses (..., time, n_observed) and latents (..., time, n_latent).

        Raises:
            TypeError: When the inputs are no real tensor or array.
            ValueError: When their channels or the size of the first state do not fit.
        """
        u = self._stimuli("inputs", inputs)
        start = u.new_zeros(*u.shape[:-2], self.n_latent)
        if hidden is not None:
            given = as_real("hidden", hidden, axes=("latents",), at_least=(self.n_latent,))
            if given.shape[-1] != self.n_latent:
                raise ValueError(
                    f"hidden must be (..., {self.n_latent}), got shape {tuple(given.shape)}"
                )
            start = given.to(u).expand_as(start)
        if noise_std < 0:
            raise ValueError(f"noise_std must be at least 0, got {noise_std}")
        w_rec, w_in = self.latent_rnn.effective()
        drive = u @ w_in.mT
        if noise_std:
            noise = torch.randn(drive.shape, generator=generator).to(drive)
            drive = drive + math.sqrt(2 * self.alpha) * noise_std * noise
        states = [start]
        for t in range(u.shape[-2] - 1):
            moved = self.activation.function(states[-1] @ w_rec.mT + drive[..., t, :])
            states.append(states[-1] + self.alpha * (moved - states[-1]))
        latents = torch.stack(states, dim=-2)
        return LatentCircuitOutput(latents @ self.q.mT, latents)

    def _stimuli(self, name: str, value: Array) -> Tensor:
        u = as_real(name, value, axes=("time", "inputs"), at_least=(1, 1)).to(self.embedding)
        if u.shape[-1] != self.n_inputs:
            raise ValueError(
                f"{name} must be (..., time, n_inputs={self.n_inputs}), got shape {tuple(u.shape)}"
            )
        return u

    def readout(self, latents: Tensor) -> Tensor:
        """Outputs (..., n_outputs) of states (..., n_latent).

        Examples:
            >>> LatentCircuitModel(3, 8, n_inputs=2, n_outputs=1).readout(torch.zeros(5, 3)).shape
            torch.Size([5, 1])
        """
        return latents @ Constraint(self.out_mask, self.out_sign).apply(self.output).mT

    def score(self, responses: Array, stimuli: Array) -> Tensor:
        r"""Share of the variance of responses that the circuit predicts, $R^2$.

        Args:
            responses: (..., time, n_observed).
            stimuli: (..., time, n_inputs).

        Returns:
            One number, without a graph; the mean is that over all trials and times.

        Raises:
            TypeError: When an argument is no real tensor or array.
            ValueError: When shapes do not fit.

        Examples:
            >>> model = LatentCircuitModel(2, 4)
            >>> inputs = torch.rand(3, 10, 2)
            >>> round(float(model.score(model(inputs).responses.detach(), inputs)), 3)
            1.0
        """
        y = as_real("responses", responses, axes=("time", "units"), at_least=(1, 1))
        with torch.no_grad():
            predicted = self(stimuli).responses
        if y.shape != predicted.shape:
            raise ValueError(
                f"responses must be {tuple(predicted.shape)} as the stimuli give, got "
                f"{tuple(y.shape)}"
            )
        return r_squared(y.detach().to(predicted).flatten(0, -2), predicted.flatten(0, -2))

    def fit(
        self,
        responses: Array,
        stimuli: Array,
        *,
        n_epochs: int = 1000,
        outputs: Array | None = None,
        weights: Array | None = None,
        **fitter_kwargs: Any,
    ) -> CircuitFitResult:
        """Fit in place; the weights of now are the first of the restarts.

        Args:
            responses: (trials, time, n_observed).
            stimuli: (trials, time, n_inputs).
            n_epochs: Epochs of Adam.
            outputs: What the circuit should put out, (trials, time, n_outputs).
            weights: Of every sample, (trials, time); see `CircuitFitter.fit`.
            **fitter_kwargs: Arguments of `CircuitFitter`.

        Returns:
            All restarts, and what they say about the weights.

        Raises:
            ValueError: When shapes do not fit.

        Examples:
            >>> model = LatentCircuitModel(2, 6, generator=torch.Generator().manual_seed(0))
            >>> inputs = torch.rand(8, 20, 2, generator=torch.Generator().manual_seed(1))
            >>> responses = model(inputs).responses.detach()
            >>> found = model.fit(responses, inputs, n_epochs=5, n_restarts=1, polish=False)
            >>> found.r2.shape
            torch.Size([1])
        """
        return CircuitFitter(**fitter_kwargs).fit_model(
            self, responses, stimuli, n_epochs=n_epochs, outputs=outputs, weights=weights
        )

    def extract_circuit(self, threshold: float = 0.0) -> dict[str, Tensor]:
        """The circuit as tensors.

        A node is excitatory (inhibitory) when all its outgoing weights above the threshold are
        positive (negative), mixed when it has both; one without any is in none of the lists.

        Args:
            threshold: Size that a weight exceeds to count as a connection.

        Returns:
            `W_rec`, `W_in`, `W_out`, `Q`, the indices `E_indices`, `I_indices`, `mixed_indices`,
            and `coupling_strength`, the absolute recurrent weights above the threshold, else 0.

        Raises:
            ValueError: When the threshold is negative.

        Examples:
            >>> model = LatentCircuitModel(3, 8)
            >>> with torch.no_grad():
            ...     _ = model.w_rec.copy_(torch.tensor([[1.0, -1, 1], [1, -1, -1], [0, 0, 0]]))
            >>> circuit = model.extract_circuit()
            >>> [circuit[f"{kind}_indices"].tolist() for kind in ("E", "I", "mixed")]
            [[0], [1], [2]]
        """
        if threshold < 0:
            raise ValueError(f"threshold must be at least 0, got {threshold}")
        w_rec = self.w_rec.detach().clone()
        kept = torch.where(w_rec.abs() > threshold, w_rec, 0.0)
        up, down = (kept > 0).any(0), (kept < 0).any(0)
        return {
            "W_rec": w_rec,
            "W_in": self.w_in.detach().clone(),
            "W_out": self.w_out.detach().clone(),
            "Q": self.q.detach(),
            "E_indices": (up & ~down).nonzero()[:, 0],
            "I_indices": (down & ~up).nonzero()[:, 0],
            "mixed_indices": (up & down).nonzero()[:, 0],
            "coupling_strength": kept.abs(),
        }
