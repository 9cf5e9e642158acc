"""A model that decodes what a linear regression of the recent input leaves over."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from neuros_neurofm.evaluation._arrays import Array, lag_matrix
from neuros_neurofm.evaluation._batches import shared_modalities
from neuros_neurofm.evaluation._decode import DecoderFit, decode, fit_decoder
from neuros_neurofm.evaluation.session import Session
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

__all__ = ["LinearSkipDecoder"]

_ALPHAS = np.logspace(-2.0, 6.0, 17)
_WEIGHTS = "linear.safetensors"


class LinearSkipDecoder:
    r"""A linear regression of the recent input, and a model for what it leaves over.

    $\hat y_t = b + \sum_{j < n} W_j x_{t-j} + f(x_{\le t})$. A large model on a short recording
    can lose to ridge regression; here it cannot by much, since it begins at 0 and keeps what it has
    learned only where the validation blocks say so.

    $W$ is the closed-form ridge solution on z-scored inputs. The number of lags $n$ and the penalty
    are those with the least error on contiguous folds of the training blocks, each predicted by a
    fit that has not seen it nor the samples near it. The model is trained on these held-out
    residuals: those of the fit itself are too small, by the more the more channels there are.
    Everything is causal if the model is. Each session has a linear part of its own, by its name.

    Args:
        model: Trained in place by `fit`; it then decodes residuals.
        n_lags: Numbers of present and past samples to choose from, each >= 1.
        n_folds: Folds of the training blocks, >= 2.

    Raises:
        ValueError: A number out of its range, or a model without a decoder.

    Examples:
        >>> import numpy as np
        >>> from neuros_neurofm.evaluation import contiguous_blocks, r2_score
        >>> model = MultiModalNeuroFMX(
        ...     16, 1, 8, 8, modalities=("lfp",), behavior_dim=1, window=0.16,
        ...     sampling_rates={"lfp": 50.0})
        >>> x = np.random.default_rng(0).normal(size=(400, 2))
        >>> session = Session({"lfp": x}, x @ [1.0, -2.0], 50.0, contiguous_blocks(400, gap=10))
        >>> decoder = LinearSkipDecoder(model)
        >>> fit = decoder.fit(session, steps=1)
        >>> truth = session.part("test")[0].targets
        >>> round(r2_score(truth, decoder.decode(session)), 2)
        1.0

    References:
        Breiman, L. (1996). Stacked regressions. Machine Learning 24.
        https://doi.org/10.1007/BF00117832
    """

    def __init__(
        self, model: MultiModalNeuroFMX, *, n_lags: Sequence[int] = (1, 2, 4), n_folds: int = 5
    ) -> None:
        if "decoder" not in model.heads:
            raise ValueError("the model has no decoder; build it with behavior_dim >= 1")
        if not n_lags or min(n_lags) < 1:
            raise ValueError(f"n_lags must be numbers >= 1, got {list(n_lags)}")
        if n_folds < 2:
            raise ValueError(f"n_folds must be at least 2, got {n_folds}")
        self.model = model
        self.n_lags = tuple(n_lags)
        self.n_folds = n_folds
        self._linear: dict[str, _Linear] = {}

    def fit(self, sessions: Session | Sequence[Session], **options: Any) -> DecoderFit:
        """Fit the linear part of each session, then train the model on what they leave over.

        The read-out of the model is set to 0 first.

        Args:
            sessions: One session, or several of different names, with continuous targets.
            options: Arguments of `fit_decoder`.

        Returns:
            How the training of the model went; step 0 is the linear part alone.

        Raises:
            ValueError: Labels or no targets, two sessions of one name, too few samples, or what
                `fit_decoder` refuses.
        """
        recordings = [sessions] if isinstance(sessions, Session) else list(sessions)
        names = [session.name for session in recordings]
        if len(set(names)) < len(names):
            raise ValueError(f"sessions need different names, got {names}")
        residuals = [self._residual(session) for session in recordings]
        _silence(self.model)
        return fit_decoder(self.model, residuals, **options)

    def decode(self, session: Session, part: str = "test") -> Array:
        """Decode the behaviour at the end of every sample of the blocks of one part.

        Args:
            session: A session of `fit`, known by its name.
            part: `train`, `validation` or `test`.

        Returns:
            (time, dim), the blocks one after the other.

        Raises:
            ValueError: A session without a linear part, other channels, or what `decode` refuses.
        """
        linear = self._linear.get(session.name)
        if linear is None:
            raise ValueError(
                f"the session {session.name!r} has no linear part, only {list(self._linear)} have; "
                "call fit with it"
            )
        x = _inputs(self.model, session)
        if x.shape[1] != len(linear.center):
            raise ValueError(
                f"the session {session.name!r} must have the {len(linear.center)} channels of the "
                f"fit, got {x.shape[1]}"
            )
        rest = decode(self.model, session, part)
        blocks = dict(session.blocks)[part]
        return np.concatenate([linear.predict(x[block]) for block in blocks]) + rest

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, as its own `save_pretrained`, and the linear parts beside it.

        Args:
            folder: Made where it does not exist.
        """
        self.model.save_pretrained(folder)
        tensors = {
            f"{k}/{field}": torch.as_tensor(value).contiguous()
            for k, linear in enumerate(self._linear.values())
            for field, value in linear._asdict().items()
        }
        about = {"names": list(self._linear), "n_lags": self.n_lags, "n_folds": self.n_folds}
        save_file(tensors, Path(folder) / _WEIGHTS, metadata={"about": json.dumps(about)})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "LinearSkipDecoder":
        """Read what `save_pretrained` wrote.

        Args:
            folder: Folder of the model.

        Returns:
            The decoder, which decodes as before.

        Raises:
            FileNotFoundError: A folder without linear parts.
        """
        from safetensors import safe_open

        path = Path(folder) / _WEIGHTS
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; a saved decoder holds {_WEIGHTS}")
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
        model = MultiModalNeuroFMX.from_pretrained(folder)
        decoder = cls(model, n_lags=about["n_lags"], n_folds=about["n_folds"])
        tensors = load_file(path)
        for k, name in enumerate(about["names"]):
            fields = {field: tensors[f"{k}/{field}"].numpy() for field in _Linear._fields}
            decoder._linear[name] = _Linear(**fields)
        return decoder

    def _residual(self, session: Session) -> Session:
        """Fit the linear part and return the session with what is left over as targets."""
        if session.targets is None or session.labelled:
            given = "no targets" if session.targets is None else "labels"
            raise ValueError(
                f"a linear part needs continuous targets, {session.name!r} has {given}"
            )
        x = _inputs(self.model, session)
        y = np.asarray(session.targets, dtype=np.float64)
        train = _Training.of(x, y, session)
        tried = [train.held_out(n, self.n_folds) for n in self.n_lags]
        best = int(np.argmin([error for error, _, _ in tried]))
        _, alpha, predicted = tried[best]
        linear = train.solve(self.n_lags[best], alpha)
        self._linear[session.name] = linear
        rest = np.full_like(y, np.nan)
        for block in (*session.blocks.validation, *session.blocks.test):
            rest[block] = y[block] - linear.predict(x[block])
        rest[train.rows] = y[train.rows] - predicted
        return replace(session, targets=rest)


class _Linear(NamedTuple):
    """One linear part: z-scoring of the input, weights (lag * channel, dim) and intercept."""

    center: Array
    scale: Array
    weights: Array
    intercept: Array

    def predict(self, x: Array) -> Array:
        n_lags = len(self.weights) // len(self.center)
        return lag_matrix((x - self.center) / self.scale, n_lags) @ self.weights + self.intercept


class _Training(NamedTuple):
    """Training blocks of a session.

    Attributes:
        blocks: z-scored input of each block.
        kept: Per block, which samples have a target.
        y: Targets of the kept samples, (time, dim).
        rows: Where the kept samples lie in the session.
        center: Mean of the input.
        scale: Its deviation.
    """

    blocks: list[Array]
    kept: list[Any]
    y: Array
    rows: Any
    center: Array
    scale: Array

    @classmethod
    def of(cls, x: Array, y: Array, session: Session) -> "_Training":
        slices = session.blocks.train
        seen = np.concatenate([x[block] for block in slices])
        deviation = seen.std(axis=0)
        center, scale = seen.mean(axis=0), np.where(deviation > 0, deviation, 1.0)
        scored = session.scored()
        rows = np.concatenate([np.flatnonzero(scored[b]) + b.start for b in slices])
        blocks = [(x[block] - center) / scale for block in slices]
        return cls(blocks, [scored[b] for b in slices], y[rows], rows, center, scale)

    def held_out(self, n_lags: int, n_folds: int) -> tuple[float, float, Array]:
        """Least error of all penalties on held-out folds, that penalty, and its predictions."""
        if len(self.y) < 2 * n_folds:
            raise ValueError(
                f"a linear part needs at least 2 * n_folds = {2 * n_folds} training samples with "
                f"a target, got {len(self.y)}"
            )
        design = self._design(n_lags)
        edges = np.linspace(0, len(design), n_folds + 1).astype(int)
        predicted = np.zeros((len(_ALPHAS), *self.y.shape))
        for start, stop in pairwise(edges):
            # Lags reach over the border: the rows that share samples with the fold are left out.
            far = (self.rows < self.rows[start] - n_lags) | (
                self.rows > self.rows[stop - 1] + n_lags
            )
            weights, intercept = _ridge(design[far], self.y[far], _ALPHAS)
            predicted[:, start:stop] = design[start:stop] @ weights + intercept[:, None]
        deviation = self.y.std(axis=0)
        wrong = (predicted - self.y) / np.where(deviation > 0, deviation, 1.0)
        errors = (wrong**2).sum(axis=(1, 2))
        best = int(errors.argmin())
        return float(errors[best]), float(_ALPHAS[best]), predicted[best]

    def solve(self, n_lags: int, alpha: float) -> _Linear:
        weights, intercept = _ridge(self._design(n_lags), self.y, np.array([alpha]))
        return _Linear(self.center, self.scale, weights[0], intercept[0])

    def _design(self, n_lags: int) -> Array:
        pairs = zip(self.blocks, self.kept, strict=True)
        return np.concatenate([lag_matrix(x, n_lags)[kept] for x, kept in pairs])


def _ridge(x: Array, y: Array, alphas: Array) -> tuple[Array, Array]:
    """Return weights (alpha, feature, dim) and intercepts (alpha, dim)."""
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    centred, target = x - mean_x, y - mean_y
    # The smaller of the two Gram matrices is decomposed; one decomposition serves all penalties.
    wide = x.shape[1] > len(x)
    values, vectors = np.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    rotated = vectors.T @ (target if wide else centred.T @ target)
    damping = np.maximum(values, 0.0) + alphas[:, None]
    solved = vectors @ (rotated / damping[:, :, None])
    weights = centred.T @ solved if wide else solved
    return weights, mean_y - mean_x @ weights


def _inputs(model: MultiModalNeuroFMX, session: Session) -> Array:
    names = shared_modalities(model, session)
    return np.concatenate([np.asarray(session.inputs[n], np.float64) for n in names], axis=1)


def _silence(model: MultiModalNeuroFMX) -> None:
    head = model.heads.get_submodule("decoder")
    tensors: Mapping[str, torch.Tensor] = dict(head.named_parameters())
    with torch.no_grad():
        for name in ("out.weight", "out.bias", "skip.weight"):
            tensors[name].zero_()
