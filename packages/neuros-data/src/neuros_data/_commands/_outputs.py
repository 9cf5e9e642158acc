"""What every command has: `--json`, `--quiet`, exit codes, and bars on a terminal only."""

import json
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

OK, FAULT, USAGE, NETWORK, DISK, INTERRUPTED = 0, 1, 2, 3, 4, 130
Command = TypeVar("Command", bound=Callable[..., int])


def outputs(command: Command) -> Command:
    """Add `--json` and `--quiet`."""
    command = click.option("--quiet", is_flag=True, help="Write nothing but errors.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")(command)


def write(text: str, content: dict[str, Any], *, as_json: bool, quiet: bool) -> None:
    """Write the outcome of a command: one JSON object, text, or nothing."""
    if as_json:
        click.echo(json.dumps(content, sort_keys=True))
    elif not quiet:
        click.echo(text)


def bars(*, quiet: bool) -> bool:
    """Whether to draw progress."""
    return not quiet and sys.stderr.isatty()
