"""The package as a whole: what importing it costs, and that its public names are there."""

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import neuros_mechint

SOURCE = Path(neuros_mechint.__file__).parent
PUBLIC = [
    "activations",
    "alignment",
    "attribution",
    "biophysical",
    "circuits",
    "dynamics",
    "evidence",
    "fractals",
    "geometry",
    "interventions",
    "multiscale",
    "neurons",
    "reporting",
    "sae",
]


def loaded_by(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after one statement."""
    code = f"{statement}\nimport sys\nprint(*(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_no_torch() -> None:
    assert not {"torch", "pandas", "scipy"} & loaded_by("import neuros_mechint")


@pytest.mark.slow  # a fresh interpreter imports torch
@pytest.mark.parametrize("module", PUBLIC)
def test_importing_a_part_loads_no_heavy_library_beside_torch(module: str) -> None:
    heavy = {"scipy", "pandas", "matplotlib", "sklearn", "lightning"}
    # torch itself brings networkx in some versions, so it is not asked about.
    assert not heavy & loaded_by(f"import neuros_mechint.{module}")


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_comes_from_the_top_as_well(module: str) -> None:
    part = importlib.import_module(f"neuros_mechint.{module}")
    assert len(set(part.__all__)) == len(part.__all__)
    # Two conventions share this name; the top has that of `dynamics`.
    shared = [name for name in part.__all__ if (module, name) != ("multiscale", "TransferEntropy")]
    assert all(getattr(neuros_mechint, name) is getattr(part, name) for name in shared)
    things = [getattr(part, name) for name in part.__all__]
    assert all(t.__doc__ for t in things if inspect.isclass(t) or inspect.isfunction(t))


def test_the_version_is_that_of_the_distribution() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", neuros_mechint.__version__)


def test_hooks_are_registered_in_activations_only() -> None:
    callers = {
        path.relative_to(SOURCE).parts[0]
        for path in SOURCE.rglob("*.py")
        if re.search(r"\.register_(?:full_)?(?:forward|backward)", path.read_text())
    }
    assert callers == {"activations"}
