"""Local field potentials into tokens."""

from neuros_neurofm.tokenizers._signal import SignalTokenizer
from neuros_neurofm.tokenizers._spectral import FieldPotentialFrontEnd

__all__ = ["LFPTokenizer"]


class LFPTokenizer(SignalTokenizer):
    """Tokens from local field potentials.

    Each channel is standardised by its running mean and deviation (no look-ahead), or by those
    that `calibrate` has fixed. Features: the waveform of the patch, the log-power in up to 24
    logarithmic bands over the last four patches, and the amplitude and level that
    standardisation removed.

    Args:
        d_model: Width of the tokens.
        sampling_rate: Samples per second.
        patch: Duration of a token in seconds, in samples without `sampling_rate`;
            default 0.05 s, or 1 sample without `sampling_rate`.
        dropout: Dropout on the tokens.
        unit_dim: Width of the unit vectors.

    Raises:
        ValueError: `sampling_rate` or `patch` is not > 0, or `patch` is no whole number of samples
            where no rate is given.

    Examples:
        >>> import torch
        >>> tokenizer = LFPTokenizer(32, sampling_rate=1000.0)
        >>> tokens = tokenizer(torch.randn(1, 150, 3))
        >>> tokens.values.shape, tokens.times[0].tolist()
        (torch.Size([1, 3, 32]), [0.05, 0.1, 0.15])

    References:
        Welch (1967), The use of fast Fourier transform for the estimation of power spectra,
        IEEE Trans. Audio Electroacoust. 15, doi:10.1109/TAU.1967.1161901.
    """

    modality = "lfp"
    front_end = FieldPotentialFrontEnd
    default_patch_s = 0.05
