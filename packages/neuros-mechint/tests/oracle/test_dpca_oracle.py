"""Demixed components beside the reference implementation."""

import pytest
import torch

from neuros_mechint.circuits._dpca import demix, marginalize

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("regularizer", [0.0, 1e-5])
def test_components_are_those_of_the_dpca_package(regularizer: float) -> None:
    dpca = pytest.importorskip("dPCA.dPCA")
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(10, 3, 4, generator=generator, dtype=torch.float64)
    means = means + 3 * torch.randn(10, 3, 1, generator=generator, dtype=torch.float64)
    means = means - means.mean((1, 2), keepdim=True)
    peer = dpca.dPCA(labels="st", n_components=2, regularizer=regularizer, n_iter=20)
    peer.protect = None
    peer.fit(means.numpy().copy())
    peer.transform(means.numpy().copy())
    names = {"s": (0,), "t": (1,), "st": (0, 1)}
    parts = marginalize(means)
    theirs = peer._marginalize(means.numpy().copy())
    named = {name: parts[axes] for name, axes in names.items()}
    ours = demix(means, named, n_components=2, regularizer=regularizer)
    for name, part in named.items():
        expected = torch.as_tensor(theirs[name]).reshape(10, -1)
        torch.testing.assert_close(part.flatten(1), expected, atol=1e-8, rtol=0)
        explained = torch.as_tensor(peer.explained_variance_ratio_[name])
        torch.testing.assert_close(ours[name].explained, explained, atol=1e-3, rtol=0)
        for mine, other in ((ours[name].encoder, peer.P[name]), (ours[name].decoder, peer.D[name])):
            spans = [torch.linalg.qr(z).Q for z in (mine, torch.as_tensor(other))]
            cosines = torch.linalg.svdvals(spans[0].T @ spans[1])
            assert (1 - cosines.square()).clamp(min=0).sqrt().max() < 1e-3
