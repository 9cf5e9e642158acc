"""The processes of one run: the engine, what they exchange, and how a module is spread."""

import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor, nn

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from lightning_fabric.loggers.logger import Logger
    from lightning_fabric.strategies.strategy import Strategy

__all__: list[str] = []

Precision: TypeAlias = Literal["32-true", "16-mixed", "bf16-mixed"]
Devices: TypeAlias = int | Literal["auto"]
_DEVICES: Final = ("auto", "cpu", "cuda")
_STRATEGIES: Final = ("auto", "ddp", "fsdp")
# Gradients travel in pieces of this many values (25 MiB), as they do in DDP.
_BUCKET: Final = 25 * 2**18


class Processes:
    """What the processes of a run tell each other; of one process every answer is its own.

    Args:
        device: `auto`, `cpu` or `cuda`.
        precision: As Lightning Fabric names it.
        loggers: Of Lightning Fabric.
        strategy: `auto`, `ddp` or `fsdp`.
        devices: Processes on this machine, or `auto`: those that torchrun started, else one per
            accelerator.

    Raises:
        ValueError: An unknown device or strategy, or settings that contradict each other.
        RuntimeError: A device that this machine does not have.
    """

    def __init__(
        self,
        device: str,
        precision: Precision,
        loggers: "Sequence[Logger]",
        *,
        strategy: str,
        devices: Devices,
    ) -> None:
        self.fabric = _build_fabric(device, precision, loggers, strategy, devices)
        self.fabric.launch()
        self.sharded = strategy == "fsdp"
        self.rank = self.fabric.global_rank
        self.world_size = self.fabric.world_size
        self._module: nn.Module | None = None

    def spread(self, module: nn.Module) -> nn.Module:
        """Put a module on the device, equal in every process, and join its gradients.

        Args:
            module: Whose forward pass returns the loss.

        Returns:
            What to call in its place.
        """
        self.fabric.to_device(module)
        self._module = module
        if self.world_size == 1 and not self.sharded:
            return module
        for x in (*module.parameters(), *module.buffers()):
            dist.broadcast(x.detach(), 0)
        return self.fabric.strategy.setup_module(module)

    @contextmanager
    def joined(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """Run a backward pass; gradients are exchanged in the last one of a step alone."""
        if isinstance(module, nn.parallel.DistributedDataParallel):
            if last:
                yield
            else:
                with module.no_sync():
                    yield
            return
        if self.sharded:
            for block in _sharded_blocks(module):
                block.set_requires_gradient_sync(last)
        yield
        if self.sharded and last:
            self._average_replicated(module)

    def sum(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Add up numbers over the processes."""
        if self.world_size == 1 or not values:
            return dict(values)
        device = self.fabric.device
        packed = torch.stack([x.to(device, torch.float64) for x in values.values()])
        dist.all_reduce(packed)
        return dict(zip(values, packed.unbind(), strict=True))

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in every process."""
        if self.world_size == 1:
            return [value]
        # Saved first: pickle alone cannot read back tensors of NumPy's unsigned types.
        file = io.BytesIO()
        torch.save(value, file)
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, file.getvalue())
        return [torch.load(io.BytesIO(x), map_location="cpu") for x in values]

    def share(self, value: Any) -> Any:
        """The first process's value."""
        return self.gather(value)[0]

    def _average_replicated(self, module: nn.Module) -> None:
        """Average the gradients of what is not sharded.

        A process whose batch lacks a modality has no gradient for its tokenizer: it counts as 0.
        """
        used = [p for p in module.parameters() if p.requires_grad and not hasattr(p, "device_mesh")]
        there = torch.tensor([p.grad is not None for p in used], device=self.fabric.device).long()
        dist.all_reduce(there)
        gradients = []
        for p, n in zip(used, there.tolist(), strict=True):
            if n:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
                gradients.append(p.grad)
        for bucket in _buckets(gradients):
            flat = torch.cat([g.flatten() for g in bucket])
            dist.all_reduce(flat)
            parts = torch.split(flat.div_(self.world_size), [g.numel() for g in bucket])
            for g, part in zip(bucket, parts, strict=True):
                g.copy_(part.view_as(g))


def _build_fabric(
    device: str, precision: Precision, loggers: "Sequence[Logger]", strategy: str, devices: Devices
) -> "Fabric":
    # Imported here because Lightning loads slower than torch.
    from lightning_fabric import Fabric
    from lightning_fabric.plugins.precision.amp import MixedPrecision

    if device not in _DEVICES:
        raise ValueError(f"device must be one of {', '.join(_DEVICES)}, got {device!r}")
    if strategy not in _STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(_STRATEGIES)}, got {strategy!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device='cuda' needs a CUDA device, none was found; use device='auto'")
    if devices != "auto" and devices < 1:
        raise ValueError(f"devices must be at least 1 or 'auto', got {devices}")
    if strategy == "fsdp" and precision == "16-mixed":
        raise ValueError("strategy='fsdp' needs precision 32-true or bf16-mixed, got 16-mixed")
    here, nodes = _layout(devices)
    n_processes = nodes * (here if isinstance(here, int) else max(torch.cuda.device_count(), 1))
    kind = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    # As a plugin: by name, Fabric turns float16 on the CPU into bfloat16.
    scaled = MixedPrecision(precision, device=kind) if precision == "16-mixed" else None
    return Fabric(
        accelerator=device,
        devices=here,
        num_nodes=nodes,
        strategy=_strategy(strategy, n_processes),
        precision=None if scaled else precision,
        plugins=scaled,
        loggers=list(loggers),
    )


def _layout(devices: Devices) -> tuple[Devices, int]:
    """Processes per machine and machines, as torchrun says where it started this process."""
    if not dist.is_available() or not dist.is_torchelastic_launched():
        return devices, 1
    here, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if devices not in ("auto", here):
        raise ValueError(
            f"torchrun started {here} processes on this machine, devices is {devices}; "
            f"pass devices={here} or devices='auto'"
        )
    return here, world // here


def _strategy(name: str, n_processes: int) -> "str | Strategy":
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.model_parallel import ModelParallelStrategy

    if name == "fsdp":
        # Every process holds a share of the blocks and reads batches of its own.
        return ModelParallelStrategy(_shard, data_parallel_size=n_processes, tensor_parallel_size=1)
    if name == "ddp" or n_processes > 1:
        # A process whose batch lacks a modality has no gradient for its tokenizer.
        return DDPStrategy(find_unused_parameters=True)
    return "auto"


def _shard(module: nn.Module, mesh: Any) -> nn.Module:
    """Shard the blocks of the backbone, which every batch passes; the rest is small.

    FSDP exchanges the gradients of a group of parameters in one piece, and a process without one
    of them would leave the others waiting: so nothing that depends on the modality is sharded.
    """
    from torch.distributed.fsdp import fully_shard

    blocks = _blocks(module)
    if not blocks:
        raise ValueError(
            "strategy='fsdp' shards the blocks of model.backbone, this model has none; "
            "use strategy='ddp'"
        )
    for block in blocks:
        fully_shard(block, mesh=mesh["data_parallel"])
    return module


def _blocks(module: nn.Module) -> list[nn.Module]:
    backbone = getattr(getattr(module, "model", None), "backbone", None)
    children: Iterable[nn.Module] = () if backbone is None else backbone.children()
    # A norm is too small to be worth a message of its own.
    return [block for block in children if any(p.ndim > 1 for p in block.parameters())]


def _sharded_blocks(module: nn.Module) -> list[Any]:
    return [m for m in module.modules() if hasattr(m, "set_requires_gradient_sync")]


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    for x in tensors:
        if bucket and sum(t.numel() for t in bucket) + x.numel() > _BUCKET:
            yield bucket
            bucket = []
        bucket.append(x)
    if bucket:
        yield bucket
