import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from neuros_mechint.activations import (
    Add,
    EditContext,
    Noise,
    Replace,
    Scale,
    Site,
    Zero,
    intervene,
    run,
    run_batched,
)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Block(nn.Module):
    """Causal attention block; counts its calls in a way that no state of the module shows."""

    def __init__(self, width: int, counter: list[int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width), nn.ReLU(inplace=True), nn.Linear(2 * width, width)
        )
        self.counter = counter

    def forward(self, x):
        self.counter.append(x.shape[0])
        y = self.norm(x)
        mask = nn.Transformer.generate_square_subsequent_mask(
            x.shape[1], dtype=x.dtype, device=x.device
        )
        x = x + self.attention(y, y, y, attn_mask=mask, need_weights=False)[0]
        return x + self.mlp(x)


class Transformer(nn.Module):
    def __init__(self, n_blocks: int = 3, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.counters = [[] for _ in range(n_blocks)]
        self.embed = nn.Embedding(11, width)
        self.place = nn.Embedding(16, width)
        self.blocks = nn.ModuleList(Block(width, counter) for counter in self.counters)
        self.head = nn.Linear(width, 11)

    def forward(self, tokens):
        x = self.embed(tokens) + self.place(torch.arange(tokens.shape[1]))[None]
        for block in self.blocks:
            x = block(x)
        return {"logits": self.head(x), "name": "output", "cache": object()}


TOKENS = torch.randint(0, 11, (2, 5), generator=gen())


def transformer(dtype: torch.dtype = torch.float64) -> Transformer:
    return Transformer().to(dtype).eval()


def assert_as_separate_runs(model, inputs, sets, dtype=torch.float64, **options) -> None:
    tolerance = 1e-10 if dtype == torch.float64 else 1e-5
    outputs = run_batched(model, inputs, sets, **options)
    arguments = inputs if isinstance(inputs, tuple) else (inputs,)
    for output, edits in zip(outputs, sets, strict=True):
        expected = run(model, *arguments, edits=edits).output
        if isinstance(expected, dict):
            assert output["cache"] is None
            assert output["name"] == "output"
            expected = expected["logits"]
        found = output["logits"] if isinstance(output, dict) else output
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def sweep() -> list[dict]:
    sets: list[dict] = [{}]
    for k in range(3):
        sets += [{f"blocks.{k}[:, {t}]": Zero()} for t in range(5)]
        sets += [{f"blocks.{k}.mlp.0[..., {i}]": Scale(-2.0)} for i in range(3)]
        sets += [{f"blocks.{k}.attention:in": Scale(2.0), f"blocks.{2 - k}": Scale(0.5)}]
        sets += [{f"blocks.{k}.attention:out.0": lambda v, context: v + context.call + 1}]
    return [*sets, {"head": Zero()}, {"": Scale(3.0)}, {"embed": Add(torch.ones(8))}]


@pytest.mark.parametrize("batch_size", [1, 6, 7, 64, 1000])
@pytest.mark.parametrize("reuse_prefix", [True, False])
def test_a_batched_sweep_equals_single_forwards(batch_size: int, reuse_prefix: bool) -> None:
    model = transformer(torch.float32)
    options = {"batch_size": batch_size, "reuse_prefix": reuse_prefix}
    assert_as_separate_runs(model, TOKENS, sweep(), torch.float32, **options)


def test_a_batched_sweep_equals_single_forwards_in_double_precision() -> None:
    sets = [edits for edits in sweep() if "embed" not in edits]
    assert_as_separate_runs(transformer(), TOKENS, sets, batch_size=64)


# Every example runs up to a dozen forwards twice.
@pytest.mark.slow
@settings(max_examples=25, derandomize=True, deadline=None)
@given(
    depth=st.integers(1, 4),
    n_rows=st.integers(1, 4),
    batch_size=st.integers(1, 40),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_any_sets_of_edits_on_a_chain_equal_single_forwards(
    depth, n_rows, batch_size, seed, data
) -> None:
    torch.manual_seed(seed)
    layers = [m for _ in range(depth) for m in (nn.Linear(4, 4), nn.ReLU(inplace=seed % 2 == 0))]
    net = nn.Sequential(*layers, nn.Linear(4, 4)).double().eval()
    x = torch.randn(n_rows, 4, generator=gen(seed), dtype=torch.float64)
    one_set = st.dictionaries(
        st.builds(
            lambda k, io, i: Site(str(k), io=io, index=i),
            st.integers(0, 2 * depth),
            st.sampled_from(["input", "output"]),
            st.sampled_from([None, (..., 1), (slice(None), [0, 2]), 0]),
        ),
        st.sampled_from([Zero(), Scale(-1.5), torch.cos]),
        max_size=3,
    )
    sets = data.draw(st.lists(one_set, min_size=1, max_size=12))
    assert_as_separate_runs(net, x, sets, batch_size=batch_size)


def test_values_of_rows_reach_the_rows_of_their_set() -> None:
    net, x = nn.Sequential(nn.Identity(), nn.Identity()), torch.zeros(3, 2)
    values = [torch.randn(3, 2, generator=gen(k)) for k in range(5)]
    outputs = run_batched(net, x, [{"0": Replace(v)} for v in values])
    assert all(torch.equal(out, v) for out, v in zip(outputs, values, strict=True))


def test_an_edit_sees_its_own_rows_and_context_only() -> None:
    seen = []

    def edit(value, context: EditContext):
        seen.append((value.shape, str(context.site), context.call))
        return value

    net = nn.Sequential(nn.Identity(), nn.Identity())
    run_batched(net, torch.zeros(3, 2), [{"0": edit}, {"0[:, 1]": edit}, {"1": edit}])
    assert sorted(seen) == [((3,), "0[:, 1]", 0), ((3, 2), "0", 0), ((3, 2), "1", 0)]


def test_modules_before_the_first_edit_are_called_for_the_unedited_run_only() -> None:
    model = transformer()
    sets = [{f"blocks.1[:, {t}]": Zero()} for t in range(5)]
    run_batched(model, TOKENS, sets, batch_size=64)
    # Two rows unedited, then five sets and the unedited copy, two rows each.
    assert model.counters == [[2], [2], [2, 12]]


@pytest.mark.parametrize("reason", ["option", "train", "hook", "outer edit"])
def test_nothing_is_reused_when_it_must_not_be(reason: str) -> None:
    model = transformer()
    sets = [{f"blocks.1[:, {t}]": Zero()} for t in range(5)]
    if reason == "train":
        model.train()
    if reason == "hook":
        model.embed.register_forward_hook(lambda *_: None)
    if reason == "outer edit":
        with intervene(model, {"blocks.0": Scale(2.0)}):
            outputs = run_batched(model, TOKENS, sets)
        expected = run(model, TOKENS, edits={"blocks.0": Scale(2.0), **sets[3]}).output
        torch.testing.assert_close(outputs[3]["logits"], expected["logits"])
    else:
        run_batched(model, TOKENS, sets, reuse_prefix=reason != "option")
    assert model.counters[0][:2] == [2, 12]


class Counting(nn.Module):
    """Keeps how often it was called in a buffer or an attribute, and returns it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.register_buffer("count", torch.zeros(()))
        self.n = 1000

    def forward(self, x):
        if self.kind == "buffer":
            self.count += 1
        elif self.kind == "new buffer":
            self.count = self.count + 1
        else:
            self.n += 1
        return x + 1


@pytest.mark.parametrize("kind", ["buffer", "new buffer", "attribute"])
def test_modules_with_side_effects_are_not_skipped(kind: str) -> None:
    net = nn.Sequential(Counting(kind), nn.Identity(), nn.Identity()).eval()
    count = net[0].count
    calls = []
    net[0].forward, original = (lambda x: (calls.append(1), original(x))[1]), net[0].forward
    outputs = run_batched(net, torch.ones(1, 2), [{"1": Zero()}, {"1": Scale(2.0)}])
    assert [out.mean().item() for out in outputs] == [0.0, 4.0]
    # Once unedited, once stacked: not replaced by what it returned.
    assert len(calls) == 2
    assert net[0].count is count
    assert count.item() == 0


class Shared(nn.Module):
    """The first module writes into a list that the third reads: hidden from every check but one."""

    def __init__(self) -> None:
        super().__init__()
        self.notes: list = []
        self.first, self.second, self.third = nn.Identity(), nn.Identity(), nn.Identity()
        notes = self.notes
        self.first.forward = lambda x: (notes.append(x), x)[1]
        self.third.forward = lambda x: x + notes.pop()

    def forward(self, x):
        return self.third(self.second(self.first(x)))


def test_a_replay_that_misses_hidden_state_is_noticed() -> None:
    model = Shared().eval()
    forward = model.first.forward
    x = torch.tensor([[1.0, 2.0]])
    outputs = run_batched(model, x, [{"second": Zero()}, {"second": Scale(3.0)}])
    assert torch.equal(outputs[0], x)
    assert torch.equal(outputs[1], 4 * x)
    assert model.first.forward is forward


class Loop(nn.Module):
    def __init__(self, n_steps: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.prepare, self.cell, self.n_steps = nn.Linear(3, 3), nn.GRUCell(3, 3), n_steps

    def forward(self, x):
        x = self.prepare(x)
        h = torch.zeros_like(x)
        for _ in range(self.n_steps):
            h = self.cell(x, h)
        return h


def test_repeated_sites_are_edited_at_every_or_the_named_call() -> None:
    model = Loop().double().eval()
    x = torch.randn(2, 3, generator=gen(), dtype=torch.float64)
    sets = [{"cell": Scale(0.5)}, {"cell@1": Zero()}, {"cell@2[:, 0]": Scale(4.0)}, {}]
    assert_as_separate_runs(model, x, sets)


def test_an_edit_of_a_tensor_without_rows_belongs_to_its_set_only() -> None:
    model = transformer()
    sets = [{"place": Scale(0.0)}, {"place": Scale(2.0)}, {"blocks.0": Zero()}]
    assert_as_separate_runs(model, TOKENS, sets)


def test_the_forward_that_another_tool_put_on_a_module_comes_back() -> None:
    model = transformer()
    block = model.blocks[0]
    inner = block.forward
    block.forward = lambda x: 2 * inner(x)
    put = block.forward
    assert_as_separate_runs(model, TOKENS, [{"blocks.1": Zero()}, {"blocks.1": Scale(2.0)}])
    assert vars(block)["forward"] is put
    assert "forward" not in vars(model.embed)


def test_keyword_arguments_and_untouched_inputs_are_passed_on() -> None:
    class Weighted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Identity()

        def forward(self, a, *, weight, names):
            return self.inner(a) * weight, list(names)

    inputs = {"a": torch.ones(2, 3), "weight": torch.tensor([[1.0], [5.0]]), "names": ("u", "v")}
    outputs = run_batched(Weighted(), inputs, [{"inner": Scale(k)} for k in (1.0, 2.0)])
    assert torch.equal(outputs[1][0], torch.tensor([[2.0] * 3, [10.0] * 3]))
    assert outputs[1][1] == ["u", "v"]


def test_a_dict_of_modalities_is_one_argument() -> None:
    class Modalities(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Identity()

        def forward(self, inputs, units=None):
            return self.encode(inputs["spike"]) + inputs["lfp"]

    inputs = {"spike": torch.ones(2, 3), "lfp": torch.zeros(2, 3)}
    outputs = run_batched(Modalities(), inputs, [{"encode": Scale(k)} for k in (3.0, 4.0)])
    assert [out.mean().item() for out in outputs] == [3.0, 4.0]


def test_gradients_through_a_batch_equal_gradients_through_single_runs() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 1)).double().eval()
    x = torch.randn(2, 3, generator=gen(), dtype=torch.float64)
    sets = [{"1": Scale(k)} for k in (0.5, 2.0, 3.0)]
    sum(out.sum() for out in run_batched(net, x, sets)).backward()
    batched = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    sum(run(net, x, edits=edits).output.sum() for edits in sets).backward()
    for a, p in zip(batched, net.parameters(), strict=True):
        torch.testing.assert_close(a, p.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_batch_runs_without_gradients_too(mode) -> None:
    with mode():
        assert_as_separate_runs(transformer(), TOKENS, [{"blocks.1": Zero()}, {"head": Zero()}])


def test_random_edits_draw_for_their_rows() -> None:
    net, x = nn.Sequential(nn.Identity()), torch.zeros(2, 50)
    outputs = run_batched(net, x, [{"0": Noise(k, gen())} for k in (0.0, 1.0)])
    assert torch.equal(outputs[0], x)
    torch.testing.assert_close(outputs[1], torch.randn(2, 50, generator=gen()))


def test_no_sets_give_no_outputs() -> None:
    assert run_batched(nn.Identity(), torch.ones(1), []) == []


@pytest.mark.parametrize(
    ("sets", "error", "message"),
    [
        ([{"1": Zero()}] * 2, KeyError, "no module '1' in Sequential"),
        ([{"0": lambda v: v[:1]}] * 2, ValueError, r"returned shape \(1, 3\).* has shape \(2, 3\)"),
        ([{"0": Zero()}, {"0@4": Zero()}], RuntimeError, "site '0@4' was never reached"),
        ([{"0": Zero()}, {"0[:, 7]": Zero()}], IndexError, r"does not fit shape \(2, 3\)"),
        ([{"0": Zero()}, {"0": lambda v: 1 // 0}], ZeroDivisionError, "division"),
    ],
)
def test_a_wrong_edit_raises_as_in_a_single_run_and_leaves_no_trace(sets, error, message) -> None:
    net = nn.Sequential(nn.Identity())
    before = {name: copy.copy(vars(module)) for name, module in net.named_modules()}
    with pytest.raises(error, match=message):
        run_batched(net, torch.ones(2, 3), sets)
    assert {name: vars(module) for name, module in net.named_modules()} == before


def test_a_batch_needs_rows() -> None:
    with pytest.raises(ValueError, match="batch_size needs at least 1 row, got 0"):
        run_batched(nn.Identity(), torch.ones(1), [{}], batch_size=0)
    with pytest.raises(ValueError, match="the inputs need a batch dimension"):
        run_batched(nn.Identity(), torch.tensor(1.0), [{}, {}])
