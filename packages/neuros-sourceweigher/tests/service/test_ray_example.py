"""The example for Ray Serve can be read without Ray, and wraps the application of the service."""

import importlib.util
import sys
import types
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra [service] is not installed")

from fastapi import FastAPI

EXAMPLE = Path(__file__).resolve().parents[4] / "examples" / "ray_serve_app.py"


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("ray_serve_app", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(importlib.util.find_spec("ray") is not None, reason="Ray is installed")
def test_without_ray_the_example_says_so(example):
    with pytest.raises(ImportError, match=r"pip install 'ray\[serve\]'"):
        _ = example.deployment
    with pytest.raises(AttributeError, match="no attribute 'app'"):
        _ = example.app


def test_the_deployment_wraps_the_application_of_the_service(example, monkeypatch):
    """Ray itself is not at hand: what it would be called with is recorded."""
    calls = {}

    def deployment(**options):
        calls.update(options)

        def decorate(cls):
            cls.bind = classmethod(lambda bound: bound)
            return cls

        return decorate

    def ingress(builder):
        calls["app"] = builder()
        return lambda cls: cls

    serve = types.ModuleType("ray.serve")
    serve.deployment, serve.ingress = deployment, ingress
    ray = types.ModuleType("ray")
    ray.serve = serve
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.serve", serve)
    monkeypatch.setattr(example, "find_spec", lambda name: name)
    assert example.deployment.__name__ == "SourceWeigher"
    assert isinstance(calls["app"], FastAPI)
    assert calls["autoscaling_config"]["max_replicas"] == 8
    assert calls["ray_actor_options"]["num_cpus"] == 1
