import pytest
import torch
from torch import Tensor, nn

from neuros_neurofm.models._mamba_packing import check_states
from neuros_neurofm.models.mamba import MambaBackbone


def signal() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 11, 12, generator=generator, dtype=torch.float64)


def small_backbone(
    *, version: int | str = 2, bidirectional: bool = False, dtype: torch.dtype = torch.float64
) -> MambaBackbone:
    torch.manual_seed(0)
    backbone = MambaBackbone(
        12,
        3,
        version=version,
        d_state=5,
        headdim=6,
        chunk_size=4,
        bidirectional=bidirectional,
    ).to(dtype)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    return backbone


def test_backbone_is_a_pre_norm_residual_stack() -> None:
    backbone, x = small_backbone(), signal()
    expected = x
    for index in range(3):
        weight = backbone.get_parameter(f"norm_{index}.weight")
        normed = expected * (expected.square().mean(-1, keepdim=True) + 1e-5).rsqrt() * weight
        expected = expected + backbone.get_submodule(f"mamba_{index}")(normed)
    torch.testing.assert_close(backbone(x), expected)


@pytest.mark.parametrize("version", [1, 2, "fractional"])
@pytest.mark.parametrize("lengths", [(11,), (0, 3, 8), (10, 1)])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_backbone_pieces_equal_one_run(
    lengths: tuple[int, ...], version: int | str, dtype: torch.dtype, atol: float
) -> None:
    backbone, x = small_backbone(version=version, dtype=dtype), signal().to(dtype)
    state, ys = None, []
    for part in x.split(list(lengths), 1):
        y, state = backbone(part, state=state, return_state=True)
        ys.append(y)
    torch.testing.assert_close(torch.cat(ys, 1), backbone(x), atol=atol, rtol=atol)


@pytest.mark.parametrize("version", [1, 2, "fractional"])
def test_backbone_steps_equal_one_run(version: int | str) -> None:
    backbone, x = small_backbone(version=version), signal()
    whole, last = backbone(x, return_state=True)
    state, ys = backbone.init_state(2), []
    for x_t in x.unbind(1):
        y, state = backbone.step(x_t, state)
        ys.append(y)
    torch.testing.assert_close(torch.stack(ys, 1), whole, atol=1e-10, rtol=1e-10)
    for ours, expected in zip(state, last, strict=True):
        torch.testing.assert_close(ours.conv, expected.conv, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(ours.ssm, expected.ssm, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("version", [1, 2, "fractional"])
def test_gradients_flow_through_the_carried_states_of_a_backbone(version: int | str) -> None:
    backbone, x = small_backbone(version=version), signal().requires_grad_()
    wanted = (x, *backbone.parameters())
    whole = torch.autograd.grad(backbone(x).square().sum(), wanted)
    first, state = backbone(x[:, :5], return_state=True)
    loss = first.square().sum() + backbone(x[:, 5:], state=state).square().sum()
    for ours, expected in zip(torch.autograd.grad(loss, wanted), whole, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("version", [1, 2, "fractional"])
def test_bidirectional_backbone_reads_later_samples(version: int | str) -> None:
    backbone, x = small_backbone(version=version, bidirectional=True), signal()
    changed = x.clone()
    changed[:, 9:] += 1
    assert not torch.allclose(backbone(changed)[:, :9], backbone(x)[:, :9])
    assert all(block.reverse is not None for block in backbone.blocks)


@pytest.mark.parametrize("version", [1, 2, "fractional"])
def test_backbone_skips_masked_steps(version: int | str) -> None:
    backbone, x = small_backbone(version=version), signal()
    mask = torch.ones(2, 11, dtype=torch.bool)
    mask[:, [0, 4, 5]] = False
    y = backbone(x.masked_fill(~mask[..., None], float("nan")), mask=mask)
    assert bool((y[:, [0, 4, 5]] == 0).all())
    torch.testing.assert_close(y[:, mask[0]], backbone(x[:, mask[0]]), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": "mamba"}, r"version needs to be 1, 2 or 'fractional', got 'mamba'"),
        ({"ngroups": 2}, r"ngroups = 2 needs version=2, got version='fractional'"),
        ({"backend": "cuda"}, r"backend='cuda' needs version=2, got version='fractional'"),
        ({"backend": "gpu"}, r"backend needs to be one of"),
        ({"headdim": 7}, r"headdim needs to divide d_inner"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MambaBackbone(12, 1, **({"version": "fractional", "headdim": 6} | changes))


def test_backbone_refuses_wrong_numbers_of_blocks_and_states() -> None:
    with pytest.raises(ValueError, match="n_blocks needs to be an integer >= 1, got 0"):
        MambaBackbone(12, 0)
    backbone, x = small_backbone(), signal()
    with pytest.raises(ValueError, match="one MambaState per block = 3, got 2"):
        backbone(x, state=backbone.init_state(2)[:2])
    with pytest.raises(TypeError, match=r"sequence of one MambaState per block .* got MambaState"):
        check_states(backbone.blocks[0].init_state(2), 3)
