"""The flags of `neurofm-train`, which are also the keys of its YAML files."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from torch import nn

__all__: list[str] = []

Ssm: TypeAlias = Literal["mamba2", "mamba", "fractional"]
Split: TypeAlias = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What a run depends on."""

    data_dir: Annotated[str | None, "folder of .npz sessions"] = None
    data: Annotated[
        str | None, "module:function that returns (train_loader, val_loader), in place of data_dir"
    ] = None
    modalities: Annotated[
        list[str] | None, "modalities to read (default: all that the sessions have)"
    ] = None
    sampling_rates: Annotated[
        dict[str, float], "Hz per modality, where the data do not say; --sampling_rates.spike 50"
    ] = field(default_factory=dict)
    window: Annotated[float, "seconds of a training window"] = 2.0
    stride: Annotated[float | None, "seconds between windows (default: window)"] = None
    split: Annotated[Split, "shares of training, validation and test"] = (0.6, 0.1, 0.3)
    gap: Annotated[float | None, "seconds between these blocks (default: window)"] = None
    num_workers: Annotated[int, "processes that read ahead"] = 0

    d_model: Annotated[int, "width of tokens and backbone"] = 512
    n_mamba_blocks: Annotated[int, "depth of the backbone"] = 8
    n_latents: Annotated[int, "grid points per window"] = 64
    latent_dim: Annotated[int, "width of the latents"] = 512
    perceiver_depth: Annotated[int, "attention layers of the fusion"] = 2
    popt_depth: Annotated[int, "layers of the aggregation"] = 4
    dropout: Annotated[float, "dropout"] = 0.1
    modality_dropout: Annotated[float, "probability of hiding a modality in training"] = 0.3
    ssm: Annotated[Ssm, "blocks of the backbone"] = "mamba2"
    behavior_dim: Annotated[
        int | None, "decoded variables or classes (default: those of the data_dir; 0 with data)"
    ] = None
    use_domain_adversarial: Annotated[bool, "learn latents that do not tell the species"] = False
    n_domains: Annotated[int, "number of species"] = 7

    mask_mode: Annotated[str, "what NeuralMasker hides"] = "random"
    mask_ratio: Annotated[float, "share that is hidden and filled in; 0: none"] = 0.25
    balancing_method: Annotated[
        Literal["uncertainty", "gradnorm", "manual"], "how the tasks are weighed against each other"
    ] = "uncertainty"
    loss_weights: Annotated[
        dict[str, float], "weights of the tasks, 1 where left out; for balancing_method manual"
    ] = field(default_factory=dict)
    objectives: Annotated[
        list[nn.Module],
        "further objectives, each by class_path and init_args, with weights of their own",
    ] = field(default_factory=list)

    batch_size: Annotated[int, "windows per batch"] = 32
    num_epochs: Annotated[int, "epochs in all, those before a resumption included"] = 10
    learning_rate: Annotated[float, "learning rate of AdamW"] = 3e-4
    warmup_steps: Annotated[int, "steps over which the learning rate rises from 0"] = 0
    max_grad_norm: Annotated[float, "bound of the gradient's norm"] = 1.0
    gradient_accumulation_steps: Annotated[int, "batches per optimiser step"] = 1
    patience: Annotated[int | None, "epochs without improvement until the run ends"] = None
    seed: Annotated[int, "seed of weights, order, masks and dropout"] = 0

    device: Annotated[Literal["auto", "cpu", "cuda"], "where to compute"] = "auto"
    devices: Annotated[int | Literal["auto"], "processes on this machine"] = 1
    strategy: Annotated[Literal["auto", "ddp", "fsdp"], "how processes share the model"] = "auto"
    precision: Annotated[Literal["32-true", "bf16-mixed", "16-mixed"], "arithmetic"] = "32-true"

    checkpoint_dir: Annotated[str | None, "folder of the run, new or with --resume"] = None
    checkpoint_every: Annotated[
        int | None, "steps between checkpoints (default: one per epoch)"
    ] = None
    resume: Annotated[bool, "go on with the run in checkpoint_dir"] = False
    progress: Annotated[bool, "show a bar where standard error is a terminal"] = True
    use_tensorboard: Annotated[bool, "log to TensorBoard, in checkpoint_dir"] = False
    use_wandb: Annotated[bool, "log to Weights & Biases"] = False
    wandb_mode: Annotated[
        Literal["online", "offline"] | None,
        "offline keeps the log in checkpoint_dir (default: what wandb is set to)",
    ] = None
    wandb_project: Annotated[str, "project on Weights & Biases"] = "neurofm"


# What may change when a run goes on; everything else decides its numbers.
FREE_ON_RESUME = frozenset(
    {
        "checkpoint_dir",
        "checkpoint_every",
        "config",
        "data_dir",
        "device",
        "devices",
        "num_epochs",
        "num_workers",
        "progress",
        "resume",
        "strategy",
        "use_tensorboard",
        "use_wandb",
        "wandb_mode",
        "wandb_project",
    }
)
