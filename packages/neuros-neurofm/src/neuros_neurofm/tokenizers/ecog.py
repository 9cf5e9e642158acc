"""Electrocorticography into tokens."""

from neuros_neurofm.tokenizers._channel_set import ChannelSetTokenizer
from neuros_neurofm.tokenizers._patches import patch_size
from neuros_neurofm.tokenizers._spectral import FieldPotentialFrontEnd
from neuros_neurofm.tokenizers._tokenizer import Tokenizer

__all__ = ["ECoGTokenizer"]

_WIDTH = 64


class ECoGTokenizer(Tokenizer):
    """Tokens from the potentials of electrodes on the cortex.

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
        >>> tokenizer = ECoGTokenizer(32, sampling_rate=1000.0)
        >>> tokens = tokenizer(torch.randn(1, 150, 3))
        >>> tokens.values.shape, tokens.times[0].tolist()
        (torch.Size([1, 3, 32]), [0.05, 0.1, 0.15])

    References:
        Miller et al. (2007), Spectral changes in cortical surface potentials during motor
        movement, J. Neurosci. 27, doi:10.1523/JNEUROSCI.3886-06.2007.
    """

    modality = "ecog"

    def __init__(
        self,
        d_model: int,
        *,
        sampling_rate: float | None = None,
        patch: float | None = None,
        dropout: float = 0.0,
        unit_dim: int = 64,
    ) -> None:
        size = patch_size(self.modality, sampling_rate, patch, 0.05)
        core = ChannelSetTokenizer(
            self.modality,
            FieldPotentialFrontEnd(size, _WIDTH),
            d_model=d_model,
            width=_WIDTH,
            unit_dim=unit_dim,
            size=size,
            sampling_rate=sampling_rate,
            dropout=dropout,
        )
        super().__init__(core)
