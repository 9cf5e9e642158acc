import pytest
import torch
from torch import Tensor, nn

from neuros_mechint.interventions import ActivationPatcher, attribution_patching


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pair(*shape: int) -> tuple[Tensor, Tensor]:
    return tuple(torch.randn(*shape, generator=gen(k), dtype=torch.float64) for k in (0, 1))


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 2)).double()


def smooth() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.GELU(), nn.Linear(5, 2)
    ).double()


def metric(y: Tensor) -> Tensor:
    return y[..., 0].reshape(len(y), -1).sum(1)


def exact(model, clean, corrupted, sites, measure=metric, **parts):
    return ActivationPatcher(model, n_heads=parts.pop("n_heads", None)).systematic_patching(
        sites, clean, corrupted, measure, **parts
    )


@pytest.mark.parametrize(
    "parts",
    [
        {"positions": range(4)},
        {"neurons": range(4)},
        {"positions": [0, 3], "neurons": [1]},
        {"heads": [0, 1], "n_heads": 2},
    ],
)
@pytest.mark.parametrize("steps", [1, 3])
def test_on_a_linear_model_the_estimate_is_the_exact_patch(parts, steps: int) -> None:
    model, (clean, corrupted) = linear(), pair(2, 4, 3)
    estimate = attribution_patching(
        model, clean, corrupted, metric, ["0", "1:in"], steps=steps, **parts
    )
    truth = exact(model, clean, corrupted, ["0", "1:in"], **parts)
    assert estimate.columns.tolist() == truth.columns.tolist()
    assert (estimate.drop(columns="layer") - truth.drop(columns="layer")).abs().max().max() < 1e-10
    assert estimate.layer.tolist() == truth.layer.tolist()


def test_every_position_is_reported_where_nothing_else_is_asked_for() -> None:
    model, (clean, corrupted) = linear(), pair(2, 4, 3)
    table = attribution_patching(model, clean, corrupted, metric, "1")
    assert table.position.tolist() == [0, 1, 2, 3]
    assert (
        table.effect - exact(model, clean, corrupted, "1", positions=range(4)).effect
    ).abs().max() < 1e-10
    # Without time, or with an index, a site is one part.
    assert len(attribution_patching(model, clean[:, 0], corrupted[:, 0], metric, "1")) == 1
    one = attribution_patching(model, clean, corrupted, metric, model[1])
    assert len(one) == 4
    sliced = attribution_patching(model, clean, corrupted, metric, "1[:, 2]")
    assert sliced.effect.tolist() == pytest.approx([table.effect[2]])


class Pooled(nn.Module):
    def forward(self, x):
        return x.mean(1)


def test_sites_with_and_without_time_share_one_table() -> None:
    model, (clean, corrupted) = nn.Sequential(*linear()[:1], Pooled()), pair(2, 4, 3)
    table = attribution_patching(model, clean, corrupted, metric, ["1", "0"])
    assert table.position.isna().tolist() == [True] + [False] * 4
    assert table.recovery.tolist()[0] == pytest.approx(1.0)
    assert table.recovery[1:].sum() == pytest.approx(1.0)


def test_with_steps_the_parts_of_a_site_add_up_to_the_patch_of_all_of_it() -> None:
    model, (clean, corrupted) = smooth(), pair(3, 4, 3)
    sites = ["0", "1", "2"]
    whole = exact(model, clean, corrupted, sites).set_index("layer").effect
    table = attribution_patching(
        model, clean, corrupted, metric, sites, steps=24, positions=range(4)
    )
    summed = table.groupby("layer").effect.sum()
    assert (summed - whole).abs().max() < 1e-9
    first_order = attribution_patching(model, clean, corrupted, metric, sites, neurons=range(5))
    assert (first_order.groupby("layer").effect.sum() - whole).abs().max() > 1e-2


def test_the_estimate_is_the_first_order_term_of_the_exact_patch() -> None:
    model, (clean, corrupted) = smooth(), pair(2, 4, 3)
    errors = []
    for scale in (1e-2, 1e-3):
        near = corrupted + scale * (clean - corrupted)
        table = attribution_patching(model, near, corrupted, metric, ["0"])
        truth = exact(model, near, corrupted, ["0"], positions=range(4))
        errors.append((table.effect - truth.effect).abs().max() / truth.effect.abs().max())
    # The relative error falls with the distance.
    assert errors[1] < 0.2 * errors[0] < 0.02


class Cell(nn.Module):
    """A linear recurrence: the same module in every step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.read = nn.Linear(5, 2, bias=False), nn.Linear(2, 1, bias=False)

    def forward(self, x):
        h = x.new_zeros(len(x), 2)
        for t in range(x.shape[1]):
            h = self.cell(torch.cat([x[:, t], h], -1))
        return self.read(h)


@pytest.mark.parametrize("steps", [1, 2])
def test_all_calls_of_a_recurrence_are_patched_together(steps: int) -> None:
    model, (clean, corrupted) = Cell().double(), pair(2, 4, 3)
    truth = exact(model, clean, corrupted, ["cell", "cell@1", "cell@3"], lambda y: y[:, 0])
    table = attribution_patching(
        model, clean, corrupted, lambda y: y[:, 0], ["cell", "cell@1", "cell@3"], steps=steps
    )
    assert (table.effect - truth.effect).abs().max() < 1e-12


class Pieces(nn.Module):
    """Frozen weights, tokens, an in-place successor and a part that does not reach the output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.unread = nn.Embedding(7, 3), nn.Linear(3, 3)
        self.act, self.read = nn.ReLU(inplace=True), nn.Linear(3, 2)
        self.register_buffer("calls", torch.zeros(()))
        self.requires_grad_(False)

    def forward(self, tokens):
        self.calls += 1
        x = self.embed(tokens)
        self.unread(x)
        return {"logits": self.read(self.act(x))}


def test_frozen_models_with_tokens_and_operations_in_place_are_estimated() -> None:
    model = Pieces().double()
    clean, corrupted = (torch.randint(0, 7, (2, 4), generator=gen(k)) for k in (2, 3))

    def measure(out):
        return out["logits"][:, :, 0].sum(1)

    with torch.no_grad():
        table = attribution_patching(
            model, clean, corrupted, measure, ["embed", "act", "unread"], positions=range(4)
        )
    truth = exact(model, clean, corrupted, ["act"], measure, positions=range(4))
    by_layer = dict(list(table.groupby("layer")))
    assert (by_layer["act"].effect.to_numpy() - truth.effect).abs().max() < 1e-10
    assert by_layer["unread"].effect.abs().max() == 0
    assert by_layer["embed"].effect.abs().max() > 1e-3
    assert model.calls == 0
    assert all(p.grad is None and not p.requires_grad for p in model.parameters())


def test_gradients_and_modes_of_the_model_stay_as_they_are() -> None:
    model, (clean, corrupted) = smooth(), pair(2, 4, 3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    attribution_patching(model, clean, corrupted, metric, ["0"], steps=2)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


class Waves(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x, dim=1)


def test_complex_activations_are_estimated() -> None:
    model = nn.Sequential(nn.Identity(), Waves())
    clean, corrupted = pair(2, 6, 3)

    def measure(y):
        return y[:, 1].real.sum(-1) + 3 * y[:, 2].imag.sum(-1)

    table = attribution_patching(model, clean, corrupted, measure, ["1"])
    truth = exact(model, clean, corrupted, ["1"], measure, positions=range(4))
    assert (table.effect - truth.effect).abs().max() < 1e-10


@pytest.mark.parametrize(
    ("sites", "options", "error", "message"),
    [
        ([], {}, ValueError, "at least one site is needed to patch, got none"),
        (["0"], {"steps": 0}, ValueError, "steps needs at least 1 node, got 0"),
        (["9"], {}, KeyError, "no module '9' in Sequential"),
        (["0:in"], {"heads": [0]}, ValueError, "heads needs the number of heads"),
    ],
)
def test_settings_without_meaning_are_refused(sites, options, error, message) -> None:
    clean, corrupted = pair(2, 4, 3)
    with pytest.raises(error, match=message):
        attribution_patching(linear(), clean, corrupted, metric, sites, **options)


def test_what_has_no_gradient_is_refused() -> None:
    model, (clean, corrupted) = linear(), pair(2, 4, 3)
    with pytest.raises(ValueError, match="the metric has no gradient at any of the sites"):
        attribution_patching(model, clean, corrupted, lambda y: metric(y).detach(), ["0"])
    with torch.inference_mode(), pytest.raises(ValueError, match=r"leave torch.inference_mode\(\)"):
        attribution_patching(model, clean, corrupted, metric, ["0"])
    tokens = Pieces().double()
    ids = [torch.randint(0, 7, (2, 4), generator=gen(k)) for k in (0, 1)]
    with pytest.raises(ValueError, match=r"site 'embed:in' holds torch.int64.* no gradient"):
        attribution_patching(tokens, *ids, lambda out: out["logits"].sum((1, 2)), ["embed:in"])


def test_runs_of_different_shape_are_refused_with_both_shapes() -> None:
    clean, corrupted = pair(2, 4, 3)
    with pytest.raises(ValueError, match=r"\[\(2, 3, 4\)\] in the clean and \[\(2, 4, 4\)\] in"):
        attribution_patching(linear(), clean[:, :3], corrupted, metric, ["0"])
    with pytest.raises(ValueError, match="do not differ in the metric"):
        attribution_patching(linear(), clean, clean, metric, ["0"])
