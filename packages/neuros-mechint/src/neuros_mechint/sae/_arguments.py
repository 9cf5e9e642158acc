"""Arguments of a coder, checked."""

from collections.abc import Sequence
from typing import Literal, get_args

__all__ = ["Activation", "check_jump", "check_sizes", "checked_prefixes"]

Activation = Literal["relu", "topk", "batchtopk", "jumprelu", "gated"]


def check_sizes(
    in_widths: Sequence[int],
    out_widths: Sequence[int],
    *,
    dictionary_size: int,
    sparsity_coefficient: float,
    activation: str,
    k: int | None,
) -> None:
    """Refuse sizes, activations and `k` that make no sense together."""
    if not in_widths or min(*in_widths, *out_widths, dictionary_size, 1) < 1:
        raise ValueError(
            f"widths and dictionary_size need to be at least 1, got "
            f"{[*in_widths, *out_widths]} and {dictionary_size}"
        )
    if activation not in get_args(Activation):
        raise ValueError(f"activation needs one of {get_args(Activation)}, got {activation!r}")
    if not sparsity_coefficient >= 0:
        raise ValueError(
            f"sparsity_coefficient needs a number of at least 0, got {sparsity_coefficient}"
        )
    if (k is None) == (activation in {"topk", "batchtopk"}):
        raise ValueError(
            f"k belongs to the activations topk and batchtopk, got k={k} with {activation!r}"
        )
    if k is not None and not 1 <= k <= dictionary_size:
        raise ValueError(f"k needs 1 <= k <= dictionary_size = {dictionary_size}, got {k}")


def check_jump(activation: str, target_l0: float | None, bandwidth: float) -> None:
    """Refuse settings of the JumpReLU that make no sense."""
    if target_l0 is not None and (activation != "jumprelu" or not target_l0 > 0):
        raise ValueError(
            f"target_l0 needs a number above 0 and the activation jumprelu, got {target_l0} with "
            f"{activation!r}"
        )
    if not bandwidth > 0:
        raise ValueError(f"bandwidth needs a number above 0, got {bandwidth}")


def checked_prefixes(matryoshka: Sequence[int] | None, dictionary_size: int) -> tuple[int, ...]:
    """Prefix sizes of a Matryoshka dictionary; none for a plain one."""
    if matryoshka is None:
        return ()
    sizes = tuple(matryoshka)
    rising = all(a < b for a, b in zip((0, *sizes), sizes, strict=False))
    if not sizes or not rising or sizes[-1] != dictionary_size:
        raise ValueError(
            f"prefix sizes need to rise from above 0 to dictionary_size = {dictionary_size}, got "
            f"{list(sizes)}"
        )
    return sizes
