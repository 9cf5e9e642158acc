"""One Mamba block: parameters by version, state, masks and packed sequences."""

from torch import Tensor, nn

from neuros_neurofm.models import _mamba1, _mamba2
from neuros_neurofm.models._mamba_directions import read_backwards, refuse_state, refuse_step
from neuros_neurofm.models._mamba_kernels import check_backend
from neuros_neurofm.models._mamba_packing import (
    MambaState,
    StateShapes,
    check_input,
    check_state,
    check_step_input,
    close_piece,
    open_piece,
    without_autocast,
    zero_state,
)
from neuros_neurofm.ops._validation import check_positive

__all__: list[str] = []


class MambaBlock(nn.Module):
    r"""Mamba block: projection, causal convolution, selective scan, gate, projection.

    State-dict keys and shapes are those of `mamba_ssm.Mamba2` or `mamba_ssm.Mamba` (and of the
    mixers of `transformers`), so weights load in both directions with `strict=True`. A sequence may
    be run in pieces of any length: pass the returned state to the next call, or call `step` sample
    by sample.

    Args:
        d_model: features of the input and output.
        version: 2, one decay per head, computed as matrix products; or 1, one decay per feature
            and latent, computed step by step.
        d_state: latent size of the state per feature; None: 64 (version 2) or 16 (version 1).
        d_conv: samples that the convolution sees.
        expand: `d_inner = expand * d_model`.
        headdim: version 2: features per head; it divides `d_inner`.
        ngroups: version 2: groups of heads that share B and C; it divides the number of heads.
        chunk_size: version 2: steps per chunk; it changes speed and memory, not the numbers.
        backend: "torch"; "cuda" for the kernels of `mamba-ssm` (version 2); "auto" for the kernels
            where they can be imported and every tensor is on a CUDA device.
        bidirectional: whether a second block, of its own weights (`reverse`), reads the sequence
            backwards; the output is the mean of both. There is then no state and no `step`.

    Raises:
        ValueError: If a size does not fit another, or version 1 is given `backend="cuda"`.
        RuntimeError: If `backend="cuda"` and the kernels cannot be imported.

    Examples:
        Two pieces of a sequence, the second from the state of the first, equal one run.

        >>> import torch
        >>> block = MambaBlock(16, headdim=8, d_state=4)
        >>> x = torch.randn(2, 7, 16)
        >>> first, state = block(x[:, :3], return_state=True)
        >>> rest = block(x[:, 3:], state=state)
        >>> torch.allclose(torch.cat([first, rest], 1), block(x), atol=1e-5)
        True

    References:
        Gu, A., & Dao, T. (2023). Mamba: linear-time sequence modeling with selective state spaces.
        arXiv:2312.00752.

        Dao, T., & Gu, A. (2024). Transformers are SSMs: generalized models and efficient
        algorithms through structured state space duality. ICML. arXiv:2405.21060.
    """

    # Registered by name, so that the state dict has the keys of the reference implementations.
    in_proj: nn.Linear
    conv1d: nn.Conv1d
    A_log: nn.Parameter
    D: nn.Parameter
    out_proj: nn.Linear
    dt_bias: nn.Parameter  # version 2
    norm: _mamba2.GroupedRMSNorm  # version 2
    x_proj: nn.Linear  # version 1
    dt_proj: nn.Linear  # version 1

    def __init__(
        self,
        d_model: int,
        *,
        version: int = 2,
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
        if version not in {1, 2}:
            raise ValueError(f"version needs to be 1 or 2, got {version!r}")
        if version == 1 and ngroups != 1:
            raise ValueError(f"ngroups = {ngroups} needs version=2, got version=1")
        if d_state is None:
            d_state = 16 if version == 1 else 64
        self.sizes = _sizes(
            d_model,
            version=version,
            d_state=d_state,
            d_conv=d_conv,
            expand=expand,
            headdim=headdim,
            ngroups=ngroups,
            chunk_size=chunk_size,
        )
        check_backend(backend, version)
        self.d_model = d_model
        self.chunk_size = chunk_size
        self.backend = backend
        parts = (
            _mamba1.make_parts(d_model, self.sizes)
            if isinstance(self.sizes, _mamba1.Mamba1Sizes)
            else _mamba2.make_parts(d_model, self.sizes)
        )
        for name, part in parts._asdict().items():
            setattr(self, name, part)
            if isinstance(part, nn.Parameter):
                # Read by optimisers that build parameter groups, as in mamba_ssm.
                vars(part)["_no_weight_decay"] = True
        self.reverse: MambaBlock | None = None
        if bidirectional:
            self.reverse = MambaBlock(
                d_model,
                version=version,
                d_state=d_state,
                d_conv=d_conv,
                expand=expand,
                headdim=headdim,
                ngroups=ngroups,
                chunk_size=chunk_size,
                backend=backend,
            )

    def extra_repr(self) -> str:
        """Sizes and choices."""
        sizes = self.sizes
        start = f"{self.d_model}, d_state={sizes.d_state}, d_conv={sizes.d_conv}, "
        if isinstance(sizes, _mamba1.Mamba1Sizes):
            return f"{start}version=1, dt_rank={sizes.dt_rank}"
        return (
            f"{start}heads={sizes.heads}, headdim={sizes.headdim}, ngroups={sizes.groups}, "
            f"chunk_size={self.chunk_size}, backend={self.backend!r}"
        )

    def init_state(self, batch: int) -> MambaState:
        """The state before the first step: zeros, on the device of the parameters.

        Args:
            batch: number of rows.

        Returns:
            The state, in float32 (float64 for a block in float64).

        Examples:
            >>> MambaBlock(16, headdim=8, d_state=4).init_state(3).ssm.shape
            torch.Size([3, 4, 8, 4])
        """
        return zero_state(self.in_proj.weight, self._state_shapes(batch))

    def forward(
        self,
        x: Tensor,
        *,
        state: MambaState | None = None,
        return_state: bool = False,
        seq_idx: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, MambaState]:
        """Run a sequence, or the next piece of one.

        Args:
            x: input (batch, time, d_model).
            state: what an earlier piece returned; None: the beginning.
            return_state: whether to return the state after the last step too.
            seq_idx: integers (batch, time); where they change, convolution and scan start afresh,
                as if the sequences were run one by one. A state knows the sequence it ended in;
                one from a run without `seq_idx` belongs to the first step's.
            mask: bool (batch, time), True = valid. The other steps are skipped: they change
                neither state, and their output is zero.

        Returns:
            The output (batch, time, d_model); with `return_state` also the state.

        Raises:
            ValueError: If a shape does not fit, or a state is asked of a bidirectional block.
            TypeError: If an argument has the wrong type.
        """
        check_input(x, self.d_model, seq_idx, mask)
        if self.reverse is not None:
            refuse_state(state, return_state=return_state)
            ahead, _ = self._run(x, seq_idx, mask)
            return (ahead + read_backwards(self.reverse, x, seq_idx, mask)) / 2
        y, after = self._run(x, seq_idx, mask, state)
        return (y, after) if return_state else y

    def step(self, x_t: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """One sample of a stream, in constant time and memory.

        Args:
            x_t: input (batch, d_model).
            state: from `init_state`, an earlier `step`, or `forward` with `return_state`.

        Returns:
            The output (batch, d_model) and the state after it.

        Raises:
            ValueError: If a shape does not fit, or the block is bidirectional.
            TypeError: If an argument has the wrong type.

        Examples:
            >>> import torch
            >>> block = MambaBlock(16, headdim=8, d_state=4)
            >>> y, state = block.step(torch.zeros(3, 16), block.init_state(3))
            >>> y.shape
            torch.Size([3, 16])
        """
        check_step_input(x_t, self.d_model)
        if self.reverse is not None:
            refuse_step()
        check_state(state, self._state_shapes(x_t.shape[0]))
        # One row of a product costs less than autocast's casts of the weights at every step.
        x_t = x_t.to(self.in_proj.weight.dtype)
        with without_autocast(x_t):
            if isinstance(self.sizes, _mamba1.Mamba1Sizes):
                return _mamba1.step(self._parts_of_version_1(), self.sizes, x_t, state)
            return _mamba2.step(self._parts_of_version_2(), self.sizes, x_t, state)

    def _state_shapes(self, batch: int) -> StateShapes:
        conv, ssm = self.sizes.state_shapes
        return StateShapes((batch, *conv), (batch, *ssm))

    def _parts_of_version_1(self) -> _mamba1.Mamba1Parts:
        return _mamba1.Mamba1Parts(
            in_proj=self.in_proj,
            conv1d=self.conv1d,
            x_proj=self.x_proj,
            dt_proj=self.dt_proj,
            A_log=self.A_log,
            D=self.D,
            out_proj=self.out_proj,
        )

    def _parts_of_version_2(self) -> _mamba2.Mamba2Parts:
        return _mamba2.Mamba2Parts(
            in_proj=self.in_proj,
            conv1d=self.conv1d,
            dt_bias=self.dt_bias,
            A_log=self.A_log,
            D=self.D,
            norm=self.norm,
            out_proj=self.out_proj,
        )

    def _run(
        self,
        x: Tensor,
        seq_idx: Tensor | None,
        mask: Tensor | None,
        state: MambaState | None = None,
    ) -> tuple[Tensor, MambaState]:
        if state is None:
            state = self.init_state(x.shape[0])
        else:
            check_state(state, self._state_shapes(x.shape[0]))
        piece = open_piece(x, state, seq_idx, mask)
        if isinstance(self.sizes, _mamba1.Mamba1Sizes):
            y, after = _mamba1.mix(self._parts_of_version_1(), self.sizes, piece)
        else:
            y, after = _mamba2.mix(
                self._parts_of_version_2(),
                self.sizes,
                piece,
                chunk_size=self.chunk_size,
                backend=self.backend,
            )
        return close_piece(y, after, piece)


def _sizes(
    d_model: int,
    *,
    version: int,
    d_state: int,
    d_conv: int,
    expand: int,
    headdim: int,
    ngroups: int,
    chunk_size: int,
) -> _mamba1.Mamba1Sizes | _mamba2.Mamba2Sizes:
    given = {
        "d_model": d_model,
        "d_state": d_state,
        "d_conv": d_conv,
        "expand": expand,
        "headdim": headdim,
        "ngroups": ngroups,
        "chunk_size": chunk_size,
    }
    for name, value in given.items():
        check_positive(name, value)
    if version == 1:
        return _mamba1.sizes_of(d_model, d_state=d_state, d_conv=d_conv, expand=expand)
    heads = _mamba2.count_heads(d_model, expand=expand, headdim=headdim)
    if heads % ngroups:
        raise ValueError(
            f"ngroups needs to divide the number of heads = d_inner / headdim = {heads}, "
            f"got {ngroups}"
        )
    return _mamba2.Mamba2Sizes(heads * headdim, heads, headdim, ngroups, d_state, d_conv)
