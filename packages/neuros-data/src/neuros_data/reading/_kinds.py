"""What a channel records, from its type or its name."""

import re
from collections.abc import Sequence

from neuros_core import Modality
from neuros_data.reading._draft import listed

# Types of BIDS (`channels.tsv`) and of MNE, and the words that channel names begin with.
KINDS = {
    "eeg": "eeg",
    "ecog": "ecog",
    "seeg": "lfp",
    "dbs": "lfp",
    "lfp": "lfp",
    "emg": "emg",
    "eog": "eog",
    "heog": "eog",
    "veog": "eog",
    "ecg": "ecg",
    "ekg": "ecg",
    "misc": "misc",
    "audio": "misc",
    "other": "misc",
    "ref": "misc",
    "trig": "stim",
    "stim": "stim",
    "status": "stim",
    "trigger": "stim",
    "resp": "resp",
    "gsr": "gsr",
    "eda": "gsr",
    "ppg": "ppg",
    "pupil": "pupil",
    "temp": "temperature",
    "temperature": "temperature",
    "mag": "meg",
    "grad": "meg",
}
_WORD = re.compile(r"([A-Za-z]+)(?:[ _\-.:]|\d|$)")
_TEN_FIVE = re.compile(
    r"(N|FP|AFP|AF|AFF|F|FFC|FFT|FT|FTT|FC|FCC|T|TTP|TP|TPP|C|CCP|CP|CPP|P|PPO|PO|POO|O|OI|I)"
    r"(Z|\d{1,2}H?)|[AM][12]",
    re.IGNORECASE,
)


def kind_of_type(kind: str) -> str:
    """The kind that a file's own type names, `"misc"` where the type is unknown."""
    return KINDS.get(kind.strip().lower(), "misc")


def kind_of_name(name: str) -> str:
    """The kind that a channel's name begins with, `""` where it does not say."""
    word = _WORD.match(name.strip())
    return KINDS.get(word[1].lower(), "") if word else ""


def is_scalp_site(name: str) -> bool:
    """Whether a name is a place of the 10-20, 10-10 or 10-05 system, such as `Fc5.` or `Cz-REF`."""
    site = re.split(r"[-\s]", name.strip().rstrip("."), maxsplit=1)[0].rstrip(".")
    return _TEN_FIVE.fullmatch(site) is not None


def settle_kinds(
    kinds: Sequence[str], names: Sequence[str], modality: Modality | None, path: str
) -> list[str]:
    """Give every channel a kind: the file's, else `modality`, else what the names tell.

    Raises:
        ValueError: When neither says what some channels record.
    """
    open_names = [name for kind, name in zip(kinds, names, strict=True) if not kind]
    if not open_names:
        return list(kinds)
    fallback = str(modality) if modality is not None else ""
    if not fallback and 2 * sum(map(is_scalp_site, open_names)) >= len(open_names):
        fallback = str(Modality.EEG)
    if not fallback:
        raise ValueError(
            f"{path} does not say what these channels record: {listed(open_names)}; pass "
            f"modality= one of {listed([str(m) for m in Modality])}"
        )
    return [kind or fallback for kind in kinds]
