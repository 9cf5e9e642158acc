import pytest
from torch import nn

from neuros_mechint.interventions import _structure as structure


class Attention(nn.Module):
    def __init__(self, n_heads: int | None = 2) -> None:
        super().__init__()
        self.qkv, self.proj = nn.Linear(4, 12), nn.Linear(4, 4)
        if n_heads is not None:
            self.n_heads = n_heads


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn_norm, self.attn, self.attn_drop = nn.LayerNorm(4), Attention(), nn.Dropout()
        self.mlp_norm = nn.LayerNorm(4)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))


class Language(nn.Module):
    def __init__(self, block=Block, n: int = 3) -> None:
        super().__init__()
        self.embed, self.positions = nn.Embedding(7, 4), nn.Embedding(9, 4)
        self.embed_norm = nn.LayerNorm(4)
        self.layers = nn.ModuleList(block() for _ in range(n))
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 7)


def test_the_parts_of_a_transformer_are_found() -> None:
    model = Language()
    assert structure.blocks(model) == ["layers.0", "layers.1", "layers.2"]
    assert structure.parts(model, "attention") == [f"layers.{k}.attn" for k in range(3)]
    assert structure.parts(model, "mlp") == [f"layers.{k}.mlp" for k in range(3)]
    assert structure.parts(model, "embedding") == ["embed", "positions"]
    assert structure.parts(model, "norm")[:2] == ["layers.0.attn_norm", "layers.0.mlp_norm"]
    assert structure.parts(model, "final_norm") == ["norm"]
    assert structure.parts(model, "unembedding") == ["head"]
    assert structure.output_projection(model, "layers.1.attn") == "layers.1.attn.proj"
    assert structure.input_projections(model, "layers.1.attn") == ["layers.1.attn.qkv"]
    assert structure.hidden_projection(model, "layers.2.mlp") == "layers.2.mlp.2"
    assert structure.n_heads(model) == 2


def test_one_layer_is_a_list_of_one_block() -> None:
    assert structure.blocks(Language(n=1)) == ["layers.0"]


def test_a_list_of_heads_inside_every_block_is_not_taken_for_the_blocks() -> None:
    class WithHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.Linear(4, 1) for _ in range(12))

    assert structure.blocks(Language(WithHeads)) == ["layers.0", "layers.1", "layers.2"]


def test_the_run_of_equal_types_in_a_chain_is_its_blocks() -> None:
    net = nn.Sequential(nn.Embedding(3, 4), *[nn.TransformerEncoderLayer(4, 2) for _ in range(4)])
    assert structure.blocks(net) == ["1", "2", "3", "4"]
    assert structure.blocks(nn.Sequential(net, nn.Identity())) == ["0.1", "0.2", "0.3", "0.4"]
    assert structure.blocks(nn.Sequential(net)) == ["0.1", "0.2", "0.3", "0.4"]


def test_of_lists_of_equal_length_the_larger_one_counts() -> None:
    class Towers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.small = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
            self.large = nn.ModuleList(nn.Linear(9, 9) for _ in range(3))

    assert structure.blocks(Towers()) == ["large.0", "large.1", "large.2"]


def test_a_list_named_as_a_part_holds_parts_and_not_blocks() -> None:
    model = nn.ModuleDict(
        {
            "attention": nn.ModuleList(Attention() for _ in range(2)),
            "mlp": nn.ModuleList(nn.Sequential(nn.Linear(4, 4)) for _ in range(2)),
        }
    )
    with pytest.raises(ValueError, match=r"no repeated blocks in ModuleDict.*sites=\[...\]"):
        structure.blocks(model)
    assert structure.parts(model, "attention") == ["attention.0", "attention.1"]
    assert structure.parts(model, "mlp") == ["mlp.0", "mlp.1"]


def test_mixers_of_state_space_models_stand_where_attention_does() -> None:
    class MambaMixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.in_proj, self.x_proj = nn.Linear(4, 16), nn.Linear(8, 6)
            self.out_proj = nn.Linear(8, 4)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.mixer = nn.LayerNorm(4), MambaMixer()

    model = Language(Layer)
    assert structure.parts(model, "attention") == [f"layers.{k}.mixer" for k in range(3)]
    assert structure.input_projections(model, "layers.0.mixer") == ["layers.0.mixer.in_proj"]
    assert structure.output_projection(model, "layers.0.mixer") == "layers.0.mixer.out_proj"
    # Here only the class tells what a block is.
    assert structure.parts(Language(MambaMixer), "attention")[0] == "layers.0"


def test_embeddings_may_be_linear_and_norms_registered_first() -> None:
    class Signals(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.final_norm, self.in_norm = nn.LayerNorm(4), nn.LayerNorm(4)
            self.patch_embed = nn.Linear(9, 4)
            self.blocks = nn.ModuleList(Block() for _ in range(2))
            self.regress = nn.Linear(4, 1)

    assert structure.parts(Signals(), "embedding") == ["patch_embed"]
    assert structure.parts(Signals(), "final_norm") == ["final_norm"]
    assert structure.parts(Signals(), "unembedding") == ["regress"]


@pytest.mark.parametrize(
    "kind", ["attention", "mlp", "embedding", "norm", "final_norm", "unembedding"]
)
def test_what_is_not_there_is_an_error_with_the_way_out(kind) -> None:
    message = rf"no {kind.replace('_', ' ')} in GRU, .* sites=\[...\]"
    with pytest.raises(ValueError, match=message):
        structure.parts(nn.GRU(3, 4), kind)


def test_projections_that_are_not_there_are_an_error_with_the_way_out() -> None:
    model = nn.ModuleDict(
        {
            "fused": nn.MultiheadAttention(4, 2),
            "bare": nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)),
            "only_out": nn.ModuleDict({"out_proj": nn.Linear(4, 4), "other": nn.Linear(4, 4)}),
            "gated": nn.ModuleDict({"a": nn.Linear(4, 8), "b": nn.Linear(8, 4)}),
        }
    )
    with pytest.raises(ValueError, match=r"nn\.MultiheadAttention, which never calls its out_proj"):
        structure.output_projection(model, "fused")
    with pytest.raises(ValueError, match=r"no output projection in 'bare' .* \['0', '1'\]; name"):
        structure.output_projection(model, "bare")
    with pytest.raises(ValueError, match=r"no input projection in 'only_out' .* \['other'\]; name"):
        structure.input_projections(model, "only_out")
    with pytest.raises(ValueError, match=r"no last linear map in 'gated' .* \['a', 'b'\]; name"):
        structure.hidden_projection(model, "gated")


def test_heads_are_counted_in_the_configuration_first() -> None:
    class Config:
        num_attention_heads = 8

    model = Language()
    model.config = Config()
    assert structure.n_heads(model) == 8
    assert structure.n_heads(nn.GRU(3, 4)) is None
    assert structure.n_heads(Language(lambda: nn.Linear(4, 4))) is None


class Conv1D(nn.Module):
    """The linear map of GPT-2, with its weight the other way around."""

    def __init__(self, n_out: int, n_in: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(n_out, n_in).weight.detach())


def test_the_width_that_a_linear_map_reads_is_known() -> None:
    assert structure.width_of_input(nn.Linear(3, 5)) == 3
    assert structure.width_of_input(Conv1D(5, 3)) == 3
    assert structure.width_of_input(nn.ReLU()) is None
