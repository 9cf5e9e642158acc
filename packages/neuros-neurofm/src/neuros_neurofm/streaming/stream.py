"""The command `neurofm-stream`: chunks of a recording in, one line of JSON per grid step out."""

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from neuros_neurofm._cli import OK, build_parser, read_options, run_command
from neuros_neurofm.datasets.sessions import load_session, windows
from neuros_neurofm.models._linear_file import choose_linear_part
from neuros_neurofm.streaming.session import StepOutput, StreamingSession
from neuros_neurofm.training._run_folder import load_model

__all__ = ["main"]

_PROG = "neurofm-stream"
_OUTPUTS = ("decoder", "latents", "pooled", "contrastive", "encoder")
_EXTRAS = ("t", "units", "leave")


@dataclass(frozen=True, kw_only=True)
class _Options:
    checkpoint: Annotated[str | None, "folder of a run, a checkpoint in it, or a saved model"] = (
        None
    )
    input: Annotated[str | None, "an .npz session to replay (default: lines on standard input)"] = (
        None
    )
    chunk: Annotated[float, "seconds per chunk of a replayed session"] = 0.1
    outputs: Annotated[list[str], f"any of {', '.join(_OUTPUTS)}"] = field(
        default_factory=lambda: ["decoder"]
    )
    sampling_rates: Annotated[dict[str, float], "Hz of modalities that the model does not know"] = (
        field(default_factory=dict)
    )
    max_lag: Annotated[float | None, "seconds that a modality may fall behind the others"] = None
    session: Annotated[
        str | None, "whose linear part is added, of a saved decoder with several"
    ] = None


class _Chunk(NamedTuple):
    samples: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    t: float | None
    units: Mapping[str, Sequence[str]] | None
    leave: Sequence[str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a model on a recording that arrives in pieces.

    Every line on standard input is one JSON object: samples (time, channel) as nested lists by
    modality, null for a missing one, such as `{"spike": [[0, 2, 1], [1, 0, 0]]}`; optionally `t`
    (seconds since the start at which the chunk begins), `units` ({modality: ids}, once) and `leave`
    (modalities that leave the stream). Every line on standard output is one step of the grid: `t`
    (its end in seconds), `modalities`, and the outputs that were asked for.

    Args:
        arguments: The words after the name of the command; those of the process when None.

    Returns:
        0; 2 for bad input, said in one line; 130 on Ctrl-C.

    Examples:
        >>> main(["--checkpoint", "nowhere"])
        2
    """
    return run_command(_PROG, _stream, arguments)


def _stream(given: Sequence[str]) -> int:
    parser = build_parser(_PROG, "Run a model on a stream.", _Options)
    options, _ = read_options(parser, _Options, given)
    if options.checkpoint is None:
        raise ValueError("give --checkpoint")
    unknown = sorted(set(options.outputs) - set(_OUTPUTS))
    if unknown:
        raise ValueError(f"outputs must be among {', '.join(_OUTPUTS)}, got {unknown}")
    saved = load_model(options.checkpoint, adds_linear=True)
    session = StreamingSession(
        saved.model,
        options.sampling_rates or None,
        max_lag=options.max_lag,
        linear=choose_linear_part(saved.linear, options.session),
    )
    chunks = _lines(sys.stdin) if options.input is None else _replayed(options, session)
    for number, chunk in enumerate(chunks, 1):
        try:
            steps = _pushed(session, chunk)
        except (ValueError, TypeError) as error:
            raise ValueError(f"chunk {number}: {error}") from error
        _write(steps, options.outputs)
    _write(session.finish(), options.outputs)
    return OK


def _pushed(session: StreamingSession, chunk: _Chunk) -> list[StepOutput]:
    steps = session.leave(*chunk.leave) if chunk.leave else []
    if chunk.samples:
        steps += session.push(chunk.samples, chunk.t, units=chunk.units, masks=chunk.masks)
    return steps


def _lines(source: Iterable[str]) -> Iterator[_Chunk]:
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} is no JSON ({error})") from error
        if not isinstance(content, dict):
            raise TypeError(f"line {number} must be a JSON object, got {type(content).__name__}")
        yield _chunk(number, content)


def _chunk(number: int, content: Mapping[str, Any]) -> _Chunk:
    samples, masks = {}, {}
    for name, rows in content.items():
        if name in _EXTRAS:
            continue
        try:
            x = np.array(rows, dtype=np.float32)
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{name} of line {number} must be rows of equally many numbers ({error})"
            ) from error
        if x.ndim != 2:
            raise ValueError(
                f"{name} of line {number} must be (time, channel), got shape {x.shape}"
            )
        masks[name] = torch.from_numpy(~np.isnan(x))[None]
        samples[name] = torch.from_numpy(np.nan_to_num(x, nan=0.0))[None]
    return _Chunk(samples, masks, content.get("t"), content.get("units"), content.get("leave", ()))


def _replayed(options: _Options, session: StreamingSession) -> Iterator[_Chunk]:
    """A session's chunks, its modalities side by side."""
    recording = load_session(str(options.input), sampling_rates=session.rates)
    recording = recording.restricted(session.model.modalities)
    if not recording.signals:
        raise ValueError(
            f"{options.input} has none of the model's modalities {session.model.modalities}"
        )
    units = {m: ids for m, ids in recording.units.items() if m in recording.signals}
    whole = windows(recording, window=recording.duration)[0]
    n_chunks = int(np.ceil(recording.duration / options.chunk)) if options.chunk > 0 else 0
    if not n_chunks:
        raise ValueError(f"chunk must be > 0 s, got {options.chunk}")
    for k in range(n_chunks):
        samples, masks = {}, {}
        for name in recording.signals:
            first, last = (round(j * options.chunk * recording.rates[name]) for j in (k, k + 1))
            piece = whole[name][first:last]
            if len(piece):
                samples[name] = piece[None]
                mask = whole.get("masks", {}).get(name)
                known = torch.ones_like(piece, dtype=torch.bool)
                masks[name] = (known if mask is None else mask[first:last])[None]
        own = {m: units[m] for m in samples if m in units}
        yield _Chunk(samples, masks, None, own or None, ())


def _write(steps: Iterable[StepOutput], outputs: Sequence[str]) -> None:
    for step in steps:
        line: dict[str, Any] = {"t": round(float(step.times), 9), "modalities": step.modalities}
        line |= {name: _plain(getattr(step, name)) for name in outputs}
        sys.stdout.write(f"{json.dumps(line)}\n")
    sys.stdout.flush()


def _plain(value: Any) -> Any:
    """Nested lists without the axis of rows, and vectors of one step without that of time."""
    if isinstance(value, dict):
        return {name: part[0].tolist() for name, part in value.items()}
    return None if value is None else value[0].reshape(-1).tolist()


if __name__ == "__main__":
    sys.exit(main())
