"""The command `neurofm-eval`: a trained model beside linear decoders, on the same test blocks."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from neuros_neurofm._cli import OK, build_parser, read_options, run_command
from neuros_neurofm.datasets.sessions import RecordedSession, TimeBlocks, cut_blocks, load_sessions
from neuros_neurofm.evaluation._baselines import Decoder, predict_with
from neuros_neurofm.evaluation._recorded import recorded_problem
from neuros_neurofm.evaluation._scoring import Uncertainty, predict_constant, score_all
from neuros_neurofm.evaluation.label_decoder import LabelDecoder
from neuros_neurofm.evaluation.linear_decoders import RidgeDecoder, WienerDecoder
from neuros_neurofm.models import MultiModalNeuroFMX
from neuros_neurofm.training._run_folder import SavedModel, load_model

__all__ = ["main"]

_PROG = "neurofm-eval"
_SPLIT = (0.6, 0.1, 0.3)
_WINDOW = 2.0


@dataclass(frozen=True, kw_only=True)
class _Options:
    checkpoint: Annotated[str | None, "folder of a run, a checkpoint in it, or a saved model"] = (
        None
    )
    data_dir: Annotated[str | None, "folder of .npz sessions"] = None
    split: Annotated[
        tuple[float, float, float] | None,
        "shares of training, validation and test (default: those of the run)",
    ] = None
    gap: Annotated[float | None, "seconds between these (default: that of the run)"] = None
    n_lags: Annotated[int, "samples of input that the Wiener or logistic decoder reads"] = 20
    block: Annotated[float, "seconds of a block of the bootstrap"] = 1.0
    n_bootstrap: Annotated[int, "resamples of the bootstrap"] = 1000
    seed: Annotated[int, "seed of the bootstrap"] = 0
    json: Annotated[bool, "write one JSON object in place of the table"] = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Score a model on the test block of every session that has behaviour.

    R2 of a continuous behaviour, balanced accuracy of labels, each with a 95 % block-bootstrap
    interval. `ridge` and `wiener`, for labels `lda` and `logistic`, are fitted on the training
    block of the same session, on every channel's mean in each bin of the behaviour; `mean`, for
    labels `chance`, reads nothing.

    Args:
        arguments: The words after the name of the command; those of the process when None.

    Returns:
        0; 2 for bad input, said in one line; 130 on Ctrl-C.

    Examples:
        >>> main(["--checkpoint", "nowhere", "--data_dir", "nowhere"])
        2
    """
    return run_command(_PROG, _evaluate, arguments)


def _evaluate(given: Sequence[str]) -> int:
    parser = build_parser(_PROG, "Score a model beside linear decoders.", _Options)
    options, _ = read_options(parser, _Options, given)
    if options.checkpoint is None or options.data_dir is None:
        raise ValueError("give --checkpoint and --data_dir")
    saved = load_model(options.checkpoint)
    protocol = _protocol(options, saved)
    sessions = load_sessions(
        options.data_dir,
        modalities=protocol["modalities"],
        sampling_rates=saved.model.sampling_rates,
    )
    scores = [
        score
        for session in sessions
        if session.behavior is not None
        for score in _score(
            saved.model,
            session,
            cut_blocks(session.duration, protocol["split"], gap=protocol["gap"]),
            options,
        )
    ]
    if not scores:
        raise ValueError(
            f"no session in {options.data_dir} has behavior; there is nothing to score"
        )
    content = {
        "checkpoint": str(saved.source),
        "protocol": {**protocol, "bootstrap_block_s": options.block, "n_lags": options.n_lags},
        "scores": scores,
    }
    sys.stdout.write(f"{json.dumps(content)}\n" if options.json else _table(scores))
    return OK


def _score(
    model: MultiModalNeuroFMX, session: RecordedSession, blocks: TimeBlocks, options: _Options
) -> list[dict[str, Any]]:
    """Score the model and the linear decoders of its targets, as the benchmark does."""
    problem = recorded_problem(model, session, blocks)
    decoders: dict[str, Decoder] = {
        "ridge": RidgeDecoder(),
        "wiener": WienerDecoder(options.n_lags),
    }
    if session.labelled:
        decoders = {
            "lda": LabelDecoder("lda"),
            "logistic": LabelDecoder("logistic", n_lags=options.n_lags),
        }
    predicted = {
        "model": problem.predicted,
        **predict_constant(problem),
        **{name: predict_with(decoder, problem) for name, decoder in decoders.items()},
    }
    uncertainty = Uncertainty(options.block, options.n_bootstrap, options.seed)
    what = ("decoding", session.name, session.behavior_rate)
    found = score_all(problem, predicted, what, uncertainty)
    return [{**score._asdict(), "n_samples": len(problem.truth)} for score in found]


def _protocol(options: _Options, saved: SavedModel) -> dict[str, Any]:
    """How the data are cut: as given, as in the run, or by default."""
    of_run = saved.protocol
    split = options.split or of_run.get("split", _SPLIT)
    gap = of_run.get("gap", saved.model.window or _WINDOW) if options.gap is None else options.gap
    modalities = of_run.get("modalities", list(saved.model.modalities))
    return {"split": [float(share) for share in split], "gap": gap, "modalities": modalities}


def _table(scores: Sequence[dict[str, Any]]) -> str:
    wide = max(len("session"), *(len(s["session"]) for s in scores))
    named = max(len(s["metric"]) for s in scores)
    lines = [
        f"{'session':<{wide}}  decoder   {'metric':<{named}}   score  95 % interval     samples"
    ]
    lines += [
        f"{s['session']:<{wide}}  {s['decoder']:<8}  {s['metric']:<{named}}  {s['score']:6.3f}  "
        f"[{s['low']:6.3f}, {s['high']:6.3f}]  {s['n_samples']:>7}"
        for s in scores
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
