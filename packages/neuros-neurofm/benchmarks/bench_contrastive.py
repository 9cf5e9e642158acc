"""Time of the contrastive loss beside the products of its similarity matrices."""

from typing import Any

import torch

from neuros_neurofm.losses import TriModalContrastiveLoss

BATCH, WIDTH = 4096, 128


def test_loss_against_its_similarity_products(fastest: Any, report: Any) -> None:
    embeddings = [torch.randn(BATCH, WIDTH).requires_grad_() for _ in range(3)]
    positives = {
        "temporal_indices": torch.randint(0, 2000, (BATCH,)),
        "stimulus_ids": torch.randint(0, 100, (BATCH,)),
        "session_ids": torch.randint(0, 3, (BATCH,)),
    }
    loss, grad = TriModalContrastiveLoss(temporal_window=5), torch.randn(BATCH, BATCH)

    def ours() -> None:
        for embedding in embeddings:
            embedding.grad = None
        loss(*embeddings, **positives)[0].backward()

    def products() -> None:
        for embedding in embeddings:
            embedding.grad = None
        a, b, c = embeddings
        for first, second in ((a, b), (a, c), (b, c)):
            (first @ second.mT).backward(grad)

    seconds = fastest({"ours": ours, "products": products})
    report(
        f"TriModalContrastiveLoss B={BATCH} d={WIDTH} with positives, forward + backward",
        f"products of the 3 similarity matrices and of their gradients, torch {torch.__version__}",
        seconds["ours"] / seconds["products"],
        3,
    )
