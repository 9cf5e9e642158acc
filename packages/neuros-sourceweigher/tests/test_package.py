"""The package imports light and exports what it says."""

import subprocess
import sys

import pytest

import neuros_sourceweigher


# A fresh interpreter has to import NumPy and SciPy.
@pytest.mark.slow
def test_import_loads_no_optional_library() -> None:
    code = (
        "import sys, neuros_sourceweigher as n; "
        "n.project_simplex([0.5, 1.0]); n.solve_simplex_ls([[0.0, 1.0]], [0.5]); "
        "print(sorted({'torch', 'sklearn', 'fastapi', 'httpx'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_exported_name_exists_in_sorted_order() -> None:
    assert sorted(neuros_sourceweigher.__all__) == neuros_sourceweigher.__all__
    assert all(hasattr(neuros_sourceweigher, name) for name in neuros_sourceweigher.__all__)
    assert neuros_sourceweigher.__version__[0].isdigit()
