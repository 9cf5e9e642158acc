"""The linear part of an estimator: fitted where a session has targets, added where it decodes."""

from collections.abc import MutableMapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from neuros_neurofm._estimator_windows import Piece
from neuros_neurofm.models import LinearPart
from neuros_neurofm.models._linear_fit import fit_linear_part

__all__ = ["leave_over", "linear_of"]

_LAGS = (1, 2, 4, 8)
_N_FOLDS = 5


def leave_over(
    parts: MutableMapping[str, LinearPart], modality: str, pieces: Sequence[Piece], *, rate: float
) -> list[Piece]:
    """The pieces with what a linear part leaves over of their targets.

    A session with targets that has no part yet gets one, and its residuals are those of fits that
    have not seen the sample. Those of a known session are residuals of its part.

    Raises:
        ValueError: Too few samples with a target.
    """
    known = set(parts)
    held_out: dict[str, list[NDArray[np.float64]]] = {}
    given: dict[str, list[Piece]] = {}
    for piece in pieces:
        if piece.y is not None and piece.session not in known:
            given.setdefault(piece.session, []).append(piece)
    for name, own in given.items():
        parts[name], held_out[name] = fit_linear_part(
            [{modality: piece.x.astype(np.float64)} for piece in own],
            [np.asarray(piece.y, np.float64) for piece in own],
            rate=rate,
            n_lags=_LAGS,
            n_folds=_N_FOLDS,
        )
    rest = []
    for piece in pieces:
        if piece.y is None:
            rest.append(piece)
        elif piece.session in known:
            rest.append(piece._replace(y=piece.y - linear_of(parts, modality, piece)))
        else:
            rest.append(piece._replace(y=piece.y - held_out[piece.session].pop(0)))
    return rest


def linear_of(
    parts: MutableMapping[str, LinearPart], modality: str, piece: Piece
) -> NDArray[np.float64]:
    """What the linear part of a session says at the end of every sample, (time, dim).

    Raises:
        ValueError: The session has none.
    """
    if piece.session not in parts:
        raise ValueError(
            f"session {piece.session!r} has no linear part, only {list(parts)} have: with "
            "linear_skip a session is decoded after fit, partial_fit or adapt with its y"
        )
    x = torch.from_numpy(piece.x)[None]
    z = parts[piece.session]({modality: x}, {modality: ~x.isnan()})
    return np.asarray(z[0].numpy())
