"""A trained model meets a session whose channels it does not know."""

from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Generator, nn

from neuros_neurofm.evaluation._batches import shared_modalities
from neuros_neurofm.evaluation._decode import DecoderFit, fit_decoder
from neuros_neurofm.evaluation.session import Session
from neuros_neurofm.models._identify import only_trainable
from neuros_neurofm.models._options import Tokenizer
from neuros_neurofm.models.multimodal_neurofmx import MultiModalNeuroFMX

__all__ = ["FineTuning", "add_unknown_units", "fine_tune"]


class FineTuning(NamedTuple):
    """How the two stages went.

    Attributes:
        units: The stage that trained the channels' vectors alone.
        whole: The stage that trained everything, or None.
    """

    units: DecoderFit
    whole: DecoderFit | None


def fine_tune(
    model: MultiModalNeuroFMX,
    session: Session,
    *,
    unit_steps: int = 60,
    steps: int = 60,
    batch_size: int = 16,
    unit_learning_rate: float = 0.05,
    learning_rate: float = 3e-3,
    validate_every: int = 20,
    generator: Generator | None = None,
) -> FineTuning:
    """Train a pretrained model on a session with channels of its own, the channels' vectors first.

    Channels whose ids the model does not know get vectors inferred from the activity of the
    training blocks. Then these vectors alone are trained, fast, while the rest of the model stays:
    as long as they are wrong, every gradient of the other weights undoes what pretraining gave.
    Then all weights that require a gradient are trained, slowly. Each stage is a `fit_decoder`,
    which keeps the weights of the least validation loss.

    Args:
        model: Pretrained; changed in place.
        session: With ids of its channels (`units`) and targets.
        unit_steps: Steps of the first stage, >= 1.
        steps: Steps of the second stage; 0 leaves all but the vectors as pretraining left them.
        batch_size: Windows per step.
        unit_learning_rate: Peak of the first stage.
        learning_rate: Peak of the second stage.
        validate_every: Steps between two validations.
        generator: Draws windows; None: one seeded with 0.

    Returns:
        What each stage kept.

    Raises:
        ValueError: A session without channel ids, a negative number of steps, or what `fit_decoder`
            refuses.

    Examples:
        >>> import numpy as np
        >>> from neuros_neurofm.evaluation import Session, contiguous_blocks
        >>> model = MultiModalNeuroFMX(
        ...     16, 1, 8, 8, modalities=("spike",), behavior_dim=1, window=0.16,
        ...     sampling_rates={"spike": 50.0})
        >>> x = np.random.default_rng(0).poisson(1.0, (200, 2))
        >>> session = Session({"spike": x}, 1.0 * x[:, 0], 50.0, contiguous_blocks(200, gap=8),
        ...                   units={"spike": ["a", "b"]})
        >>> stages = fine_tune(model, session, unit_steps=2, steps=0)
        >>> stages.whole is None, model.tokenizers["spike"].units.ids
        (True, ('a', 'b'))

    References:
        Azabou, M. et al. (2023). A unified, scalable framework for neural population decoding.
        NeurIPS. https://doi.org/10.48550/arXiv.2310.16046
    """
    names = shared_modalities(model, session)
    nameless = [name for name in names if not (session.units or {}).get(name)]
    if nameless:
        raise ValueError(
            f"the session {session.name!r} has no channel ids of {nameless}; vectors of channels "
            "are kept by id, pass units={modality: ids}"
        )
    if steps < 0:
        raise ValueError(f"steps must be >= 0, got {steps}")
    add_unknown_units(model, session)
    generator = Generator().manual_seed(0) if generator is None else generator
    with only_trainable(model, _vectors(model)):
        units = fit_decoder(
            model,
            session,
            steps=unit_steps,
            learning_rate=unit_learning_rate,
            batch_size=batch_size,
            validate_every=validate_every,
            generator=generator,
        )
    whole = None
    if steps:
        whole = fit_decoder(
            model,
            session,
            steps=steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            validate_every=validate_every,
            generator=generator,
        )
    return FineTuning(units, whole)


def add_unknown_units(model: MultiModalNeuroFMX, session: Session) -> None:
    """Give channels that the model does not know vectors inferred from the training blocks."""
    for name in shared_modalities(model, session):
        known = set(cast("Tokenizer", model.tokenizers[name]).units.ids)
        ids = (session.units or {}).get(name, ())
        new = [k for k, unit in enumerate(ids) if unit not in known]
        if new:
            seen = np.concatenate([part.inputs[name] for part in session.part("train")])
            x = torch.as_tensor(seen[None][..., new], dtype=torch.float32)
            model.add_units(name, [ids[k] for k in new], x.to(model.fusion.latent.device))


def _vectors(model: MultiModalNeuroFMX) -> list[nn.Parameter]:
    """The vectors of channels that are not frozen."""
    return [
        parameter
        for tokenizer in model.tokenizers.values()
        for parameter in cast("Tokenizer", tokenizer).units.parameters()
        if parameter.requires_grad
    ]
