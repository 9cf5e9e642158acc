r"""Deconvolutional unrolled neural learning: which events drove a neuron, and how it responds."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.circuits._dunl_coder import SparseCoder
from neuros_mechint.circuits._dunl_fit import DUNLFitResult, FitPlan, fit_kernels
from neuros_mechint.circuits._dunl_likelihood import likelihood_named
from neuros_mechint.circuits._dunl_operators import strongest, unit_kernels

__all__ = ["DUNLEvents", "DUNLFitResult", "DUNLModel", "DUNLOutput"]


class DUNLOutput(NamedTuple):
    """What a DUNL model finds in activity.

    Attributes:
        codes: When each factor acted and how strongly, (batch, neurons, factors, time - L + 1).
        reconstruction: Mean of the activity that the codes predict, (batch, neurons, time).
        baseline: Drive without events, (batch, neurons).
    """

    codes: Tensor
    reconstruction: Tensor
    baseline: Tensor

    @property
    def rate(self) -> Tensor:
        """The predicted mean, in counts per bin where the activity is counts."""
        return self.reconstruction

    def to_dict(self) -> dict[str, Tensor]:
        """The three tensors by name."""
        return self._asdict()


class DUNLEvents(NamedTuple):
    """Events in codes, one row each, in the order trial, neuron, factor, time.

    Attributes:
        trial: Index of the trial.
        neuron: Index of the neuron.
        factor: Index of the factor.
        time: Sample at which the factor's kernel begins.
        amplitude: The code there.
    """

    trial: Tensor
    neuron: Tensor
    factor: Tensor
    time: Tensor
    amplitude: Tensor

    def to_dict(self) -> dict[str, Tensor]:
        """The columns by name."""
        return self._asdict()


class DUNLModel(nn.Module):
    r"""Sparse deconvolution of neural activity with kernels that are learned.

    Every trial and neuron has the drive $\eta = a + \sum_k h_k * x_k$ with kernels
    $\|h_k\|_2 = 1$ and sparse codes $x$, and the mean $\mu(\eta)$: the drive itself (gaussian), its
    sigmoid (binomial, activity 0 or 1 or a share) or its exponential (poisson, counts). The codes
    minimise

    $$-\log p(y \mid \eta) + \lambda \|x\|_1$$

    (the gaussian with unit variance, constants left out) by proximal gradient descent with a step
    that is known to be safe, one kernel dictionary in every iteration. The gradient in the kernels
    is that of the minimiser, by the implicit function theorem, and needs no memory of the
    iterations.

    Args:
        n_neurons: Neurons of the activity.
        n_factors: Kernels.
        n_iterations: Iterations of the encoder.
        sparsity: $\lambda$, one number or one of every factor.
        kernel_length: Samples of a kernel.
        distribution: "gaussian", "binomial" or "poisson".
        nonneg_codes: Whether codes are at least zero.
        nonneg_kernels: Whether kernels are at least zero.
        share_kernels: Whether neurons share the kernels.
        accelerate: FISTA instead of plain proximal descent.
        step_size: Step of the encoder; None: the largest that is safe (poisson: found by
            backtracking).
        topk: Codes of every factor, trial and neuron that are kept; None: all.
        baseline: "estimate", zero, or a tensor that broadcasts to (batch, neurons).
        smoothness: Weight of the squared differences of neighbouring kernel taps, in fitting.
        group_sparsity: Weight of the norm over neurons of every code.
        backward: "implicit"; "unroll" keeps the graph of all iterations, "truncated" of the last
            ten.
        generator: Source of the first kernels.

    Raises:
        ValueError: When an argument is out of its range.

    Examples:
        >>> model = DUNLModel(1, 1, kernel_length=2, sparsity=0.0, baseline=0.0)
        >>> _ = model.weight.data.copy_(torch.tensor([[3.0, 4.0]]))
        >>> activity = torch.tensor([[[0.0, 0.6, 0.8, 0.0, 0.0]]])
        >>> model(activity).codes.detach()[0, 0, 0].round(decimals=3).abs()
        tensor([0., 1., 0., 0.])

    References:
        Tolooshams, Matias, Wu, Temereanca, Uchida, Murthy, Masset & Ba (2025), Neuron 113.
        doi:10.1016/j.neuron.2025.02.006
        Beck & Teboulle (2009), SIAM J. Imaging Sci. 2, 183-202. doi:10.1137/080716542
    """

    def __init__(
        self,
        n_neurons: int,
        n_factors: int = 20,
        *,
        n_iterations: int = 100,
        sparsity: Number | Tensor = 0.1,
        kernel_length: int = 16,
        distribution: str = "gaussian",
        nonneg_codes: bool = True,
        nonneg_kernels: bool = False,
        share_kernels: bool = True,
        accelerate: bool = True,
        step_size: Number | None = None,
        topk: int | None = None,
        baseline: str | Number | Tensor = "estimate",
        smoothness: Number = 0.0,
        group_sparsity: Number = 0.0,
        backward: str = "implicit",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        counts = {"n_neurons": n_neurons, "n_factors": n_factors, "n_iterations": n_iterations}
        counts |= {"kernel_length": kernel_length, "topk": 1 if topk is None else topk}
        for name, count in counts.items():
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        for name, weight in (("smoothness", smoothness), ("group_sparsity", group_sparsity)):
            if weight < 0:
                raise ValueError(f"{name} must be at least 0, got {weight}")
        one_of("backward", backward, ("implicit", "unroll", "truncated"))
        self.n_neurons, self.n_factors, self.kernel_length = n_neurons, n_factors, kernel_length
        self.topk, self.nonneg_kernels, self.smoothness = topk, nonneg_kernels, float(smoothness)
        self.coder = SparseCoder(
            n_neurons=n_neurons,
            likelihood=likelihood_named(distribution),
            group_sparsity=float(group_sparsity),
            nonneg_codes=nonneg_codes,
            share_kernels=share_kernels,
            accelerate=accelerate,
            n_iterations=n_iterations,
            step_size=None if step_size is None else float(step_size),
            backward=backward,
        )
        self.register_buffer("sparsity", self._penalties(sparsity))
        self.register_buffer("baseline", self._given_baseline(baseline))
        shape = (
            (n_factors, kernel_length) if share_kernels else (n_neurons, n_factors, kernel_length)
        )
        first = torch.randn(shape, generator=generator)
        self.weight = nn.Parameter(first.abs() if nonneg_kernels else first)

    sparsity: Tensor
    baseline: Tensor | None

    def extra_repr(self) -> str:
        """Sizes and distribution, for `repr`."""
        return (
            f"{self.n_neurons}, {self.n_factors}, kernel_length={self.kernel_length}, "
            f"distribution={self.coder.likelihood.name!r}"
        )

    def _penalties(self, sparsity: Number | Tensor) -> Tensor:
        given = torch.as_tensor(sparsity, dtype=torch.get_default_dtype())
        if given.ndim > 1 or given.numel() not in {1, self.n_factors} or bool((given < 0).any()):
            raise ValueError(
                f"sparsity must be one number >= 0 or one of each of the {self.n_factors} factors, "
                f"got {sparsity}"
            )
        return given.expand(self.n_factors).clone()

    @staticmethod
    def _given_baseline(baseline: str | Number | Tensor) -> Tensor | None:
        if isinstance(baseline, str):
            one_of("baseline", baseline, ("estimate",))
            return None
        return torch.as_tensor(baseline, dtype=torch.get_default_dtype())

    @property
    def kernels(self) -> Tensor:
        """The kernels, of norm 1: (factors, L), or (neurons, factors, L) when not shared."""
        return unit_kernels(self.weight, nonneg=self.nonneg_kernels)

    def extract_factors(self) -> Tensor:
        """The kernels without a graph, (factors, L) or (neurons, factors, L)."""
        return self.kernels.detach().clone()

    def forward(self, activity: Array, *, event_support: Tensor | None = None) -> DUNLOutput:
        """Codes of activity.

        Args:
            activity: (batch, neurons, time).
            event_support: Where events may be, (batch, n_factors, time - L + 1), boolean; None:
                everywhere.

        Returns:
            Codes, reconstruction and baseline.

        Raises:
            TypeError: When activity is no real tensor or array.
            ValueError: When its shape or range does not fit the model, it holds NaN, the support
                does not fit, or step_size is above the bound.
        """
        signals = self._checked(activity)
        support = self._checked_support(event_support, signals)
        kernels = self.kernels.to(signals.dtype)
        folded = self.coder.fold(
            signals,
            kernels if kernels.ndim == 3 else kernels[None],
            self.sparsity,
            baseline=self.baseline,
            support=support,
        )
        codes = self.coder.encode(folded)
        if self.topk is not None:
            codes = torch.where(strongest(codes, self.topk), codes, 0.0)
        drive, a, _ = folded.drive(codes)
        mean = self.coder.likelihood.mean(drive)
        shape = (signals.shape[0], self.n_neurons)
        return DUNLOutput(
            codes.reshape(*shape, *codes.shape[2:]), mean.reshape(*shape, -1), a.reshape(shape)
        )

    def _checked(self, activity: Array) -> Tensor:
        axes = ("batch", "neurons", "time")
        signals = as_real("activity", activity, axes=axes, at_least=(1, 1, self.kernel_length))
        if signals.ndim != 3 or signals.shape[1] != self.n_neurons:
            raise ValueError(
                f"activity must be (batch, {self.n_neurons} neurons, time), got shape "
                f"{tuple(signals.shape)}"
            )
        self.coder.likelihood.check(signals)
        return signals

    def _checked_support(self, support: Tensor | None, signals: Tensor) -> Tensor | None:
        if support is None:
            return None
        needed = (signals.shape[0], self.n_factors, signals.shape[-1] - self.kernel_length + 1)
        if tuple(support.shape) != needed or support.dtype != torch.bool:
            raise ValueError(
                f"event_support must be boolean of shape (batch, n_factors, time - L + 1) = "
                f"{needed}, got {support.dtype} of shape {tuple(support.shape)}"
            )
        return support[:, None].expand(-1, self.n_neurons, -1, -1)

    def fit(
        self,
        activity: Array,
        *,
        event_support: Tensor | None = None,
        n_epochs: int = 30,
        lr: float = 0.02,
        batch_size: int = 32,
        val_fraction: float = 0.1,
        n_restarts: int = 1,
        init: str = "data",
        generator: torch.Generator | None = None,
    ) -> DUNLFitResult:
        """Learn the kernels, in place.

        Adam on the objective that the codes minimise, in which kernels may be moved to where their
        energy is; restarts are fitted as one batch and the one with the lowest objective on
        held-out trials is kept. (The likelihood alone would reward codes that fit noise.)

        Args:
            activity: (batch, neurons, time); trials are split, not time.
            event_support: As in `forward`.
            n_epochs: Passes over the trials.
            lr: Step of Adam.
            batch_size: Trials of a step.
            val_fraction: Share of trials held out; 0: none, then the fit itself is compared.
            n_restarts: Fits from different starts.
            init: "data" starts from patches of activity with much energy, "random" from noise.
            generator: Source of the split, the order and the starts.

        Returns:
            Kernels, losses, and what to beware of.

        Raises:
            ValueError: When an argument does not fit.
        """
        signals = self._checked(activity)
        support = self._checked_support(event_support, signals)
        plan = FitPlan(n_epochs, lr, batch_size, val_fraction, n_restarts, init)
        return fit_kernels(self, signals, support, plan, generator)

    def events(self, codes: Tensor, threshold: float = 0.0) -> DUNLEvents:
        """Local maxima of codes above a threshold.

        Args:
            codes: (batch, neurons, factors, time - L + 1).
            threshold: Size that an event exceeds.

        Returns:
            One row an event.

        Examples:
            >>> model = DUNLModel(1, 1, kernel_length=2)
            >>> model.events(torch.tensor([[[[0.0, 1.0, 3.0, 0.0]]]]), 0.5).time
            tensor([2])
        """
        size = codes.abs()
        around = nn.functional.pad(size, (1, 1), value=-1.0)
        # Of two equal neighbours the first counts.
        peak = (size > threshold) & (size > around[..., :-2]) & (size >= around[..., 2:])
        where = peak.nonzero(as_tuple=True)
        trial, neuron, factor, time = where
        return DUNLEvents(trial, neuron, factor, time, codes[where])
