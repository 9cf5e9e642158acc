"""Time of the whole model beside its matrix products alone, and of the trainer beside a loop."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from neuros_neurofm import MultiModalNeuroFMX
from neuros_neurofm.losses import MaskedModelingLoss, NeuralMasker
from neuros_neurofm.training import MultiModalTrainer

BATCH, TIME, CHANNELS = 8, 100, 100
RATES = {"spike": 100.0, "lfp": 100.0, "ecog": 100.0}
# Pooling over channels and the read-out to channels are written as products of two tensors.
PRODUCTS = {"linear", "scaled_dot_product_attention", "__matmul__", "matmul"}


def small() -> MultiModalNeuroFMX:
    torch.manual_seed(0)
    return MultiModalNeuroFMX.from_size("small", modalities=tuple(RATES), sampling_rates=RATES)


def batch_of() -> dict[str, Tensor]:
    counts = torch.poisson(torch.ones(BATCH, TIME, CHANNELS))
    return {
        "spike": counts,
        "lfp": torch.randn(BATCH, TIME, CHANNELS),
        "ecog": torch.randn(BATCH, TIME, CHANNELS),
    }


class Recorded(TorchFunctionMode):
    """Keeps the operands of every Linear layer and attention that runs inside."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, list[Any], dict[str, Any]]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in PRODUCTS:
            copies = [own_copy(x) for x in args]
            self.calls.append((func, copies, {k: own_copy(x) for k, x in (kwargs or {}).items()}))
        return result


def own_copy(x: Any) -> Any:
    if not isinstance(x, Tensor):
        return x
    return x.detach().clone().requires_grad_(x.requires_grad)


def replay(calls: list[tuple[Any, list[Any], dict[str, Any]]]) -> Callable[[], object]:
    with torch.no_grad():
        grads = [torch.randn_like(func(*args, **kwargs)) for func, args, kwargs in calls]

    def run() -> None:
        for (func, args, kwargs), grad in zip(calls, grads, strict=True):
            y = func(*args, **kwargs)
            operands = [x for x in args if isinstance(x, Tensor) and x.requires_grad]
            if operands:
                torch.autograd.grad(y, operands, grad)

    return run


def outputs_of(out: Any) -> list[Tensor]:
    heads = [out.pooled, out.decoder, out.contrastive]
    return [*heads, *out.encoder.values(), *out.forecast.values()]


def test_model_against_its_matrix_products(fastest: Any, report: Any) -> None:
    model, batch = small().train(), batch_of()
    with Recorded() as recorded:
        model(batch)

    def ours() -> None:
        model.zero_grad()
        torch.stack([x.square().mean() for x in outputs_of(model(batch))]).sum().backward()

    seconds = fastest({"ours": ours, "products": replay(recorded.calls)}, at_most_seconds=40)
    report(
        f"model small, 3 modalities, batch {BATCH}, {TIME} x {CHANNELS}, forward + backward "
        f"({seconds['ours']:.2f} s)",
        f"its {len(recorded.calls)} Linear, attention and read-out products, torch "
        f"{torch.__version__}",
        seconds["ours"] / seconds["products"],
        1.6,
        missed="1.45 to 1.7 from run to run where other programs share the caches",
    )


def test_trainer_at_small_against_a_hand_written_loop(fastest: Any, report: Any) -> None:
    masker, loss = NeuralMasker("random", 0.25), MaskedModelingLoss()
    batches = [batch_of()] * 2
    trained, model = small(), small()
    trainer = MultiModalTrainer(
        trained,
        batches,
        optimizer=torch.optim.AdamW(trained.parameters(), lr=1e-4),
        loss=loss,
        masker=masker,
        device="cpu",
        seed=0,
        progress=False,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)

    def by_hand() -> None:
        model.train()
        total = 0.0
        for raw in batches:
            batch = masker(raw, generator)
            optimizer.zero_grad()
            value = loss(model.forward_batch(batch), batch)
            value.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            total += value.item()

    seconds = fastest({"ours": trainer.train_epoch, "loop": by_hand}, at_most_seconds=40)
    report(
        f"MultiModalTrainer at small, step of {seconds['loop'] / len(batches):.2f} s",
        f"hand-written torch loop {torch.__version__}",
        seconds["ours"] / seconds["loop"],
        1.05,
    )
