"""Time of the whole model beside its matrix products alone."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Pooling over channels and the read-out to channels are written as products of two tensors.
PRODUCTS = {"linear", "scaled_dot_product_attention", "__matmul__", "matmul"}


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


def test_model_against_its_matrix_products(
    small_model: Any, small_batch: Any, fastest: Any, report: Any
) -> None:
    model, batch = small_model().train(), small_batch()
    rows, time, channels = batch["spike"].shape
    with Recorded() as recorded:
        model(batch)

    def ours() -> None:
        model.zero_grad()
        torch.stack([x.square().mean() for x in outputs_of(model(batch))]).sum().backward()

    seconds = fastest({"ours": ours, "products": replay(recorded.calls)}, at_most_seconds=40)
    report(
        f"model small, 3 modalities, batch {rows}, {time} x {channels}, forward + backward "
        f"({seconds['ours']:.2f} s)",
        f"its {len(recorded.calls)} Linear, attention and read-out products, torch "
        f"{torch.__version__}",
        seconds["ours"] / seconds["products"],
        1.6,
        missed="passes over every channel and patch: normalisation, statistics, gradients of both",
    )
