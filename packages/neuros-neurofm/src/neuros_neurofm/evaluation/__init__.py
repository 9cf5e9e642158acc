"""Scores, the baselines that a score is read against, and their intervals."""

from neuros_neurofm.evaluation._co_smoothing import (
    CoSmoothing,
    co_smoothing,
)
from neuros_neurofm.evaluation._decode import DecoderFit, decode, fit_decoder
from neuros_neurofm.evaluation._fine_tune import FineTuning, fine_tune
from neuros_neurofm.evaluation.bootstrap import BootstrapInterval, block_bootstrap
from neuros_neurofm.evaluation.domains import (
    DomainLeakage,
    domain_leakage,
)
from neuros_neurofm.evaluation.few_shot import (
    FewShotCurve,
    few_shot_curve,
)
from neuros_neurofm.evaluation.forecasts import ARForecaster, persistence_forecast
from neuros_neurofm.evaluation.label_decoder import LabelDecoder
from neuros_neurofm.evaluation.leakage import (
    LeakageCheck,
    LeakageReport,
    check_leakage,
)
from neuros_neurofm.evaluation.linear_decoders import RidgeDecoder, WienerDecoder
from neuros_neurofm.evaluation.linear_skip import LinearSkipDecoder
from neuros_neurofm.evaluation.metrics import (
    balanced_accuracy,
    bits_per_spike,
    poisson_nll,
    r2_score,
)
from neuros_neurofm.evaluation.neural_decoders import NeuralDecoder
from neuros_neurofm.evaluation.robustness import (
    RobustnessCurve,
    TokenizerRobustness,
    tokenizer_robustness,
)
from neuros_neurofm.evaluation.session import Blocks, Session, SessionPart, contiguous_blocks
from neuros_neurofm.evaluation.suite import BenchmarkResult, BenchmarkScore, BenchmarkSuite
from neuros_neurofm.evaluation.transfer import (
    CrossModalTransfer,
    TransferMatrix,
    cross_modal_transfer,
    transfer_matrix,
)

__all__ = [
    "ARForecaster",
    "BenchmarkResult",
    "BenchmarkScore",
    "BenchmarkSuite",
    "Blocks",
    "BootstrapInterval",
    "CoSmoothing",
    "CrossModalTransfer",
    "DecoderFit",
    "DomainLeakage",
    "FewShotCurve",
    "FineTuning",
    "LabelDecoder",
    "LeakageCheck",
    "LeakageReport",
    "LinearSkipDecoder",
    "NeuralDecoder",
    "RidgeDecoder",
    "RobustnessCurve",
    "Session",
    "SessionPart",
    "TokenizerRobustness",
    "TransferMatrix",
    "WienerDecoder",
    "balanced_accuracy",
    "bits_per_spike",
    "block_bootstrap",
    "check_leakage",
    "co_smoothing",
    "contiguous_blocks",
    "cross_modal_transfer",
    "decode",
    "domain_leakage",
    "few_shot_curve",
    "fine_tune",
    "fit_decoder",
    "persistence_forecast",
    "poisson_nll",
    "r2_score",
    "tokenizer_robustness",
    "transfer_matrix",
]
