"""The command `neurofm-train`: a run from flags or a YAML file, and its resumption."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from neuros_core import Callback
from neuros_neurofm._cli import OK, build_parser, read_options, run_command, write_text
from neuros_neurofm.losses import (
    BehaviorLoss,
    DomainAdversarialLoss,
    MaskedModelingLoss,
    NeuralMasker,
)
from neuros_neurofm.models import MultiModalNeuroFMX
from neuros_neurofm.training._balanced_loss import BalancedLoss
from neuros_neurofm.training._loggers import build_loggers
from neuros_neurofm.training._run_data import RunData, load_data
from neuros_neurofm.training._run_folder import (
    BEST,
    CONFIG,
    LAST,
    MODEL,
    load_model,
    write_run,
)
from neuros_neurofm.training._setup import default_optimizer
from neuros_neurofm.training._train_options import FREE_ON_RESUME, TrainOptions
from neuros_neurofm.training.early_stopping import EarlyStopping
from neuros_neurofm.training.trainer import MultiModalTrainer

__all__ = ["main"]

_PROG = "neurofm-train"
_MODEL_OPTIONS = (
    "d_model",
    "n_mamba_blocks",
    "n_latents",
    "latent_dim",
    "use_domain_adversarial",
    "n_domains",
    "window",
    "perceiver_depth",
    "popt_depth",
    "dropout",
    "ssm",
    "modality_dropout",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train a model on a folder of sessions.

    The folder of the run gets `config.yaml` (every option as it was resolved), `run.json` (the
    model's configuration, the scale of the behaviour and how the data were cut), `last.ckpt`,
    `best.ckpt` and at the end `model/`, as `save_pretrained` writes it. Nothing in it is replaced
    without `--resume`.

    Args:
        arguments: The words after the name of the command; those of the process when None.

    Returns:
        0; 2 for bad input, said in one line; 130 on Ctrl-C.

    Examples:
        >>> main(["--num_epochs", "3"])
        2
    """
    return run_command(_PROG, _train, arguments)


def _train(given: Sequence[str]) -> int:
    parser = build_parser(_PROG, "Train a MultiModalNeuroFMX.", TrainOptions)
    options, parsed = _read(parser, given)
    folder = Path(str(options.checkpoint_dir))
    data = load_data(options)
    torch.manual_seed(options.seed)
    model = _build_model(options, data)
    loggers = build_loggers(
        folder,
        tensorboard=options.use_tensorboard,
        wandb=options.use_wandb,
        project=options.wandb_project,
        mode=options.wandb_mode,
    )
    # With several processes this starts them; each checks the folder anew before it comes here, so
    # that nothing may be written earlier.
    trainer = _build_trainer(options, data, model, loggers)
    first = trainer.fabric.global_rank == 0
    if options.resume and (folder / LAST).is_file():
        trainer.load_checkpoint(folder / LAST)
    if first:
        folder.mkdir(parents=True, exist_ok=True)
        write_run(folder, model, data.scale, _protocol(options, data))
        parsed.resume = False
        write_text(folder / CONFIG, parser.dump(parsed, skip_unset=False))
    status = "failed"
    try:
        history = trainer.fit(options.num_epochs)
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)
    if first:
        load_model(folder).model.save_pretrained(folder / MODEL)
        sys.stdout.write(_summary(folder, trainer.global_step, history))
    return OK


def _read(parser: ArgumentParser, given: Sequence[str]) -> tuple[TrainOptions, Any]:
    """The options; of a resumed run those that it began with, and what was given now on top."""
    options, parsed = read_options(parser, TrainOptions, given)
    if options.checkpoint_dir is None:
        raise ValueError("give the folder of the run by --checkpoint_dir FOLDER")
    folder = Path(options.checkpoint_dir)
    if not options.resume:
        if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            raise FileExistsError(
                f"{folder} exists already; pass --resume to go on with its run, or another "
                "--checkpoint_dir"
            )
        return options, parsed
    stored = folder / CONFIG
    if not stored.is_file():
        raise FileNotFoundError(
            f"there is no run to resume in {folder} (no {CONFIG}); leave --resume out to begin one"
        )
    options, parsed = read_options(parser, TrainOptions, ["--config", str(stored), *given])
    before = parser.parse_args(["--config", str(stored)])
    changed = [
        name for name in vars(before) if name not in FREE_ON_RESUME and before[name] != parsed[name]
    ]
    if changed:
        raise ValueError(
            f"a resumed run cannot change {', '.join(sorted(changed))}; leave these out, or begin "
            "a run in another --checkpoint_dir"
        )
    return options, parsed


def _build_model(options: TrainOptions, data: RunData) -> MultiModalNeuroFMX:
    model = MultiModalNeuroFMX(
        modalities=data.modalities,
        sampling_rates=data.sampling_rates,
        behavior_dim=data.behavior_dim,
        **{name: getattr(options, name) for name in _MODEL_OPTIONS},
    )
    for modality, ids in data.units.items():
        model.add_units(modality, ids)
    return model


def _build_trainer(
    options: TrainOptions, data: RunData, model: MultiModalNeuroFMX, loggers: Sequence[Any]
) -> MultiModalTrainer:
    callbacks: list[Callback] = []
    if options.patience is not None:
        callbacks.append(EarlyStopping(options.patience))
    if options.checkpoint_every is not None:
        callbacks.append(
            _SaveEvery(Path(str(options.checkpoint_dir)) / LAST, options.checkpoint_every)
        )
    return MultiModalTrainer(
        model,
        data.train,
        data.validation,
        lambda parameters: default_optimizer(
            nn.ParameterList(list(parameters)), options.learning_rate
        ),
        loss=_build_loss(options, data, model),
        masker=NeuralMasker(options.mask_mode, options.mask_ratio) if options.mask_ratio else None,
        scheduler=_warmup(options.warmup_steps),
        device=options.device,
        devices=options.devices,
        strategy=options.strategy,
        precision=options.precision,
        gradient_accumulation_steps=options.gradient_accumulation_steps,
        max_grad_norm=options.max_grad_norm,
        loggers=loggers,
        callbacks=callbacks,
        checkpoint_dir=options.checkpoint_dir,
        seed=options.seed,
        progress=options.progress,
    )


def _build_loss(options: TrainOptions, data: RunData, model: MultiModalNeuroFMX) -> BalancedLoss:
    tasks: list[nn.Module] = []
    if options.mask_ratio:
        tasks.append(MaskedModelingLoss())
    if data.behavior_dim:
        tasks.append(BehaviorLoss())
    if options.use_domain_adversarial:
        tasks.append(DomainAdversarialLoss())
    if not tasks:
        raise ValueError("nothing to learn: the data have no behavior and mask_ratio is 0")
    return BalancedLoss(
        tasks,
        options.objectives,
        method=options.balancing_method,
        weights=options.loss_weights,
        shared=next(model.to_latent[1].parameters()),
    )


def _warmup(n_steps: int) -> Callable[[Optimizer], LRScheduler] | None:
    if n_steps < 1:
        return None
    return lambda optimizer: LambdaLR(optimizer, lambda step: min((step + 1) / n_steps, 1.0))


def _protocol(options: TrainOptions, data: RunData) -> dict[str, Any]:
    return {
        "split": list(options.split),
        "gap": options.window if options.gap is None else options.gap,
        "window": options.window,
        "modalities": list(data.modalities),
        "sampling_rates": data.sampling_rates,
    }


def _summary(folder: Path, n_steps: int, history: Sequence[Mapping[str, float]]) -> str:
    losses = [h.get("val_loss", h["loss"]) for h in history]
    kind = "val_loss" if "val_loss" in history[-1] else "loss"
    weights = BEST if (folder / BEST).is_file() else LAST
    return (
        f"{len(history)} epochs, {n_steps} steps, "
        f"{kind} {losses[-1]:.4g} (best {min(losses):.4g}); "
        f"{folder / MODEL} holds {weights}\n"
    )


class _SaveEvery:
    """Writes a checkpoint every so many steps."""

    def __init__(self, path: Path, n_steps: int) -> None:
        if n_steps < 1:
            raise ValueError(f"checkpoint_every must be at least 1, got {n_steps}")
        self.path, self.n_steps = path, n_steps

    def on_step_end(self, trainer: Any, step: int, loss: float) -> None:
        """Save where it is time."""
        del loss
        if step % self.n_steps == 0:
            trainer.save_checkpoint(self.path)

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: Mapping[str, float]) -> None:
        """The trainer saves at the end of an epoch by itself."""


if __name__ == "__main__":
    sys.exit(main())
