"""What `download`, `import` and `prepare` share: options, settings of sources, exit codes."""

import dataclasses
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from neuros_data._commands._outputs import FAULT, NETWORK, OK, write
from neuros_data._files import shorten
from neuros_data.acquisition.source import Source, sources
from neuros_data.format import read_json
from neuros_data.preparation import PreparationReport

Command = TypeVar("Command", bound=Callable[..., int])


def preparing(command: Command) -> Command:
    """Add the options of everything that prepares recordings."""
    for option in reversed(
        [
            click.option(
                "--root", default="store", show_default=True, type=click.Path(path_type=Path)
            ),
            click.option("--jobs", type=int, help="Worker processes; by default all processors."),
            click.option(
                "--executor",
                default="local",
                show_default=True,
                help="local, dask, or dask:ADDRESS of a scheduler or its file.",
            ),
            click.option("--require", default="", help="Names a session must have, with commas."),
            click.option("--strict", is_flag=True, help="Stop at the first session that fails."),
            click.option("--force", is_flag=True, help="Prepare again what is finished."),
        ]
    ):
        command = option(command)
    return command


def names_in(text: str) -> tuple[str, ...]:
    """Names between commas."""
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def find_sources(names: Sequence[str]) -> list[Source]:
    """The named sources.

    Raises:
        KeyError: When there is no such source; the message lists those there are.
    """
    known = sources()
    if missing := [name for name in names if name not in known]:
        raise KeyError(f"no source {missing[0]!r}; there are {shorten(sorted(known))}")
    return [known[name] for name in dict.fromkeys(names)]


def configure(
    found: Sequence[Source], config: Path | None, given: Mapping[str, Any]
) -> list[Source]:
    """Put the settings of a file and of the command line into sources.

    Args:
        found: The sources.
        config: TOML or JSON: settings of the one source, or a table for each of several.
        given: Setting -> value for every source that has it; None is not given.

    Raises:
        ValueError: When no source has a setting.
    """
    content = {} if config is None else _read(config)
    chosen = {name: value for name, value in given.items() if value is not None}
    made: list[Any] = []
    for source in found:
        own = content.get(source.name, content if len(found) == 1 else {})
        fields = {f.name for f in dataclasses.fields(source.settings)}
        ours = {name: value for name, value in chosen.items() if name in fields}
        settings = change(source.settings, {**own, **ours})
        any_source: Any = source
        made.append(dataclasses.replace(any_source, settings=settings))
    _check_used(found, content, chosen)
    return made


def _check_used(
    found: Sequence[Source], content: Mapping[str, Any], chosen: Mapping[str, Any]
) -> None:
    names = [source.name for source in found]
    if len(found) > 1 and (strange := sorted(set(content) - set(names))):
        raise ValueError(f"the configuration has {strange}; the sources are {names}")
    for name in chosen:
        if not any(hasattr(source.settings, name) for source in found):
            raise ValueError(f"--{name.replace('_', '-')} is no setting of {', '.join(names)}")


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".json":
        return read_json(path)
    if path.suffix != ".toml":
        raise ValueError(f"a configuration is .toml or .json, got {path.name!r}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not TOML: {error}") from error


def change(settings: Any, values: Mapping[str, Any]) -> Any:
    """Settings with some values changed; a table changes a dataclass inside.

    Raises:
        ValueError: When there is no such setting.
    """
    known = {f.name: getattr(settings, f.name) for f in dataclasses.fields(settings)}
    if strange := sorted(set(values) - set(known)):
        raise ValueError(
            f"{type(settings).__name__} has no {', '.join(strange)}; it has {', '.join(known)}"
        )
    return dataclasses.replace(
        settings, **{name: _like(known[name], value) for name, value in values.items()}
    )


def _like(old: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(old) and isinstance(value, Mapping):
        return change(old, value)
    if isinstance(old, tuple) and isinstance(value, list):
        return tuple(value)
    return value


def agree(terms: Mapping[str, str], *, accepted: bool) -> bool:
    """Whether terms are accepted: by option, or by an answer where there is someone to ask."""
    if not terms or accepted:
        return accepted
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    for name, text in terms.items():
        click.echo(f"{name}: {text}", err=True)
    return click.confirm("Do you accept these terms?", err=True)


def conclude(report: PreparationReport, *, as_json: bool, quiet: bool) -> int:
    """Write a report and give its exit code."""
    write(str(report), report.to_dict(), as_json=as_json, quiet=quiet)
    if report.failed and (quiet or as_json):
        for failed in report.failed:
            click.echo(f"neuros-data: {failed.id}: {failed.error}", err=True)
    if report.ok:
        return OK
    return NETWORK if report.offline else FAULT
