"""What several oracles share: a GPT-2 of the library, and the name of the peer in the log."""

import importlib.metadata
import importlib.util
import sys
import warnings
from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def gpt2() -> torch.nn.Module:
    """Three layers of four heads, width 32, random weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_layer=3, n_embd=32, n_head=4, vocab_size=60, n_positions=16,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            # The standard start leaves the blocks nearly without effect.
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", autouse=True)
def _peer_version(request: pytest.FixtureRequest) -> None:
    """Write the version of the distribution that a module names in `PEER`."""
    peer = getattr(request.module, "PEER", None)
    report = request.config.pluginmanager.get_plugin("terminalreporter")
    if peer is not None and report is not None:
        report.write_line(f"{peer} {importlib.metadata.version(peer)}")


@pytest.fixture(scope="session")
def nolds() -> ModuleType:
    """Its one module of measures: the package itself does not import on Python 3.11."""
    found = importlib.util.find_spec("nolds")
    if found is None or not found.submodule_search_locations:
        pytest.skip("nolds is not installed")
    sys.stdout.write(f"nolds {importlib.metadata.version('nolds')}\n")
    path = f"{found.submodule_search_locations[0]}/measures.py"
    spec = importlib.util.spec_from_file_location("nolds_measures", path)
    assert spec is not None
    assert spec.loader is not None
    measures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(measures)
    return measures
