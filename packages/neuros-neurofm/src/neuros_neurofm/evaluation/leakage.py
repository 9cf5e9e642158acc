"""Does a model, or the way it was trained, see what it must not see?"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from neuros_neurofm.evaluation._arrays import Array, Data, as_float64
from neuros_neurofm.evaluation._batches import Batch, block_batches
from neuros_neurofm.evaluation._duplicates import find_duplicates
from neuros_neurofm.evaluation._training import evaluating
from neuros_neurofm.evaluation.session import Blocks, Session
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

__all__ = ["LeakageCheck", "LeakageReport", "check_leakage"]

Predictor: TypeAlias = MultiModalNeuroFMX | Callable[[Mapping[str, NDArray[Any]]], Data]
Outputs: TypeAlias = dict[str, tuple[Array, Array]]

_N_CUTS = 3


class LeakageCheck(NamedTuple):
    """One way to leak, and whether it was taken.

    Attributes:
        name: `future`, `held-out channels`, `repeated windows` or `test block`.
        passed: True: no leak; False: a leak; None: not checked.
        detail: What was found, or why nothing was checked.
    """

    name: str
    passed: bool | None
    detail: str


class LeakageReport(NamedTuple):
    """All checks; `print` shows one line each.

    Attributes:
        checks: One entry per check.
    """

    checks: tuple[LeakageCheck, ...]

    @property
    def passed(self) -> bool:
        """Whether no check found a leak; what was not checked does not count."""
        return all(check.passed is not False for check in self.checks)

    def __str__(self) -> str:
        """One line per check."""
        words = {True: "clean", False: "LEAK", None: "not checked"}
        return "\n".join(f"{c.name:18} {words[c.passed]:12} {c.detail}" for c in self.checks)


def check_leakage(
    model: Predictor,
    data: Session | Sequence[Session],
    *,
    generator: Generator,
    fit: Callable[[Sequence[Session]], Predictor] | None = None,
) -> LeakageReport:
    """Change what must not be seen, and compare what must not depend on it.

    - `future`: the inputs of every test block are changed from a time on; what the model says about
      the time before must stay. Normalisation over a whole block is found here, too.
    - `held-out channels`: a quarter of the channels of every modality is masked, and their values
      are changed; nothing may change.
    - `repeated windows`: no window of a test block may occur in a training block, of this or
      another session. The window is as long as it takes to tell a copy from chance.
    - `test block`: the model is trained twice by `fit`, on the data and on data whose test blocks,
      inputs and targets, are changed; both must predict the same. What a normaliser, a choice of
      hyper-parameters or an early stop has read of the test data is found here.

    Outputs are compared to the last bit, those of a model with event tokens to 1e-5 of the largest:
    another number of tokens is summed in another order. A clean report says that none of these ways
    was taken with this data; it is no proof.

    Args:
        model: The model, or a function from inputs {modality: (time, channel)} of one block to
            predictions (time, dim) that each rest on the samples up to their own.
        data: One session with test blocks, or several.
        generator: Draws the changes.
        fit: Trains a new model on sessions and returns it; called two times, and a third time where
            these differ, to tell a leak from training that draws differently every time.

    Returns:
        The report.

    Raises:
        ValueError: No session, a session without test blocks, or predictions of another length.

    Examples:
        >>> import numpy as np
        >>> from neuros_neurofm.evaluation.session import contiguous_blocks
        >>> rng = np.random.default_rng(0)
        >>> session = Session(
        ...     {"lfp": rng.normal(size=(200, 2))}, None, 100.0, contiguous_blocks(200, gap=10))
        >>> centred = lambda inputs: inputs["lfp"] - inputs["lfp"].mean(axis=0)
        >>> report = check_leakage(centred, session, generator=rng)
        >>> report.passed, [check.name for check in report.checks if check.passed is False]
        (False, ['future'])

    References:
        Kapoor, S. and Narayanan, A. (2023). Leakage and the reproducibility crisis in machine-
        learning-based science. Patterns 4. https://doi.org/10.1016/j.patter.2023.100804
    """
    sessions = [data] if isinstance(data, Session) else list(data)
    if not sessions:
        raise ValueError("data must hold at least one session, got none")
    missing = [session.name for session in sessions if not session.blocks.test]
    if missing:
        raise ValueError(f"every session needs a test block; {missing} have none")
    return LeakageReport(
        (
            _check_future(model, sessions, generator),
            _check_channels(model, sessions, generator),
            _check_windows(sessions),
            _check_test_block(fit, sessions, generator),
        )
    )


def _check_future(
    model: Predictor, sessions: Sequence[Session], generator: Generator
) -> LeakageCheck:
    if isinstance(model, MultiModalNeuroFMX) and not model.causal:
        return LeakageCheck(
            "future", passed=None, detail="the model was built to look both ways (causal=False)"
        )
    n_cuts = 0
    for session in sessions:
        for block in session.blocks.test:
            before = _outputs(model, session, block)
            for cut in _cuts(block):
                n_cuts += 1
                changed = _changed(session, slice(cut, block.stop), generator)
                until = (cut - block.start) / session.rate
                after = _outputs(model, changed, block)
                name = _differing(before, after, until, tolerance=_rounding(model))
                if name is not None:
                    detail = (
                        f"changing session {session.name!r} from sample {cut} on changes "
                        f"{name} before it"
                    )
                    return LeakageCheck("future", passed=False, detail=detail)
    return LeakageCheck(
        "future", passed=True, detail=f"{n_cuts} changes of the future left the past as it was"
    )


def _check_channels(
    model: Predictor, sessions: Sequence[Session], generator: Generator
) -> LeakageCheck:
    name = "held-out channels"
    if not isinstance(model, MultiModalNeuroFMX):
        return LeakageCheck(name, passed=None, detail="a function takes no masks; see co_smoothing")
    n_held = 0
    for session in sessions:
        hidden = {
            m: generator.permutation(x.shape[1])[: -(-x.shape[1] // 4)]
            for m, x in session.inputs.items()
            if m in model.modalities and x.shape[1] > 1
        }
        n_held += sum(len(channels) for channels in hidden.values())
        changed = _changed(session, slice(0, session.n_times), generator, only=hidden)
        for block in session.blocks.test:
            first, second = (_outputs(model, s, block, hidden) for s in (session, changed))
            differing = _differing(first, second, tolerance=_rounding(model))
            if differing is not None:
                detail = f"changing masked channels of session {session.name!r} changes {differing}"
                return LeakageCheck(name, passed=False, detail=detail)
    if not n_held:
        return LeakageCheck(
            name, passed=None, detail="no modality has two channels, so that one can be held out"
        )
    return LeakageCheck(
        name, passed=True, detail=f"changing {n_held} masked channels changed nothing"
    )


def _check_windows(sessions: Sequence[Session]) -> LeakageCheck:
    name = "repeated windows"
    found = find_duplicates(sessions)
    if not found.window:
        detail = "no block is long enough to tell a copied window from chance"
        return LeakageCheck(name, passed=None, detail=detail)
    what = f"{found.n_test} test windows of {found.window} samples"
    if found.first is None:
        return LeakageCheck(name, passed=True, detail=f"none of {what} occurs in training")
    session, sample = found.first
    detail = (
        f"{found.n_found} of {what} occur in training, the first at sample {sample} of session "
        f"{session!r}"
    )
    return LeakageCheck(name, passed=False, detail=detail)


def _check_test_block(
    fit: Callable[[Sequence[Session]], Predictor] | None,
    sessions: Sequence[Session],
    generator: Generator,
) -> LeakageCheck:
    name = "test block"
    if fit is None:
        return LeakageCheck(
            name, passed=None, detail="pass fit=, a function that trains on sessions"
        )
    changed = sessions
    for k in range(max(len(session.blocks.test) for session in sessions)):
        changed = [
            _changed(s, s.blocks.test[k], generator, targets=True) if k < len(s.blocks.test) else s
            for s in changed
        ]
    first, second = fit(sessions), fit(changed)
    if _same_predictions(first, second, sessions):
        return LeakageCheck(
            name, passed=True, detail="training on other test blocks gave the same predictions"
        )
    if not _same_predictions(first, fit(sessions), sessions):
        detail = "fit gives another model each time; seed it, so that a leak can be told from that"
        return LeakageCheck(name, passed=None, detail=detail)
    return LeakageCheck(
        name, passed=False, detail="training on other test blocks gave other predictions"
    )


def _same_predictions(first: Predictor, second: Predictor, sessions: Sequence[Session]) -> bool:
    return all(
        _differing(_outputs(first, s, block), _outputs(second, s, block)) is None
        for s in sessions
        for block in s.blocks.test
    )


def _cuts(block: slice) -> list[int]:
    length = block.stop - block.start
    return sorted({block.start + length * k // (_N_CUTS + 1) for k in range(1, _N_CUTS + 1)})


def _changed(
    session: Session,
    where: slice,
    generator: Generator,
    *,
    only: Mapping[str, NDArray[np.int64]] | None = None,
    targets: bool = False,
) -> Session:
    """The session with other samples in one stretch, of all channels or of some.

    Samples of other times and channels, one spike or one deviation higher: valid, and different in
    order, mean and scale.
    """
    inputs = dict(session.inputs)
    for name, x in inputs.items():
        channels = np.arange(x.shape[1]) if only is None else only.get(name, np.arange(0))
        rows = generator.integers(len(x), size=where.stop - where.start)
        lift = 1.0 if name == "spike" else (x.std() or 1.0)
        other = x.astype(np.float64)
        other[where, channels] = 2 * x[rows][:, generator.permutation(channels)] + lift
        inputs[name] = other
    values = session.targets
    if targets and values is not None:
        values = values.copy()
        values[where] = values[where][::-1] if session.labelled else -2.0 * values[where] + 1.0
    return Session(inputs, values, session.rate, session.blocks, session.name, session.units)


def _outputs(
    model: Predictor,
    session: Session,
    block: slice,
    hidden: Mapping[str, NDArray[np.int64]] | None = None,
) -> Outputs:
    """What is said about a block: values with time as first axis, and when each must be known."""
    length = block.stop - block.start
    ends = (np.arange(length) + 1.0) / session.rate
    if not isinstance(model, MultiModalNeuroFMX):
        predicted = as_float64(
            "predictions", model({n: x[block] for n, x in session.inputs.items()})
        )
        if predicted.ndim == 0 or len(predicted) != length:
            raise ValueError(
                f"the function must return one prediction for each of the {length} samples of the "
                f"block, got shape {predicted.shape}"
            )
        return {"the predictions": (predicted, ends)}
    alone = Session(session.inputs, None, session.rate, Blocks((block,)), units=session.units)
    (batch,) = block_batches(model, alone, "train")
    with evaluating(model):
        output = model.forward_batch(_masked(batch, hidden or {}))
    grid = output.times.cpu().numpy()
    # A sample is read out from the latent of its step, which is known at the end of the step.
    known = np.ceil(ends / grid[0] - 1e-6) * grid[0]
    said = {"the latents": (output.latents, grid)}
    said |= {f"the expected {n}": (x, known) for n, x in output.encoder.items()}
    if output.decoder is not None:
        said["the decoder"] = (output.decoder, ends)
    return {name: (as_float64(name, x[0]), at) for name, (x, at) in said.items()}


def _masked(batch: Batch, hidden: Mapping[str, NDArray[np.int64]]) -> Batch:
    masks = {}
    for name, channels in hidden.items():
        masks[name] = torch.ones_like(batch[name], dtype=torch.bool)
        masks[name][..., channels.tolist()] = False
    return {**batch, "masks": masks}


def _rounding(model: Predictor) -> float:
    """How far outputs may differ, as a share of the largest.

    Another number of event tokens is summed in another order; everything else is equal to the bit.
    """
    events = isinstance(model, MultiModalNeuroFMX) and model.config["spike_mode"] == "events"
    return 1e-5 if events else 0.0


def _differing(
    first: Outputs, second: Outputs, until: float = np.inf, *, tolerance: float = 0.0
) -> str | None:
    """Name of an output that differs up to a time."""
    for name, (values, at) in first.items():
        a, b = (x[at <= until + 1e-9] for x in (values, second[name][0]))
        if not np.allclose(
            a, b, rtol=0.0, atol=tolerance * np.abs(a).max(initial=0.0), equal_nan=True
        ):
            return name
    return None
