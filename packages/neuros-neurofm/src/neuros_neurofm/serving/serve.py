"""The command `neurofm-serve`: a trained model over HTTP and WebSocket."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch

from neuros_neurofm._cli import OK, build_parser, read_options, run_command
from neuros_neurofm.serving.limits import ServingLimits
from neuros_neurofm.training._run_folder import load_model

__all__ = ["main"]

_PROG = "neurofm-serve"


@dataclass(frozen=True, kw_only=True)
class _Options:
    host: Annotated[str, "address to listen on"] = "127.0.0.1"
    port: Annotated[int, "port to listen on; 0 takes a free one"] = 8000
    workers: Annotated[int, "processes, each with the model and limits of its own"] = 1
    device: Annotated[str, "where the model computes, such as cpu or cuda:0"] = "cpu"
    max_body: Annotated[int, "bytes of a request body or message"] = ServingLimits.max_body
    timeout: Annotated[float, "seconds for a body, and for its answer"] = ServingLimits.timeout
    queue: Annotated[int, "requests that may wait"] = ServingLimits.queue
    streams: Annotated[int, "streams that may be open"] = ServingLimits.streams
    idle: Annotated[float, "seconds after which a silent stream is closed"] = ServingLimits.idle
    max_steps: Annotated[int, "steps of the grid in one request"] = ServingLimits.max_steps


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve a model until SIGTERM or Ctrl-C; requests in flight are answered first.

    The first word is the folder of a run, a checkpoint in it, or a folder that `save_pretrained`
    wrote. One line on standard error says where the server listens.

    Args:
        arguments: The words after the name of the command; those of the process when None.

    Returns:
        0 after an orderly stop; 2 for bad input, said in one line.

    Examples:
        >>> main(["nowhere"])
        2
    """
    return run_command(_PROG, _serve, arguments)


def _serve(given: Sequence[str]) -> int:
    parser = build_parser(_PROG, "Serve a model over HTTP and WebSocket.", _Options)
    parser.add_argument("model", type=str, help="folder of a run or of a saved model")
    options, parsed = read_options(parser, _Options, given)
    if options.workers < 1 or not 0 <= options.port <= 65535:
        raise ValueError(
            f"workers must be >= 1 and port within 0..65535, got {options.workers} and "
            f"{options.port}"
        )
    limits = ServingLimits(
        max_body=options.max_body,
        timeout=options.timeout,
        queue=options.queue,
        streams=options.streams,
        idle=options.idle,
        max_steps=options.max_steps,
    )
    # Bad input is said here, before processes that would each say it.
    load_model(parsed.model, adds_linear=True).model.to(torch.device(options.device))
    from neuros_neurofm.serving._server import listen, run_worker, supervise

    listener = listen(options.host, options.port)
    host, port = listener.getsockname()[:2]
    sys.stderr.write(f"{_PROG}: listening on {host}:{port}\n")
    sys.stderr.flush()
    if options.workers == 1:
        run_worker(parsed.model, options.device, limits, [listener])
    else:
        supervise(options.workers, parsed.model, options.device, limits, listener)
    return OK


if __name__ == "__main__":
    sys.exit(main())
