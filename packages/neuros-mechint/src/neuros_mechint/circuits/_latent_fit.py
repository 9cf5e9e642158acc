r"""Fitting latent circuits: all restarts as one batched model, without the embedding."""

import math
import time
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.circuits._latent_descent import adam, lbfgs
from neuros_mechint.circuits._latent_identifiability import identify
from neuros_mechint.circuits._latent_problem import LatentProblem, cayley, procrustes
from neuros_mechint.circuits._latent_result import CircuitFitResult, evaluated

if TYPE_CHECKING:
    from neuros_mechint.circuits.latent_rnn import LatentCircuitModel

__all__ = ["CircuitFitter"]

Method = Literal["varpro", "cayley"]
_POLISH_ITERATIONS = 500


class CircuitFitter:
    r"""Fits latent circuits to responses from many starts at once.

    The loss is the squared error of the responses over their squared distance from the mean over
    trials and time, plus `output_weight` times the mean squared error of the outputs. For given
    states X the best orthonormal embedding is that of the Procrustes problem, so with
    `method="varpro"` it is not searched for: Adam moves the recurrent, input and output weights
    alone. Responses are used as recorded, neither centred nor scaled, because the model has no
    offset.

    Args:
        n_restarts: Starts.
        method: "varpro", or "cayley" for the published parametrisation of the embedding.
        lr: Step of Adam.
        polish: Whether the best quarter of the restarts goes through L-BFGS in float64 on the loss
            at the best embedding.
        prune: Whether the worse half of the restarts stops at a quarter of the epochs, and again
            at half of them.
        weight_decay: Weight of half the sum of squared weights in the loss.
        l1: Weight of the sum of absolute recurrent weights in the loss.
        output_weight: Weight of the outputs' error.
        noise_std: Noise inside the nonlinearity while fitting; the polish keeps one draw of it.
        tol: Relative fall of the loss, in 50 epochs or one iteration of the polish, below which
            it ends.
        generator: Source of starts and noise.

    Raises:
        ValueError: When an argument is out of its range.

    Examples:
        >>> from neuros_mechint.circuits import LatentCircuitModel
        >>> planted = LatentCircuitModel(2, 10, generator=torch.Generator().manual_seed(0))
        >>> inputs = torch.randn(10, 20, 2, generator=torch.Generator().manual_seed(1))
        >>> responses = planted(inputs).responses.detach()
        >>> fitter = CircuitFitter(n_restarts=4, generator=torch.Generator().manual_seed(2))
        >>> model = fitter.fit(responses, inputs, n_latent=2, n_epochs=100)
        >>> bool((model.w_rec - planted.w_rec).abs().max() < 1e-3)
        True

    References:
        Langdon & Engel (2025), Nature Neuroscience 28, 665-675. doi:10.1038/s41593-025-01869-7
        Golub & Pereyra (1973), SIAM Journal on Numerical Analysis 10, 413-432. doi:10.1137/0710036
        Schönemann (1966), Psychometrika 31, 1-10. doi:10.1007/BF02289451
    """

    result_: CircuitFitResult

    def __init__(
        self,
        *,
        n_restarts: int = 32,
        method: Method = "varpro",
        lr: Number = 0.04,
        polish: bool = True,
        prune: bool = True,
        weight_decay: Number = 0.0,
        l1: Number = 0.0,
        output_weight: Number = 1.0,
        noise_std: Number = 0.0,
        tol: Number = 1e-7,
        generator: torch.Generator | None = None,
    ) -> None:
        one_of("method", method, get_args(Method))
        if n_restarts < 1:
            raise ValueError(f"n_restarts must be at least 1, got {n_restarts}")
        if not lr > 0:
            raise ValueError(f"lr must be above 0, got {lr}")
        self.weight_decay, self.l1 = float(weight_decay), float(l1)
        self.output_weight, self.noise_std, self.tol = float(output_weight), noise_std, float(tol)
        for name in ("weight_decay", "l1", "output_weight", "noise_std", "tol"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        self.n_restarts, self.method, self.lr = n_restarts, method, float(lr)
        self.polish, self.prune, self.generator = polish, prune, generator

    def __repr__(self) -> str:
        return (
            f"CircuitFitter(n_restarts={self.n_restarts}, method={self.method!r}, lr={self.lr}, "
            f"polish={self.polish}, prune={self.prune}, weight_decay={self.weight_decay}, "
            f"l1={self.l1}, output_weight={self.output_weight}, noise_std={self.noise_std}, "
            f"tol={self.tol})"
        )

    def fit(
        self,
        responses: Array,
        stimuli: Array,
        n_latent: int = 10,
        n_epochs: int = 1000,
        *,
        outputs: Array | None = None,
        weights: Array | None = None,
        **model_kwargs: Any,
    ) -> "LatentCircuitModel":
        """The circuit of the best restart; the rest of what was found is in `result_`.

        Args:
            responses: (trials, time, units), as recorded. NaN stands for a missing sample where
                `weights` is 0.
            stimuli: (trials, time, inputs).
            n_latent: Nodes of the circuit.
            n_epochs: Epochs of Adam.
            outputs: What the circuit should put out, (trials, time, outputs).
            weights: Weight of every sample, at least 0, (trials, time).
            **model_kwargs: Arguments of `LatentCircuitModel` other than the sizes.

        Returns:
            The model, in the dtype and on the device of the responses.

        Raises:
            TypeError: When data are no real tensors or arrays.
            ValueError: When shapes do not fit, or a sample that counts is missing.
        """
        return self.fit_ensemble(
            responses, stimuli, n_latent, n_epochs, outputs=outputs, weights=weights, **model_kwargs
        ).model

    def fit_ensemble(
        self,
        responses: Array,
        stimuli: Array,
        n_latent: int = 10,
        n_epochs: int = 1000,
        *,
        outputs: Array | None = None,
        weights: Array | None = None,
        **model_kwargs: Any,
    ) -> CircuitFitResult:
        """All restarts; arguments and errors as of `fit`."""
        from neuros_mechint.circuits.latent_rnn import LatentCircuitModel

        y = as_real("responses", responses, axes=_AXES, at_least=(1, 2, 1), finite=False)
        u = as_real("stimuli", stimuli, axes=_AXES, at_least=(1, 2, 1))
        z = None if outputs is None else as_real("outputs", outputs, axes=_AXES, at_least=(1, 2, 1))
        model = LatentCircuitModel(
            n_latent,
            y.shape[-1],
            n_inputs=u.shape[-1],
            n_outputs=0 if z is None else z.shape[-1],
            generator=self.generator,
            **model_kwargs,
        ).to(y)
        return self.fit_model(model, y, u, n_epochs=n_epochs, outputs=z, weights=weights)

    def fit_model(
        self,
        model: "LatentCircuitModel",
        responses: Array,
        stimuli: Array,
        *,
        n_epochs: int = 1000,
        outputs: Array | None = None,
        weights: Array | None = None,
    ) -> CircuitFitResult:
        """Fit a model in place; its own weights are the first start.

        Args:
            model: The circuit.
            responses: (trials, time, units).
            stimuli: (trials, time, inputs).
            n_epochs: Epochs of Adam.
            outputs: (trials, time, outputs).
            weights: (trials, time).

        Returns:
            All restarts.

        Raises:
            TypeError: When data are no real tensors or arrays.
            ValueError: When shapes do not fit, or a sample that counts is missing.
        """
        if n_epochs < 1:
            raise ValueError(f"n_epochs must be at least 1, got {n_epochs}")
        started = time.perf_counter()
        problem = self._problem(model, _checked(model, responses, stimuli, outputs, weights))
        start = self._starts(model, problem)
        free, history, alive = self._search(problem, start, n_epochs, model.n_latent)
        exact = problem.to(torch.float64)
        free = free.to(torch.float64)
        if self.polish:
            free = self._polished(exact, free, alive)
        found = evaluated(exact, free)
        best = int(found["order"][0])
        report = identify(
            exact, (found["w_rec"], found["w_in"], found["w_out"]), found["q"], found["loss"],
            float(found["r2"][best]),
        )  # fmt: skip
        with torch.no_grad():
            for weight, name in (
                (model.w_rec, "w_rec"),
                (model.w_in, "w_in"),
                (model.w_out, "w_out"),
            ):
                weight.copy_(found[name][best])
            model.embedding.copy_(found["q"][best])
        dtype = problem.responses.dtype
        found = {k: v.to(dtype) if k != "order" and v is not None else v for k, v in found.items()}
        self.result_ = CircuitFitResult(
            model=model, identifiability=report, history=history,
            elapsed=time.perf_counter() - started, **found,
        )  # fmt: skip
        return self.result_

    def _problem(
        self, model: "LatentCircuitModel", data: tuple[Tensor, Tensor, Tensor | None, Tensor | None]
    ) -> LatentProblem:
        problem = LatentProblem(
            *data,
            constraints=model.constraints,
            alpha=model.alpha,
            activation=model.activation,
            output_weight=self.output_weight,
            weight_decay=self.weight_decay,
            l1=self.l1,
        )
        if not problem.variance > 0:
            raise ValueError("responses are constant over trials and time; there is nothing to fit")
        return problem

    def _starts(self, model: "LatentCircuitModel", problem: LatentProblem) -> Tensor:
        """The model's weights and drawn ones, the latter in the units of the responses."""
        own = tuple(w.detach()[None] for w in (model.w_rec, model.w_in, model.w_out))
        free = problem.pack((own[0], own[1], own[2]))
        if self.n_restarts == 1:
            return free
        w_rec, w_in, w_out = (
            w.to(problem.responses) for w in model.draw_weights(self.n_restarts - 1, self.generator)
        )
        if model.activation.homogeneous:
            # States scale with the inputs' weights: the scale that fits best is known.
            rows = problem.rows(problem.latents((w_rec, w_in, w_out)))
            cross = problem.cross(rows)
            overlap = (procrustes(cross) * cross).sum((-2, -1))
            factor = overlap / problem.squares(rows).clamp(min=1e-12)
            w_in = w_in * factor.clamp(min=1e-3)[:, None, None]
        return torch.cat([free, problem.pack((w_rec, w_in, w_out))])

    def _search(
        self, problem: LatentProblem, start: Tensor, n_epochs: int, n_latent: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        n_free, n_units = start.shape[1], problem.responses.shape[1]
        if self.method == "cayley":
            raw = torch.randn(len(start), n_units * n_units, generator=self.generator)
            start = torch.cat([start, raw.to(start) / math.sqrt(n_units)], -1)

        def objective(free: Tensor, restarts: Tensor) -> Tensor:
            noise = problem.draw_noise(len(restarts), self.noise_std, self.generator)
            embedding = None
            if self.method == "cayley":
                embedding = cayley(free[:, n_free:].reshape(-1, n_units, n_units), n_latent)
            return problem.loss(free[:, :n_free], embedding=embedding, noise=noise)

        free, history, alive = adam(
            objective, start, n_epochs=n_epochs, lr=self.lr, tol=self.tol, prune=self.prune
        )
        return free[:, :n_free], history, alive

    def _polished(
        self, problem: LatentProblem, free: Float[Tensor, "restart free"], alive: Tensor
    ) -> Tensor:
        with torch.no_grad():
            losses = problem.loss(free[alive])
        chosen = alive[losses.argsort(stable=True)[: math.ceil(len(free) / 4)]]
        noise = problem.draw_noise(len(chosen), self.noise_std, self.generator)

        def objective(some: Tensor, which: Tensor) -> Tensor:
            return problem.loss(some, noise=None if noise is None else noise[:, which])

        ended, _ = lbfgs(objective, free[chosen], n_iterations=_POLISH_ITERATIONS, tol=self.tol)
        return free.index_copy(0, chosen, ended)


_AXES = ("trials", "time", "channels")


def _checked(
    model: "LatentCircuitModel",
    responses: Array,
    stimuli: Array,
    outputs: Array | None,
    weights: Array | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The data in one dtype, missing responses as zeros of weight zero."""
    y = as_real("responses", responses, axes=_AXES, at_least=(1, 2, 1), finite=weights is None)
    w = None
    if weights is not None:
        w = as_real("weights", weights, axes=("trials", "time"), at_least=(1, 2)).to(y)
        y = _without_missing(y, w)
    u = as_real("stimuli", stimuli, axes=_AXES, at_least=(1, 2, 1)).to(y)
    z = None
    if outputs is not None:
        z = as_real("outputs", outputs, axes=_AXES, at_least=(1, 2, 1)).to(y)
    if model.n_outputs and z is None:
        raise ValueError(f"outputs must be given for a model with n_outputs={model.n_outputs}")
    found = {"responses": (y, model.n_observed), "stimuli": (u, model.n_inputs)}
    found |= {} if z is None else {"outputs": (z, model.n_outputs)}
    for name, (value, n_channels) in found.items():
        if value.shape != (*y.shape[:2], n_channels) or value.ndim != 3:
            raise ValueError(
                f"{name} must be (trials={y.shape[0]}, time={y.shape[1]}, {n_channels}) beside "
                f"responses of shape {tuple(y.shape)}, got shape {tuple(value.shape)}"
            )
    return y, u, z, w


def _without_missing(y: Tensor, w: Tensor) -> Tensor:
    if w.shape != y.shape[:-1]:
        raise ValueError(
            f"weights must be (trials, time) = {tuple(y.shape[:-1])}, got shape {tuple(w.shape)}"
        )
    if bool((w < 0).any()) or not bool((w > 0).any()):
        raise ValueError("weights must be at least 0 and not all 0")
    missing = ~y.isfinite()
    if bool((missing.any(-1) & (w > 0)).any()):
        raise ValueError(
            "responses hold NaN or inf at samples whose weight is above 0; give those samples the "
            "weight 0, all units of a sample together"
        )
    return y.masked_fill(missing, 0.0)
