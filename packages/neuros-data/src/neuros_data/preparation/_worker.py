"""A worker process: takes tasks on its standard input, answers on its standard output.

Started as a program of its own rather than through `multiprocessing`: a script that calls
`download` needs no `if __name__ == "__main__"`, BLAS sees its number of threads before it is
loaded, and a worker whose parent is gone reads the end of its input and ends too.
"""

import os
import signal
import struct
import sys
from multiprocessing.reduction import ForkingPickler
from typing import IO, Any

_LENGTH = struct.Struct("<Q")


def send(stream: IO[bytes], message: object) -> None:
    """Write one message."""
    content = bytes(ForkingPickler.dumps(message))
    stream.write(_LENGTH.pack(len(content)) + content)
    stream.flush()


def receive(stream: IO[bytes]) -> bytes:
    """Read one message, still pickled.

    Raises:
        EOFError: When the other side is gone.
    """
    head = stream.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        raise EOFError("the other side closed the pipe")
    (size,) = _LENGTH.unpack(head)
    content = stream.read(size)
    if len(content) < size:
        raise EOFError("the other side closed the pipe in the middle of a message")
    return content


def load(content: bytes) -> Any:
    """Unpickle a message of our own parent or child."""
    return ForkingPickler.loads(content)


def serve() -> None:
    """Answer tasks until the parent closes the pipe."""
    # Ctrl-C reaches the whole group of processes; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not come between the answers
    tasks = sys.stdin.buffer
    try:
        sys.path[:] = load(receive(tasks))
        from neuros_data.preparation._task import run_pickled

        while True:
            send(answers, run_pickled(receive(tasks)))
    except (EOFError, BrokenPipeError):
        return
