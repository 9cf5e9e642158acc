"""Probing, concept areas and the map of directions beside scikit-learn."""

import numpy as np
import pytest
import torch
from torch import Tensor

from neuros_mechint.sae import ConceptSAE, SAEVisualizer, SparseAutoencoder, evaluate_sae
from neuros_mechint.sae._logistic import sparse_weights

sklearn = pytest.importorskip("sklearn")

pytestmark = pytest.mark.oracle


def data(n: int = 400) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (n,), generator=generator)
    x = torch.eye(6)[labels] + 0.6 * torch.randn(n, 6, generator=generator)
    return x, labels


def coder_of() -> SparseAutoencoder:
    generator = torch.Generator().manual_seed(1)
    return SparseAutoencoder(latent_dim=6, dictionary_size=20, generator=generator)


def test_probing_equals_a_pipeline_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, labels), coder = data(), coder_of()
    scores = evaluate_sae(
        coder,
        x,
        labels=labels,
        generator=torch.Generator().manual_seed(7),
        probe_sizes=(1, 4),
    )
    order = torch.randperm(400, generator=torch.Generator().manual_seed(7))
    test, train = order[:120], order[120:]
    with torch.no_grad():
        f = coder.encode(x)

    def accuracy(columns: np.ndarray, target: np.ndarray) -> float:
        model = LogisticRegression(class_weight="balanced", max_iter=1000)
        pipeline = make_pipeline(StandardScaler(), model).fit(columns[train], target[train])
        return balanced_accuracy_score(target[test], pipeline.predict(columns[test]))

    expected: dict[int, list[float]] = {1: [], 4: []}
    dense = []
    for c in range(3):
        target = (labels == c).numpy()
        with_, without = f[train][target[train]], f[train][~target[train]]
        best = (with_.double().mean(0) - without.double().mean(0)).argsort(descending=True)
        for k, found in expected.items():
            found.append(accuracy(f[:, best[:k]].double().numpy(), target))
        dense.append(accuracy(x.double().numpy(), target))
    assert scores.probing == {k: pytest.approx(np.mean(v)) for k, v in expected.items()}
    assert scores.probing_dense == pytest.approx(np.mean(dense))


def test_sparse_weights_equal_those_of_scikit_learn() -> None:
    from scipy.sparse import csr_matrix
    from sklearn.linear_model import LogisticRegression

    (x, labels), coder = data(), coder_of()
    with torch.no_grad():
        f = coder.encode(x).double().numpy()
    target = (labels == 1).numpy()
    rms = np.sqrt(np.square(f[f != 0]).mean())
    # Theirs is the sum of absolute weights plus C times the weighted sum of the cross-entropies.
    share = (~target).sum() / target.sum()
    model = LogisticRegression(
        l1_ratio=1.0, C=1 / (0.01 * len(f)), solver="saga", tol=1e-9, max_iter=20_000,
        class_weight={True: share, False: 1.0}, random_state=0,
    ).fit(f / rms, target)  # fmt: skip
    found = sparse_weights(csr_matrix(f), target)
    assert 3 <= np.count_nonzero(np.abs(model.coef_[0]) > 1e-6) < 20
    np.testing.assert_allclose(found, model.coef_[0], atol=0.02)
    # What absorption takes from them is their order.
    best = np.argsort(-model.coef_[0])[:3]
    assert np.argsort(-found)[:3].tolist() == best.tolist()


def test_the_areas_of_concepts_equal_those_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    x, labels = data()
    coder = ConceptSAE(
        latent_dim=6,
        levels=[20],
        concepts=["a", "b", "c"],
        generator=torch.Generator().manual_seed(1),
    )
    with torch.no_grad():
        f = coder.encode(x)
    found = coder.align(f, labels)
    for c, j in enumerate(found.features.tolist()):
        expected = roc_auc_score((labels == c).numpy(), f[:, j].numpy())
        assert float(found.auc[c]) == pytest.approx(expected, abs=1e-12)


def test_the_map_equals_the_components_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA

    coder = coder_of()
    directions = torch.nn.functional.normalize(coder.dictionary.detach().double(), dim=1)
    expected = torch.from_numpy(PCA(2, svd_solver="full").fit_transform(directions.numpy()))
    points = SAEVisualizer(coder).embed()
    torch.testing.assert_close(points.abs(), expected.abs(), rtol=0, atol=1e-9)
