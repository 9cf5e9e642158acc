"""Spike-timing-dependent plasticity of pairs and triplets."""

from typing import Literal, NamedTuple, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from neuros_mechint._arrays import Number, compute_dtype, one_of
from neuros_mechint._numbers import positive
from neuros_mechint.biophysical._arguments import check_finite, floating
from neuros_mechint.biophysical._decay import decayed, latest, shifted
from neuros_mechint.biophysical._events import binary_events

__all__ = ["STDP"]

Rule: TypeAlias = Literal["pair", "triplet"]
Interaction: TypeAlias = Literal["all", "nearest"]

_PAIR = {"A_plus": 0.01, "A_minus": 0.012, "tau_plus": 20.0, "tau_minus": 20.0}
# Visual cortex, all to all, the least set of parameters (Pfister & Gerstner 2006, table 4).
_TRIPLET = {
    "A_plus": 0.0, "A_minus": 7.1e-3, "tau_plus": 16.8, "tau_minus": 33.7, "A3_plus": 6.5e-3,
    "A3_minus": 0.0, "tau_x": 101.0, "tau_y": 114.0,
}  # fmt: skip


# Steps whose pairs are summed by the window itself.
_CHUNK = 32


class _Drive(NamedTuple):
    """Two factors (..., time, n) whose outer product changes the weights."""

    post: Tensor
    pre: Tensor


class STDP:
    r"""Change of weights by the times of spikes before and after the synapse.

    A pair with $\Delta = t_\mathrm{post} - t_\mathrm{pre}$ changes the weight by
    $A_+ e^{-\Delta/\tau_+}$ for $\Delta > 0$, by $-A_- e^{\Delta/\tau_-}$ for $\Delta < 0$ and not
    at all for $\Delta = 0$. The triplet rule adds to $A_+$ the trace of earlier postsynaptic
    spikes times $A_3^+$, and to $A_-$ that of earlier presynaptic spikes times $A_3^-$.

    Args:
        A_plus: Potentiation by a pair; None takes 0.01, or 0 for triplets.
        A_minus: Depression by a pair; None takes 0.012, or 0.0071.
        tau_plus: Time constant of potentiation, ms; None takes 20, or 16.8.
        tau_minus: Time constant of depression, ms; None takes 20, or 33.7.
        w_min: Least weight.
        w_max: Largest weight.
        mu: Exponent of the dependence on the weight: with w scaled to 0 ... 1, potentiation is
            times $(1 - w)^\mu$ and depression times $w^\mu$.
        rule: `"pair"`, or `"triplet"` with the values for visual cortex.
        interaction: `"all"` pairs, or `"nearest"`: a spike meets the last one of the other side.
        A3_plus: Potentiation by a triplet; None takes 0.0065. Only with `rule="triplet"`, as are
            the next three.
        A3_minus: Depression by a triplet; None takes 0.
        tau_x: Time constant of earlier presynaptic spikes, ms; None takes 101.
        tau_y: Time constant of earlier postsynaptic spikes, ms; None takes 114.

    Raises:
        ValueError: When a time constant is not positive, an amplitude or mu is negative, w_max is
            not above w_min, or a number of triplets is given to the pair rule.

    Examples:
        >>> rule = STDP()
        >>> [round(value, 5) for value in rule.window(torch.tensor([-20.0, 0.0, 20.0])).tolist()]
        [-0.00441, 0.0, 0.00368]
        >>> pre, post = torch.tensor([[1.0], [0.0]]), torch.tensor([[0.0], [1.0]])
        >>> torch.equal(rule.compute(pre, post, dt=20.0), rule.window(torch.tensor([[20.0]])))
        True

    References:
        Morrison, Diesmann & Gerstner (2008), Biological Cybernetics 98, 459-478.
            doi:10.1007/s00422-008-0233-1
        Gütig, Aharonov, Rotter & Sompolinsky (2003), Journal of Neuroscience 23, 3697-3714.
            doi:10.1523/JNEUROSCI.23-09-03697.2003
        Pfister & Gerstner (2006), Journal of Neuroscience 26, 9673-9682.
            doi:10.1523/JNEUROSCI.1425-06.2006
    """

    def __init__(
        self,
        *,
        A_plus: Number | None = None,
        A_minus: Number | None = None,
        tau_plus: Number | None = None,
        tau_minus: Number | None = None,
        w_min: Number = 0.0,
        w_max: Number = 1.0,
        mu: Number = 0.0,
        rule: Rule = "pair",
        interaction: Interaction = "all",
        A3_plus: Number | None = None,
        A3_minus: Number | None = None,
        tau_x: Number | None = None,
        tau_y: Number | None = None,
    ) -> None:
        one_of("rule", rule, get_args(Rule))
        one_of("interaction", interaction, get_args(Interaction))
        given = {
            "A_plus": A_plus, "A_minus": A_minus, "tau_plus": tau_plus, "tau_minus": tau_minus,
            "A3_plus": A3_plus, "A3_minus": A3_minus, "tau_x": tau_x, "tau_y": tau_y,
        }  # fmt: skip
        defaults = _PAIR if rule == "pair" else _TRIPLET
        extra = [
            name for name, value in given.items() if value is not None and name not in defaults
        ]
        if extra:
            raise ValueError(f"{', '.join(extra)} belong to rule='triplet', got rule={rule!r}")
        # The pair rule is the triplet rule without triplets.
        found = {**_TRIPLET, "A3_plus": 0.0, **defaults}
        found |= {name: float(value) for name, value in given.items() if value is not None}
        positive({name: found[name] for name in found if name.startswith("tau")})
        positive({name: found[name] for name in found if name.startswith("A")}, zero=True)
        positive({"mu": mu}, zero=True)
        if not w_min < w_max:
            raise ValueError(f"w_max must be above w_min, got {w_max} and {w_min}")
        self.A_plus, self.A_minus = found["A_plus"], found["A_minus"]
        self.tau_plus, self.tau_minus = found["tau_plus"], found["tau_minus"]
        self.A3_plus, self.A3_minus = found["A3_plus"], found["A3_minus"]
        self.tau_x, self.tau_y = found["tau_x"], found["tau_y"]
        self.w_min, self.w_max, self.mu = float(w_min), float(w_max), float(mu)
        self.rule: Rule = rule
        self.interaction: Interaction = interaction

    def __repr__(self) -> str:
        return (
            f"STDP(A_plus={self.A_plus:g}, A_minus={self.A_minus:g}, tau_plus={self.tau_plus:g}, "
            f"tau_minus={self.tau_minus:g}, mu={self.mu:g}, rule={self.rule!r}, "
            f"interaction={self.interaction!r})"
        )

    def window(self, delta_t: Tensor) -> Tensor:
        """Change of a weight by one pair.

        Args:
            delta_t: Time of the postsynaptic spike less that of the presynaptic one, ms.

        Returns:
            The change, shaped as delta_t.

        Raises:
            TypeError: When delta_t is not a floating tensor.
        """
        floating("delta_t", delta_t)
        late = self.A_plus * (-delta_t.clamp(min=0) / self.tau_plus).exp()
        early = self.A_minus * (delta_t.clamp(max=0) / self.tau_minus).exp()
        return torch.where(delta_t > 0, late, torch.where(delta_t < 0, -early, 0.0))

    def compute(self, pre: Tensor, post: Tensor, dt: float = 1.0) -> Tensor:
        """Change of all weights by whole spike trains, without bounds.

        Args:
            pre: Spikes before the synapses, 0 or 1, (..., time, n_pre).
            post: Spikes after them, 0 or 1, (..., time, n_post).
            dt: Length of a step, ms.

        Returns:
            The sum over all pairs or triplets, (..., n_post, n_pre), in the dtype of pre.

        Raises:
            TypeError: When spikes are not floating tensors.
            ValueError: When they are not 0 or 1 or differ in time, or dt is not positive.
        """
        x, y = _pair(pre, post, dt)
        if self.rule == "pair" and self.interaction == "all":
            return self._all_pairs(x, y, dt).to(pre.dtype)
        up, down = self._drives(x, y, dt)
        change = up.post.mT @ up.pre - down.post.mT @ down.pre
        return change.to(pre.dtype)

    def forward(self, W: Tensor, pre: Tensor, post: Tensor, dt: float = 1.0) -> Tensor:
        """Weights after spike trains, changed step by step and held between the bounds.

        Args:
            W: Weights (..., n_post, n_pre).
            pre: Spikes before the synapses, 0 or 1, (..., time, n_pre).
            post: Spikes after them, 0 or 1, (..., time, n_post).
            dt: Length of a step, ms.

        Returns:
            The new weights in the dtype of W, which is left as it is.

        Raises:
            TypeError: When an argument is not a floating tensor.
            ValueError: When shapes do not fit, spikes are not 0 or 1, a weight is out of bounds, or
                dt is not positive.
        """
        x, y = _pair(pre, post, dt)
        floating("W", W)
        check_finite("W", W)
        w = W.to(compute_dtype(W.dtype))
        if w.shape[-2:] != (y.shape[-1], x.shape[-1]):
            raise ValueError(
                f"W must be (..., n_post={y.shape[-1]}, n_pre={x.shape[-1]}), got shape "
                f"{tuple(W.shape)}"
            )
        low, high = (float(bound) for bound in w.detach().aminmax())
        if low < self.w_min or high > self.w_max:
            raise ValueError(
                f"W must lie between w_min={self.w_min:g} and w_max={self.w_max:g}, got "
                f"{low:g} to {high:g}"
            )
        parts = [part.to(w).unbind(-2) for drive in self._drives(x, y, dt) for part in drive]
        for post_up, pre_up, post_down, pre_down in zip(*parts, strict=True):
            up = post_up.unsqueeze(-1) * pre_up.unsqueeze(-2)
            down = post_down.unsqueeze(-1) * pre_down.unsqueeze(-2)
            if self.mu:
                share = (w - self.w_min) / (self.w_max - self.w_min)
                up, down = up * (1 - share) ** self.mu, down * share**self.mu
            w = (w + up - down).clamp(self.w_min, self.w_max)
        return w.to(W.dtype)

    __call__ = forward

    def _all_pairs(
        self, x: Float[Tensor, "*batch time pre"], y: Float[Tensor, "*batch time post"], dt: float
    ) -> Float[Tensor, "*batch post pre"]:
        """The sum over pairs: the window within chunks, and traces from chunk to chunk."""
        n_chunks = -(-x.shape[-2] // _CHUNK)
        pad = (0, 0, 0, n_chunks * _CHUNK - x.shape[-2])
        xs, ys = (torch.unflatten(functional.pad(z, pad), -2, (n_chunks, _CHUNK)) for z in (x, y))
        steps = dt * torch.arange(_CHUNK, dtype=x.dtype, device=x.device)
        # What leaves a chunk for later ones, and what of it is left at each step of a later one.
        taus = steps.new_tensor([[self.tau_plus], [self.tau_minus]])
        leaving, arriving = ((steps - _CHUNK * dt) / taus).exp(), (-steps / taus).exp()
        near = self.window(steps[:, None] - steps) @ xs
        change = ys.flatten(-3, -2).mT @ near.flatten(-3, -2)
        sent, read = (torch.stack([leaving[0], arriving[1]]) @ xs).unbind(-2)
        heard, fired = (torch.stack([arriving[0], leaving[1]]) @ ys).unbind(-2)
        rates = _CHUNK * dt / taus
        late = shifted(decayed(sent, rates[0, 0]))
        early = shifted(decayed(fired, rates[1, 0]))
        return change + self.A_plus * heard.mT @ late - self.A_minus * early.mT @ read

    def _drives(
        self, x: Float[Tensor, "*batch time pre"], y: Float[Tensor, "*batch time post"], dt: float
    ) -> tuple[_Drive, _Drive]:
        """What potentiates and what depresses, as factors of the two sides."""
        up = self._before(x, self.tau_plus, dt)
        down = self._before(y, self.tau_minus, dt)
        late, early = self.A_plus * y, self.A_minus * x
        if self.A3_plus:
            late = late + self.A3_plus * y * self._before(y, self.tau_y, dt)
        if self.A3_minus:
            early = early + self.A3_minus * x * self._before(x, self.tau_x, dt)
        return _Drive(late, up), _Drive(down, early)

    def _before(
        self, spikes: Float[Tensor, "*batch time unit"], tau: float, dt: float
    ) -> Float[Tensor, "*batch time unit"]:
        """The trace of the spikes before each step."""
        rate = torch.tensor(dt / tau, dtype=spikes.dtype, device=spikes.device)
        trace = decayed if self.interaction == "all" else latest
        return (-rate).exp() * shifted(trace(spikes, rate))


def _pair(pre: Tensor, post: Tensor, dt: float) -> tuple[Tensor, Tensor]:
    x, y = binary_events("pre", pre, dt), binary_events("post", post, dt)
    if x.shape[:-1] != y.shape[:-1]:
        raise ValueError(
            f"pre and post must share (..., time), got {tuple(pre.shape)} and {tuple(post.shape)}"
        )
    return x, y.to(x)
