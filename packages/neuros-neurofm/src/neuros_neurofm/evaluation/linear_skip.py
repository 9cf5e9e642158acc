"""A model that decodes what a linear regression of the recent input leaves over."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._batches import shared_modalities
from neuros_neurofm.evaluation._decode import DecoderFit, decode, fit_decoder
from neuros_neurofm.evaluation.session import Session
from neuros_neurofm.models._linear_file import LINEAR_FILE, read_linear_parts, write_linear_parts
from neuros_neurofm.models._linear_fit import fit_linear_part, silence_decoder
from neuros_neurofm.models.linear_part import LinearPart
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

if TYPE_CHECKING:
    from neuros_neurofm.streaming import StreamingSession
else:
    # Streams are imported where one is asked for.
    StreamingSession = Any

__all__ = ["LinearSkipDecoder"]


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
        self._parts: dict[str, LinearPart] = {}

    @property
    def parts(self) -> Mapping[str, LinearPart]:
        """The linear part of each session, by its name."""
        return MappingProxyType(self._parts)

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
        silence_decoder(self.model)
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
        part_of = self._part(session.name)
        rest = decode(self.model, session, part)
        blocks = dict(session.blocks)[part]
        return np.concatenate([_predict(part_of, session, block) for block in blocks]) + rest

    def stream(self, name: str, **options: Any) -> StreamingSession:
        """Decode a recording of one of the sessions while it runs.

        Args:
            name: Session of `fit` whose linear part is used.
            options: Arguments of `StreamingSession`.

        Returns:
            The stream; it decodes as `decode` does.

        Raises:
            ValueError: A session without a linear part, or what `StreamingSession` refuses.
        """
        from neuros_neurofm.streaming import StreamingSession as Stream

        return Stream(self.model, linear=self._part(name), **options)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model, as its own `save_pretrained`, and the linear parts beside it.

        Args:
            folder: Made where it does not exist.
        """
        self.model.save_pretrained(folder)
        about = {"n_lags": self.n_lags, "n_folds": self.n_folds}
        write_linear_parts(folder, self._parts, about)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "LinearSkipDecoder":
        """Read what `save_pretrained` wrote.

        Args:
            folder: Folder of the model.

        Returns:
            The decoder, which decodes as before.

        Raises:
            FileNotFoundError: A folder without linear parts.
            ValueError: They are damaged.
        """
        parts, about = read_linear_parts(folder)
        if not about:
            raise FileNotFoundError(
                f"{Path(folder) / LINEAR_FILE} does not exist; a saved decoder holds {LINEAR_FILE}"
            )
        model = MultiModalNeuroFMX.from_pretrained(folder)
        decoder = cls(model, n_lags=about["n_lags"], n_folds=about["n_folds"])
        decoder._parts = parts
        return decoder

    def _part(self, name: str) -> LinearPart:
        if name not in self._parts:
            raise ValueError(
                f"the session {name!r} has no linear part, only {list(self._parts)} have; "
                "call fit with it"
            )
        return self._parts[name]

    def _residual(self, session: Session) -> Session:
        """Fit the linear part and return the session with what is left over as targets."""
        if session.targets is None or session.labelled:
            given = "no targets" if session.targets is None else "labels"
            raise ValueError(
                f"a linear part needs continuous targets, {session.name!r} has {given}"
            )
        y = np.asarray(session.targets, dtype=np.float64).reshape(session.n_times, -1)
        names = shared_modalities(self.model, session)
        blocks = session.blocks.train

        def inputs(block: slice) -> dict[str, Array]:
            return {m: np.asarray(session.inputs[m][block], np.float64) for m in names}

        part, held_out = fit_linear_part(
            [inputs(block) for block in blocks],
            [y[block] for block in blocks],
            rate=session.rate,
            n_lags=self.n_lags,
            n_folds=self.n_folds,
        )
        self._parts[session.name] = part
        rest = np.full_like(y, np.nan)
        for block in (*session.blocks.validation, *session.blocks.test):
            rest[block] = y[block] - _predict(part, session, block)
        for block, predicted in zip(blocks, held_out, strict=True):
            rest[block] = y[block] - predicted
        return replace(session, targets=rest)


def _predict(part: LinearPart, session: Session, block: slice) -> Array:
    inputs: dict[str, Tensor] = {
        name: torch.as_tensor(x[block], dtype=torch.float64)[None]
        for name, x in session.inputs.items()
    }
    return np.asarray(part(inputs)[0].numpy())
