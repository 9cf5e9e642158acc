import copy
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from neuros_neurofm.losses import BehaviorLoss, CombinedLoss, MaskedModelingLoss, NeuralMasker


class LatentEnergy(nn.Module):
    reads = "latents"
    name = "energy"
    weight = 0.25

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.tensor(1.0))

    def forward(self, latents: Tensor) -> Tensor:
        assert isinstance(self.offset, Tensor)
        return self.weight * (latents.square().mean() + self.offset)


class Plain:
    """An objective that is no module and has no name."""

    def __call__(self, outputs: Any, batch: Any) -> Tensor:
        return outputs["latents"].mean() * batch["lfp"].shape[0]


def example() -> tuple[dict[str, Any], dict[str, Any]]:
    generator = Generator().manual_seed(0)
    batch = {"lfp": torch.randn(3, 10, 2, generator=generator)}
    batch = NeuralMasker("random", 0.5)(batch, generator)
    batch["behavior"] = torch.randn(3, 4, 2, generator=generator)
    outputs = {
        "encoder": {"lfp": torch.randn(3, 10, 2, generator=generator, requires_grad=True)},
        "decoder": torch.randn(3, 4, 2, generator=generator, requires_grad=True),
        "latents": torch.randn(3, 5, 7, generator=generator, requires_grad=True),
    }
    return outputs, batch


def test_the_sum_is_that_of_the_parts() -> None:
    outputs, batch = example()
    parts = [MaskedModelingLoss(weight=2.0), BehaviorLoss(), LatentEnergy(), Plain()]
    expected = (
        parts[0](outputs, batch)
        + parts[1](outputs, batch)
        + parts[2](outputs["latents"])
        + parts[3](outputs, batch)
    )
    torch.testing.assert_close(CombinedLoss(parts)(outputs, batch), expected, rtol=1e-7, atol=1e-7)


def test_terms_are_the_detached_parts_of_the_last_call_in_order() -> None:
    outputs, batch = example()
    loss = CombinedLoss([LatentEnergy(), BehaviorLoss(), Plain()])
    assert loss.terms == {}
    total = loss(outputs, batch)
    assert list(loss.terms) == ["energy", "behavior", "Plain"]
    assert not any(term.requires_grad for term in loss.terms.values())
    assert total.requires_grad
    torch.testing.assert_close(sum(loss.terms.values()), total.detach())


def test_gradients_reach_every_output() -> None:
    outputs, batch = example()
    CombinedLoss([MaskedModelingLoss(), BehaviorLoss(), LatentEnergy()])(outputs, batch).backward()
    for leaf in (outputs["encoder"]["lfp"], outputs["decoder"], outputs["latents"]):
        assert (leaf.grad != 0).any()


def test_counts_are_those_of_the_means_and_rows_for_regularizers() -> None:
    _, batch = example()
    counts = CombinedLoss([MaskedModelingLoss(), BehaviorLoss(), LatentEnergy()]).counts(batch)
    assert counts["masked_modeling"] == batch["masked"]["lfp"].sum()
    assert {k: int(v) for k, v in counts.items() if k != "masked_modeling"} == {
        "behavior": 24,
        "energy": 3,
    }


def test_counts_need_a_tensor_for_the_rows() -> None:
    with pytest.raises(ValueError, match=r"no tensor to count rows of, only \['units'\]"):
        CombinedLoss([LatentEnergy()]).counts({"units": {}})


def test_modules_are_saved_and_copied_with_the_loss() -> None:
    loss = CombinedLoss([Plain(), LatentEnergy()])
    state = loss.state_dict()
    (key,) = state
    assert key.endswith("offset")
    twin = copy.deepcopy(loss)
    twin.load_state_dict({key: torch.tensor(5.0)})
    outputs, batch = example()
    difference = twin(outputs, batch) - loss(outputs, batch)
    # weight * (5 - 1): the copy uses its own buffer.
    torch.testing.assert_close(difference.detach(), torch.tensor(1.0))


def test_half_precision_parts_are_summed_in_float32() -> None:
    outputs, batch = example()
    half = {"latents": outputs["latents"].bfloat16()}
    assert CombinedLoss([Plain()])(half, batch).dtype == torch.float32


def test_no_objective_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one objective, got none"):
        CombinedLoss([])


def test_equal_names_are_refused() -> None:
    with pytest.raises(ValueError, match=r"different names, got \['behavior'\] more than once"):
        CombinedLoss([BehaviorLoss(), BehaviorLoss()])


def test_the_name_of_the_sum_is_not_for_a_part() -> None:
    with pytest.raises(ValueError, match="'loss' is the name of the sum"):
        CombinedLoss([BehaviorLoss(name="loss")])


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match=r"(?i)callable"):
        CombinedLoss([3])


def test_reading_an_output_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="'energy' reads the output 'latents', which the model"):
        CombinedLoss([LatentEnergy()])({"decoder": torch.ones(1)}, {})


def test_an_objective_must_return_a_scalar() -> None:
    def per_row(outputs: Any, batch: Any) -> Tensor:
        return outputs["latents"].mean(dim=(1, 2))

    outputs, batch = example()
    with pytest.raises(ValueError, match=r"'function' must return a scalar, got shape \(3,\)"):
        CombinedLoss([per_row])(outputs, batch)
