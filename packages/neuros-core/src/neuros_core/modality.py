"""The kinds of neural recording and the species they come from."""

from enum import StrEnum

__all__ = ["Modality", "Species"]


class _OrderedStrEnum(StrEnum):
    """Strings with a number: `id` is the position in the order of definition."""

    id: int

    def __init__(self, _label: str) -> None:
        self.id = len(type(self).__members__)


class Modality(_OrderedStrEnum):
    """Kind of neural recording; `id` is its place in the fixed order, as models number them.

    Examples:
        >>> Modality("ecog").id, [str(m) for m in Modality][:3]
        (5, ['spike', 'lfp', 'calcium'])
    """

    SPIKE = "spike"
    LFP = "lfp"
    CALCIUM = "calcium"
    EEG = "eeg"
    FMRI = "fmri"
    ECOG = "ecog"
    EMG = "emg"


class Species(_OrderedStrEnum):
    """Species of a recorded subject; `id` is what a batch holds under `species`.

    Examples:
        >>> Species("mouse"), Species.MOUSE.id
        (<Species.MOUSE: 'mouse'>, 2)
    """

    HUMAN = "human"
    MACAQUE = "macaque"
    MOUSE = "mouse"
    RAT = "rat"
    WORM = "worm"
    INSECT = "insect"
    OTHER = "other"
