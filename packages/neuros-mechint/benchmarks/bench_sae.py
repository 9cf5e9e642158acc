"""Training steps of sparse coders beside three libraries and a plain dense loop.

Width 256, 2048 features, k = 32, 1024 rows, one thread. A step is everything from a batch to new
parameters: forward, gradients, constraints on the decoder, Adam, count of dead features. Sides are
interleaved and the shortest CPU time of each counts, which is the least disturbed.
"""

import importlib.metadata
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import cycle

import pytest
import torch
from torch import Tensor

from neuros_mechint.sae import SparseAutoencoder
from neuros_mechint.sae._session import Recipe, Session

pytestmark = pytest.mark.filterwarnings("ignore")
TORCH = f"torch {torch.__version__}, {platform.machine()}"
ROWS, WIDTH, FEATURES, K, LR = 1024, 256, 2048, 32, 1e-3

Step = Callable[[Tensor], object]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(n_threads)


def superposition(n_batches: int = 8) -> list[Tensor]:
    """Batches of sums of about 20 of 1000 directions."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(1000, WIDTH, generator=generator)
    directions = torch.nn.functional.normalize(directions, dim=1)
    active = torch.rand(n_batches, ROWS, 1000, generator=generator) < 0.02
    return list((active * torch.rand(active.shape, generator=generator)) @ directions)


def ours(activation: str) -> Step:
    k = K if activation.endswith("topk") else None
    coder = SparseAutoencoder(
        latent_dim=WIDTH, dictionary_size=FEATURES, activation=activation, k=k
    )
    session = Session(coder.train(), Recipe(LR, "auxk", None, ROWS), None, seed=0)
    first = superposition(1)[0]
    session.start(first, first)
    return lambda x: session.train(x, x)


def seconds(sides: dict[str, Step], rounds: int = 15) -> dict[str, float]:
    batches = cycle(superposition())
    for step in sides.values():
        for _ in range(3):
            step(next(batches))
    best = dict.fromkeys(sides, float("inf"))
    for _ in range(rounds):
        x = next(batches)
        for name, step in sides.items():
            start = time.process_time()
            step(x)
            best[name] = min(best[name], time.process_time() - start)
    return best


def report(what: str, peer: str, sides: dict[str, Step], bar: float) -> None:
    found = seconds(sides)
    ratio = found["peer"] / found["ours"]
    print(f"\n{what}: ours {1e3 * found['ours']:.1f} ms, peer {1e3 * found['peer']:.1f} ms")
    print(f"BENCH | {what} | {peer} | ratio {ratio:.2f} | bar {bar}")
    assert ratio >= bar


class DenseLoop:
    """What one writes in an afternoon: dense autograd and torch's fastest Adam."""

    def __init__(self, activation: str) -> None:
        self.activation = activation
        self.W_dec = torch.nn.functional.normalize(torch.randn(FEATURES, WIDTH), dim=1)
        self.W_enc = self.W_dec.T.clone()
        self.b_enc, self.b_dec = torch.zeros(FEATURES), torch.zeros(WIDTH)
        self.gain, self.b_mag = torch.zeros(FEATURES), torch.zeros(FEATURES)
        self.parameters = [self.W_dec, self.W_enc, self.b_enc, self.b_dec]
        if activation in {"gated", "jumprelu"}:
            self.parameters += [self.gain, self.b_mag]
        for parameter in self.parameters:
            parameter.requires_grad_()
        self.adam = torch.optim.Adam(self.parameters, LR, fused=True)
        self.silent = torch.zeros(FEATURES, dtype=torch.long)

    def __call__(self, x: Tensor) -> float:
        features, penalty = getattr(self, self.activation)((x - self.b_dec) @ self.W_enc, x)
        loss = (features @ self.W_dec + self.b_dec - x).square().mean() + penalty
        self.adam.zero_grad()
        loss.backward()
        with torch.no_grad():
            gradient = self.W_dec.grad
            gradient -= (gradient * self.W_dec).sum(1, keepdim=True) * self.W_dec
            self.adam.step()
            self.W_dec /= self.W_dec.norm(dim=1, keepdim=True)
            self.silent += len(x)
            self.silent[features.amax(0) > 0] = 0
        return loss.item()

    def topk(self, z: Tensor, _x: Tensor) -> tuple[Tensor, float]:
        found = (z + self.b_enc).topk(K, dim=-1, sorted=False)
        return torch.zeros_like(z).scatter(-1, found.indices, found.values.relu()), 0.0

    def relu(self, z: Tensor, _x: Tensor) -> tuple[Tensor, Tensor]:
        features = (z + self.b_enc).relu()
        return features, 0.01 * features.sum(-1).mean()

    def jumprelu(self, z: Tensor, _x: Tensor) -> tuple[Tensor, Tensor]:
        z, threshold, width = z + self.b_enc, (self.gain - 3.5).exp(), 0.03
        # Straight-through estimators written with plain operations: the value of the step, the
        # gradient of a ramp as wide as the rectangle.
        ramp = ((z.detach() - threshold) / width + 0.5).clamp(0, 1)
        step = (z.detach() > threshold).float() + ramp - ramp.detach()
        return z * step, 0.01 * step.sum(-1).mean()

    def gated(self, z: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        gate = z + self.b_enc
        features = (gate > 0) * (z * self.gain.exp() + self.b_mag).relu()
        opened = gate.relu()
        held = opened @ self.W_dec.detach() + self.b_dec.detach()
        return features, 0.01 * opened.sum(-1).mean() + (held - x).square().mean()


@pytest.mark.parametrize(
    ("activation", "bar"), [("topk", 3.0), ("relu", 1.0), ("jumprelu", 1.0), ("gated", 1.0)]
)
def test_step_beside_a_dense_loop(activation: str, bar: float) -> None:
    sides = {"ours": ours(activation), "peer": DenseLoop(activation)}
    report(f"training step, {activation}", f"dense loop, fused Adam, {TORCH}", sides, bar)


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_step_beside_dictionary_learning(activation: str) -> None:
    pytest.importorskip("dictionary_learning")
    from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
    from dictionary_learning.trainers.top_k import TopKTrainer

    kind = TopKTrainer if activation == "topk" else BatchTopKTrainer
    trainer = kind(
        steps=100_000, activation_dim=WIDTH, dict_size=FEATURES, k=K, layer=0, lm_name="none",
        lr=LR, device="cpu",
    )  # fmt: skip
    # The first step also measures the decoder's bias, so numbers start at 1.
    count = iter(range(1, 10**9))
    sides = {"ours": ours(activation), "peer": lambda x: trainer.update(next(count), x)}
    version = importlib.metadata.version("dictionary-learning")
    report(f"training step, {activation}", f"dictionary-learning {version}, {TORCH}", sides, 3.0)


def test_step_beside_sae_lens() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("sae_lens")
        from sae_lens.saes.sae import TrainStepInput
        from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    # Its `use_sparse_activations` cannot be trained on the CPU: the clipping of sparse gradients
    # that its trainer does raises NotImplementedError there.
    config = TopKTrainingSAEConfig(d_in=WIDTH, d_sae=FEATURES, k=K, device="cpu")
    coder = TopKTrainingSAE(config).train()
    # Its trainer takes torch's Adam without `fused`; the fast one is the harder peer.
    adam = torch.optim.Adam(coder.parameters(), LR, fused=True)
    silent = torch.zeros(FEATURES)

    def step(x: Tensor) -> None:
        """As in `SAETrainer._train_step`."""
        given = TrainStepInput(x, {}, silent > 1000, n_training_steps=1, is_logging_step=False)
        output = coder.training_forward_pass(given)
        with torch.no_grad():
            fired = output.feature_acts.bool().float().sum(-2).bool()
            silent.add_(1)
            silent[fired] = 0
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(coder.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
        output.loss.item()

    peer = f"sae-lens {importlib.metadata.version('sae-lens')}, {TORCH}"
    report("training step, topk", peer, {"ours": ours("topk"), "peer": step}, 3.0)


def test_step_beside_sparsify() -> None:
    # Without this it takes Triton kernels, which need a GPU.
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    pytest.importorskip("sparsify")
    from sparsify import SparseCoder, SparseCoderConfig

    config = SparseCoderConfig(num_latents=FEATURES, k=K)
    coder = SparseCoder(WIDTH, config).train()
    adam = torch.optim.Adam(coder.parameters(), LR, fused=True)
    silent = torch.zeros(FEATURES, dtype=torch.long)

    def step(x: Tensor) -> None:
        """As in `Trainer.fit`, for one coder and without its logging."""
        output = coder(x, dead_mask=silent > 10**7)
        (output.fvu + output.auxk_loss / 32).backward()
        with torch.no_grad():
            silent.add_(len(x))
            silent[output.latent_indices.flatten()] = 0
        coder.remove_gradient_parallel_to_decoder_directions()
        adam.step()
        adam.zero_grad()
        coder.set_decoder_norm_to_unit_norm()
        output.fvu.item()

    peer = f"eai-sparsify {importlib.metadata.version('eai-sparsify')}, {TORCH}"
    report("training step, topk", peer, {"ours": ours("topk"), "peer": step}, 1.5)
