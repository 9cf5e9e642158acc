"""From arrays to a decoded variable, by the conventions of scikit-learn."""

from collections.abc import Mapping, Sequence
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat, SupportsIndex

import numpy as np

from neuros_neurofm import _estimator_data as data
from neuros_neurofm._estimator_core import Core, RandomState, not_fitted
from neuros_neurofm._estimator_data import Arrays
from neuros_neurofm._estimator_files import read_folder, write_folder
from neuros_neurofm._estimator_plots import Plots
from neuros_neurofm._estimator_state import Learned, start
from neuros_neurofm._estimator_training import (
    check_settings,
    identify,
    seed_of,
    seeded,
)
from neuros_neurofm.evaluation import r2_score

if TYPE_CHECKING:
    from typing import Self
else:
    # The type checker of the tests knows Self only in classes that it decorates whole.
    Self = Core

__all__ = ["NeuroFMEstimator"]


class NeuroFMEstimator(Core, Plots):
    r"""Fit, decode and embed recordings given as arrays, with the conventions of scikit-learn.

    A recording is an array X (time, channel) with targets y (time, dim) or (time,); several
    recordings are lists of them, and each may have its own channels. What is learned follows from
    y: integers, booleans or strings (time,) are labels, anything else is continuous, and without y
    the model learns to fill in what is hidden from it. With y it decodes, brings the states and the
    targets of its windows together (contrastive), and fills in as well, so that sessions without
    targets can be learned later. Continuous targets, and channels other than spike counts, are
    scaled by the mean and deviation of the training data.

    Recordings of one name in `sessions` share their units; a unit has a learned vector per session
    (`units` of the model). Rows of X are consecutive in time: do not shuffle them, and split them
    in blocks.

    Args:
        modality: What was recorded: `spike` (counts per bin), `lfp`, `calcium`, `eeg`, `fmri`,
            `ecog` or `emg`.
        size: `small`, `medium` or `large` as in `MultiModalNeuroFMX.from_size`, or a dict of
            options of `MultiModalNeuroFMX` that win over those of `small`.
        sampling_rate: Rows of X per second; None: unknown, one row is then one token.
        window: Length of the windows that are trained on, in seconds (in rows without a
            `sampling_rate`), rounded to tokens; None: 100 tokens.
        max_steps: Optimiser steps of `fit`.
        batch_size: Windows per step.
        learning_rate: Peak of the one-cycle schedule of AdamW.
        mask_ratio: Share of the input that is hidden and asked for, in [0, 1).
        contrastive_weight: Factor of the contrastive loss, >= 0.
        linear_skip: Decode what a ridge regression of the present and the last samples leaves over,
            and add both, as `evaluation.LinearSkipDecoder` does: few steps on a short recording
            then lose little to linear decoding. It needs continuous y of every session that is to
            be decoded, so neither `infer_units` nor an `adapt` without y decodes. False: all that
            is decoded comes from the model.
        device: `auto` takes an accelerator where there is one.
        random_state: An integer, or a generator of torch or NumPy; the same integer gives the same
            bits on one machine. None: different every time.
        progress: False turns the progress bar off; it is off anyway where nobody can see it.

    Attributes:
        model_: The `MultiModalNeuroFMX`.
        sessions_: Channels of every known session, {name: n}.
        classes_: The labels in order; None where there are none.
        loss_curve_: Loss of every step of `fit` and `partial_fit`.
        n_iter_: Number of those steps.
        n_features_in_: Channels, where all sessions have the same number.

    Examples:
        >>> import numpy as np
        >>> rng = np.random.default_rng(0)
        >>> y = np.sin(np.arange(1500) / 15)
        >>> X = rng.poisson(np.exp(np.outer(y, rng.normal(size=12))))
        >>> estimator = NeuroFMEstimator(
        ...     size={"d_model": 32, "n_mamba_blocks": 1, "latent_dim": 32, "perceiver_depth": 1},
        ...     window=25, max_steps=40, batch_size=8, learning_rate=1e-2, random_state=0)
        >>> bool(estimator.fit(X[:1200], y[:1200]).score(X[1200:], y[1200:]) > 0.7)
        True

    References:
        Azabou, M. et al. (2023). A unified, scalable framework for neural population decoding.
        NeurIPS 36. https://doi.org/10.48550/arXiv.2310.16046
    """

    def __init__(
        self,
        modality: str = "spike",
        size: str | Mapping[str, Any] = "small",
        *,
        sampling_rate: SupportsFloat | None = None,
        window: SupportsFloat | None = None,
        max_steps: SupportsIndex = 500,
        batch_size: SupportsIndex = 16,
        learning_rate: SupportsFloat = 3e-3,
        mask_ratio: SupportsFloat = 0.2,
        contrastive_weight: SupportsFloat = 0.1,
        linear_skip: bool = False,
        device: str = "auto",
        random_state: RandomState = None,
        progress: bool = True,
    ) -> None:
        self.modality = modality
        self.size = size
        self.sampling_rate = sampling_rate
        self.window = window
        self.max_steps = max_steps
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.mask_ratio = mask_ratio
        self.contrastive_weight = contrastive_weight
        self.linear_skip = linear_skip
        self.device = device
        self.random_state = random_state
        self.progress = progress

    def fit(
        self, X: Arrays, y: Arrays = None, *, sessions: str | Sequence[str] | None = None
    ) -> Self:
        """Learn from the beginning, `max_steps` steps.

        Interrupted by the keyboard it keeps what it has learned and warns.

        Args:
            X: (time, channel), or a list of them; NaN = missing.
            y: (time, dim) or (time,), or a list of them and of None; NaN = missing.
            sessions: Name of the session of each recording, or one for all; default: every
                recording is a session of its own, named "0", "1", ...

        Returns:
            The estimator.

        Raises:
            TypeError: A sparse X, or settings of a wrong type.
            ValueError: Settings out of range, or X and y that do not belong together.
        """
        given = self._read(X, y, sessions)
        with seeded(seed_of(self.random_state)) as seed:
            learned = start(self.get_params(), given.targets, seed)
            self._learn(learned, given, index(self.max_steps))
        return self

    def partial_fit(
        self,
        X: Arrays,
        y: Arrays = None,
        *,
        sessions: str | Sequence[str] | None = None,
        classes: Arrays = None,
    ) -> Self:
        """Go on learning: about one pass over the recordings, with a schedule of its own.

        The first call decides what y is, and its scale. New sessions get units of their own.

        Args:
            X: As in `fit`.
            y: As in `fit`.
            sessions: As in `fit`; recordings of a known session must have its channels.
            classes: All labels that will come; needed by the first call only where its y does not
                hold all of them.

        Returns:
            The estimator.

        Raises:
            TypeError: As in `fit`.
            ValueError: As in `fit`, or targets that differ from those of the first call.
        """
        given = self._read(X, y, sessions)
        learned: Learned | None = getattr(self, "_learned", None)
        seed = seed_of(self.random_state) if learned is None else learned.next_seed
        with seeded(seed):
            if learned is None:
                learned = start(self.get_params(), given.targets, seed, classes)
            window = learned.grid.length * index(self.batch_size)
            self._learn(learned, given, -(-sum(map(len, given.recordings)) // window))
        return self

    def adapt(
        self,
        X: Arrays,
        y: Arrays = None,
        *,
        sessions: str | Sequence[str] | None = None,
        max_steps: SupportsIndex = 100,
        learning_rate: SupportsFloat = 3e-2,
    ) -> Self:
        """Learn the units of new sessions; of the model only the decoder's bias moves as well.

        The vectors start from what the channels recorded (`MultiModalNeuroFMX.add_units`) and are
        learned by `identify_units`: from y where it is given, and by filling in what is hidden.
        `loss_curve_` is not continued.

        Args:
            X: As in `fit`, with any number of channels.
            y: As in `fit`, of the kind that `fit` had.
            sessions: As in `fit`; default: new names.
            max_steps: Number of updates.
            learning_rate: Step size of Adam.

        Returns:
            The estimator; the new sessions are now those that `predict` expects.

        Raises:
            sklearn.exceptions.NotFittedError: Nothing is learned yet.
            ValueError: X and y that do not belong together or to what was learned, or nothing to
                learn from (no y, and a `mask_ratio` of 0).
        """
        learned = self._fitted()
        check_settings(max_steps=max_steps, learning_rate=learning_rate)
        given = self._read(X, y, sessions, first=len(learned.sessions))
        if self.mask_ratio == 0 and all(target is None for target in given.targets):
            raise ValueError("adapt needs y, or a mask_ratio > 0 to learn without it")
        with seeded(learned.next_seed):
            pieces = learned.join(*given)
            self._publish(learned)
            identify(
                learned.model,
                learned.loader(pieces, index(max_steps), index(self.batch_size)),
                mask_ratio=float(self.mask_ratio),
                learning_rate=float(learning_rate),
                seed=learned.next_seed,
                progress=self.progress,
            )
        return self

    def transform(
        self,
        X: Arrays,
        *,
        sessions: str | Sequence[str] | None = None,
        infer_units: bool = False,
    ) -> Any:
        """The latent state at the end of every row, from that row and those before it.

        Args:
            X: (time, channel), or a list of them.
            sessions: Session of each recording; default: those of the last `fit`, `partial_fit` or
                `adapt`, in their order.
            infer_units: Take the units for unknown and infer them from X: spike counts of any
                number of units, without `adapt`.

        Returns:
            (time, latent_dim), or a list of them; 0 before the first token is complete.

        Raises:
            sklearn.exceptions.NotFittedError: Nothing is learned yet.
            ValueError: An unknown session or another number of channels.
        """
        outs = self._read_out(X, sessions, infer_units=infer_units, decodes=False)
        latents = [out.latents for out in outs]
        return latents if data.is_several(X) else latents[0]

    def fit_transform(
        self, X: Arrays, y: Arrays = None, *, sessions: str | Sequence[str] | None = None
    ) -> Any:
        """`fit`, then `transform` of the same recordings.

        Args:
            X: As in `fit`.
            y: As in `fit`.
            sessions: As in `fit`.

        Returns:
            As `transform`.
        """
        return self.fit(X, y, sessions=sessions).transform(X)

    def predict(
        self,
        X: Arrays,
        *,
        sessions: str | Sequence[str] | None = None,
        infer_units: bool = False,
    ) -> Any:
        """The decoded variables or labels at the end of every row.

        With a causal model (the default) a prediction rests on its row and those before it.

        Args:
            X: As in `transform`.
            sessions: As in `transform`.
            infer_units: As in `transform`.

        Returns:
            As y was given to `fit`: (time, dim) or (time,), or a list of them.

        Raises:
            sklearn.exceptions.NotFittedError: Nothing is learned yet, or nothing to decode.
            ValueError: As in `transform`, or with `linear_skip` a session without a linear part.
        """
        code = self._fitted().code
        if not code.width:
            raise not_fitted(f"the decoder of {self!r}, which was fitted without y,")
        outs = self._read_out(X, sessions, infer_units=infer_units, decodes=True)
        decoded = [code.decode(out.decoder) for out in outs]
        return decoded if data.is_several(X) else decoded[0]

    def score(
        self,
        X: Arrays,
        y: Arrays,
        *,
        sessions: str | Sequence[str] | None = None,
        infer_units: bool = False,
    ) -> float:
        """R², the mean over the variables, or the share of labels that are right.

        Args:
            X: As in `transform`.
            y: Targets; NaN is not scored.
            sessions: As in `transform`.
            infer_units: As in `transform`.

        Returns:
            The score of all rows of all recordings together.

        Raises:
            sklearn.exceptions.NotFittedError: As in `predict`.
            ValueError: As in `transform`, or targets of another kind than those of `fit`.
        """
        predicted = self.predict(X, sessions=sessions, infer_units=infer_units)
        several = data.is_several(X)
        parts = predicted if several else [predicted]
        pairs = [
            (truth, guess)
            for truth, guess in zip(
                data.read_targets(y, [len(part) for part in parts], several=several),
                parts,
                strict=True,
            )
            if truth is not None
        ]
        if not pairs:
            raise ValueError("score needs y, got None")
        for truth, _ in pairs:
            self._fitted().code.encode(truth)
        truth, guess = (np.concatenate(part) for part in zip(*pairs, strict=True))
        if self.classes_ is not None:
            return float((truth == guess).mean())
        return float(r2_score(truth.reshape(guess.shape), guess))

    def save(self, path: str | Path) -> None:
        """Write the estimator to a folder: safetensors and JSON, the model as `save_pretrained`.

        Args:
            path: The folder; an estimator saved there is replaced.

        Raises:
            sklearn.exceptions.NotFittedError: Nothing is learned yet.
            FileExistsError: The folder holds other files.
            TypeError: Options of the model that JSON cannot hold.
        """
        write_folder(Path(path), self.get_params(), self._fitted())

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Self:
        """Read an estimator that `save` wrote; its predictions are equal bit for bit.

        Args:
            path: The folder.
            device: Where the model goes.

        Returns:
            The estimator.

        Raises:
            FileNotFoundError: There is no saved estimator.
            ValueError: One of another format.
        """
        params, learned = read_folder(Path(path), device)
        self = cls(**params)
        self._publish(learned)
        return self
