"""A Mamba-like block whose memory decays as a power of time instead of exponentially."""

import math
from typing import Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from neuros_neurofm.models._fractional_memory import (
    Modes,
    after_piece,
    convolve_packed,
    first_segment,
    read_past,
)
from neuros_neurofm.models._mamba2 import GroupedRMSNorm, working_dtype
from neuros_neurofm.models._mamba_packing import (
    MambaState,
    Packing,
    check_input,
    check_state,
    enter,
    last_seq_idx,
    pack,
    pack_inputs,
    pack_seq_idx,
    packed_conv_state,
    unpack_outputs,
)
from neuros_neurofm.ops import causal_conv1d
from neuros_neurofm.ops._fft_conv import causal_fft_conv
from neuros_neurofm.ops._fractional import check_method, fractional_kernel, lag_modes, mode_rates
from neuros_neurofm.ops._validation import check_positive, check_tensor

__all__ = ["FractionalMambaBlock"]


class FractionalMambaBlock(nn.Module):
    r"""Mamba block with a power-law memory: an input fades as $t^{-\alpha}$.

    Input projection, causal convolution, SiLU; then every head maps its features to `d_state`
    memory channels $u = B^\top x$, integrates each of them fractionally,
    $m_t = \sum_{j \le t} w_j u_{t-j}$, and reads $y = C^\top m + D x$; gate, normalisation and
    output projection as in Mamba-2. White noise comes out of the memory with a spectrum
    $1 / f^{2(1-\alpha)}$.

    A sequence that starts afresh is convolved with the exact kernel. `step`, and a piece that
    continues from a state, hear the past through `n_modes` exponentials per memory channel, whose
    relative error over `horizon` samples is about 1e-7 with 32 modes
    ($0.1 \le \alpha \le 0.95$); inputs older than the horizon fade exponentially there.

    Args:
        d_model: features of the input and output.
        d_state: memory channels per head.
        alpha: exponent of the decay, between 0 and 1 (to begin with, where it is learned).
        learnable_alpha: whether `alpha` is a parameter.
        method: "gl" (Gruenwald-Letnikov weights) or "power" (the sampled power law).
        n_modes: exponentials per memory channel in the carried state.
        horizon: samples over which the exponentials follow the kernel.
        d_conv: samples that the convolution sees.
        expand: `d_inner = expand * d_model`.
        headdim: features per head; it divides `d_inner`.

    Raises:
        ValueError: If `alpha` is not between 0 and 1, `method` is unknown, or a size does not fit.

    Examples:
        The kernel of the block, and one step of a stream.

        >>> import torch
        >>> block = FractionalMambaBlock(16, d_state=4, alpha=0.5, headdim=8)
        >>> block.compute_kernel(3).tolist()
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
        d_inner = expand * d_model
        if d_inner % headdim:
            raise ValueError(
                f"headdim needs to divide d_inner = expand * d_model = {d_inner}, got {headdim}"
            )
        self.d_model, self.d_inner, self.d_state, self.d_conv = d_model, d_inner, d_state, d_conv
        self.heads, self.headdim = d_inner // headdim, headdim
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
        self.norm = GroupedRMSNorm(d_inner)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

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
        """Weights of the memory for the current `alpha`.

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
        kernel = fractional_kernel(self.alpha, seq_len, self.method)
        return kernel.to(working_dtype(self.in_proj.weight))

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
        weight = self.in_proj.weight
        conv, ssm = self._state_shapes(batch)
        return MambaState(
            conv=weight.new_zeros(conv, dtype=working_dtype(weight)),
            ssm=weight.new_zeros(ssm, dtype=working_dtype(weight)),
        )

    @overload
    def forward(
        self,
        x: Tensor,
        *,
        state: MambaState | None = ...,
        return_state: Literal[False] = ...,
        seq_idx: Tensor | None = ...,
        mask: Tensor | None = ...,
    ) -> Tensor: ...
    @overload
    def forward(
        self,
        x: Tensor,
        *,
        state: MambaState | None = ...,
        return_state: Literal[True],
        seq_idx: Tensor | None = ...,
        mask: Tensor | None = ...,
    ) -> tuple[Tensor, MambaState]: ...
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
            ValueError: If a shape does not fit.
            TypeError: If an argument has the wrong type.
        """
        check_input(x, self.d_model, seq_idx, mask)
        fresh = state is None
        if state is None:
            state = self.init_state(x.shape[0])
        else:
            check_state(state, *self._state_shapes(x.shape[0]))
        packing = None
        if mask is not None:
            packing = pack(mask)
            x = pack_inputs(x, packing)
            seq_idx = None if seq_idx is None else pack_seq_idx(seq_idx, packing)
        if seq_idx is not None:
            state = enter(state, seq_idx, packing)
        projected = self.in_proj(x)
        with torch.autocast(x.device.type, enabled=False):
            y, conv, u = self._mix(projected, state, fresh=fresh, seq_idx=seq_idx, packing=packing)
        y = self.out_proj(y.to(projected.dtype))
        if packing is not None:
            y = unpack_outputs(y, packing)
        if not return_state:
            return y
        with torch.autocast(x.device.type, enabled=False):
            ssm = after_piece(state.ssm, u, self._rates(u), seq_idx=seq_idx, packing=packing)
        return y, MambaState(conv, ssm, last_seq_idx(state, seq_idx, packing))

    def step(self, x_t: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        """One sample of a stream, in constant time and memory.

        Args:
            x_t: input (batch, d_model).
            state: from `init_state`, an earlier `step`, or `forward` with `return_state`.

        Returns:
            The output (batch, d_model) and the state after it.

        Raises:
            ValueError: If a shape does not fit.
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
        check_tensor("x_t", x_t, 2, "(batch, d_model)")
        if x_t.shape[1] != self.d_model:
            raise ValueError(
                f"x_t needs d_model = {self.d_model} features on its last axis, got {x_t.shape[1]}"
            )
        check_state(state, *self._state_shapes(x_t.shape[0]))
        # One row of a product costs less than autocast's casts of the weights at every step.
        x_t = x_t.to(self.in_proj.weight.dtype)
        with torch.autocast(x_t.device.type, enabled=False):
            projected = self.in_proj(x_t)
            z, conv_in = projected.to(working_dtype(projected)).chunk(2, -1)
            window = torch.cat([state.conv, conv_in.unsqueeze(-1)], -1)
            mixed = torch.linalg.vecdot(window, self.conv1d.weight[:, 0].to(z.dtype))
            if self.conv1d.bias is not None:
                mixed = mixed + self.conv1d.bias.to(z.dtype)
            features = functional.silu(mixed).unsqueeze(1)
            u = self._write(features)
            modes = self._modes(u)
            # A slow mode's decay, 1 - 1e-6, has two digits left in float32; its loss keeps seven.
            loss = state.ssm * torch.expm1(-modes.rates)
            ssm = state.ssm + (loss + u.transpose(1, 2))
            y = self._read((ssm @ modes.weights).unsqueeze(1), features, z.unsqueeze(1))
            y_t = self.out_proj(y.squeeze(1).to(projected.dtype))
        return y_t, MambaState(window[..., 1:], ssm, state.seq_idx)

    def _state_shapes(self, batch: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        conv = (batch, self.d_inner, self.d_conv - 1)
        return conv, (batch, self.heads * self.d_state, self.n_modes)

    def _mix(
        self,
        projected: Float[Tensor, "batch time feature"],
        state: MambaState,
        *,
        fresh: bool,
        seq_idx: Int[Tensor, "batch time"] | None,
        packing: Packing | None,
    ) -> tuple[
        Float[Tensor, "batch time inner"],
        Float[Tensor, "batch inner lags"],
        Float[Tensor, "batch time channel"],
    ]:
        """Normalised output, state of the convolution, and what entered the memory."""
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
        if not fresh:
            reaches = None if seq_idx is None else first_segment(seq_idx)
            m = m + read_past(state.ssm, self._modes(u), u.shape[1], reaches)
        return self._read(m, features, z), conv_state, u

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
        """Fractional integral of every memory channel, by the exact kernel."""
        if not u.shape[1]:
            return u
        kernel = self.compute_kernel(u.shape[1]).to(u.dtype)
        if seq_idx is None:
            return causal_fft_conv(u, kernel)
        return convolve_packed(u, kernel, seq_idx)

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

    def _rates(self, like: Tensor) -> Float[Tensor, " mode"]:
        rates = mode_rates(self.n_modes, self.horizon)
        return torch.as_tensor(rates, dtype=like.dtype, device=like.device)

    def _modes(self, like: Tensor) -> Modes:
        """Exponentials for the current kernel, in the dtype of `like`."""
        alpha = self.alpha
        weights, rates = lag_modes(alpha, self.method, self.n_modes, self.horizon)
        if self.method == "power":
            weights = weights * torch.exp(-torch.lgamma(1 - alpha))
        return Modes(weights.to(like.dtype), rates.to(like.dtype))
