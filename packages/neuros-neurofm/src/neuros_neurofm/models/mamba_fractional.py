"""A Mamba-like block whose memory decays as a power of time instead of exponentially."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from neuros_neurofm.models._fractional_memory import (
    Modes,
    after_piece,
    convolve,
    convolve_packed,
    first_segment,
    read_past,
)
from neuros_neurofm.models._mamba2 import GroupedRMSNorm, count_heads
from neuros_neurofm.models._mamba_directions import read_backwards, refuse_state, refuse_step
from neuros_neurofm.models._mamba_packing import (
    MambaState,
    Piece,
    StateShapes,
    check_input,
    check_state,
    check_step_input,
    close_piece,
    open_piece,
    packed_conv_state,
    step_convolution,
    without_autocast,
    working_dtype,
    zero_state,
)
from neuros_neurofm.ops import causal_conv1d
from neuros_neurofm.ops._fractional import check_method, lag_modes, mode_kernel
from neuros_neurofm.ops._validation import check_positive

__all__ = ["FractionalMambaBlock"]


class FractionalMambaBlock(nn.Module):
    r"""Mamba block with a power-law memory: an input fades as $t^{-\alpha}$.

    Input projection, causal convolution, SiLU; then every head maps its features to `d_state`
    memory channels $u = B^\top x$, integrates each of them fractionally,
    $m_t = \sum_{j \le t} w_j u_{t-j}$, and reads $y = C^\top m + D x$; gate, normalisation and
    output projection as in Mamba-2. White noise comes out of the memory with a spectrum
    $1 / f^{2(1-\alpha)}$.

    The weights $w_j$ of the block are a sum of `n_modes` exponentials, fitted to those of
    `fractional_kernel`: so `step` carries a state of fixed size and still equals `forward`, and
    pieces of any length equal one run. With 32 modes and $0.1 \le \alpha \le 0.99$ the weights are
    off by less than 2e-7 of themselves over `horizon` samples (16 modes: 2e-3); beyond it they
    fall short of the power law, by 2 % at three times the horizon, and fade exponentially in the
    end.

    Args:
        d_model: features of the input and output.
        d_state: memory channels per head.
        alpha: exponent of the decay, between 0 and 1 (to begin with, where it is learned).
        learnable_alpha: whether `alpha` is a parameter.
        method: "gl" (Gruenwald-Letnikov weights) or "power" (the sampled power law).
        n_modes: exponentials per memory channel in the carried state.
        horizon: samples over which the exponentials follow the power law.
        d_conv: samples that the convolution sees.
        expand: `d_inner = expand * d_model`.
        headdim: features per head; it divides `d_inner`.
        bidirectional: whether a second block, of its own weights (`reverse`), reads the sequence
            backwards; the output is the mean of both. There is then no state and no `step`.

    Raises:
        ValueError: If `alpha` is not between 0 and 1, `method` is unknown, or a size does not fit.

    Examples:
        The kernel of the block, and one step of a stream.

        >>> import torch
        >>> block = FractionalMambaBlock(16, d_state=4, alpha=0.5, headdim=8)
        >>> block.compute_kernel(3).round(decimals=4).tolist()
        [1.0, 0.5, 0.375]
        >>> y, state = block.step(torch.zeros(3, 16), block.init_state(3))
        >>> y.shape
        torch.Size([3, 16])

    References:
        Podlubny, I. (1999). Fractional differential equations. Academic Press, chapter 7.

        Gu, A., & Dao, T. (2023). Mamba: linear-time sequence modeling with selective state spaces.
        arXiv:2312.00752.
    """

    alpha_logit: Tensor
    fixed_modes: Tensor | None

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        alpha: float = 0.8,
        learnable_alpha: bool = True,  # noqa: FBT001, FBT002  # position fixed by the published signature
        *,
        method: str = "gl",
        n_modes: int = 32,
        horizon: int = 10_000,
        d_conv: int = 4,
        expand: int = 2,
        headdim: int = 64,
        bidirectional: bool = False,
    ) -> None:
        super().__init__()
        sizes = {
            "d_model": d_model,
            "d_state": d_state,
            "n_modes": n_modes,
            "horizon": horizon,
            "d_conv": d_conv,
            "expand": expand,
            "headdim": headdim,
        }
        for name, value in sizes.items():
            check_positive(name, value)
        check_method(method)
        if not 0 < alpha < 1:
            raise ValueError(f"alpha needs 0 < alpha < 1, got {alpha}")
        self.heads = count_heads(d_model, expand=expand, headdim=headdim)
        self.headdim, d_inner = headdim, expand * d_model
        self.d_model, self.d_inner, self.d_state, self.d_conv = d_model, d_inner, d_state, d_conv
        self.method, self.n_modes, self.horizon = method, n_modes, horizon
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        # Unit variance in gives unit variance out of either map.
        self.B = nn.Parameter(torch.randn(self.heads, headdim, d_state) / math.sqrt(headdim))
        self.C = nn.Parameter(torch.randn(self.heads, d_state, headdim) / math.sqrt(d_state))
        self.D = nn.Parameter(torch.ones(d_inner))
        logit = torch.tensor(math.log(alpha / (1 - alpha)))
        if learnable_alpha:
            self.alpha_logit = nn.Parameter(logit)
            vars(self.alpha_logit)["_no_weight_decay"] = True
        else:
            self.register_buffer("alpha_logit", logit)
        vars(self.D)["_no_weight_decay"] = True
        self.register_buffer("fixed_modes", None, persistent=False)
        self.norm = GroupedRMSNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)
        self.reverse: FractionalMambaBlock | None = None
        if bidirectional:
            self.reverse = FractionalMambaBlock(
                d_model,
                d_state,
                alpha,
                learnable_alpha,
                method=method,
                n_modes=n_modes,
                horizon=horizon,
                d_conv=d_conv,
                expand=expand,
                headdim=headdim,
            )

    def extra_repr(self) -> str:
        """Sizes and choices."""
        return (
            f"{self.d_model}, d_state={self.d_state}, alpha={float(self.alpha.detach()):.4g}, "
            f"method={self.method!r}, n_modes={self.n_modes}, horizon={self.horizon}, "
            f"d_conv={self.d_conv}, heads={self.heads}, headdim={self.headdim}"
        )

    @property
    def alpha(self) -> Tensor:
        """Current exponent of the decay, a number between 0 and 1 in float64 with its gradient."""
        # A sigmoid in float32 is exactly 1 from a logit of 17 on.
        return torch.sigmoid(self.alpha_logit.double())

    def compute_kernel(self, seq_len: int) -> Tensor:
        """Weights of the memory for the current `alpha`, as the block uses them.

        Args:
            seq_len: number of weights, in samples.

        Returns:
            The kernel (lag,), in float32 (float64 for a block in float64).

        Raises:
            ValueError: If `seq_len` is not positive.

        Examples:
            >>> block = FractionalMambaBlock(32, alpha=0.5, method="power")
            >>> kernel = block.compute_kernel(100).detach()
            >>> round(float(kernel[0] / kernel[99]), 4)
            10.0
        """
        check_positive("seq_len", seq_len)
        return mode_kernel(*self._modes(), seq_len).to(working_dtype(self.in_proj.weight))

    def fix_modes(self) -> None:
        """Keep the exponentials of the current `alpha`, whatever becomes of it.

        They are fitted to its value, which a program of `torch.export` cannot do.
        """
        # Non-persistent: a function of alpha, not a parameter.
        self.fixed_modes = torch.stack(self._modes()).detach()

    def init_state(self, batch: int) -> MambaState:
        """The state before the first step: zeros, on the device of the parameters.

        Args:
            batch: number of rows.

        Returns:
            The state, in float32 (float64 for a block in float64); its `ssm` is
            (batch, heads * d_state, n_modes).

        Examples:
            >>> FractionalMambaBlock(32, d_state=4).init_state(3).ssm.shape
            torch.Size([3, 4, 32])
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
            seq_idx: integers (batch, time); where they change, convolution and memory start
                afresh, as if the sequences were run one by one. A state knows the sequence it
                ended in; one from a run without `seq_idx` belongs to the first step's.
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
            >>> block = FractionalMambaBlock(32)
            >>> x = torch.randn(1, 5, 32)
            >>> _, state = block(x[:, :4], return_state=True)
            >>> y, _ = block.step(x[:, 4], state)
            >>> torch.allclose(y, block(x)[:, 4], atol=1e-5)
            True
        """
        check_step_input(x_t, self.d_model)
        if self.reverse is not None:
            refuse_step()
        check_state(state, self._state_shapes(x_t.shape[0]))
        # One row of a product costs less than autocast's casts of the weights at every step.
        x_t = x_t.to(self.in_proj.weight.dtype)
        with without_autocast(x_t):
            projected = self.in_proj(x_t)
            z, conv_in = projected.to(working_dtype(projected)).chunk(2, -1)
            mixed, conv_state = step_convolution(state.conv, conv_in, self.conv1d)
            features = mixed.unsqueeze(1)
            u = self._write(features)
            modes = self._modes().to(u.dtype)
            # A slow mode's decay, 1 - 1e-6, has two digits left in float32; its loss keeps seven.
            loss = state.ssm * torch.expm1(-modes.rates)
            ssm = state.ssm + (loss + u.transpose(1, 2))
            y = self._read((ssm @ modes.weights).unsqueeze(1), features, z.unsqueeze(1))
            y_t = self.out_proj(y.squeeze(1).to(projected.dtype))
        return y_t, MambaState(conv_state, ssm, state.seq_idx)

    def _state_shapes(self, batch: int) -> StateShapes:
        conv = (batch, self.d_inner, self.d_conv - 1)
        return StateShapes(conv, (batch, self.heads * self.d_state, self.n_modes))

    def _run(
        self,
        x: Tensor,
        seq_idx: Tensor | None,
        mask: Tensor | None,
        state: MambaState | None = None,
    ) -> tuple[Tensor, MambaState]:
        fresh = state is None
        if state is None:
            state = self.init_state(x.shape[0])
        else:
            check_state(state, self._state_shapes(x.shape[0]))
        piece = open_piece(x, state, seq_idx, mask)
        projected = self.in_proj(piece.x)
        with torch.autocast(x.device.type, enabled=False):
            y, after = self._mix(projected, piece, fresh=fresh)
        return close_piece(self.out_proj(y.to(projected.dtype)), after, piece)

    def _mix(
        self, projected: Float[Tensor, "batch time feature"], piece: Piece, *, fresh: bool
    ) -> tuple[Float[Tensor, "batch time inner"], MambaState]:
        """Normalised output and the state after it, its `seq_idx` not set."""
        _, state, seq_idx, packing = piece
        z, conv_in = projected.to(working_dtype(projected)).chunk(2, -1)
        bias = self.conv1d.bias
        mixed, conv_state = causal_conv1d(
            conv_in.transpose(1, 2),
            self.conv1d.weight[:, 0].to(z.dtype),
            None if bias is None else bias.to(z.dtype),
            activation="silu",
            initial_state=state.conv,
            return_final_state=True,
            seq_idx=seq_idx,
        )
        if packing is not None:
            conv_state = packed_conv_state(state.conv, conv_in, seq_idx, packing)
        features = mixed.transpose(1, 2)
        u = self._write(features)
        m = self._remember(u, seq_idx)
        modes = self._modes().to(u.dtype)
        if not fresh:
            reaches = None if seq_idx is None else first_segment(seq_idx)
            m = m + read_past(state.ssm, modes, u.shape[1], reaches)
        ssm = after_piece(state.ssm, u, modes.rates, seq_idx=seq_idx, packing=packing)
        return self._read(m, features, z), MambaState(conv_state, ssm)

    def _write(
        self, features: Float[Tensor, "batch time inner"]
    ) -> Float[Tensor, "batch time channel"]:
        heads = features.reshape(*features.shape[:2], self.heads, self.headdim)
        return torch.einsum("blhp,hpn->blhn", heads, self.B.to(features.dtype)).flatten(2)

    def _remember(
        self,
        u: Float[Tensor, "batch time channel"],
        seq_idx: Int[Tensor, "batch time"] | None,
    ) -> Float[Tensor, "batch time channel"]:
        """Fractional integral of every memory channel over the piece."""
        if seq_idx is None:
            return convolve(u, self._modes())
        return convolve_packed(u, self._modes(), seq_idx)

    def _read(
        self,
        m: Float[Tensor, "batch time channel"],
        features: Float[Tensor, "batch time inner"],
        z: Float[Tensor, "batch time inner"],
    ) -> Float[Tensor, "batch time inner"]:
        memory = m.reshape(*m.shape[:2], self.heads, self.d_state)
        y = torch.einsum("blhn,hnp->blhp", memory, self.C.to(m.dtype)).flatten(2)
        y = torch.addcmul(y, features, self.D.to(m.dtype)) * functional.silu(z)
        normed: Tensor = self.norm(y)
        return normed

    def _modes(self) -> Modes:
        """Exponentials whose sum is the current kernel, in float64."""
        if self.fixed_modes is not None:
            return Modes(*self.fixed_modes.unbind())
        alpha = self.alpha
        weights, rates = lag_modes(alpha, self.method, self.n_modes, self.horizon)
        if self.method == "power":
            weights = weights * torch.exp(-torch.lgamma(1 - alpha))
        return Modes(weights, rates)
