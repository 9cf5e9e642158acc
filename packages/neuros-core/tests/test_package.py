"""The package as a whole: what importing it costs, its size, its public names."""

import ast
import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import neuros_core
from neuros_core import Callback, HasActivations, Modality, Objective, Species

SOURCE = Path(neuros_core.__file__).parent


def test_importing_core_loads_neither_torch_nor_scipy() -> None:
    code = "import sys, neuros_core; print([m for m in ('torch', 'scipy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def code_lines(path: Path) -> int:
    """Lines that hold code: no blank lines, no comments, no docstrings."""
    tree = ast.parse(path.read_text())
    docs: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docs.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines = enumerate(path.read_text().splitlines(), start=1)
    return sum(
        bool(x.strip()) and not x.strip().startswith("#") and i not in docs for i, x in lines
    )


def test_core_stays_under_eight_hundred_lines_of_code() -> None:
    assert sum(code_lines(path) for path in SOURCE.glob("*.py")) <= 800


@pytest.mark.parametrize("module", sorted(f.stem for f in SOURCE.glob("[!_]*.py")))
def test_every_public_module_sorts_its_names_and_has_them(module: str) -> None:
    loaded = importlib.import_module(f"neuros_core.{module}")
    assert list(loaded.__all__) == sorted(loaded.__all__)
    assert all(getattr(loaded, name).__doc__ for name in loaded.__all__)


def test_the_package_re_exports_sorted_names() -> None:
    assert sorted(neuros_core.__all__) == sorted(set(neuros_core.__all__))
    assert all(hasattr(neuros_core, name) for name in neuros_core.__all__)


def test_modality_ids_follow_the_fixed_order() -> None:
    order = ["spike", "lfp", "calcium", "eeg", "fmri", "ecog", "emg"]
    assert [str(m) for m in Modality] == order
    assert [m.id for m in Modality] == list(range(7))


def test_species_read_from_their_names() -> None:
    assert Species("mouse") is Species.MOUSE


def test_protocols_are_structural() -> None:
    class Term:
        name, weight = "term", 1.0

        def __call__(self, outputs: object, batch: object) -> float:
            return 1.0

    assert isinstance(Term(), Objective)
    assert not isinstance(object(), Objective)
    assert not isinstance(Term(), HasActivations)
    assert not isinstance(Term(), Callback)


def test_the_version_is_that_of_the_distribution() -> None:
    assert neuros_core.__version__ == version("neuros-core")


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(AttributeError, match="'neuros_core' has no attribute 'nope'"):
        _ = neuros_core.nope
