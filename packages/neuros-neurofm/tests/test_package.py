"""The package as a whole: its public names come from where they are promised."""

import importlib
import inspect
import re

import pytest

import neuros_neurofm

PUBLIC = [
    "adapters",
    "augmentation",
    "datasets",
    "datasets.sessions",
    "estimator",
    "evaluation",
    "losses",
    "models",
    "ops",
    "tokenizers",
    "training",
]


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_there_and_described(module: str) -> None:
    part = importlib.import_module(f"neuros_neurofm.{module}")
    things = [getattr(part, name) for name in part.__all__]
    assert list(part.__all__) == sorted(part.__all__)
    assert all(t.__doc__ for t in things if inspect.isclass(t) or inspect.isfunction(t))


def test_the_model_comes_from_the_top_as_well() -> None:
    from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

    assert neuros_neurofm.MultiModalNeuroFMX is MultiModalNeuroFMX
    assert re.fullmatch(r"\d+\.\d+\.\d+", neuros_neurofm.__version__)
