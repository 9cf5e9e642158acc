"""Source weights from a classifier that tells the sources apart, corrected for label shift."""

import copy
import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_core.domains import SourceWeights
from neuros_core.errors import check_choice
from neuros_sourceweigher._calibration import calibrated, fit_calibration, logits_of
from neuros_sourceweigher._kernel_mean import read_samples
from neuros_sourceweigher._label_shift import (
    Shares,
    fisher_stderr,
    match_predictions,
    match_predictions_regularised,
    maximise_likelihood,
)

__all__: list[str] = []

Array = NDArray[np.float64]


class ClassifierWeigher:
    r"""Mixture weights from "which source did this sample come from", asked of the target.

    A probabilistic classifier learns the source of each sample, out of fold; its probabilities are
    calibrated; the shares of sources in the target are then a label-shift problem. Needs samples
    of all domains at one site, and resolves what moments miss.

    Args:
        classifier: Anything with `fit(x, y)` and `predict_proba(x)` whose columns follow the labels
            0..K-1; it is copied before each fit. None: logistic regression on standardised
            quadratic features, which needs the extra `neuros-sourceweigher[classifier]`.
        calibration: `"temperature"`, `"bias-corrected"` (with a bias per source) or `"none"`.
        estimator: `"mlls"`: maximum likelihood. `"bbse"`: matches the shares of predicted labels.
            `"rlls"`: the same with a penalty on the shift. The last two stay valid for a
            classifier that is not calibrated.
        folds: Parts of the sources that are predicted in turn.
        seed: Of the folds.

    Raises:
        ValueError: For a setting out of its range.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> sources = {"wide": 2 * rng.normal(size=(500, 1)), "narrow": rng.normal(size=(500, 1))}
        >>> target = np.concatenate([2 * rng.normal(size=(1500, 1)), rng.normal(size=(500, 1))])
        >>> weights = ClassifierWeigher().fit(sources, target)
        >>> bool(abs(weights["wide"] - 0.75) < 3 * weights.stderr[0])
        True

    References:
        Saerens, Latinne & Decaestecker 2002, Neural Computation, doi:10.1162/089976602753284446.
        Alexandari, Kundaje & Shrikumar 2020, PMLR 119:222-232 (calibration first).
        Lipton, Wang & Smola 2018, PMLR 80:3122-3130 (BBSE).
        Azizzadenesheli et al. 2019, arXiv:1903.09734 (RLLS).
    """

    def __init__(
        self,
        *,
        classifier: Any = None,
        calibration: str = "temperature",
        estimator: str = "mlls",
        folds: int = 5,
        seed: int = 0,
    ) -> None:
        check_choice("calibration", calibration, ("none", "temperature", "bias-corrected"))
        check_choice("estimator", estimator, ("mlls", "bbse", "rlls"))
        if folds < 2:
            raise ValueError(f"folds needs a number >= 2, got {folds!r}")
        self.classifier = classifier
        self.calibration = calibration
        self.estimator = estimator
        self.folds = int(folds)
        self.seed = int(seed)

    def __repr__(self) -> str:
        return (
            f"ClassifierWeigher(classifier={self.classifier!r}, "
            f"calibration={self.calibration!r}, estimator={self.estimator!r}, "
            f"folds={self.folds}, seed={self.seed})"
        )

    def fit(self, sources: Mapping[str, ArrayLike], target: ArrayLike) -> SourceWeights:
        """Estimate the weights of `sources` that explain `target`.

        Args:
            sources: (n_k, d) samples of each source, at least `folds` of each.
            target: (n, d) samples.

        Returns:
            Weights in the order of `sources`. With `"mlls"`, `objective` is the negative mean
            log-likelihood of the target, up to a constant, and `stderr` comes from its Fisher
            information: it holds the noise of the target's samples, not that of the classifier.
            `meta` has the temperature and the classifier's accuracy out of fold.

        Raises:
            ValueError: For unfit samples, or probabilities of an unfit shape.
            ImportError: Without a classifier and without the extra.
            RuntimeError: When the solver cannot certify its result.
        """
        names, samples, goal = read_samples(sources, target, self.folds)
        if len(names) == 1:
            # There is nothing to classify, and classifiers refuse a single label.
            only = np.ones(1)
            return SourceWeights(names, only, f"classifier-{self.estimator}", 0.0, 0.0, 0 * only)
        classifier = default_classifier() if self.classifier is None else self.classifier
        found = _cross_fit(classifier, samples, goal, self.folds, self.seed)
        temperature, bias = fit_calibration(found.logits, found.y, self.calibration)
        inside = calibrated(found.logits, temperature, bias)
        outside = calibrated(found.target_logits, temperature, bias)
        q = np.bincount(found.y, minlength=len(names)) / len(found.y)
        stderr = None
        if self.estimator == "mlls":
            ratios = outside / q
            shares = maximise_likelihood(ratios)
            stderr = fisher_stderr(ratios, shares.weights)
        else:
            shares = self._match(inside, outside, found.y, q)
        return SourceWeights(
            names=names,
            weights=shares.weights,
            method=f"classifier-{self.estimator}",
            objective=shares.objective,
            gap=shares.gap,
            stderr=stderr,
            meta={
                "calibration": self.calibration,
                "temperature": temperature,
                "accuracy": float((inside.argmax(axis=1) == found.y).mean()),
                "folds": self.folds,
            },
        )

    def _match(self, inside: Array, outside: Array, y: NDArray[np.intp], q: Array) -> Shares:
        K = len(q)
        confusion = np.zeros((K, K))
        np.add.at(confusion, (inside.argmax(axis=1), y), 1.0)
        confusion /= confusion.sum(axis=0)
        predicted = np.bincount(outside.argmax(axis=1), minlength=K) / len(outside)
        if self.estimator == "bbse":
            return match_predictions(confusion, predicted)
        return match_predictions_regularised(confusion, predicted, q, len(y))


class CrossFit(NamedTuple):
    """Labels, their logits out of fold, and the mean logits of the target over the folds."""

    y: NDArray[np.intp]  # (n,)
    logits: Array  # (n, K)
    target_logits: Array  # (n_target, K)


def _cross_fit(
    classifier: Any, samples: list[Array], goal: Array, folds: int, seed: int
) -> CrossFit:
    """Predict every source sample by a classifier that has not seen it."""
    rng = np.random.default_rng(seed)
    x = np.concatenate(samples)
    y = np.repeat(np.arange(len(samples)), [len(s) for s in samples])
    # Every fold holds the same share of every source.
    fold = np.concatenate([rng.permutation(np.arange(len(s)) % folds) for s in samples])
    logits = np.empty((len(x), len(samples)))
    target_logits = np.zeros((len(goal), len(samples)))
    for part in range(folds):
        held = fold == part
        model = copy.deepcopy(classifier)
        model.fit(x[~held], y[~held])
        logits[held] = _predict(model, x[held], len(samples))
        target_logits += _predict(model, goal, len(samples)) / folds
    return CrossFit(y, logits, target_logits)


def _predict(model: Any, x: Array, K: int) -> Array:
    probabilities = np.asarray(model.predict_proba(x), dtype=np.float64)
    if probabilities.shape != (len(x), K) or not np.isfinite(probabilities).all():
        raise ValueError(
            f"classifier needs finite probabilities of shape {(len(x), K)}, got "
            f"{probabilities.shape}"
        )
    return logits_of(probabilities)


def default_classifier() -> Any:
    """Logistic regression on standardised quadratic features."""
    try:
        importlib.import_module("sklearn")
    except ImportError as error:
        raise ImportError(
            "the default classifier needs scikit-learn: pip install "
            "'neuros-sourceweigher[classifier]', or pass classifier="
        ) from error
    # It has no type stubs, so its modules are read as values.
    linear = importlib.import_module("sklearn.linear_model")
    pipeline = importlib.import_module("sklearn.pipeline")
    preprocessing = importlib.import_module("sklearn.preprocessing")
    return pipeline.make_pipeline(
        preprocessing.StandardScaler(),
        preprocessing.PolynomialFeatures(2, include_bias=False),
        preprocessing.StandardScaler(),
        linear.LogisticRegression(max_iter=1000),
    )
