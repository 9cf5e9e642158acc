"""Estimators of source weights: moments, kernels, a classifier, classes, losses, a stream."""

from neuros_sourceweigher._class_conditional import ClassConditionalWeigher
from neuros_sourceweigher._classifier import ClassifierWeigher
from neuros_sourceweigher._combination import distribution_weighted_combination
from neuros_sourceweigher._doremi import DoReMiWeights
from neuros_sourceweigher._kernel_mean import KernelMeanWeigher, MMDTest
from neuros_sourceweigher._moment_weigher import SourceWeigher
from neuros_sourceweigher._online import OnlineWeigher
from neuros_sourceweigher._path import RegularizationPath, regularization_path
from neuros_sourceweigher._resample import bootstrap_weights
from neuros_sourceweigher._stability import StabilityReport, leave_one_source_out

__all__ = [
    "ClassConditionalWeigher",
    "ClassifierWeigher",
    "DoReMiWeights",
    "KernelMeanWeigher",
    "MMDTest",
    "OnlineWeigher",
    "RegularizationPath",
    "SourceWeigher",
    "StabilityReport",
    "bootstrap_weights",
    "distribution_weighted_combination",
    "leave_one_source_out",
    "regularization_path",
]
