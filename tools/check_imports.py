"""Import every module of one package with its declared dependencies alone.

Usage: python -I tools/check_imports.py neuros_X

A module listed in `[tool.neuros] optional-modules` of the package must instead raise an
ImportError that names its extra, `neuros-X[...]`.
"""

import importlib
import pkgutil
import sys
import tomllib
from pathlib import Path


def fault(name: str, distribution: str, *, optional: bool) -> str | None:
    """What is wrong with one module, or None."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        if optional and f"{distribution}[" in str(error):
            return None
        return f"{name}: {type(error).__name__}: {error}"
    names = getattr(module, "__all__", None)
    if names is None:
        public = not any(part.startswith("_") for part in name.split("."))
        return f"{name}: a public module needs __all__" if public else None
    missing = [n for n in names if not hasattr(module, n)]
    return f"{name}: __all__ promises {', '.join(missing)}" if missing else None


def main() -> int:
    """Walk the package and print every fault."""
    package = sys.argv[1]
    distribution = package.replace("_", "-")
    root = Path(__file__).resolve().parent.parent / "packages" / distribution
    optional = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["neuros"]
    optional_modules = set(optional["optional-modules"])
    top = importlib.import_module(package)
    names = [package, *(m.name for m in pkgutil.walk_packages(top.__path__, package + "."))]
    faults = [f for n in names if (f := fault(n, distribution, optional=n in optional_modules))]
    print("\n".join(faults) or f"{len(names)} modules of {package} import from its wheel")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
