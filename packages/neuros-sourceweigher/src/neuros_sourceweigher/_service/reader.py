"""From a decoded document to the library's types, with the place of every fault."""

from array import array
from collections.abc import Collection, Mapping
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from neuros_core.domains import DomainStatistics
from neuros_sourceweigher._service.codec import Document
from neuros_sourceweigher._service.options import Option, plain
from neuros_sourceweigher._service.problem import Fault, ProblemError
from neuros_sourceweigher._service.settings import ServiceSettings

__all__: list[str] = []

NAME = 256
_FAULTS = 20
_LARGEST = 2**63 - 1
_DOMAIN = {"schema", "name", "n", "mean", "cov", "space", "classes"}


class _FaultError(Exception):
    """A part of the document that cannot be used; reading goes on with the next part."""


class Reader:
    """Reads one document and collects up to twenty faults.

    Args:
        document: The decoded body.
        settings: How many sources and features are accepted.
    """

    def __init__(self, document: Document, settings: ServiceSettings) -> None:
        self.tree = document.tree
        self.checked = document.checked
        self.settings = settings
        self.faults: list[Fault] = []

    def _fail(self, loc: str, message: str) -> NoReturn:
        if len(self.faults) < _FAULTS:
            self.faults.append((loc, message))
        raise _FaultError

    def refuse(self) -> NoReturn:
        """Raise what was found."""
        loc, message = self.faults[0]
        more = f" (and {len(self.faults) - 1} more)" if len(self.faults) > 1 else ""
        raise ProblemError(422, "invalid", f"{loc}: {message}{more}", errors=self.faults)

    def body(self, *, required: Collection[str], optional: Collection[str]) -> dict[str, Any]:
        """Return the outermost map, which has the required fields and no unknown one."""
        try:
            return self._map(self.tree, "body", required, optional)
        except _FaultError:
            self.refuse()

    def _map(
        self, node: Any, loc: str, required: Collection[str], optional: Collection[str]
    ) -> dict[str, Any]:
        if not isinstance(node, dict):
            self._fail(loc, "needs an object")
        missing = [key for key in required if key not in node]
        if missing:
            self._fail(loc, f"needs the fields {', '.join(missing)}")
        if not node.keys() <= {*required, *optional}:
            known = ", ".join([*required, *optional])
            self._fail(loc, f"needs no other fields than {known}")
        return node

    def domains(self, node: Any, loc: str) -> list[DomainStatistics]:
        """Return one or more domains; names need not differ."""
        if not isinstance(node, list) or not node:
            self.faults.append((loc, "needs an array of at least one object"))
            self.refuse()
        limit = self.settings.max_sources
        if len(node) > limit:
            self.faults.append((loc, f"needs at most {limit} entries"))
            self.refuse()
        found = []
        for i, entry in enumerate(node):
            try:
                found.append(self._domain(entry, f"{loc}/{i}", parts=True))
            except _FaultError:
                continue
        if self.faults:
            self.refuse()
        return found

    def domain(self, node: Any, loc: str) -> DomainStatistics:
        """Return one domain."""
        try:
            return self._domain(node, loc, parts=True)
        except _FaultError:
            self.refuse()

    def _domain(self, node: Any, loc: str, *, parts: bool) -> DomainStatistics:
        given = self._map(node, loc, ("name", "n", "mean"), _DOMAIN - {"name", "n", "mean"})
        schema = given.get("schema", 1)
        # A boolean is equal to 1 as well.
        if type(schema) not in (int, float) or schema != 1:
            self._fail(f"{loc}/schema", "needs 1")
        name = self._text(given["name"], f"{loc}/name", least=1)
        space = self._text(given.get("space", ""), f"{loc}/space", least=0)
        n = self._count(given["n"], f"{loc}/n")
        mean = self._numbers(given["mean"], f"{loc}/mean")
        cov = given.get("cov")
        if cov is not None:
            cov = self._matrix(cov, f"{loc}/cov", len(mean))
        classes = self._classes(given.get("classes", {}), f"{loc}/classes", parts=parts)
        try:
            return DomainStatistics(name, n, mean, cov, space, classes)
        except ValueError as error:
            self._fail(loc, needed(error, name))

    def _classes(self, node: Any, loc: str, *, parts: bool) -> Mapping[str, DomainStatistics]:
        if not isinstance(node, dict) or (node and not parts):
            self._fail(loc, "needs an object of classes, which have none themselves")
        found = {}
        for i, (label, part) in enumerate(node.items()):
            # By position: a label of the body is not repeated in the answer.
            found[self._text(label, f"{loc}/{i}", least=1)] = self._domain(
                part, f"{loc}/{i}", parts=False
            )
        return found

    def _text(self, value: Any, loc: str, *, least: int) -> str:
        if not isinstance(value, str) or not least <= len(value) <= NAME:
            self._fail(loc, f"needs a text of {least} to {NAME} characters")
        return value

    def _count(self, value: Any, loc: str) -> int:
        # JSON does not tell 500 from 500.0.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or not 1 <= value <= _LARGEST:
            self._fail(loc, f"needs a whole number from 1 to {_LARGEST}")
        return value

    def _numbers(self, node: Any, loc: str, *, longest: int | None = None) -> NDArray[Any]:
        """Return a finite vector that is not empty."""
        x = node if isinstance(node, np.ndarray) else self._listed(node, loc)
        if x.ndim != 1 or not x.size:
            self._fail(loc, "needs an array of at least one number")
        limit = self.settings.max_features if longest is None else longest
        if x.size > limit:
            self._fail(loc, f"needs at most {limit} numbers")
        if not np.isfinite(x).all():
            self._fail(loc, "needs finite numbers")
        return x

    def _listed(self, node: Any, loc: str) -> NDArray[np.float64]:
        numeric = isinstance(node, list) and (self.checked or {*map(type, node)} <= {int, float})
        if not numeric:
            self._fail(loc, "needs an array of numbers")
        try:
            # Unlike numpy.array this takes no text for a number, and no text's length for a dtype.
            return np.frombuffer(array("d", node))
        except (TypeError, OverflowError):
            self._fail(loc, "needs an array of numbers")

    def _matrix(self, node: Any, loc: str, d: int) -> NDArray[Any]:
        """Return a finite (d, d) matrix."""
        if isinstance(node, np.ndarray):
            if node.shape != (d, d):
                self._fail(loc, f"needs shape ({d}, {d}) like the mean")
            self._numbers(node.reshape(-1), loc, longest=d * d)
            return node
        if not isinstance(node, list) or len(node) != d:
            self._fail(loc, f"needs {d} rows like the mean")
        rows = [self._numbers(row, f"{loc}/{i}", longest=d) for i, row in enumerate(node)]
        if any(len(row) != d for row in rows):
            self._fail(loc, f"needs {d} numbers in every row")
        return np.stack(rows)

    def points(self, node: Any, loc: str) -> NDArray[Any]:
        """Return a finite vector (K,) or matrix (N, K)."""
        longest = self.settings.max_sources
        try:
            if isinstance(node, np.ndarray) and node.ndim == 2 and node.size:
                if max(node.shape) > longest:
                    self._fail(loc, f"needs at most {longest} rows of {longest} numbers")
                return self._numbers(node.reshape(-1), loc, longest=node.size).reshape(node.shape)
            if isinstance(node, list) and node and isinstance(node[0], list | np.ndarray):
                return self._rows(node, loc, longest)
            return self._numbers(node, loc, longest=longest)
        except _FaultError:
            self.refuse()

    def _rows(self, node: list[Any], loc: str, longest: int) -> NDArray[Any]:
        if len(node) > longest:
            self._fail(loc, f"needs at most {longest} rows")
        rows = [self._numbers(row, f"{loc}/{i}", longest=longest) for i, row in enumerate(node)]
        if len({len(row) for row in rows}) > 1:
            self._fail(loc, "needs rows of one length")
        return np.stack(rows)

    def number(self, value: Any, loc: str) -> float:
        """Return one finite number."""
        try:
            return float(self._numbers([value], loc, longest=1)[0])
        except _FaultError:
            self.refuse()

    def options(
        self, node: Any, tables: Mapping[str, Mapping[str, Option]], default: str
    ) -> tuple[str, dict[str, Any]]:
        """Return the method and its options, all of the declared types."""
        if not isinstance(node, dict):
            self.faults.append(("options", "needs an object"))
            self.refuse()
        method = node.get("method", default)
        if not isinstance(method, str) or method not in tables:
            self.faults.append(("options/method", f"needs one of {', '.join(tables)}"))
            self.refuse()
        table, values = tables[method], {}
        for name, value in node.items():
            if name == "method":
                continue
            if name not in table:
                known = ", ".join(["method", *table])
                self.faults.append(("options", f"needs no other options than {known}"))
                break
            fault = table[name].fault(value)
            if fault is not None:
                self.faults.append((f"options/{name}", fault))
            values[name] = plain(table[name], value)
        if self.faults:
            self.refuse()
        return method, values

    def same_space(self, sources: list[DomainStatistics], target: DomainStatistics) -> None:
        """Refuse sources that share a name, or whose features are not those of the target."""
        seen: set[str] = set()
        for i, source in enumerate(sources):
            if source.name in seen:
                self.faults.append((f"sources/{i}/name", "needs a name that no other source has"))
            seen.add(source.name)
            if source.d != target.d:
                message = f"needs {target.d} features like the target"
                self.faults.append((f"sources/{i}/mean", message))
            elif source.space != target.space:
                self.faults.append((f"sources/{i}/space", "needs the space of the target"))
        if self.faults:
            del self.faults[_FAULTS:]
            self.refuse()


def needed(error: Exception, name: str = "") -> str:
    """Return what the library needs, without what it was given."""
    text = str(error).removeprefix(f"{name}: ").split(", got ")[0]
    return text[:300] or type(error).__name__
