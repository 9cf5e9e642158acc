import ast
import subprocess
import sys
from pathlib import Path

import pytest

import neuros_neurofm
from neuros_neurofm import models


def loaded(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(sorted(m for m in sys.modules if '.' not in m))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ast.literal_eval(done.stdout))


def test_importing_the_package_loads_nothing_heavy() -> None:
    names = loaded("import neuros_neurofm")
    heavy = {
        "torch",
        "numpy",
        "lightning_fabric",
        "wandb",
        "matplotlib",
        "sklearn",
        "scipy",
    }
    assert not names & heavy


# A process of its own imports torch.
@pytest.mark.slow
def test_importing_the_model_loads_no_trainer_and_no_plotting() -> None:
    names = loaded("from neuros_neurofm import MultiModalNeuroFMX")
    assert "torch" in names
    heavy = {
        "lightning_fabric",
        "wandb",
        "matplotlib",
        "sklearn",
        "pandas",
        "transformers",
    }
    assert not names & heavy


def test_every_public_name_can_be_imported() -> None:
    for module in (neuros_neurofm, models):
        assert module.__all__ == sorted(module.__all__)
        assert all(hasattr(module, name) for name in module.__all__)
        assert Path(module.__file__).with_suffix(".pyi").exists()
