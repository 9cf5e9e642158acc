"""A benchmark whose every score has an interval and the baselines' scores beside it."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from neuros_core import RunManifest
from neuros_neurofm.evaluation._arrays import Array
from neuros_neurofm.evaluation._baselines import (
    PREDICTS,
    Budget,
    Decoder,
    predict_cebra,
    predict_glm,
    predict_lda,
    predict_logistic,
    predict_neural,
    predict_ridge,
    predict_wiener,
    predict_with,
)
from neuros_neurofm.evaluation._batches import window_samples
from neuros_neurofm.evaluation._cebra import has_cebra
from neuros_neurofm.evaluation._scoring import Uncertainty, predict_constant, score_all
from neuros_neurofm.evaluation._suite_report import Curve
from neuros_neurofm.evaluation._suite_result import BenchmarkResult, BenchmarkScore
from neuros_neurofm.evaluation._tasks import TASKS, Problem
from neuros_neurofm.evaluation.session import Session
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

__all__ = ["BenchmarkResult", "BenchmarkScore", "BenchmarkSuite"]

_BASELINES = ("ridge", "wiener", "glm", "lda", "logistic", "gru", "transformer")
_DEFAULT_TASKS = ("motor_decoding", "visual_encoding", "spiking_prediction")
# Seconds of test data that the report draws.
_CURVE_S = 10.0


class BenchmarkSuite:
    r"""Score a trained model on test blocks, beside baselines that were fitted on the same split.

    The model is scored as it is: train it on the training blocks before, such as by `fit_decoder`.
    Baselines are fitted on the training blocks of each session, their hyper-parameters chosen on
    its validation blocks; both, and the model, are scored on its test blocks and on nothing else.

    - `motor_decoding`: the model's decoder and the baselines predict the session's targets from its
      activity. Score: R², the mean over targets; of integer labels, such as gestures,
      `balanced_accuracy`.
    - `visual_encoding`: every unit's response is predicted, by the baselines from the stimulus (the
      session's targets, labels as one column each), by the model's encoder from the other units, a
      quarter of the units hidden in turn. The model does not see the stimulus and the baselines do
      not see the other units; the table says so. Units are those of the first modality, in the
      model's order, that the session has. Score: R², the mean over units.
    - `spiking_prediction`: the rates of a held-out quarter of the units are predicted from the
      others, by the model's encoder and by the baselines (co-smoothing). Score: bits per spike.

    Baselines: `ridge`, on the present input behind a causal exponential filter or none; `wiener`,
    on 0.1, 0.2 or 0.4 s of input; `glm`, where counts are predicted, a Poisson regression on the
    same filtered input; `gru` and `transformer`, `NeuralDecoder` with the model's window
    and at most its number of parameters; `cebra`, nearest neighbours in a CEBRA embedding of
    the last 10 samples, which cannot be seeded; and always `mean`, the mean of the training blocks.
    Without the package `cebra` that baseline is left out, and the table says so. Where labels are
    decoded, `lda` and `logistic` (`LabelDecoder`) stand in the place of the first three, on the
    filtered input, on its lags or on its filtered log-power, and `chance`, always the most frequent
    class, in that of `mean`.

    Linear rates are cut off at a twentieth of each unit's mean; GRU and transformer have a Poisson
    likelihood there.

    Args:
        tasks: Names of tasks, at least one.
        decoders: Further decoders by name, with `fit(xs, ys)` of lists of (time, channel) and
            (time, dim), and `predict(x)`; fitted anew on the training blocks of each session.
        baselines: Names of baselines.
        n_bootstrap: Resamples per interval, >= 1.
        block_s: Seconds per block of the bootstrap; several times the correlation of the errors.
        steps: Optimiser steps per learning rate of the neural baselines.
        seed: Seeds the bootstrap, the choice of hidden units and the neural baselines.

    Raises:
        ValueError: An unknown task or baseline, a name that is taken, or a number out of its range.

    Examples:
        >>> import numpy as np
        >>> from neuros_neurofm.evaluation import Session, contiguous_blocks
        >>> model = MultiModalNeuroFMX(
        ...     16, 1, 8, 8, modalities=("spike",), behavior_dim=1, window=0.16,
        ...     sampling_rates={"spike": 50.0})
        >>> counts = np.random.default_rng(0).poisson(2.0, (400, 3))
        >>> session = Session({"spike": counts}, counts[:, 0] + 0.5 * counts[:, 1], 50.0,
        ...                   contiguous_blocks(400, gap=8), name="demo")
        >>> suite = BenchmarkSuite(["motor_decoding"], baselines=["ridge"], n_bootstrap=50)
        >>> result = suite.run(model, session)
        >>> [score.decoder for score in result.scores], round(result.scores[2].score, 3)
        (['model', 'mean', 'ridge'], 1.0)

    References:
        Glaser, J. I. et al. (2020). Machine learning for neural decoding. eNeuro 7.
        https://doi.org/10.1523/ENEURO.0506-19.2020
        Pei, F. et al. (2021). Neural Latents Benchmark '21. NeurIPS Datasets and Benchmarks.
        https://doi.org/10.48550/arXiv.2109.04463
    """

    def __init__(
        self,
        tasks: Sequence[str] = _DEFAULT_TASKS,
        *,
        decoders: Mapping[str, Decoder] | None = None,
        baselines: Sequence[str] = _BASELINES,
        n_bootstrap: int = 1000,
        block_s: float = 1.0,
        steps: int = 300,
        seed: int = 0,
    ) -> None:
        _check_names("tasks", tasks, list(TASKS))
        _check_names("baselines", baselines, list(PREDICTS))
        taken = {"model", "mean", "chance", *PREDICTS} & set(decoders or {})
        if not tasks or taken:
            raise ValueError(
                f"tasks must not be empty and decoders need names of their own, got {list(tasks)} "
                f"and {sorted(taken)}"
            )
        if n_bootstrap < 1 or steps < 1 or not 0 < block_s < math.inf:
            raise ValueError(
                f"n_bootstrap and steps must be >= 1 and block_s > 0, got {n_bootstrap}, {steps} "
                f"and {block_s}"
            )
        self.tasks = tuple(tasks)
        self.decoders = dict(decoders or {})
        self.baselines = tuple(baselines)
        self.n_bootstrap = n_bootstrap
        self.block_s = block_s
        self.steps = steps
        self.seed = seed

    def run(
        self,
        model: MultiModalNeuroFMX,
        data: Session | Sequence[Session] | Mapping[str, Session | Sequence[Session]],
    ) -> BenchmarkResult:
        """Score the model, the baselines and the decoders.

        Args:
            model: Trained; it is not changed.
            data: Sessions for every task, or task -> sessions.

        Returns:
            The scores.

        Raises:
            ValueError: A task without sessions, two sessions of one name, a session that a task
                cannot use or without a block of each part, targets that none of the baselines
                predicts, or test blocks shorter than two blocks of the bootstrap.
        """
        scores: list[BenchmarkScore] = []
        uncertainty = Uncertainty(self.block_s, self.n_bootstrap, self.seed)
        curves = []
        pairs = [(task, session) for task in self.tasks for session in _sessions(task, data)]
        for task, session in pairs:
            _check_parts(session)
            problem = TASKS[task](model, session, np.random.default_rng(self.seed))
            predicted = {
                "model": problem.predicted,
                **predict_constant(problem),
                **{name: predict() for name, predict in self._players(model, session, problem)},
            }
            scores += score_all(problem, predicted, (task, session.name, session.rate), uncertainty)
            curves.append(_curve(task, session, problem, predicted))
        missing = [name for name in self.baselines if name not in self._available()]
        notes = tuple(f"{name} is left out: the package is not installed." for name in missing)
        return BenchmarkResult(tuple(scores), self._manifest(model, pairs), tuple(curves), notes)

    def _players(
        self, model: MultiModalNeuroFMX, session: Session, problem: Problem
    ) -> list[tuple[str, Callable[[], Array]]]:
        rate = session.rate
        chosen = self._applying(session, problem)
        budget = Budget(
            window=max(window_samples(model, session), 2),
            n_parameters=sum(p.numel() for p in model.parameters()),
            steps=self.steps,
            seed=self.seed,
        )
        known: dict[str, Callable[[], Array]] = {
            "ridge": lambda: predict_ridge(problem, rate),
            "wiener": lambda: predict_wiener(problem, rate),
            "glm": lambda: predict_glm(problem, rate),
            "lda": lambda: predict_lda(problem, rate),
            "logistic": lambda: predict_logistic(problem, rate),
            "gru": lambda: predict_neural("gru", problem, budget),
            "transformer": lambda: predict_neural("transformer", problem, budget),
            "cebra": lambda: predict_cebra(problem, budget),
        }
        own = [
            (name, lambda decoder=decoder: predict_with(decoder, problem))
            for name, decoder in self.decoders.items()
        ]
        return [
            *[(name, known[name]) for name in self._available() if name in chosen],
            *own,
        ]

    def _applying(self, session: Session, problem: Problem) -> list[str]:
        """Baselines of such targets; a score without any beside it is refused."""
        chosen = [name for name in self.baselines if problem.kind in PREDICTS[name]]
        if self.baselines and not chosen:
            fitting = [name for name, kinds in PREDICTS.items() if problem.kind in kinds]
            raise ValueError(
                f"none of the baselines {list(self.baselines)} predicts {problem.kind}, the "
                f"targets of {session.name!r}; take some of {fitting}"
            )
        return chosen

    def _available(self) -> list[str]:
        return [name for name in self.baselines if name != "cebra" or has_cebra()]

    def _manifest(
        self, model: MultiModalNeuroFMX, pairs: Sequence[tuple[str, Session]]
    ) -> RunManifest:
        # The training loads Lightning Fabric, which no score needs before this line.
        from neuros_neurofm.training._metrics import content_hash

        arrays = {
            f"{task}/{session.name}/{name}": torch.as_tensor(x)
            for task, session in pairs
            for name, x in {**session.inputs, "targets": session.targets}.items()
            if x is not None
        }
        return RunManifest.collect(
            kind="report",
            config={
                "tasks": self.tasks,
                "decoders": list(self.decoders),
                "baselines": self.baselines,
                "n_bootstrap": self.n_bootstrap,
                "block_s": self.block_s,
                "steps": self.steps,
                "model": model.config,
                "data": [_describe(task, session) for task, session in pairs],
            },
            seed=self.seed,
            data_hash=content_hash(arrays),
            model_hash=content_hash(model.state_dict()),
        )


def _describe(task: str, session: Session) -> dict[str, object]:
    blocks = {part: [[b.start, b.stop] for b in found] for part, found in session.blocks}
    return {"task": task, "session": session.name, "rate": session.rate, "blocks": blocks}


def _check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown or len(set(names)) < len(names):
        raise ValueError(f"{what} must be different names among {list(known)}, got {list(names)}")


def _sessions(
    task: str, data: Session | Sequence[Session] | Mapping[str, Session | Sequence[Session]]
) -> list[Session]:
    given = data.get(task, []) if isinstance(data, Mapping) else data
    sessions = [given] if isinstance(given, Session) else list(given)
    names = [session.name for session in sessions]
    if not sessions or len(set(names)) < len(names):
        raise ValueError(
            f"{task} needs at least one session, and sessions of different names, got {names}"
        )
    return sessions


def _check_parts(session: Session) -> None:
    for part, given in session.blocks:
        if not given:
            raise ValueError(
                f"the session {session.name!r} has no {part} block; baselines are fitted on train, "
                "tuned on validation and scored on test"
            )


def _curve(task: str, session: Session, problem: Problem, predicted: Mapping[str, Array]) -> Curve:
    n = min(len(problem.truth), max(round(_CURVE_S * session.rate), 2))
    others = {name: x for name, x in predicted.items() if name not in ("model", "mean", "chance")}
    best = max(others, key=lambda name: problem.score(problem.truth, others[name]), default=None)
    lines = {"truth": problem.truth, "model": problem.predicted}
    if best is not None:
        lines[best] = others[best]
    labels = problem.kind == "labels"
    first = {
        name: [float(v) for v in (x[:n].argmax(axis=1) if labels else x[:n, 0])]
        for name, x in lines.items()
    }
    return Curve(task, session.name, session.rate, first)
