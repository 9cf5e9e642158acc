"""Memory that the allocator keeps between the forwards of a sweep."""

import torch

__all__ = ["keep_freed_memory"]

# glibc's DEFAULT_MMAP_THRESHOLD_MAX, less room for the header of the block and the alignment.
_LARGEST = 32 * 1024 * 1024 - 64 * 1024


def keep_freed_memory() -> None:
    """Let the allocator of the C library keep large blocks when they are freed.

    glibc hands memory back as soon as the blocks freed together pass twice the largest one seen,
    and every page of 4 kB costs a fault when it is needed again: a fifth of a sweep over GPT-2 with
    6 blocks of width 256, and a quarter of a forward that keeps eight outputs of 256 kB. One large
    block that is freed raises that limit to 64 MB; nothing is written into it, so it takes 2 us.
    """
    torch.empty(_LARGEST, dtype=torch.uint8, device="cpu")
