"""DUNL's encoder with its implicit gradient, beside an encoder unrolled through autograd."""

import torch
from torch import Tensor
from torch.nn import functional as nnf

from neuros_mechint.circuits import DUNLModel

N_TRIALS, N_TIME, N_FACTORS, TAPS, N_ITERATIONS, SPARSITY = 32, 260, 2, 16, 100, 0.5


def unrolled(activity: Tensor, weight: Tensor) -> Tensor:
    """FISTA as published: direct convolutions, a graph of all iterations."""
    kernels = nnf.normalize(weight, dim=-1)[:, None]
    with torch.no_grad():
        step = 1 / float(torch.fft.rfft(kernels, n=N_TIME).abs().square().sum((0, 1)).max())
    ahead = codes = activity.new_zeros(N_TRIALS, N_FACTORS, N_TIME - TAPS + 1)
    momentum = 1.0
    for _ in range(N_ITERATIONS):
        residual = nnf.conv_transpose1d(ahead, kernels) - activity
        new = nnf.relu(ahead - step * nnf.conv1d(residual, kernels) - step * SPARSITY)
        grown = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / grown * (new - codes)
        codes, momentum = new, grown
    return nnf.conv_transpose1d(codes, kernels)


def test_encoder_and_gradient(shortest, report) -> None:
    generator = torch.Generator().manual_seed(0)
    activity = torch.randn(N_TRIALS, 1, N_TIME, generator=generator)
    model = DUNLModel(
        1, N_FACTORS, kernel_length=TAPS, sparsity=SPARSITY, baseline=0.0,
        n_iterations=N_ITERATIONS, generator=generator,
    )  # fmt: skip
    weight = model.weight.detach().clone().requires_grad_()

    def graphs(run) -> int:
        """Bytes that the graph holds for the way back."""
        held = {}

        def keep(tensor: Tensor) -> Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            kept = run()
        del kept
        return sum(held.values())

    def back(run) -> None:
        with torch.enable_grad():
            run().square().sum().backward()

    ours_memory = graphs(lambda: model(activity).reconstruction)
    peer_memory = graphs(lambda: unrolled(activity, weight))
    ours, peer = shortest(
        lambda: back(lambda: model(activity).reconstruction),
        lambda: back(lambda: unrolled(activity, weight)),
        rounds=9,
    )
    what = f"DUNL encode, {N_TRIALS} x {N_TIME}, {N_FACTORS} kernels of {TAPS}, 100 iterations"
    report(f"{what}, with gradient", "FISTA unrolled (torch)", peer / ours, 3.0)
    report(
        f"{what}, memory of the graph", "FISTA unrolled (torch)", peer_memory / ours_memory, 10.0
    )
