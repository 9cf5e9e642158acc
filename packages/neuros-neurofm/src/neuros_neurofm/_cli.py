"""What the commands share: reading of flags and files, errors of one line, exit codes."""

import os
import sys
from argparse import ArgumentError
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeVar, cast, get_type_hints

from jsonargparse import ActionYesNo, ArgumentParser

__all__: list[str] = []

OK: Final = 0
BAD_INPUT: Final = 2
INTERRUPTED: Final = 130
Options = TypeVar("Options")
_WORDS: Final = (list[str], list[str] | None)


def build_parser(prog: str, description: str, options: type[Any]) -> ArgumentParser:
    """A parser with one flag per field of a dataclass, each of which is also a key of a YAML file.

    A field is annotated with its type and its help. Those of type bool become switches (`--x`,
    `--no_x`), lists of strings take one or more words.
    """
    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False)
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {version('neuros-neurofm')}"
    )
    parser.add_argument(
        "--config", action="config", help="a YAML file with these flags, or a shipped one by name"
    )
    hints = get_type_hints(options, include_extras=True)
    for item in fields(options):
        _add(parser, item, hints[item.name])
    return parser


def run_command(
    prog: str, command: Callable[[Sequence[str]], int], arguments: Sequence[str] | None
) -> int:
    """Run a command; what the user can mend becomes one line on standard error and exit code 2."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    try:
        return command(given)
    except SystemExit as end:
        return int(end.code or OK)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # The reader has closed the pipe, as `head` does; without this the exit would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except (
        ArgumentError,
        ValueError,
        TypeError,
        RuntimeError,
        ArithmeticError,
        OSError,
        ImportError,
        LookupError,
    ) as error:
        line = " ".join(str(error).split())
        sys.stderr.write(f"{prog}: error: {line or type(error).__name__}\n")
        return BAD_INPUT


def read_options(
    parser: ArgumentParser, options: type[Options], given: Sequence[str]
) -> tuple[Options, Any]:
    """The options, with objects named by `class_path` built, and what was parsed."""
    parsed = parser.parse_args(with_shipped_configs(given))
    built = parser.instantiate(parsed)
    values: Mapping[str, Any] = vars(built)
    names = [item.name for item in fields(cast("Any", options))]
    return options(**{name: values[name] for name in names}), parsed


def with_shipped_configs(given: Sequence[str]) -> list[str]:
    """The arguments with names of shipped configurations replaced by their files."""
    shipped = {Path(str(f)).stem: str(f) for f in files("neuros_neurofm.configs").iterdir()}
    result = list(given)
    for i, word in enumerate(given):
        name = given[i + 1] if word == "--config" and i + 1 < len(given) else None
        if name is not None and not Path(name).is_file() and name in shipped:
            result[i + 1] = shipped[name]
        elif word.startswith("--config=") and word.removeprefix("--config=") in shipped:
            result[i] = f"--config={shipped[word.removeprefix('--config=')]}"
    return result


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _add(parser: ArgumentParser, item: "Field[Any]", annotated: Any) -> None:
    default = item.default
    if item.default_factory is not MISSING:
        default = item.default_factory()
    hint, text = annotated.__origin__, annotated.__metadata__[0]
    name = f"--{item.name}"
    if hint is bool:
        yes_no = ActionYesNo(no_prefix="no_")
        parser.add_argument(name, action=yes_no, default=default, help=text)
    elif hint in _WORDS:
        parser.add_argument(name, type=str, nargs="+", default=default, help=text)
    else:
        parser.add_argument(name, type=hint, default=default, help=text)
