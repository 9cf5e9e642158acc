from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader

from neuros_core.domains import ClassSourceWeights, SourceWeights
from neuros_neurofm.losses import BehaviorLoss, CombinedLoss
from neuros_neurofm.training import ClassConditionalTrainer, DomainWeightedTrainer, collate

SOURCES = [0] * 6 + [1] * 3 + [2] * 1
WEIGHTS = {"a": 0.2, "b": 0.3, "c": 0.5}


class Model(nn.Module):
    """Linear, so that a risk's gradient is that of a mean of rows."""

    def __init__(self, n_outputs: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.decoder = nn.Linear(3, n_outputs)

    def forward_batch(self, batch: Any) -> dict[str, Any]:
        return {"decoder": self.decoder(batch["lfp"]), "latents": batch["lfp"] * 2.0}


def rows(labels: list[int] | None = None) -> list[dict[str, Any]]:
    generator = Generator().manual_seed(3)
    made = []
    for k, source in enumerate(SOURCES):
        sample: dict[str, Any] = {"lfp": torch.randn(4, 3, generator=generator), "source": source}
        sample["behavior"] = torch.randn(4, 2, generator=generator) + source
        if labels is not None:
            sample["behavior"] = torch.full((4,), labels[k])
        made.append(sample)
    return made


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0)


SETTINGS: dict[str, Any] = {
    "optimizer": sgd, "max_grad_norm": None, "seed": 0, "progress": False, "device": "cpu",
}  # fmt: skip


def risk_gradient(model: Model, weight_of_row: Any, data: list[dict[str, Any]]) -> Tensor:
    """Gradient of the weighted sum of the rows' losses, by the definition."""
    total = torch.zeros(())
    for row, weight in zip(data, weight_of_row, strict=True):
        batch = collate([row])
        total = total + float(weight) * BehaviorLoss()(model.forward_batch(batch), batch)
    (gradient,) = torch.autograd.grad(total, model.decoder.weight)
    return gradient


def moved(trainer: Any) -> Tensor:
    """The gradient of one epoch of one step with a rate of 1."""
    before = trainer.model.decoder.weight.detach().clone()
    trainer.train_epoch()
    return before - trainer.model.decoder.weight.detach()


def shares(source_weights: dict[str, float]) -> list[float]:
    values = list(source_weights.values())
    return [values[s] / SOURCES.count(s) for s in SOURCES]


@pytest.mark.parametrize("weights", [WEIGHTS, SourceWeights(tuple("abc"), [0.2, 0.3, 0.5], "x")])
def test_importance_weights_give_the_gradient_of_the_mixture(weights: Any) -> None:
    loader = DataLoader(rows(), 10, collate_fn=collate)
    trainer = DomainWeightedTrainer(
        Model(), loader, weights, SOURCES, loss=BehaviorLoss(), **SETTINGS
    )
    expected = risk_gradient(Model(), shares(WEIGHTS), rows())
    torch.testing.assert_close(moved(trainer), expected)


def test_accumulated_batches_give_the_gradient_of_the_whole() -> None:
    loader = DataLoader(rows(), 3, collate_fn=collate)
    trainer = DomainWeightedTrainer(
        Model(), loader, WEIGHTS, SOURCES, loss=BehaviorLoss(), gradient_accumulation_steps=4,
        **SETTINGS,
    )  # fmt: skip
    expected = risk_gradient(Model(), shares(WEIGHTS), rows())
    torch.testing.assert_close(moved(trainer), expected)


class Energy(nn.Module):
    reads = "latents"
    name = "energy"

    def forward(self, latents: Tensor) -> Tensor:
        return latents.square().mean()


def test_an_objective_that_reads_one_output_is_weighted_too() -> None:
    loader = DataLoader(rows(), 10, collate_fn=collate)
    loss = CombinedLoss([BehaviorLoss(weight=0.0), Energy()])
    trainer = DomainWeightedTrainer(Model(), loader, WEIGHTS, SOURCES, loss=loss, **SETTINGS)
    expected = sum(
        w * 4 * row["lfp"].square().mean() for w, row in zip(shares(WEIGHTS), rows(), strict=True)
    )
    assert trainer.train_epoch()["energy"] == pytest.approx(float(expected), rel=1e-5)


# Mean of n single-row gradients; 5 standard errors, so that chance fails once in 10^6 entries.
@pytest.mark.parametrize("mode", ["importance", "sampling"])
def test_the_expected_gradient_is_that_of_the_mixture(mode: Any) -> None:
    model = Model()
    loader = DataLoader(
        rows(), 5, collate_fn=collate, shuffle=True, generator=Generator().manual_seed(1)
    )
    trainer = DomainWeightedTrainer(
        model, loader, WEIGHTS, SOURCES, mode=mode, loss=BehaviorLoss(), **SETTINGS
    )
    start = model.decoder.weight.detach().clone()
    offset = model.decoder.bias.detach().clone()
    steps = []

    class Undo:
        def on_step_end(self, run: Any, step: int, loss: float) -> None:
            steps.append(start - model.decoder.weight.detach())
            with torch.no_grad():
                model.decoder.weight.copy_(start)
                model.decoder.bias.copy_(offset)

        def on_epoch_end(self, run: Any, epoch: int, metrics: Any) -> None:
            pass

    trainer.callbacks = (Undo(),)
    trainer.fit(150)
    gradients = torch.stack(steps)
    expected = risk_gradient(Model(), shares(WEIGHTS), rows())
    error = gradients.std(0) / len(gradients) ** 0.5
    assert ((gradients.mean(0) - expected).abs() <= 5 * error).all()


def test_weights_follow_the_epoch() -> None:
    def weights_at(epoch: int) -> dict[str, float]:
        return {"a": 1.0, "b": 0.0, "c": 0.0} if epoch == 0 else {"a": 0.0, "b": 0.0, "c": 1.0}

    loader = DataLoader(rows(), 10, collate_fn=collate)
    trainer = DomainWeightedTrainer(
        Model(), loader, weights_at, SOURCES, loss=BehaviorLoss(), **SETTINGS
    )
    first = risk_gradient(Model(), shares(weights_at(0)), rows())
    torch.testing.assert_close(moved(trainer), first)
    after = Model()
    after.load_state_dict(trainer.model.state_dict())
    torch.testing.assert_close(moved(trainer), risk_gradient(after, shares(weights_at(1)), rows()))


@pytest.mark.parametrize("mode", ["importance", "sampling"])
def test_a_weighted_run_is_resumed_to_the_bit(mode: Any, tmp_path: Path) -> None:
    def build() -> DomainWeightedTrainer:
        loader = DataLoader(rows(), 3, collate_fn=collate)
        return DomainWeightedTrainer(
            Model(), loader, WEIGHTS, SOURCES, mode=mode, loss=BehaviorLoss(), seed=4,
            progress=False, device="cpu", checkpoint_dir=tmp_path / mode,
        )  # fmt: skip

    whole = build()
    whole.fit(3)
    build().fit(2)
    rest = build()
    rest.load_checkpoint(tmp_path / mode / "last.ckpt")
    rest.fit(3)
    assert torch.equal(rest.model.decoder.weight, whole.model.decoder.weight)


LABELS = [0, 1, 0, 1, 0, 0, 1, 0, 1, 1]
COLUMNS = np.array([[0.5, 0.0], [0.5, 0.25], [0.0, 0.75]])


def class_shares(p: list[float]) -> list[float]:
    """Weight of every row of a mixture that differs from class to class."""
    pairs = list(zip(SOURCES, LABELS, strict=True))
    return [COLUMNS[s, k] * p[k] / pairs.count((s, k)) for s, k in pairs]


@pytest.mark.parametrize("given", [None, [0.3, 0.7]])
def test_every_class_has_a_mixture_of_its_own(given: list[float] | None) -> None:
    loader = DataLoader(rows(LABELS), 10, collate_fn=collate)
    trainer = ClassConditionalTrainer(
        Model(), loader, COLUMNS, SOURCES, LABELS, class_shares=given, loss=BehaviorLoss(),
        **SETTINGS,
    )  # fmt: skip
    expected = risk_gradient(Model(), class_shares(given or [0.5, 0.5]), rows(LABELS))
    torch.testing.assert_close(moved(trainer), expected)


def test_joint_weights_hold_the_shares_of_the_classes() -> None:
    joint = ClassSourceWeights(("a", "b", "c"), ("0", "1"), COLUMNS * np.array([0.3, 0.7]))
    loader = DataLoader(rows(LABELS), 10, collate_fn=collate)
    trainer = ClassConditionalTrainer(
        Model(), loader, joint, SOURCES, LABELS, loss=BehaviorLoss(), **SETTINGS
    )
    expected = risk_gradient(Model(), class_shares([0.3, 0.7]), rows(LABELS))
    torch.testing.assert_close(moved(trainer), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_weights": {"a": 0.5, "b": 0.3, "c": 0.1}}, "sum to 1 within 1e-6, got {'a': 0.5"),
        ({"source_weights": [0.5, 0.3, 0.1]}, "sum to 1 within 1e-6"),
        ({"source_weights": {"a": 1.0}}, r"domain_ids must lie in \[0, 1\), got \[0, 2\]"),
        ({"source_ids": [0] * 6 + [1] * 4}, "have a positive weight but no sample"),
        ({"mode": "both"}, "mode must be importance or sampling, got 'both'"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    loader = DataLoader(rows(), 5, collate_fn=collate)
    options = {"source_weights": WEIGHTS, "source_ids": SOURCES, "loss": BehaviorLoss()} | change
    with pytest.raises(ValueError, match=message):
        DomainWeightedTrainer(Model(), loader, **options, **SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_weights": [1.0, 0.0]}, r"must be \(source, class\), got shape \(2,\)"),
        ({"source_weights": COLUMNS * 2}, r"every column of source_weights .* got sums \[2.0, 2.0"),
        ({"class_ids": [0.5] * 10}, r"class_ids must be integers in \[0, 2\)"),
        ({"class_shares": [1.0]}, "class_shares must be 2 numbers >= 0 that sum to 1"),
    ],
)
def test_class_weights_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    loader = DataLoader(rows(LABELS), 5, collate_fn=collate)
    options = {
        "source_weights": COLUMNS, "source_ids": SOURCES, "class_ids": LABELS,
        "loss": BehaviorLoss(),
    } | change  # fmt: skip
    with pytest.raises(ValueError, match=message):
        ClassConditionalTrainer(Model(), loader, **options, **SETTINGS)


def test_batches_that_do_not_say_where_they_are_from_are_refused() -> None:
    bare = [{k: v for k, v in row.items() if k != "source"} for row in rows()]
    trainer = DomainWeightedTrainer(
        Model(), DataLoader(bare, 5, collate_fn=collate), WEIGHTS, SOURCES, loss=BehaviorLoss(),
        **SETTINGS,
    )  # fmt: skip
    with pytest.raises(ValueError, match="the batch has no 'source', only"):
        trainer.train_epoch()
    continuous = ClassConditionalTrainer(
        Model(), DataLoader(rows(), 5, collate_fn=collate), COLUMNS, SOURCES, LABELS,
        loss=BehaviorLoss(), **SETTINGS,
    )  # fmt: skip
    with pytest.raises(ValueError, match="needs integer 'behavior', the class of every row"):
        continuous.train_epoch()
    shifted = ClassConditionalTrainer(
        Model(4), DataLoader(rows([k + 2 for k in LABELS]), 5, collate_fn=collate), COLUMNS,
        SOURCES, LABELS, loss=BehaviorLoss(), **SETTINGS,
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"classes must lie in \[0, 2\), got \[2, 3\]"):
        shifted.train_epoch()


def test_only_a_data_loader_can_be_drawn_from() -> None:
    with pytest.raises(TypeError, match="draws the samples of a DataLoader with a batch_size, got"):
        DomainWeightedTrainer(
            Model(), [collate(rows())], WEIGHTS, SOURCES, mode="sampling", loss=BehaviorLoss(),
            **SETTINGS,
        )  # fmt: skip
