"""Parameters of a latent circuit that keep their signs and zeros under any optimiser."""

import torch
from torch import Tensor, nn

from neuros_mechint.circuits._latent_weights import Constraint

__all__ = ["LatentRecurrence", "shown"]


class LatentRecurrence(nn.Module):
    """Recurrent and input weights, by the names that `nn.RNN` gives them.

    The parameters stand for the weights that their constraints make of them, and the forward pass
    computes with those. Before a parameter is shown, it is set to the weight that it stands for,
    which changes nothing that is computed.
    """

    def __init__(self, w_rec: Tensor, w_in: Tensor, rec: Constraint, inp: Constraint) -> None:
        super().__init__()
        self.recurrent, self.input = nn.Parameter(w_rec), nn.Parameter(w_in)
        for name, tensor in (("rec_mask", rec.mask), ("rec_sign", rec.sign)):
            self.register_buffer(name, tensor, persistent=False)
        for name, tensor in (("in_mask", inp.mask), ("in_sign", inp.sign)):
            self.register_buffer(name, tensor, persistent=False)

    rec_mask: Tensor
    rec_sign: Tensor
    in_mask: Tensor
    in_sign: Tensor

    def effective(self) -> tuple[Tensor, Tensor]:
        """The weights of the forward pass, with their graph."""
        rec = Constraint(self.rec_mask, self.rec_sign).apply(self.recurrent)
        return rec, Constraint(self.in_mask, self.in_sign).apply(self.input)

    @property
    def weight_hh_l0(self) -> Tensor:
        """Recurrent weights, (latent, latent)."""
        return shown(self.recurrent, Constraint(self.rec_mask, self.rec_sign))

    @property
    def weight_ih_l0(self) -> Tensor:
        """Input weights, (latent, inputs)."""
        return shown(self.input, Constraint(self.in_mask, self.in_sign))


def shown(parameter: Tensor, constraint: Constraint) -> Tensor:
    """The parameter, after it was set to the weight that it stands for."""
    weight = constraint.apply(parameter.detach())
    if not torch.equal(weight, parameter.detach()):
        parameter.data.copy_(weight)
    return parameter
