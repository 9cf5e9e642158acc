"""Mean and standard deviation per channel, from training data only, in one streaming pass."""

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from neuros_core.errors import check_choice
from neuros_data._files import HasFiles, StoreFiles
from neuros_data._parts import HasParts, Interval, Intervals, parts_from_dict, sample_range
from neuros_data.errors import LeakageError

__all__ = ["Moments", "Normalizer"]

_ROWS = 16_384
_LOG = logging.getLogger(__name__)


@dataclass
class Moments:
    r"""Running count, mean and sum of squared deviations of each channel.

    Two sets of samples combine as
    $M_2 = M_2^a + M_2^b + (\bar x^b - \bar x^a)^2 \, n^a n^b / (n^a + n^b)$, which loses no
    digits however far the mean is from zero.

    Args:
        count: Valid samples, shape (channel,).
        mean: Their mean, shape (channel,).
        squares: Sum of squared deviations from the mean, shape (channel,).

    References:
        Chan, Golub and LeVeque (1983), Algorithms for computing the sample variance, The American
        Statistician 37, doi:10.1080/00031305.1983.10483115.

    Examples:
        >>> m = Moments.empty(1)
        >>> m.update(np.array([[1.0], [2.0]]))
        >>> m.update(np.array([[6.0]]))
        >>> float(m.mean[0]), float(m.squares[0])
        (3.0, 14.0)
    """

    count: NDArray[np.float64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def empty(cls, n_channels: int) -> "Moments":
        """Start with no sample."""
        return cls(*(np.zeros(n_channels) for _ in range(3)))

    def update(self, x: NDArray[Any], valid: NDArray[np.bool_] | None = None) -> None:
        """Add samples.

        Args:
            x: Samples, shape (time, channel).
            valid: True where a sample counts, shape (time, channel).
        """
        # Where all is valid the sums run as without flags: held-out gaps must not change a bit.
        if valid is None or valid.all():
            data = x.astype(np.float64)
            count = np.full(x.shape[1], float(len(x)))
            mean = data.mean(0)
            data -= mean
        else:
            count = valid.sum(0).astype(np.float64)
            # In double precision before the sum: float32 sums lose digits with every sample.
            data = np.where(valid, x.astype(np.float64), 0.0)
            mean = data.sum(0) / np.maximum(count, 1)
            data = np.where(valid, data - mean, 0.0)
        self.merge(Moments(count, mean, np.einsum("tc,tc->c", data, data)))

    def merge(self, other: "Moments") -> None:
        """Add the samples of another set."""
        total = self.count + other.count
        share = other.count / np.maximum(total, 1)
        step = other.mean - self.mean
        self.squares = self.squares + other.squares + step**2 * self.count * share
        self.mean = self.mean + step * share
        self.count = total


@dataclass(frozen=True)
class Normalizer:
    """Mean and scale of every channel of signals and signal behaviours; spikes stay counts.

    Build one with `Normalizer.fit`.

    Args:
        per: What shares statistics: `"recording"`, `"subject"` or `"global"`.
        names: Modalities and behaviours that are normalised.
        groups: Recording -> the key of its statistics.
        values: Key -> name -> mean and scale, each (channel,).
        constant: Key -> name -> channels without variation (or without a valid sample); their
            scale is 1.
        fitted_on: The part it was fitted on, with its stretches of seconds per recording.
        baseline: Seconds at the start of a recording outside that part that gave its statistics;
            None for none.
    """

    per: str
    names: tuple[str, ...]
    groups: Mapping[str, str]
    values: Mapping[str, Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]]
    constant: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    fitted_on: Mapping[str, Any] = field(default_factory=dict)
    baseline: float | None = None

    @classmethod
    def fit(
        cls,
        store: HasFiles,
        *,
        split: str = "train",
        using: HasParts | str | None = None,
        names: Collection[str] | None = None,
        per: str | None = None,
        baseline: float | None = None,
        allow_leak: bool = False,
    ) -> "Normalizer":
        """Fit on the training part of a split, reading every sample once.

        Args:
            store: The store to read.
            split: Part to fit on; anything but `"train"` needs `allow_leak`, `"all"` reads
                everything.
            using: The split, or the name of a saved one.
            names: Modalities and behaviours to normalise; by default every signal.
            per: `"recording"`, `"subject"` or `"global"` (pooled; recordings must have the same
                channels). By default `"recording"` for splits by time or trial, where every
                recording has training data, and `"global"` for splits by group.
            baseline: Recordings without training data, such as those of unseen subjects, are
                normalised by their own first seconds, this many; needs `per="recording"`, which is
                then the default. A window inside these seconds is normalised by what comes after
                it: for a causal test, begin behind them.
            allow_leak: True permits statistics of held-out data.

        Returns:
            The fitted normaliser.

        Raises:
            LeakageError: When `split` is not `"train"` and `allow_leak` is False.
            ValueError: When pooled recordings disagree in their channels, a name is unknown, or
                `baseline` is not positive or goes with shared statistics.

        Examples:
            >>> import neuros_data
            >>> store = neuros_data.load_sample()
            >>> norm = Normalizer.fit(store, using="time", names=["emg"])
            >>> mean, scale = norm.statistics("emg_bursts", "emg")
            >>> bool(scale[0] > 0)
            True
        """
        if split != "train" and not allow_leak:
            raise LeakageError(
                f"statistics of part {split!r} would leak into training; fit on 'train' or pass "
                "allow_leak=True"
            )
        files = store.files
        by, intervals = _intervals(files, split, using)
        alone = by in ("time", "trial") or baseline is not None
        per = per or ("recording" if alone else "global")
        check_choice("per", per, ("recording", "subject", "global"))
        chosen = _names(files, intervals, names)
        groups = {r: _key(files, r, per) for r in files.ids}
        found = _collect(files, _with_baselines(files, intervals, per, baseline), chosen, groups)
        made = cls._from_moments(
            per, chosen, groups, found, {"split": split, "intervals": intervals}
        )
        return replace(made, baseline=baseline)

    @classmethod
    def _from_moments(
        cls,
        per: str,
        names: tuple[str, ...],
        groups: Mapping[str, str],
        moments: Mapping[str, Mapping[str, "_Pool"]],
        fitted_on: Mapping[str, Any],
    ) -> "Normalizer":
        values: dict[str, dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]] = {}
        constant: dict[str, dict[str, tuple[str, ...]]] = {}
        for key, pools in moments.items():
            values[key] = {}
            for name, pool in pools.items():
                mean, scale, flat = pool.finish()
                values[key][name] = (mean, scale)
                if flat:
                    constant.setdefault(key, {})[name] = flat
                    _LOG.warning(
                        "%s of %s: no variation in %s; their scale is 1", name, key, ", ".join(flat)
                    )
        return cls(per, names, groups, values, constant, fitted_on)

    def statistics(
        self, recording_id: str, name: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
        """Mean and scale, each (channel,), of one signal; None for what is not normalised.

        Raises:
            ValueError: When the recording had no training data of that name.
        """
        if name not in self.names:
            return None
        key = "*" if self.per == "global" else self.groups.get(recording_id, recording_id)
        found = self.values.get(key, {}).get(name)
        if found is None:
            raise ValueError(
                f"the normaliser has no training data of {name!r} for {recording_id!r}; "
                "fit it with per='global' or baseline= to reach recordings outside training"
            )
        return found

    def invert(self, recording_id: str, name: str, values: ArrayLike) -> NDArray[np.float64]:
        """Turn normalised values (..., channel) back into the signal's unit.

        Examples:
            >>> norm = Normalizer("global", ("emg",), {}, {"*": {"emg": (np.ones(1), np.ones(1))}})
            >>> norm.invert("any", "emg", [[2.0]]).tolist()
            [[3.0]]
        """
        plain = np.asarray(values, np.float64)
        found = self.statistics(recording_id, name)
        return plain if found is None else plain * found[1] + found[0]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; floats survive exactly."""
        return {
            "per": self.per,
            "names": list(self.names),
            "groups": dict(self.groups),
            "values": {
                key: {n: [mean.tolist(), scale.tolist()] for n, (mean, scale) in held.items()}
                for key, held in self.values.items()
            },
            "baseline": self.baseline,
            "constant": {k: {n: list(c) for n, c in v.items()} for k, v in self.constant.items()},
            "fitted_on": {
                "split": self.fitted_on["split"],
                "intervals": {
                    r: [list(pair) for pair in pairs]
                    for r, pairs in self.fitted_on["intervals"].items()
                },
            },
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Normalizer":
        """Rebuild a normaliser from `to_dict`."""
        fitted_on = content["fitted_on"]
        return cls(
            per=content["per"],
            names=tuple(content["names"]),
            groups=content["groups"],
            values={
                key: {n: (np.asarray(m), np.asarray(s)) for n, (m, s) in held.items()}
                for key, held in content["values"].items()
            },
            constant={
                k: {n: tuple(c) for n, c in v.items()} for k, v in content["constant"].items()
            },
            fitted_on={
                "split": fitted_on["split"],
                "intervals": parts_from_dict({"parts": {"": fitted_on["intervals"]}})[""],
            },
            baseline=content.get("baseline"),
        )


class _Pool:
    """Moments of one signal over the recordings that share statistics."""

    def __init__(self, part: Mapping[str, Any], name: str) -> None:
        self.channels = tuple(part["channels"])
        self._name = name
        self._moments = Moments.empty(len(self.channels))

    def add(self, part: Mapping[str, Any], moments: Moments) -> None:
        if tuple(part["channels"]) != self.channels:
            raise ValueError(
                f"pooled statistics of {self._name!r} need the same channels in every recording, "
                f"got {len(self.channels)} and {len(part['channels'])} that differ; use "
                "per='recording' or choose recordings"
            )
        # Stored integers are decoded here: an affine map of the moments, not of every sample.
        factor = np.asarray(part.get("scale", 1.0))
        shift = np.asarray(part.get("offset", 0.0))
        self._moments.merge(
            Moments(moments.count, moments.mean * factor + shift, moments.squares * factor**2)
        )

    def finish(self) -> tuple[NDArray[np.float64], NDArray[np.float64], tuple[str, ...]]:
        moments = self._moments
        scale = np.sqrt(moments.squares / np.maximum(moments.count, 1))
        # Samples have 24 bits at least: a relative spread below 1e-10 is rounding of the mean.
        flat = scale <= 1e-10 * np.abs(moments.mean)
        scale = np.where(flat, 1.0, scale)
        names = tuple(c for c, f in zip(self.channels, flat, strict=True) if f)
        return moments.mean, scale, names


def _intervals(
    files: StoreFiles, split: str, using: HasParts | str | None
) -> tuple[str, Intervals]:
    if split == "all":
        return "time", {r: ((0.0, float(files.meta(r)["duration"])),) for r in files.ids}
    if isinstance(using, str):
        content = files.read_split(using)
        return str(content["by"]), parts_from_dict(content)[split]
    if using is None:
        raise ValueError(f"split={split!r} needs `using`: a Split or the name of a saved one")
    return using.by, using.part(split)


def _with_baselines(
    files: StoreFiles, intervals: Intervals, per: str, baseline: float | None
) -> Intervals:
    """The stretches of training, and the first seconds of every recording that has none."""
    if baseline is None:
        return intervals
    if per != "recording" or not 0 < baseline < float("inf"):
        raise ValueError(
            f"baseline needs a positive number of seconds and per='recording', got {baseline} with "
            f"per={per!r}"
        )
    first = {r: min(baseline, float(files.meta(r)["duration"])) for r in files.ids}
    return {**{r: ((0.0, end),) for r, end in first.items()}, **intervals}


def _names(
    files: StoreFiles, intervals: Intervals, names: Collection[str] | None
) -> tuple[str, ...]:
    known = {n for r in intervals for n, _ in _signals(files, r)}
    if names is None:
        return tuple(sorted(known))
    if absent := sorted(set(names) - known):
        raise ValueError(f"no signal called {absent} to normalise; there are {sorted(known)}")
    return tuple(sorted(names))


def _signals(files: StoreFiles, recording_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    meta = files.meta(recording_id)
    for name, part in (*meta["modalities"].items(), *meta["behaviour"].items()):
        if part["kind"] == "signal":
            yield name, part


def _key(files: StoreFiles, recording_id: str, per: str) -> str:
    if per == "global":
        return "*"
    return recording_id if per == "recording" else str(files.meta(recording_id)["subject"])


def _collect(
    files: StoreFiles, intervals: Intervals, names: tuple[str, ...], groups: Mapping[str, str]
) -> dict[str, dict[str, _Pool]]:
    pools: dict[str, dict[str, _Pool]] = {}
    for recording_id, stretches in intervals.items():
        for name, part in _signals(files, recording_id):
            if name in names:
                mine = pools.setdefault(groups[recording_id], {})
                pool = mine.setdefault(name, _Pool(part, name))
                pool.add(part, _moments(files, recording_id, part, stretches))
    return pools


def _moments(
    files: StoreFiles, recording_id: str, part: Mapping[str, Any], stretches: Collection[Interval]
) -> Moments:
    moments = Moments.empty(len(part["channels"]))
    arrays = part["arrays"]
    for stretch in stretches:
        low, high = sample_range(part, stretch, lambda entry: files.array(recording_id, entry))
        data = files.array(recording_id, arrays["data"])
        valid = files.array(recording_id, arrays["valid"]) if "valid" in arrays else None
        for i in range(low, high, _ROWS):
            stop = min(i + _ROWS, high)
            moments.update(data[i:stop], None if valid is None else valid[i:stop])
    return moments
