"""The command `neuros-sourceweigher`: statistics, weights, projections and the service."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np
from numpy.typing import NDArray

from neuros_core.domains import (
    DomainStatistics,
    SourceWeights,
    load_statistics,
    save_statistics,
)
from neuros_sourceweigher.features import RandomFourierMap
from neuros_sourceweigher.simplex import project_simplex
from neuros_sourceweigher.weigher import (
    ClassConditionalWeigher,
    SourceWeigher,
    regularization_path,
)

__all__ = ["main"]

_OK, _OUT_OF_HULL, _BAD_INPUT, _INTERRUPTED = 0, 1, 2, 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line."""
        self.exit(_BAD_INPUT, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: The words after the name of the command; those of the process when None.

    Returns:
        0; 1 when `--require-hull` finds the target outside; 2 for bad input; 130 on Ctrl-C.

    Examples:
        >>> main(["project", "0.5", "1.0", "-2.0"])
        0.25 0.75 0.0
        0
    """
    parser = _build_parser()
    try:
        given = parser.parse_args(arguments)
        command: Callable[[argparse.Namespace], int] = given.command
        return command(given)
    except SystemExit as end:
        return int(end.code or 0)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (ValueError, TypeError, RuntimeError, OSError, ImportError) as error:
        line = " ".join(str(error).split())
        sys.stderr.write(f"neuros-sourceweigher: {line or type(error).__name__}\n")
        return _BAD_INPUT


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="neuros-sourceweigher",
        description="Which source data sets should a model train on for a target.",
    )
    parser.add_argument(
        "--version", action="version", version=f"%(prog)s {version('neuros-sourceweigher')}"
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_fit, _add_path, _add_stats, _add_project, _add_serve, _add_openapi):
        add(commands)
    return parser


_MATCHING = ("metric", "moments", "shrinkage", "seed")


def _add_matching(command: argparse.ArgumentParser) -> None:
    command.add_argument("statistics", type=Path, nargs="+", help="files written by `stats`")
    command.add_argument("--target", required=True, help="name of the target in the files")
    command.add_argument("--metric", help="identity, diagonal or efficient")
    command.add_argument("--moments", help="mean or mean+cov")
    command.add_argument("--shrinkage", type=_number_or_text, help="a share, or auto")
    command.add_argument("--seed", type=int)
    command.add_argument("--json", action="store_true", help="write one JSON object")


def _add_fit(commands: Any) -> None:
    fit = commands.add_parser("fit", help="estimate the weights of sources for a target")
    fit.add_argument(
        "--method",
        choices=["moment-matching", "class-conditional"],
        default="moment-matching",
        help="what works on statistics; the methods that need samples are in the library",
    )
    _add_matching(fit)
    fit.add_argument(
        "--quality",
        type=_share,
        nargs="+",
        metavar="NAME=SHARE",
        help="share in [0, 1] of a source that is fit for use",
    )
    fit.add_argument("--min-count", type=int, help="smallest class, of class-conditional")
    fit.add_argument("--ridge", type=_number_or_text, help="a number, or auto")
    fit.add_argument("--n-bootstrap", type=int, help="replicates for the intervals")
    fit.add_argument("--level", type=float, help="coverage of the intervals")
    fit.add_argument("--require-hull", action="store_true", help="exit 1 when out of the hull")
    fit.set_defaults(command=_fit)


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _fit(given: argparse.Namespace) -> int:
    sources, target = _domains(given)
    known = (*_MATCHING, "ridge", "n_bootstrap", "level", "min_count")
    options = _given(given, known)
    if given.method == "class-conditional":
        return _fit_classes(given, options, sources, target)
    if given.min_count is not None:
        raise ValueError("--min-count needs --method class-conditional")
    quality = dict(given.quality) if given.quality else None
    weights = SourceWeigher(**options).fit(sources, target, quality=quality)
    sys.stdout.write((weights.to_json() if given.json else _table(weights)) + "\n")
    return _hull(weights) if given.require_hull else _OK


def _fit_classes(
    given: argparse.Namespace,
    options: dict[str, Any],
    sources: list[DomainStatistics],
    target: DomainStatistics,
) -> int:
    unknown = sorted(options.keys() - {"metric", "ridge", "min_count"})
    unknown += [k for k in ("quality", "require_hull") if getattr(given, k)]
    if unknown:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in unknown)
        raise ValueError(f"--method class-conditional takes no {named}")
    found = ClassConditionalWeigher(**options).fit(sources, target)
    if given.json:
        tree = {"names": found.names, "classes": found.classes, "joint": found.joint.tolist()}
        sys.stdout.write(json.dumps({"schema": 1} | tree) + "\n")
        return _OK
    width = max(map(len, found.names))
    cells = [max(8, len(label)) for label in found.classes]
    columns = [label.ljust(n) for label, n in zip(found.classes, cells, strict=True)]
    sys.stdout.write("  ".join([" " * width, *columns]).rstrip() + "\n")
    for name, row in zip(found.names, found.joint, strict=True):
        shares = [f"{w:.6f}".ljust(n) for w, n in zip(row, cells, strict=True)]
        sys.stdout.write("  ".join([name.ljust(width), *shares]).rstrip() + "\n")
    return _OK


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.rpartition("=")
    try:
        return name, float(share)
    except ValueError:
        raise argparse.ArgumentTypeError(f"needs NAME=SHARE, got {text!r}") from None


def _domains(given: argparse.Namespace) -> tuple[list[DomainStatistics], DomainStatistics]:
    """Return the sources and the target that the arguments name."""
    domains = [domain for path in given.statistics for domain in _load(path)]
    targets = [domain for domain in domains if domain.name == given.target]
    if len(targets) != 1:
        names = ", ".join(sorted({domain.name for domain in domains}))
        raise ValueError(f"--target needs one of the domains {names}, got {given.target!r}")
    return [domain for domain in domains if domain.name != given.target], targets[0]


def _given(given: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return the options that were given; the library has the defaults of the others."""
    return {name: getattr(given, name) for name in names if getattr(given, name) is not None}


def _load(path: Path) -> list[DomainStatistics]:
    try:
        return load_statistics(path)
    except (ValueError, OSError, KeyError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"{path} needs a file written by `stats`: {reason}") from error


def _hull(weights: SourceWeights) -> int:
    inside = None if weights.diagnosis is None else weights.diagnosis.in_hull
    if inside is None:
        raise ValueError("--require-hull needs a metric that tests it, such as --metric efficient")
    return _OK if inside else _OUT_OF_HULL


def _table(weights: SourceWeights) -> str:
    width = max(map(len, weights.names))
    rows = []
    for i, (name, share) in enumerate(weights.as_dict().items()):
        bounds = ""
        if weights.interval is not None:
            low, high = weights.interval[i]
            bounds = f"  [{low:.6f}, {high:.6f}]"
        rows.append(f"{name:<{width}}  {share:.6f}{bounds}")
    if weights.gap is not None:
        rows.append(f"gap {weights.gap:.3g}")
    found = weights.diagnosis
    if found is not None and found.in_hull is not None:
        rows.append(f"in hull {found.in_hull}, p = {found.p_value:.3g}")
    if found is not None and found.ambiguous:
        groups = "; ".join(", ".join(group) for group in found.ambiguous)
        rows.append(f"cannot be told apart: {groups}")
    return "\n".join(rows)


def _add_path(commands: Any) -> None:
    path = commands.add_parser("path", help="compare ridges by their held-out discrepancy")
    _add_matching(path)
    path.add_argument("--ridges", type=float, nargs="+", help="numbers >= 0")
    path.add_argument("--folds", type=int, help="parts that are held out in turn")
    path.set_defaults(command=_path)


def _path(given: argparse.Namespace) -> int:
    sources, target = _domains(given)
    options = _given(given, (*_MATCHING, "ridges", "folds"))
    found = regularization_path(sources, target, **options)
    names = [source.name for source in sources]
    if given.json:
        arrays = ("ridges", "weights", "discrepancy", "stderr")
        values = {name: getattr(found, name).tolist() for name in arrays}
        sys.stdout.write(json.dumps({"names": names, "best": found.best} | values) + "\n")
        return _OK
    sys.stdout.write("  ".join(["ridge".ljust(12), "discrepancy".ljust(12), *names]) + "\n")
    for ridge, discrepancy, weights in zip(
        found.ridges, found.discrepancy, found.weights, strict=True
    ):
        shares = (f"{w:<{max(len(n), 6)}.4f}" for n, w in zip(names, weights, strict=True))
        row = "  ".join([f"{ridge:<12.6g}", f"{discrepancy:<12.6g}", *shares])
        sys.stdout.write(f"{row}{'  best' if ridge == found.best else ''}\n")
    return _OK


def _add_stats(commands: Any) -> None:
    stats = commands.add_parser("stats", help="reduce samples to their statistics")
    stats.add_argument("samples", type=Path, help=".npy file of (n, d) feature vectors")
    stats.add_argument("--name", required=True, help="name of the domain")
    stats.add_argument("--space", help="name of the feature space")
    stats.add_argument("--rff", type=int, metavar="P", help="first map to P random features")
    stats.add_argument("--bandwidth", type=float, nargs="+", help="of --rff, equal for all domains")
    stats.add_argument("--seed", type=int, default=0, help="of --rff, equal for all domains")
    stats.add_argument("--labels", type=Path, help=".npy file of (n,) class labels")
    stats.add_argument("--no-cov", action="store_true", help="keep the mean alone")
    stats.add_argument("-o", "--output", type=Path, required=True, help=".npz file to write")
    stats.add_argument("--append", action="store_true", help="add to the domains of the file")
    stats.set_defaults(command=_stats)


def _stats(given: argparse.Namespace) -> int:
    labels = None if given.labels is None else _array(given.labels)
    x, space = _mapped(_array(given.samples), given)
    domain = DomainStatistics.from_samples(
        x, name=given.name, space=space, y=labels, with_cov=not given.no_cov
    )
    others = _load(given.output) if given.append and given.output.exists() else []
    if given.name in {other.name for other in others}:
        raise ValueError(f"--name needs a name that {given.output} lacks, got {given.name!r}")
    save_statistics(given.output, [*others, domain])
    sys.stdout.write(f"{given.output}: {domain.name}, n={domain.n}, d={domain.d}\n")
    return _OK


def _mapped(x: NDArray[Any], given: argparse.Namespace) -> tuple[NDArray[Any], str]:
    """Return the samples, in random features when these are asked for, and their space."""
    if given.rff is None:
        if given.bandwidth is not None:
            raise ValueError("--bandwidth needs --rff beside it")
        return x, given.space or ""
    if given.bandwidth is None or given.space is not None:
        raise ValueError(
            "--rff needs --bandwidth, the same for every domain, and names the space itself; "
            "median_bandwidth of a pooled sample is a start"
        )
    if x.ndim != 2:
        raise ValueError(f"{given.samples} needs 2 axes (n, d), got shape {x.shape}")
    features = RandomFourierMap(
        dim=x.shape[1], n_features=given.rff, bandwidth=tuple(given.bandwidth), seed=given.seed
    )
    return features.transform(x), features.space


def _array(path: Path) -> NDArray[Any]:
    """Read a .npy file; pickled objects are refused."""
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ValueError(f"{path} needs a .npy file of numbers: {reason}") from error
    if isinstance(found, np.ndarray):
        return found
    raise ValueError(f"{path} needs a .npy file of one array, got an archive of several")


def _add_project(commands: Any) -> None:
    project = commands.add_parser("project", help="project points onto the simplex")
    project.add_argument("values", nargs="*", type=float, help="entries; else rows from stdin")
    project.add_argument("--radius", type=float, default=1.0)
    project.add_argument("--json", action="store_true", help="write one JSON array")
    project.set_defaults(command=_project)


def _project(given: argparse.Namespace) -> int:
    rows = [given.values] if given.values else _rows(sys.stdin)
    projected = [project_simplex(np.array(row), radius=given.radius).tolist() for row in rows]
    if given.json:
        sys.stdout.write(json.dumps(projected[0] if given.values else projected) + "\n")
    else:
        sys.stdout.writelines(" ".join(map(repr, row)) + "\n" for row in projected)
    return _OK


def _rows(stream: TextIO) -> list[list[float]]:
    rows = [line.replace(",", " ").split() for line in stream]
    found = [[float(word) for word in row] for row in rows if row]
    if not found:
        raise ValueError("project needs numbers as arguments or one row a line on its input")
    return found


def _add_serve(commands: Any) -> None:
    serve = commands.add_parser(
        "serve", help="serve over HTTP", description="Settings come from SOURCEWEIGHER_*."
    )
    serve.add_argument("--host", help="address to listen on (SOURCEWEIGHER_HOST)")
    serve.add_argument("--port", type=int, help="port to listen on (SOURCEWEIGHER_PORT)")
    serve.add_argument("--token-file", type=Path, help="SOURCEWEIGHER_TOKEN_FILE")
    serve.add_argument("--workers", type=_positive, default=1, help="processes (default 1)")
    serve.set_defaults(command=_serve)


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"needs a whole number >= 1, got {text!r}")
    return int(text)


def _serve(given: argparse.Namespace) -> int:
    from neuros_sourceweigher._service.server import serve
    from neuros_sourceweigher._service.settings import load_settings

    names = ("host", "port", "token_file")
    values = {n: getattr(given, n) for n in names if getattr(given, n) is not None}
    return serve(load_settings(**values), workers=given.workers)


def _add_openapi(commands: Any) -> None:
    openapi = commands.add_parser("openapi", help="write the OpenAPI description as JSON")
    openapi.set_defaults(command=_openapi)


def _openapi(_: argparse.Namespace) -> int:
    from neuros_sourceweigher.service import ServiceSettings, create_app

    sys.stdout.write(json.dumps(create_app(ServiceSettings()).openapi(), indent=2) + "\n")
    return _OK
