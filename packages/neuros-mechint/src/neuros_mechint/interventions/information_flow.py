"""What flows through each layer between a baseline and an input."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from neuros_mechint.activations import Site, SiteLike
from neuros_mechint.activations._state import preserved
from neuros_mechint.activations.site import as_site
from neuros_mechint.attribution._conductance import conductances
from neuros_mechint.attribution._line import draw_line
from neuros_mechint.attribution._target import Target

__all__ = ["InformationFlow"]


class InformationFlow:
    r"""Conductance of the units of many layers, all from one pass.

    On the straight line from the baseline to the input,

    $$c_h = \sum_k w_k \, \frac{\partial F}{\partial h} \, \frac{d h}{d t} \Big|_{t_k}$$

    with Gauss-Legendre nodes $t_k$. The forward carries the derivatives of all activations along
    the line, one backward pass gives the gradients at all sites. At every cut of the model, a set
    of sites through which everything passes, the conductances add up to $F(x) - F(x')$.

    Args:
        model: Any module, used in the mode it is in; call `model.eval()` first. Its functions need
            forward-mode derivatives, which nearly all of torch's have.
        start: Site from which the line starts, such as the embedding of a model of tokens; None
            means every floating-point tensor of the inputs.
        batch_size: Most rows in one forward; two copies of the input run in any case.

    Examples:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()
        >>> x, zeros = torch.ones(1, 3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64)
        >>> flow = InformationFlow(net).compute(x, zeros, 0, ["0", "1", "2"])
        >>> rise = (net(x) - net(zeros)).item()
        >>> [abs(c.sum().item() - rise) < 1e-12 for c in flow.values()]
        [True, True, True]

    References:
        Dhamdhere, K., Sundararajan, M. & Yan, Q. (2019). How important is a neuron? ICLR.
        doi:10.48550/arXiv.1805.12233
    """

    def __init__(
        self, model: nn.Module, *, start: SiteLike | None = None, batch_size: int = 512
    ) -> None:
        self.model = model
        self.start = start
        self.batch_size = batch_size

    def __repr__(self) -> str:
        return f"InformationFlow({type(self.model).__name__}, batch_size={self.batch_size})"

    def compute(
        self,
        inputs: Any,
        baseline: Any,
        target: Target,
        sites: SiteLike | Iterable[SiteLike],
        steps: int = 64,
        *,
        tol: float | None = None,
        max_steps: int = 20_000,
    ) -> dict[Site, Tensor]:
        """Return the conductance of every unit of every site.

        Args:
            inputs: A tuple of positional arguments, a mapping whose every key names a parameter of
                the forward, or else the one argument; tensors are (batch, ...).
            baseline: The inputs to compare with, in the form of `inputs`, tensors broadcast; a
                number sets every floating-point tensor to it, and None is 0.
            target: What to explain: an index or a tuple of indices into each row of the output, a
                tensor with one index per row, a function of the output, or None for an output of
                one number per row.
            sites: Where to measure.
            steps: Quadrature nodes.
            tol: Largest gap per row at every cut: the nodes are those at which integrated gradients
                of the start of the line reach it. None takes `steps` nodes, which serve a smooth
                model.
            max_steps: Points per row after which the refinement for `tol` ends, with a warning.

        Returns:
            Site -> conductance, in the shape of the site's activation; a site that was reached
            several times has one entry `site@k` per call.

        Raises:
            KeyError: When a path names no module.
            RuntimeError: When a site was not reached.
            ValueError: When there is no site, a site does not carry the batch, or inputs, baseline
                and target do not fit.

        Warns:
            RuntimeWarning: When `max_steps` ended the refinement above `tol`.

        Examples:
            >>> import torch
            >>> net = nn.Sequential(nn.Identity(), nn.Linear(2, 1, bias=False))
            >>> _ = nn.init.ones_(net[1].weight)
            >>> x = torch.tensor([[3.0, 1.0]])
            >>> InformationFlow(net).compute(x, 0.0, None, "0")[Site("0")]
            tensor([[3., 1.]])
        """
        given = [sites] if isinstance(sites, (str, Site, nn.Module)) else sites
        found = list(dict.fromkeys(as_site(self.model, like) for like in given))
        if not found:
            raise ValueError("at least one site is needed to measure a flow, got none")
        with preserved(self.model):
            line = draw_line(
                *(self.model, inputs, baseline),
                site=self.start,
                target=target,
                batch_size=self.batch_size,
            )
            flow = conductances(line, found, steps=steps, tol=tol, max_steps=max_steps)
        return flow.values
