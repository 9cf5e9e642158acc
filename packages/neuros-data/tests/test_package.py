"""The package as a whole: what importing it loads, its public names, no made-up data."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import neuros_data

SOURCE = Path(neuros_data.__file__).parent
PUBLIC = sorted(path.stem for path in SOURCE.glob("[!_]*.py") if path.stem != "torch")


def test_importing_the_package_loads_no_optional_reader() -> None:
    code = "import sys, neuros_data; print(*(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    optional = {"torch", "mne", "pandas", "h5py", "scipy", "click", "requests", "tqdm", "dask"}
    assert not optional & set(done.stdout.split())


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_there_and_described(module: str) -> None:
    loaded = importlib.import_module(f"neuros_data.{module}")
    assert all(getattr(loaded, name).__doc__ for name in loaded.__all__)


def test_only_the_order_of_windows_is_drawn() -> None:
    # Data and labels come from files; a reader or a split that drew numbers would invent them.
    drawn = re.compile(
        r"^(?!\s*(>>>|\.\.\.)).*(default_rng|np\.random\.(?!Generator)|import random)", re.MULTILINE
    )
    drawing = {path.name for path in SOURCE.rglob("*.py") if drawn.search(path.read_text())}
    assert drawing == {"torch.py", "_bench_store.py"}
