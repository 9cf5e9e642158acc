"""Recurrent and attention decoders that a model has to beat, fitted on the same windows."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from neuros_neurofm.evaluation._arrays import Array, Data, Segments, as_pairs, as_segments
from neuros_neurofm.evaluation._training import one_cycle

__all__ = ["NeuralDecoder"]

_ARCHITECTURES = ("gru", "transformer")
_LIKELIHOODS = ("gaussian", "poisson", "categorical")


class NeuralDecoder:
    r"""A causal GRU or transformer from a recording to a target, tuned on validation data only.

    `gru`: one recurrent layer and a linear read-out; it runs on over a segment of any length.
    `transformer`: two pre-norm layers of causal attention with learned positions (sinusoids at
    first); a segment longer than the window is read in windows that overlap by half, of which the
    later half is kept. The width is the largest with which the decoder has no more than
    `n_parameters` parameters.

    Inputs, and targets of the likelihood `gaussian`, are z-scored with the training data. Every
    learning rate gets `steps` steps of AdamW on random windows of the training segments; of all
    rates and steps the weights of the least validation loss are kept.

    Args:
        architecture: `gru` or `transformer`.
        window: Samples per training window, >= 2.
        n_parameters: Upper bound of the size.
        steps: Optimiser steps per learning rate, >= 1.
        batch_size: Windows per step, >= 1.
        learning_rates: Peaks to choose from, > 0.
        validate_every: Steps between two validations, >= 1.
        likelihood: `gaussian` (squared error), or `poisson` for counts: the decoder then predicts
            log-rates, and `predict` returns rates; or `categorical` for rows (time, class) of the
            classes' shares, such as one 1 and else 0 (cross-entropy): `predict` returns shares.
        seed: Seeds weights and windows.

    Raises:
        ValueError: An unknown architecture or likelihood, or a number out of its range.

    Examples:
        >>> import numpy as np
        >>> x = np.random.default_rng(0).normal(size=(300, 1))
        >>> decoder = NeuralDecoder("gru", window=20, n_parameters=200, steps=150)
        >>> decoder = decoder.fit(x[:200], x[:200], x_validation=x[200:], y_validation=x[200:])
        >>> bool(np.mean((decoder.predict(x) - x) ** 2) < 0.1)
        True

    References:
        Cho, K. et al. (2014). Learning phrase representations using RNN encoder-decoder. EMNLP.
        https://doi.org/10.3115/v1/D14-1179
        Vaswani, A. et al. (2017). Attention is all you need. NeurIPS 30.
        https://doi.org/10.48550/arXiv.1706.03762
    """

    def __init__(
        self,
        architecture: str,
        *,
        window: int,
        n_parameters: int = 50_000,
        steps: int = 300,
        batch_size: int = 16,
        learning_rates: tuple[float, ...] = (1e-3, 1e-2),
        validate_every: int = 25,
        likelihood: str = "gaussian",
        seed: int = 0,
    ) -> None:
        if architecture not in _ARCHITECTURES:
            raise ValueError(f"architecture must be gru or transformer, got {architecture!r}")
        if likelihood not in _LIKELIHOODS:
            raise ValueError(
                f"likelihood must be one of {', '.join(_LIKELIHOODS)}, got {likelihood!r}"
            )
        if window < 2:
            raise ValueError(f"window must be at least 2 samples, got {window}")
        if min(steps, batch_size, validate_every) < 1:
            raise ValueError(
                f"steps, batch_size and validate_every must be >= 1, got {steps}, {batch_size} "
                f"and {validate_every}"
            )
        if not learning_rates or not all(0 < rate < float("inf") for rate in learning_rates):
            raise ValueError(f"learning_rates must be finite and > 0, got {learning_rates}")
        self.architecture = architecture
        self.window = window
        self.n_parameters = n_parameters
        self.steps = steps
        self.batch_size = batch_size
        self.learning_rates = tuple(learning_rates)
        self.validate_every = validate_every
        self.likelihood = likelihood
        self.seed = seed
        self.width = 0
        self.learning_rate: float | None = None
        self._fit: _Fit | None = None

    def fit(
        self, x: Segments, y: Segments, *, x_validation: Segments, y_validation: Segments
    ) -> "NeuralDecoder":
        """Fit on the training segments; the validation segments choose rate and step.

        Args:
            x: Input (time, channel), or a sequence of such segments.
            y: Target (time,) or (time, dim), or a sequence of such segments of equal length.
            x_validation: Input of the validation.
            y_validation: Target of the validation.

        Returns:
            This decoder; `width` and `learning_rate` are what was chosen.

        Raises:
            ValueError: Values that are not finite, lengths that differ, rows that are no shares of
                classes where the likelihood needs them, or an `n_parameters` that is too small for
                one unit.
        """
        inputs, targets = as_pairs(x, y)
        held_x, held_y = as_pairs(x_validation, y_validation, "_validation")
        if self.likelihood == "categorical":
            _check_shares([*targets, *held_y])
        scale = _Scale.of(inputs, targets, gaussian=self.likelihood == "gaussian")
        train = [scale.tensors(a, b) for a, b in zip(inputs, targets, strict=True)]
        held = [scale.tensors(a, b) for a, b in zip(held_x, held_y, strict=True)]
        sizes = inputs[0].shape[1], targets[0].shape[1]
        self.width = self._choose_width(*sizes)
        best = float("inf")
        for rate in self.learning_rates:
            with torch.random.fork_rng():
                torch.manual_seed(self.seed)
                network = self._build(self.width, *sizes)
            loss, state = self._train(network, train, held, rate)
            if self._fit is None or loss < best:
                network.load_state_dict(state)
                best, self.learning_rate = loss, rate
                self._fit = _Fit(network.eval(), scale)
        return self

    def predict(self, x: Data) -> Array:
        """Predict the target at every sample from this sample and those before.

        Args:
            x: Input (time, channel), one segment.

        Returns:
            (time, dim).

        Raises:
            RuntimeError: The decoder was not fitted.
            ValueError: Values that are not finite, or another number of channels.
        """
        if self._fit is None:
            raise RuntimeError("the decoder is not fitted; call fit first")
        (values,) = as_segments("x", [x])
        network, scale = self._fit
        if values.shape[1] != len(scale.x_mean):
            raise ValueError(
                f"x must have the {len(scale.x_mean)} channels of the fit, got {values.shape[1]}"
            )
        with torch.no_grad():
            predicted = self._run(network, scale.inputs(values)).double().numpy()
        if self.likelihood == "poisson":
            return np.asarray(np.exp(predicted))
        if self.likelihood == "categorical":
            shares = np.exp(predicted - predicted.max(axis=1, keepdims=True))
            return np.asarray(shares / shares.sum(axis=1, keepdims=True))
        return np.asarray(predicted * scale.y_deviation + scale.y_mean)

    def _run(self, network: nn.Module, x: Tensor) -> Tensor:
        """Run over one segment, (time, channel) to (time, dim)."""
        if self.architecture == "gru" or len(x) <= self.window:
            whole: Tensor = network(x[None])[0]
            return whole
        half = self.window // 2
        parts = [network(x[None, : self.window])[0]]
        # The windows begin where they would in a longer segment: no answer depends on its length.
        for done in range(self.window, len(x), half):
            start = done + half - self.window
            parts.append(network(x[None, start : done + half])[0, done - start :])
        return torch.cat(parts)

    def _train(
        self,
        network: nn.Module,
        train: list[tuple[Tensor, Tensor]],
        held: list[tuple[Tensor, Tensor]],
        rate: float,
    ) -> tuple[float, dict[str, Any]]:
        generator = Generator().manual_seed(self.seed)
        optimizer = torch.optim.AdamW(network.parameters(), lr=rate)
        scheduler = one_cycle(optimizer, self.steps)
        sizes = torch.tensor([float(len(x)) for x, _ in train])
        best, state = self._validate(network, held), _copy(network)
        for step in range(1, self.steps + 1):
            x, y = train[int(torch.multinomial(sizes, 1, generator=generator))]
            length = min(self.window, len(x))
            starts = torch.randint(len(x) - length + 1, (self.batch_size,), generator=generator)
            rows = starts[:, None] + torch.arange(length)
            optimizer.zero_grad()
            torch.autograd.backward(self._loss(network(x[rows]), y[rows]))
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            if step == self.steps or step % self.validate_every == 0:
                loss = self._validate(network, held)
                if loss < best:
                    best, state = loss, _copy(network)
        return best, state

    def _validate(self, network: nn.Module, held: list[tuple[Tensor, Tensor]]) -> float:
        with torch.no_grad():
            losses = [float(self._loss(self._run(network, x), y)) * len(x) for x, y in held]
        return sum(losses) / sum(len(x) for x, _ in held)

    def _loss(self, predicted: Tensor, target: Tensor) -> Tensor:
        if self.likelihood == "poisson":
            return (predicted.exp() - target * predicted).mean()
        if self.likelihood == "categorical":
            return -(target * predicted.log_softmax(dim=-1)).sum(dim=-1).mean()
        return (predicted - target).square().mean()

    def _build(self, width: int, n_inputs: int, n_outputs: int) -> nn.Module:
        if self.architecture == "gru":
            return _GRU(n_inputs, n_outputs, width)
        return _Transformer(n_inputs, n_outputs, width, self.window)

    def _choose_width(self, n_inputs: int, n_outputs: int) -> int:
        # Heads of the attention need an even width.
        unit = 1 if self.architecture == "gru" else 2

        def size(k: int) -> int:
            with torch.device("meta"):
                network = self._build(unit * k, n_inputs, n_outputs)
            return sum(p.numel() for p in network.parameters())

        low, high = 1, 4096
        if size(low) > self.n_parameters:
            raise ValueError(
                f"n_parameters = {self.n_parameters} is below the {size(low)} of the smallest "
                f"{self.architecture} for these channels; raise it"
            )
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if size(middle) <= self.n_parameters else (low, middle - 1)
        return unit * low


class _Scale(NamedTuple):
    x_mean: Array
    x_deviation: Array
    y_mean: Array
    y_deviation: Array

    @classmethod
    def of(cls, x: list[Array], y: list[Array], *, gaussian: bool) -> "_Scale":
        inputs, targets = np.concatenate(x), np.concatenate(y)
        one = np.ones(targets.shape[1])
        mean, deviation = targets.mean(axis=0), _deviation(targets)
        centre = (mean, deviation) if gaussian else (0.0 * one, one)
        return cls(inputs.mean(axis=0), _deviation(inputs), *centre)

    def inputs(self, x: Array) -> Tensor:
        return torch.as_tensor((x - self.x_mean) / self.x_deviation, dtype=torch.float32)

    def tensors(self, x: Array, y: Array) -> tuple[Tensor, Tensor]:
        z = (y - self.y_mean) / self.y_deviation
        return self.inputs(x), torch.as_tensor(z, dtype=torch.float32)


class _Fit(NamedTuple):
    network: nn.Module
    scale: _Scale


class _GRU(nn.Module):
    def __init__(self, n_inputs: int, n_outputs: int, width: int) -> None:
        super().__init__()
        self.recurrent = nn.GRU(n_inputs, width, batch_first=True)
        self.out = nn.Linear(width, n_outputs)

    def forward(self, x: Float[Tensor, "batch time channel"]) -> Float[Tensor, "batch time dim"]:
        states, _ = self.recurrent(x)
        y: Tensor = self.out(states)
        return y


class _Transformer(nn.Module):
    def __init__(self, n_inputs: int, n_outputs: int, width: int, window: int) -> None:
        super().__init__()
        self.embed = nn.Linear(n_inputs, width)
        self.position = nn.Parameter(_sinusoids(window, width))
        layer = nn.TransformerEncoderLayer(
            width, 2, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(
            layer, 2, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.out = nn.Linear(width, n_outputs)

    def forward(self, x: Float[Tensor, "batch time channel"]) -> Float[Tensor, "batch time dim"]:
        n = x.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(n, device=x.device)
        hidden = self.embed(x) + self.position[:n]
        y: Tensor = self.out(self.layers(hidden, mask=causal, is_causal=True))
        return y


def _sinusoids(window: int, width: int) -> Float[Tensor, "time feature"]:
    """Positions to begin with: near ones are alike, so that a fixed delay is soon found."""
    speeds = torch.exp(-torch.arange(0, width, 2) / width * math.log(1e4))
    angles = torch.arange(window)[:, None] * speeds
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def _check_shares(targets: list[Array]) -> None:
    rows = np.concatenate(targets)
    if (rows < 0).any() or not np.allclose(rows.sum(axis=1), 1.0):
        raise ValueError(
            "y must hold the shares of the classes, (time, class), each row >= 0 with sum 1, for "
            f"the likelihood categorical; got rows such as {rows[:2].tolist()}"
        )


def _copy(network: nn.Module) -> dict[str, Any]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def _deviation(x: Array) -> Array:
    # A constant channel carries nothing; any scale but 0 keeps it at 0.
    deviation: Array = x.std(axis=0)
    return np.where(deviation > 0, deviation, 1.0)
