"""What a model would make of each channel of an input."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

__all__ = ["ChannelStatus", "InputReport"]

Status: TypeAlias = Literal["matched", "inferred", "masked", "rejected"]

_STATUSES: Final = ("matched", "inferred", "masked", "rejected")
_MAX_NAMED: Final = 6


@dataclass(frozen=True, slots=True)
class ChannelStatus:
    """One channel, or a whole stream that is refused before it has channels.

    Attributes:
        modality: Key of the stream in the inputs; "inputs" for a fault of the call as a whole.
        index: Position on the channel axis; None: the whole stream.
        unit: Id of the channel, or None.
        status: "matched": the id is known and has a learned vector. "inferred": the vector comes
            from the statistics of the channel's data. "masked": no sample is valid, the model
            sees nothing of it. "rejected": `forward` raises.
        reason: Why, in words.

    Examples:
        >>> ChannelStatus("spike", 0, "probe0/1", "matched", "the id is known").status
        'matched'
    """

    modality: str
    index: int | None
    unit: str | None
    status: Status
    reason: str


class InputReport:
    """Channel by channel what a call would do; its text is a table.

    Args:
        channels: The channels in the order of the inputs.

    Attributes:
        channels: The channels in the order of the inputs.

    Examples:
        >>> report = InputReport([
        ...     ChannelStatus("spike", 0, "a", "matched", "the id is known"),
        ...     ChannelStatus("spike", 1, None, "rejected", "2 NaN or infinite values"),
        ... ])
        >>> report.accepted, report.counts()["spike"]["matched"]
        (False, 1)
        >>> print(report)
        modality   channels  matched  inferred  masked  rejected
        spike             2        1         0       0         1
        spike matched 1: the id is known (a)
        spike rejected 1: 2 NaN or infinite values (channel 1)
    """

    def __init__(self, channels: Sequence[ChannelStatus]) -> None:
        self.channels = tuple(channels)

    @property
    def accepted(self) -> bool:
        """Whether `forward` would take the inputs."""
        return all(channel.status != "rejected" for channel in self.channels)

    def of(self, status: str) -> tuple[ChannelStatus, ...]:
        """The channels of one status.

        Args:
            status: "matched", "inferred", "masked" or "rejected".

        Returns:
            The channels in the order of the inputs.

        Raises:
            ValueError: an unknown status.

        Examples:
            >>> InputReport([]).of("masked")
            ()
        """
        if status not in _STATUSES:
            raise ValueError(f"status must be one of {list(_STATUSES)}, got {status!r}")
        return tuple(channel for channel in self.channels if channel.status == status)

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of channels per modality and status; a refused stream counts as one.

        Returns:
            {modality: {status: number}} with all four statuses.

        Examples:
            >>> InputReport([]).counts()
            {}
        """
        found: dict[str, Counter[str]] = {}
        for channel in self.channels:
            found.setdefault(channel.modality, Counter())[channel.status] += 1
        return {name: {s: count[s] for s in _STATUSES} for name, count in found.items()}

    def __repr__(self) -> str:
        return f"InputReport({self.counts()})"

    def __str__(self) -> str:
        lines = ["modality   channels  matched  inferred  masked  rejected"]
        for name, count in self.counts().items():
            numbers = "".join(f"{count[s]:>{len(s) + 2}}" for s in _STATUSES)
            lines.append(f"{name:<9}{sum(count.values()):>10}{numbers}")
        groups: dict[tuple[str, Status, str], list[ChannelStatus]] = {}
        for channel in self.channels:
            key = (channel.modality, channel.status, channel.reason)
            groups.setdefault(key, []).append(channel)
        for (modality, status, reason), members in groups.items():
            named = [_label(channel) for channel in members[:_MAX_NAMED]]
            more = len(members) - len(named)
            names = ", ".join(named) + (f" and {more} more" if more else "")
            lines.append(f"{modality} {status} {len(members)}: {reason} ({names})")
        return "\n".join(lines)


def _label(channel: ChannelStatus) -> str:
    if channel.index is None:
        return "the stream"
    return f"channel {channel.index}" if channel.unit is None else channel.unit
