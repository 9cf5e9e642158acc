"""Changes of a coder's parameters that training makes between steps."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from neuros_mechint.sae._coder import Coder, per_column
from neuros_mechint.sae._geometry import unit_rows

__all__ = ["restart", "set_scales", "set_unit_norms"]


@torch.no_grad()
def set_scales(
    coder: Coder, inputs: Float[Tensor, "parts"], outputs: Float[Tensor, "outs"]
) -> None:
    """Change the units of training; what the coder computes in raw units stays the same."""
    old_in, old_out = (scale.clone() for scale in coder.scales)
    before = coder.feature_scale.clone()
    coder.input_scale.copy_(inputs)
    if not coder.autoencodes:
        coder.output_scale.copy_(outputs)
    features = coder.feature_scale / before
    grow_in = per_column(coder.scales[0] / old_in, coder.in_widths)
    grow_out = per_column(coder.scales[1] / old_out, coder.out_widths)
    coder.W_enc.mul_(features / grow_in)
    coder.W_dec.mul_(grow_out / features)
    coder.b_dec.mul_(grow_out)
    for name in {"b_enc", "b_mag", "threshold"} & set(coder.state_dict()):
        getattr(coder, name).mul_(features)
    if coder.activation == "jumprelu":
        coder.log_threshold.add_(features.log())


@torch.no_grad()
def set_unit_norms(coder: Coder) -> None:
    """Give every direction unit norm; features grow by what the directions lose."""
    norms = torch.linalg.vector_norm(coder.W_dec, dim=1).clamp_min(1e-30)
    coder.W_dec.div_(norms[:, None])
    coder.W_enc.mul_(norms[:, None])
    for name in {"b_enc", "b_mag"} & set(coder.state_dict()):
        getattr(coder, name).mul_(norms)
    if coder.activation == "jumprelu":
        coder.log_threshold.add_(norms.log())


@torch.no_grad()
def restart(
    coder: Coder,
    which: Int[Tensor, "some"],
    inputs: Float[Tensor, "some n_in"],
    outputs: Float[Tensor, "some n_out"],
) -> None:
    """Start features anew at given encoder rows and along given directions."""
    coder.W_dec[which] = unit_rows(outputs)
    coder.W_enc[which] = inputs
    coder.b_enc[which] = 0
    if coder.activation == "gated":
        coder.log_gain[which] = 0
        coder.b_mag[which] = 0
    if coder.activation == "jumprelu":
        coder.log_threshold[which] = math.log(coder.bandwidth)
