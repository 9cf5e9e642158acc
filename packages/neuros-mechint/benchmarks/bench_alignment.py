"""Alignment beside scikit-learn, rsatoolbox and loops, one thread, sides interleaved."""

import warnings
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import pytest
import torch
from torch import Tensor

from neuros_mechint.alignment import CCA, CKA, PLS, RSA, AlignmentValidator, Procrustes

TORCH = f"torch {torch.__version__}"
Clock = Callable[..., list[float]]
Report = Callable[..., None]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def row(what: str, peer: str, ratio: float, bar: float, floor: float, missed: str) -> None:
    """One row for a bar that is known to be missed; a fall below the floor still fails."""
    note = "" if ratio >= bar else f", missed: {missed}"
    print(f"BENCH | {what} | {peer} | ratio {ratio:.2f} | bar {bar}{note}")
    assert ratio >= floor


def test_canonical_correlations_beside_sklearn(shortest: Clock) -> None:
    cross = pytest.importorskip("sklearn.cross_decomposition")
    # The iterations of the peer depend on the data, so there are five sets of them.
    pairs = [(draw(500, 50, seed=k), draw(500, 30, seed=100 + k)) for k in range(5)]
    arrays = [(x.numpy(), y.numpy()) for x, y in pairs]

    def theirs() -> None:
        with warnings.catch_warnings():
            # At its own 500 iterations it does not always converge on noise.
            warnings.simplefilter("ignore")
            for a, b in arrays:
                cross.CCA(n_components=10).fit(a, b)

    ours, peer = shortest(lambda: [CCA(10).fit(x, y) for x, y in pairs], theirs, rounds=9)
    # Of 0.68 ms: Gram matrices and their factors 0.26, the product 0.09, its svd 0.13. An eigh in
    # the place of the svd saves 0.07 and half of the digits.
    why = (
        "25 to 60 by the data, of which the peer takes 30 to 100 ms; three products, two factors "
        "and one svd of 0.1 ms each are left"
    )
    name = f"scikit-learn {version('scikit-learn')}"
    row("CCA, 500 x 50/30", name, peer / ours, 100, 20, why)


@pytest.mark.parametrize("mode", ["svd", "regression"])
def test_partial_least_squares_beside_sklearn(mode: str, shortest: Clock, report: Report) -> None:
    cross = pytest.importorskip("sklearn.cross_decomposition")
    x, y = draw(300, 40), draw(300, 20, seed=1)
    a, b = x.numpy(), y.numpy()
    peer_class = {"svd": cross.PLSSVD, "regression": cross.PLSRegression}[mode]
    sides = (lambda: PLS(5, mode=mode).fit(x, y), lambda: peer_class(5).fit(a, b))
    ours, peer = shortest(*sides, rounds=21)
    report(f"PLS {mode}, 300 x 40/20", f"scikit-learn {version('scikit-learn')}", peer / ours, 1)


@pytest.mark.parametrize("mode", ["svd", "regression"])
def test_a_batch_of_partial_least_squares_beside_sklearn(
    mode: str, shortest: Clock, report: Report
) -> None:
    cross = pytest.importorskip("sklearn.cross_decomposition")
    x, y = draw(64, 60, 10), draw(64, 60, 6, seed=1)
    pairs = list(zip(x.numpy(), y.numpy(), strict=True))
    peer_class = {"svd": cross.PLSSVD, "regression": cross.PLSRegression}[mode]
    ours, peer = shortest(
        lambda: PLS(3, mode=mode).fit(x, y),
        lambda: [peer_class(3).fit(a, b) for a, b in pairs],
        rounds=9,
    )
    what = f"64 pairs of PLS {mode}, 60 x 10/6"
    report(what, f"scikit-learn {version('scikit-learn')}", peer / ours, 5)


def test_a_batch_of_procrustes_beside_a_loop(shortest: Clock, report: Report) -> None:
    x, y = draw(1000, 30, 5), draw(1000, 30, 5, seed=1)
    distance = Procrustes()
    ours, loop = shortest(
        lambda: distance.compute(x, y),
        lambda: [distance.compute(a, b) for a, b in zip(x, y, strict=True)],
        rounds=7,
    )
    report("1000 pairs of Procrustes, 30 x 5", f"loop, {TORCH}", loop / ours, 5)


@pytest.mark.parametrize(("n", "width"), [(200, 512), (200, 64)], ids=["wide", "narrow"])
def test_layers_by_layers_beside_a_loop(n: int, width: int, shortest: Clock) -> None:
    layers = [draw(n, width, seed=k) for k in range(12)]
    others = [draw(n, width, seed=12 + k) for k in range(12)]
    cka = CKA()
    ours, loop = shortest(
        lambda: cka.compute_matrix(layers, others),
        lambda: [[cka.compute(a, b) for b in others] for a in layers],
        rounds=7,
    )
    # The narrow one goes through kernel matrices, half the multiplications of products of features.
    why = (
        "5 to 9 by the state of the heap; one kernel matrix per layer, 12 MB, are written and read"
    )
    row(f"CKA of 12 x 12 layers, {n} x {width}", f"loop, {TORCH}", loop / ours, 8, 2.5, why)


@pytest.mark.parametrize("noise", [False, True], ids=["plain", "noise"])
@pytest.mark.filterwarnings("ignore")  # those of rsatoolbox
def test_crossnobis_beside_rsatoolbox(noise: bool, shortest: Clock) -> None:
    rsatoolbox = pytest.importorskip("rsatoolbox")
    x = draw(92 * 8, 200).numpy()
    conditions, folds = np.tile(np.arange(92), 8), np.repeat(np.arange(8), 92)
    sigma = np.cov(draw(1000, 200, seed=1).numpy().T) if noise else None
    precision = None if sigma is None else np.linalg.inv(sigma)
    data = rsatoolbox.data.Dataset(x, obs_descriptors={"c": conditions, "f": folds})
    rsa = RSA(distance="crossnobis")
    ten, peer = shortest(
        lambda: [rsa.rdm(x, conditions, folds, sigma) for _ in range(10)],
        lambda: rsatoolbox.rdm.calc_rdm(
            data, method="crossnobis", descriptor="c", cv_descriptor="f", noise=precision
        ),
        rounds=9,
    )
    what = "crossnobis, 92 conditions x 8 folds x 200 channels" + (", noise" if noise else "")
    # Of 2.2 ms the product takes 0.8; a symmetric one of LAPACK would take 0.45.
    why = "14; the product over folds and channels alone takes a fiftieth of the peer's time"
    why += ", whitening as much again" if noise else ""
    name = f"rsatoolbox {version('rsatoolbox')}"
    row(what, name, 10 * peer / ten, 50, 2.5 if noise else 6, why)


@pytest.mark.filterwarnings("ignore")  # those of rsatoolbox
def test_correlation_distances_beside_rsatoolbox(shortest: Clock) -> None:
    rsatoolbox = pytest.importorskip("rsatoolbox")
    x = draw(92 * 8, 200).numpy()
    conditions = np.tile(np.arange(92), 8)
    data = rsatoolbox.data.Dataset(x, obs_descriptors={"c": conditions})
    ten, peer = shortest(
        lambda: [RSA().rdm(x, conditions) for _ in range(10)],
        lambda: rsatoolbox.rdm.calc_rdm(data, method="correlation", descriptor="c"),
        rounds=15,
    )
    what = "correlation distances, 92 conditions x 8 x 200 channels"
    why = "averaging the repeats and one product are left"
    row(what, f"rsatoolbox {version('rsatoolbox')}", 10 * peer / ten, 5, 1.5, why)


@pytest.mark.parametrize(
    ("metric", "n", "widths"),
    [
        (CKA(estimator="unbiased"), 200, (512, 100)),
        (CKA(kernel="rbf"), 200, (512, 100)),
        (RSA(), 100, (512, 100)),
        (CCA(), 200, (50, 10)),
        (CCA(reg=0.1), 200, (512, 20)),
    ],
    ids=repr,
)
def test_permutations_beside_one_evaluation_each(
    metric: CKA | RSA | CCA, n: int, widths: tuple[int, int], shortest: Clock, report: Report
) -> None:
    x, y = draw(n, widths[0]), draw(n, widths[1], seed=1)
    test = AlignmentValidator(metric, n_perm=1000)
    orders = torch.stack([torch.randperm(n) for _ in range(25)])
    # 25 evaluations stand for a thousand: each costs the same.
    ours, loop = shortest(
        lambda: test.permutation_test(x, y),
        lambda: [metric.compute(x, y[order]) for order in orders],
        rounds=3,
    )
    ratio = 40 * loop / ours
    name = type(metric).__name__
    # Of 28 us a permutation of CCA, 200 x 50/10: product 9, gather 2, eigenvalues 6, order 2.
    notes = {
        "CCA": "15 to 23 by load; every permutation has its own product and eigenvalues",
        "CKA": "20 to 30 by load; every permutation writes its kernel twice and reads both",
    }
    note = notes.get(name, "") if ratio < 20 else ""
    what = f"1000 permutations of {name}, {n} x {widths[0]}/{widths[1]}"
    report(what, f"compute each, {TORCH}", ratio, 20, note)
