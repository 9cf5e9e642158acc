"""Forecasts that a model has to beat: the last value, and an autoregression per channel."""

import numpy as np

from neuros_neurofm.evaluation._arrays import (
    Array,
    Data,
    Segments,
    as_finite,
    as_segments,
    lag_matrix,
)

__all__ = ["ARForecaster", "persistence_forecast"]


def persistence_forecast(history: Data, horizon: int) -> Array:
    """Repeat the last sample.

    Args:
        history: (..., time, channel), at least one sample.
        horizon: Samples ahead, >= 1.

    Returns:
        (..., horizon, channel).

    Raises:
        ValueError: No sample, too few axes, values that are not finite, or a horizon below 1.

    Examples:
        >>> import numpy as np
        >>> persistence_forecast(np.array([[1.0], [7.0]]), 3).ravel().tolist()
        [7.0, 7.0, 7.0]
    """
    past = _history(history, horizon, n_needed=1)
    return np.repeat(past[..., -1:, :], horizon, axis=-2)


class ARForecaster:
    r"""Autoregression of every channel on its own past, $x_t = c + \sum_{j=1}^p a_j x_{t-j}$.

    Fitted by least squares, all orders on the same samples. `aic` takes the order with the least
    $n \ln(\mathrm{RSS}/n) + 2(p+2)$; `validation` the one with the least one-step error on the last
    fifth of the training data, and fits it to all of them. Several steps ahead are forecast by
    feeding the forecasts back.

    Args:
        max_order: Orders 1 to `max_order` are tried, >= 1.
        criterion: `aic` or `validation`.

    Raises:
        ValueError: An order below 1, or an unknown criterion.

    Examples:
        >>> import numpy as np
        >>> x = 0.5 ** np.arange(12.0)[:, None]
        >>> forecaster = ARForecaster(max_order=1).fit(x)
        >>> forecaster.orders, forecaster.forecast(x[:2], 2).ravel().round(6).tolist()
        ((1,), [0.25, 0.125])

    References:
        Akaike, H. (1974). A new look at the statistical model identification. IEEE Transactions on
        Automatic Control 19. https://doi.org/10.1109/TAC.1974.1100705
    """

    def __init__(self, max_order: int = 20, *, criterion: str = "aic") -> None:
        if max_order < 1:
            raise ValueError(f"max_order must be at least 1, got {max_order}")
        if criterion not in ("aic", "validation"):
            raise ValueError(f"criterion must be aic or validation, got {criterion!r}")
        self.max_order = max_order
        self.criterion = criterion
        self.orders: tuple[int, ...] = ()
        self._weights: Array | None = None
        self._intercepts: Array | None = None

    def fit(self, x: Segments) -> "ARForecaster":
        """Choose an order and fit the coefficients of every channel.

        Args:
            x: (time, channel), or a sequence of such segments; no lag crosses from one to another.

        Returns:
            This forecaster; `orders` holds the chosen order of every channel.

        Raises:
            ValueError: Values that are not finite, or too few samples.
        """
        segments = as_segments("x", x)
        p, n_channels = self.max_order, segments[0].shape[1]
        n_rows = sum(max(len(part) - p, 0) for part in segments)
        if n_rows < 2 * (p + 2):
            raise ValueError(
                f"x gives {n_rows} samples with max_order = {p} samples before them, at least "
                f"2 * (max_order + 2) = {2 * (p + 2)} are needed; lower max_order or pass more"
            )
        fits = [self._fit_channel([part[:, c] for part in segments]) for c in range(n_channels)]
        self.orders = tuple(len(weights) for _, weights in fits)
        self._intercepts = np.array([intercept for intercept, _ in fits])
        self._weights = np.stack([np.pad(w, (0, p - len(w))) for _, w in fits], axis=1)
        return self

    def forecast(self, history: Data, horizon: int) -> Array:
        """Forecast the samples after `history`.

        Args:
            history: (..., time, channel), with at least as many samples as the largest order.
            horizon: Samples ahead, >= 1.

        Returns:
            (..., horizon, channel).

        Raises:
            RuntimeError: The forecaster was not fitted.
            ValueError: Values that are not finite, too few samples or another number of channels,
                or a horizon below 1.
        """
        if self._weights is None or self._intercepts is None:
            raise RuntimeError("the forecaster is not fitted; call fit first")
        n_lags = max(self.orders)
        past = _history(history, horizon, n_needed=n_lags)
        if past.shape[-1] != len(self.orders):
            raise ValueError(
                f"history must have the {len(self.orders)} channels of the fit, "
                f"got {past.shape[-1]}"
            )
        # Newest first, as the weights are.
        recent = past[..., ::-1, :][..., :n_lags, :]
        steps = []
        for _ in range(horizon):
            ahead = (recent * self._weights[:n_lags]).sum(axis=-2) + self._intercepts
            steps.append(ahead)
            recent = np.concatenate([ahead[..., None, :], recent[..., :-1, :]], axis=-2)
        return np.stack(steps, axis=-2)

    def _fit_channel(self, segments: list[Array]) -> tuple[float, Array]:
        design, target = _regression(segments, self.max_order)
        orders = range(1, self.max_order + 1)
        if self.criterion == "aic":
            scores = [_aic(design[:, : p + 1], target) for p in orders]
        else:
            cut = len(target) - len(target) // 5
            scores = [_held_out_error(design[:, : p + 1], target, cut) for p in orders]
        best = int(np.argmin(scores)) + 1
        solution = _least_squares(design[:, : best + 1], target)
        return float(solution[0]), solution[1:]


def _regression(segments: list[Array], order: int) -> tuple[Array, Array]:
    """Stack rows (1, x[t-1], ..., x[t-order]) and targets x[t] of every segment."""
    designs, targets = [], []
    for part in segments:
        lags = lag_matrix(part[:, None], order)[order - 1 : -1]
        designs.append(np.concatenate([np.ones((len(lags), 1)), lags], axis=1))
        targets.append(part[order:])
    return np.concatenate(designs), np.concatenate(targets)


def _least_squares(design: Array, target: Array) -> Array:
    # lstsq and not the normal equations: the lags of a smooth signal are nearly collinear.
    return np.asarray(np.linalg.lstsq(design, target, rcond=None)[0], dtype=np.float64)


def _aic(design: Array, target: Array) -> float:
    n = len(target)
    residual = target - design @ _least_squares(design, target)
    # Below rounding every order fits equally well; the floor then prefers the smallest.
    floor = np.finfo(np.float64).eps ** 2 * max(float(target @ target), np.finfo(np.float64).tiny)
    mean_square = max(float(residual @ residual), floor) / n
    return float(n * np.log(mean_square) + 2.0 * (design.shape[1] + 1))


def _held_out_error(design: Array, target: Array, cut: int) -> float:
    solution = _least_squares(design[:cut], target[:cut])
    residual = target[cut:] - design[cut:] @ solution
    return float((residual * residual).sum())


def _history(history: Data, horizon: int, *, n_needed: int) -> Array:
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1 sample, got {horizon}")
    past = as_finite("history", history)
    if past.ndim < 2 or past.shape[-2] < n_needed:
        raise ValueError(
            f"history must be (..., time, channel) with at least {n_needed} samples, "
            f"got shape {past.shape}"
        )
    return past
