"""The command `neuros-data`: from an archive to training windows, from a shell."""

import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import click

from neuros_data._commands._outputs import DISK, FAULT, INTERRUPTED, NETWORK, OK, USAGE
from neuros_data._commands.bench import bench_windows
from neuros_data._commands.card import write_card
from neuros_data._commands.check import check_recordings
from neuros_data._commands.download import download_sources
from neuros_data._commands.export import export_recordings
from neuros_data._commands.import_files import import_files
from neuros_data._commands.prepare import prepare_sources
from neuros_data._commands.sample import list_sample
from neuros_data._commands.sources import list_sources
from neuros_data._commands.split import split_store
from neuros_data.errors import (
    ChecksumError,
    CorruptStoreError,
    DiskFullError,
    FormatVersionError,
    LeakageError,
    LicenceError,
    NetworkError,
)
from neuros_data.preparation._report import SessionError

__all__ = ["main"]

_SETTINGS = {
    # --n_blocks is accepted for --n-blocks.
    "token_normalize_func": lambda token: token.replace("_", "-"),
    "help_option_names": ["-h", "--help"],
}
# The first kind that fits: DiskFullError, NetworkError and LicenceError are OSErrors too.
_CODES: tuple[tuple[tuple[type[Exception], ...], int], ...] = (
    ((DiskFullError,), DISK),
    ((NetworkError,), NETWORK),
    ((LicenceError, ImportError), USAGE),
    ((ChecksumError, CorruptStoreError, FormatVersionError, LeakageError), FAULT),
    ((SessionError, OSError), FAULT),
    ((ValueError, TypeError, KeyError), USAGE),
)


@click.group(context_settings=_SETTINGS)
@click.version_option(package_name="neuros-data")
def _cli() -> None:
    """Neural recordings into training sets that do not leak."""


for _command in (
    list_sources,
    download_sources,
    import_files,
    prepare_sources,
    split_store,
    check_recordings,
    write_card,
    export_recordings,
    list_sample,
    bench_windows,
):
    _cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Words after the program's name; by default those of the process.

    Returns:
        0 ok, 1 fault in the data, 2 usage, 3 network, 4 disk full, 130 interrupted.

    Examples:
        >>> main(["sample", "--modality", "emg", "--quiet"])
        0
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with _ending_on_sigterm():
            return int(_cli.main(args=words, prog_name="neuros-data", standalone_mode=False) or OK)
    except click.ClickException as error:
        error.show()
        return _answer(error.format_message(), USAGE, words)
    except (click.Abort, KeyboardInterrupt):
        return _report("interrupted; run again to go on", INTERRUPTED, words)
    except tuple(kind for kinds, _ in _CODES for kind in kinds) as error:
        code = next(code for kinds, code in _CODES if isinstance(error, kinds))
        return _report(_message(error), code, words)


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    """Make SIGTERM end things as Ctrl-C does: workers stopped, everything resumable."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _message(error: BaseException) -> str:
    """What an error says; a KeyError would put its message in quotes."""
    return str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)


def _report(message: str, code: int, words: Sequence[str]) -> int:
    click.echo(f"neuros-data: {message}", err=True)
    return _answer(message, code, words)


def _answer(message: str, code: int, words: Sequence[str]) -> int:
    """With `--json` there is one object on standard output, whatever happens."""
    if "--json" in words:
        click.echo(json.dumps({"ok": False, "error": message, "exit": code}, sort_keys=True))
    return code
