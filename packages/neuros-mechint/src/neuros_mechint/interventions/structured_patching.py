"""Patchers that find their sites by the structure of the model."""

from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from neuros_mechint.activations import Site, SiteLike
from neuros_mechint.activations.site import find_module
from neuros_mechint.interventions import _structure
from neuros_mechint.interventions._parts import Parts
from neuros_mechint.interventions.patching import ActivationPatcher

__all__ = ["AttentionPatcher", "MLPPatcher", "ResidualStreamPatcher"]


class ResidualStreamPatcher(ActivationPatcher):
    """Patch the residual stream after each block.

    The blocks are the longest `ModuleList` or `Sequential` of equal types, and the stream after a
    block is its output. Everything later depends on the corrupted input through that stream alone,
    so the patch of all of it recovers the metric completely; where it does not, the outputs are not
    the stream. The input of a norm inside a block is not: what the block adds to goes around it.

    Args:
        model: Any module.
        sites: Places to use instead of the outputs of the blocks.
        batch_size: Most rows in one forward of a sweep.

    Raises:
        KeyError: When a module given in `sites` is not one of the model.
        ValueError: When the model has no list of equal blocks, or `batch_size` is not positive.

    Examples:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> patcher = ResidualStreamPatcher(net)
        >>> [str(site) for site in patcher.sites]
        ['0', '1']
        >>> clean, corrupted = torch.ones(1, 2), torch.zeros(1, 2)
        >>> table = patcher.systematic_patching(None, clean, corrupted, lambda y: y[:, 0])
        >>> table["recovery"].tolist()
        [1.0, 1.0]
    """

    def __init__(
        self, model: nn.Module, *, sites: Iterable[SiteLike] | None = None, batch_size: int = 64
    ) -> None:
        found = _structure.blocks(model) if sites is None else sites
        super().__init__(model, sites=found, batch_size=batch_size)


class AttentionPatcher(ActivationPatcher):
    r"""Patch what each attention or state-space mixer writes, or its heads one at a time.

    Attentions are modules called `attn`, `attention`, `mixer`, `ssm` or `mamba` inside the blocks.
    A layer is the output of one. In a sweep over `heads` it is the input of its output projection,
    of which every head owns an equal part, $y = \sum_h W_h z_h + b$: patching all heads is patching
    the output.

    Args:
        model: Any module.
        sites: Attentions to use instead; one given as an input (`"0.project:in"`) is used for heads
            as it is.
        n_heads: Number of heads; None reads it from the configuration or the attention.
        batch_size: Most rows in one forward of a sweep.

    Raises:
        KeyError: When a module given in `sites` is not one of the model.
        ValueError: When nothing looks like an attention, or `n_heads` or `batch_size` is not
            positive.

    Examples:
        >>> import torch
        >>> net = nn.Sequential(nn.Identity(), nn.Linear(4, 1, bias=False))
        >>> _ = nn.init.ones_(net[1].weight)
        >>> patcher = AttentionPatcher(net, sites=["1:in"], n_heads=2)
        >>> clean, corrupted = torch.tensor([[1.0, 2.0, 0.0, 1.0]]), torch.zeros(1, 4)
        >>> table = patcher.systematic_patching(
        ...     None, clean, corrupted, lambda y: y[:, 0], heads=[0, 1]
        ... )
        >>> table["recovery"].tolist()
        [0.75, 0.25]
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        sites: Iterable[SiteLike] | None = None,
        n_heads: int | None = None,
        batch_size: int = 64,
    ) -> None:
        found = _structure.parts(model, "attention") if sites is None else sites
        count = _structure.n_heads(model) if n_heads is None else n_heads
        super().__init__(model, sites=found, n_heads=count, batch_size=batch_size)

    def head_site(self, layer: SiteLike | int, head: int) -> Site:
        """Site of one head: its part of the input of the output projection.

        Args:
            layer: Number of the layer, or an attention.
            head: Number of the head, counted from 0.

        Returns:
            A site with an index, for `patch`, `run` and every edit.

        Raises:
            KeyError: When a path names no module.
            ValueError: When the number of heads or the output projection is not known, the heads do
                not divide its width, or there is no such layer or head.

        Examples:
            >>> net = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
            >>> str(AttentionPatcher(net, sites=["1:in"], n_heads=3).head_site(0, 2))
            '1:in[..., 4:6]'
        """
        site = self._inside(self._site(layer))
        if self.n_heads is None:
            raise ValueError("the number of heads is not known; give it with n_heads=...")
        width = _structure.width_of_input(find_module(self.model, site))
        if width is None or width % self.n_heads or not 0 <= head < self.n_heads:
            raise ValueError(
                f"head {head} of {self.n_heads} does not exist at site '{site}' of width {width}"
            )
        size = width // self.n_heads
        return replace(site, index=(..., slice(head * size, (head + 1) * size)))

    def _divided(self, site: Site, parts: Parts) -> Site:
        return self._inside(site) if "head" in parts.axes else site

    def _inside(self, site: Site) -> Site:
        """Where the heads of a layer lie side by side."""
        if site.io == "input":
            return site
        path = _structure.output_projection(self.model, site.path)
        return Site(path, io="input", call=site.call)


class MLPPatcher(ActivationPatcher):
    """Patch what each MLP writes, or its hidden units one at a time.

    MLPs are modules called `mlp`, `ffn` or `feed_forward` inside the blocks. A layer is the output
    of one. In a sweep over `neurons` it is the input of its last linear map, the hidden units after
    the activation function.

    Args:
        model: Any module.
        sites: MLPs to use instead; one given as an input (`"0.mlp.2:in"`) is used for neurons as it
            is.
        batch_size: Most rows in one forward of a sweep.

    Raises:
        KeyError: When a module given in `sites` is not one of the model.
        ValueError: When nothing looks like an MLP, or `batch_size` is not positive.

    Examples:
        >>> import torch
        >>> mlp = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1))
        >>> net = nn.Sequential()
        >>> net.add_module("mlp", mlp)
        >>> patcher = MLPPatcher(net)
        >>> table = patcher.systematic_patching(
        ...     None, torch.ones(1, 1), torch.zeros(1, 1), neurons=range(2)
        ... )
        >>> table.index.tolist()
        [('mlp.2:in', 0), ('mlp.2:in', 1)]
    """

    def __init__(
        self, model: nn.Module, *, sites: Iterable[SiteLike] | None = None, batch_size: int = 64
    ) -> None:
        found = _structure.parts(model, "mlp") if sites is None else sites
        super().__init__(model, sites=found, batch_size=batch_size)

    def _divided(self, site: Site, parts: Parts) -> Site:
        if "neuron" not in parts.axes or site.io == "input":
            return site
        path = _structure.hidden_projection(self.model, site.path)
        return Site(path, io="input", call=site.call)
