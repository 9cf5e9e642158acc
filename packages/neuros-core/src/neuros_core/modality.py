"""The kinds of neural recording and the species they come from."""

from enum import StrEnum

__all__ = ["Modality", "Species"]


class Modality(StrEnum):
    """Kind of neural recording, in the fixed order of the model's modality ids.

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

    @property
    def id(self) -> int:
        """Position in the fixed order: 0 for spikes, 6 for EMG."""
        return list(Modality).index(self)


class Species(StrEnum):
    """Species of a recorded subject, at the resolution that domain adaptation uses.

    Examples:
        >>> Species("mouse")
        <Species.MOUSE: 'mouse'>
    """

    HUMAN = "human"
    MACAQUE = "macaque"
    MOUSE = "mouse"
    RAT = "rat"
    WORM = "worm"
    INSECT = "insect"
    OTHER = "other"
