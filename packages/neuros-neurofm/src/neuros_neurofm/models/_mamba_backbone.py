"""Residual stack of Mamba blocks."""

from collections.abc import Sequence

from torch import Tensor, nn

from neuros_neurofm.models import _mamba2
from neuros_neurofm.models._mamba_block import MambaBlock
from neuros_neurofm.models._mamba_kernels import check_backend
from neuros_neurofm.models._mamba_packing import MambaState, check_input, check_states
from neuros_neurofm.models.mamba_fractional import FractionalMambaBlock
from neuros_neurofm.ops._validation import check_positive

__all__: list[str] = []


class MambaBackbone(nn.Module):
    r"""Residual stack of Mamba blocks, $x \leftarrow x + \mathrm{Mamba}_i(\mathrm{RMSNorm}_i(x))$.

    The blocks are reachable as `mamba_0`, `mamba_1`, ..., their norms as `norm_0`, `norm_1`, ...
    The output is the residual stream; it is not normalised.

    Args:
        d_model: features of the input and output.
        n_blocks: number of blocks.
        version: 2 or 1, the blocks are then `MambaBlock`s, which describe the arguments below; or
            "fractional" for `FractionalMambaBlock`s, learned exponents and all other choices at
            their defaults.
        d_state: latent size of the state; None: 64 for version 2, 16 otherwise.
        d_conv: samples that each convolution sees.
        expand: `d_inner = expand * d_model`.
        headdim: features per head (version 2 and "fractional").
        ngroups: groups of heads that share B and C (version 2).
        chunk_size: steps per chunk of the scan (version 2).
        backend: "auto", "torch" or "cuda" (version 2).
        bidirectional: whether every block also reads backwards.

    Raises:
        ValueError: If a size does not fit another, or a choice does not go with the version.
        RuntimeError: If `backend="cuda"` and the kernels cannot be imported.

    Examples:
        >>> import torch
        >>> backbone = MambaBackbone(16, 2, headdim=8, d_state=4)
        >>> y, state = backbone(torch.zeros(3, 5, 16), return_state=True)
        >>> y.shape, len(state)
        (torch.Size([3, 5, 16]), 2)

    References:
        Gu, A., & Dao, T. (2023). Mamba: linear-time sequence modeling with selective state spaces.
        arXiv:2312.00752.

        Dao, T., & Gu, A. (2024). Transformers are SSMs: generalized models and efficient
        algorithms through structured state space duality. ICML. arXiv:2405.21060.
    """

    def __init__(
        self,
        d_model: int,
        n_blocks: int,
        *,
        version: int | str = 2,
        d_state: int | None = None,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        ngroups: int = 1,
        chunk_size: int = 64,
        backend: str = "auto",
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        check_positive("n_blocks", n_blocks)
        _check_version(version, ngroups, backend)
        self.d_model = d_model
        self.n_blocks = n_blocks
        for index in range(n_blocks):
            block: MambaBlock | FractionalMambaBlock
            if isinstance(version, str):
                block = FractionalMambaBlock(
                    d_model,
                    16 if d_state is None else d_state,
                    d_conv=d_conv,
                    expand=expand,
                    headdim=headdim,
                    bidirectional=bidirectional,
                )
            else:
                block = MambaBlock(
                    d_model,
                    version=version,
                    d_state=d_state,
                    d_conv=d_conv,
                    expand=expand,
                    headdim=headdim,
                    ngroups=ngroups,
                    chunk_size=chunk_size,
                    backend=backend,
                    bidirectional=bidirectional,
                )
            self.add_module(f"norm_{index}", _mamba2.GroupedRMSNorm(d_model))
            self.add_module(f"mamba_{index}", block)

    @property
    def blocks(self) -> tuple[MambaBlock | FractionalMambaBlock, ...]:
        """The blocks, first to last."""
        found = (self.get_submodule(f"mamba_{index}") for index in range(self.n_blocks))
        return tuple(b for b in found if isinstance(b, MambaBlock | FractionalMambaBlock))

    def init_state(self, batch: int) -> tuple[MambaState, ...]:
        """The states before the first step, one per block.

        Args:
            batch: number of rows.

        Returns:
            One state per block.

        Examples:
            >>> len(MambaBackbone(16, 3, headdim=8).init_state(2))
            3
        """
        return tuple(block.init_state(batch) for block in self.blocks)

    def forward(
        self,
        x: Tensor,
        *,
        state: Sequence[MambaState] | None = None,
        return_state: bool = False,
        seq_idx: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, tuple[MambaState, ...]]:
        """Run a sequence, or the next piece of one, through all blocks.

        Args:
            x: input (batch, time, d_model).
            state: what an earlier piece returned; None: the beginning.
            return_state: whether to return the states after the last step too.
            seq_idx: integers (batch, time); see `MambaBlock.forward`.
            mask: bool (batch, time), True = valid; the output of the other steps is zero.

        Returns:
            The output (batch, time, d_model); with `return_state` also one state per block.

        Raises:
            ValueError: If a shape or the number of states does not fit.
            TypeError: If an argument has the wrong type.
        """
        check_input(x, self.d_model, seq_idx, mask)
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0)
        if state is not None:
            check_states(state, self.n_blocks)
        states = [None] * self.n_blocks if state is None else state
        after: list[MambaState] = []
        for index, (block, before) in enumerate(zip(self.blocks, states, strict=True)):
            normed = self.get_submodule(f"norm_{index}")(x)
            if return_state:
                y, reached = block(
                    normed, state=before, return_state=True, seq_idx=seq_idx, mask=mask
                )
                after.append(reached)
            else:
                y = block(normed, state=before, seq_idx=seq_idx, mask=mask)
            x = x + y
        return (x, tuple(after)) if return_state else x

    def step(
        self, x_t: Tensor, state: Sequence[MambaState]
    ) -> tuple[Tensor, tuple[MambaState, ...]]:
        """One sample of a stream through all blocks.

        Args:
            x_t: input (batch, d_model).
            state: one state per block.

        Returns:
            The output (batch, d_model) and the states after it.

        Raises:
            ValueError: If a shape or the number of states does not fit.
            TypeError: If an argument has the wrong type.

        Examples:
            >>> import torch
            >>> backbone = MambaBackbone(16, 2, headdim=8)
            >>> y, state = backbone.step(torch.zeros(1, 16), backbone.init_state(1))
            >>> y.shape
            torch.Size([1, 16])
        """
        check_states(state, self.n_blocks)
        after = []
        for index, (block, before) in enumerate(zip(self.blocks, state, strict=True)):
            y, reached = block.step(self.get_submodule(f"norm_{index}")(x_t), before)
            after.append(reached)
            x_t = x_t + y
        return x_t, tuple(after)


def _check_version(version: int | str, ngroups: int, backend: str) -> None:
    """Raise for an unknown version, or a choice that only version 2 has."""
    if version not in {1, 2, "fractional"}:
        raise ValueError(f"version needs to be 1, 2 or 'fractional', got {version!r}")
    if version != 2 and ngroups != 1:
        raise ValueError(f"ngroups = {ngroups} needs version=2, got version={version!r}")
    check_backend(backend, version)
