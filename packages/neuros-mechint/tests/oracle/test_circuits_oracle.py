"""Residual graphs of models as the library transformers builds them."""

import warnings

import pytest
import torch
from torch import nn

from neuros_mechint.circuits import CircuitDiscovery, residual_graph
from neuros_mechint.interventions import logit_difference

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    transformers = pytest.importorskip("transformers")

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]

SIZES = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}


def build(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(n_layer=2, n_embd=16, n_head=4, vocab_size=50)
    elif kind == "llama":
        config = transformers.LlamaConfig(**SIZES, intermediate_size=32, num_key_value_heads=2)
    elif kind == "mamba":
        config = transformers.MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2)
    else:
        config = transformers.GPTNeoXConfig(
            **SIZES, intermediate_size=32, use_parallel_residual=kind == "neox, parallel"
        )
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def tokens(seed: int) -> torch.Tensor:
    return torch.randint(0, 50, (2, 7), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["gpt2", "llama", "mamba", "neox, sequential"])
def test_the_parts_of_library_models_add_up(kind: str) -> None:
    model = build(kind)
    metric = logit_difference(3, 5)
    search = CircuitDiscovery(model, metric=metric)
    found = search.discover(tokens(0), tokens(1), method="exact", n_edges=4)
    assert found.faithfulness(tokens(0), tokens(1)) != 0.0
    everything = found.with_edges(found.graph.edges)
    assert everything.faithfulness(tokens(0), tokens(1)) == pytest.approx(1.0, abs=1e-6)
    n_parts = 1 if kind == "mamba" else 2
    assert len(found.graph.readers) == 2 * n_parts + 1


def test_a_parallel_block_of_two_norms_is_refused() -> None:
    graph = residual_graph(build("neox, parallel"))
    with pytest.raises(ValueError, match="post_attention_layernorm:in' do not add up"):
        graph.verify(tokens(0))
