r"""Mixed selectivity: how much of neurons' variance each task variable explains."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from neuros_mechint._arrays import Array, Number, as_real, one_of
from neuros_mechint.circuits._dpca import Demixed, best_regularizer, demix, join, marginalize
from neuros_mechint.circuits._selectivity_terms import (
    Term,
    condition_of,
    cross_validated,
    partition,
    terms_of,
)

__all__ = ["MixedSelectivityAnalyzer", "MixedSelectivityResult", "VarianceFraction"]

_GROUPS = ("task", "motor", "cognitive")


class VarianceFraction(NamedTuple):
    """Share of variance.

    Attributes:
        total: Of all neurons together, a scalar.
        per_neuron: Of each neuron, (neurons,); NaN for one that does not vary.
    """

    total: Tensor
    per_neuron: Tensor


@dataclass(frozen=True)
class MixedSelectivityResult(Mapping[str, Any]):
    r"""Where the variance of responses comes from; fields can be read as keys as well.

    Attributes:
        task_component: Effects of the task conditions, and their interactions with each other.
        motor_component: Those of the motor conditions.
        cognitive_component: Those of the cognitive conditions.
        interaction_terms: Interactions of conditions of different groups.
        time_component: The time course that all conditions share (responses with a time axis).
        shared: What conditions explain together and none of them alone, where the design is
            unbalanced; 0 in a balanced one. May be negative.
        residual: The rest.
        selectivity_index: Of each neuron $1 - \max_g f_g / \sum_g f_g$ over the four components:
            0 where one explains all, 3/4 where all are even. NaN where none explains anything.
        by_term: Every single effect, its conditions joined by a colon.
        encoders: Axes of each effect or, for dPCA, of each component.
        decoders: Read-outs of each component (dPCA).
        explained: Share of the averages' variance in each read-out (dPCA).
    """

    task_component: VarianceFraction
    motor_component: VarianceFraction
    cognitive_component: VarianceFraction
    interaction_terms: VarianceFraction
    time_component: VarianceFraction
    shared: VarianceFraction
    residual: VarianceFraction
    selectivity_index: Tensor
    by_term: dict[str, VarianceFraction]
    encoders: dict[str, Tensor]
    decoders: dict[str, Tensor] = field(default_factory=dict)
    explained: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, key: str) -> Any:
        if key not in set(self):
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(f.name for f in fields(self))

    def __len__(self) -> int:
        return len(fields(self))

    def to_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return dict(self)


class MixedSelectivityAnalyzer:
    r"""Splits the variance of neural responses among task, motor and cognitive conditions.

    `"anova"` takes conditions that are labels, with all their interactions; `"regression"` values
    and labels, with interactions of pairs; `"dpca"` is the ANOVA with the demixed components of the
    trial averages besides. In a balanced design the sums of squares are marginal and add up to all;
    in an unbalanced one each is what the effect adds to all that do not contain it (type II), and
    `shared` holds what is left. Fractions of a finite sample are biased upwards: ask `decompose`
    for `unbiased=True` or `cv`.

    Args:
        method: "dpca", "regression" or "anova".
        groups: Names of the conditions of "task", "motor" and "cognitive"; None: by the word a
            name starts with.
        n_components: Components of each group (dPCA).
        regularizer: Ridge of dPCA, mu = regularizer * ||X||^2, or "auto": by held-out trials.
        generator: Draws held-out trials.

    Examples:
        >>> task = torch.tensor([0, 0, 1, 1])
        >>> responses = torch.tensor([[1.0, 0.0], [1.0, 1.0], [3.0, 0.0], [3.0, 1.0]])
        >>> found = MixedSelectivityAnalyzer(method="anova").decompose(responses, {"task": task})
        >>> found.task_component.per_neuron
        tensor([1., 0.])

    References:
        Kobak et al. (2016), eLife 5, e10989. doi:10.7554/eLife.10989
        Rigotti et al. (2013), Nature 497, 585-590. doi:10.1038/nature12160
    """

    def __init__(
        self,
        *,
        method: str = "dpca",
        groups: Mapping[str, Sequence[str]] | None = None,
        n_components: int = 10,
        regularizer: Number | str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        one_of("method", method, ("dpca", "regression", "anova"))
        if isinstance(regularizer, str):
            one_of("regularizer", regularizer, ("auto",))
        elif regularizer < 0:
            raise ValueError(f"regularizer must be at least 0 or 'auto', got {regularizer}")
        if n_components < 1:
            raise ValueError(f"n_components must be at least 1, got {n_components}")
        for group in groups or ():
            one_of("groups", group, _GROUPS)
        self.method, self.groups, self.n_components = method, groups, n_components
        self.regularizer, self.generator = regularizer, generator

    def decompose(
        self,
        responses: Array,
        conditions: Mapping[str, Any],
        *,
        unbiased: bool = False,
        cv: int | None = None,
    ) -> MixedSelectivityResult:
        r"""Split the variance.

        Args:
            responses: (trials, neurons) or (trials, time, neurons).
            conditions: Labels or values of each, (trials,) or, where they change within a trial
                (regression), (trials, time). Floats are values, all else labels.
            unbiased: Take away what chance would explain, $\omega^2$; fractions may be negative.
            cv: Folds of cross-validation over trials instead: what the effects explain of trials
                that they were not fitted to.

        Returns:
            Fractions, axes and read-outs.

        Raises:
            TypeError: When responses are no real tensor or array.
            ValueError: When shapes do not fit, conditions are collinear or in no group, or values
                are given to a method that takes labels.
        """
        data = as_real("responses", responses, axes=("trials", "neurons"))
        if data.ndim not in {2, 3}:
            raise ValueError(
                f"responses must be (trials, neurons) or (trials, time, neurons), got shape "
                f"{tuple(data.shape)}"
            )
        if cv is not None and (unbiased or not 2 <= cv <= len(data)):
            raise ValueError(f"cv must be 2 to {len(data)} folds, without unbiased=True, got {cv}")
        coded = self._coded(data, conditions)
        groups = self._groups(tuple(coded))
        order = 2 if self.method == "regression" else len(coded)
        samples, coded, n_time = _samples(data.double(), coded)
        terms = terms_of(coded, order=order)
        sums = _Sums(terms, samples, data.shape[-1], n_time, unbiased=unbiased)
        split = sums.split(self._folds(cv, len(data), len(samples)))
        found = _result(groups, split, data.dtype)
        if self.method != "dpca":
            axes = sums.axes()
            return MixedSelectivityResult(
                **found, encoders={k: v.to(data) for k, v in axes.items()}
            )
        return MixedSelectivityResult(**found, **self._demixed(data, coded, groups))

    def _coded(self, data: Tensor, conditions: Mapping[str, Any]) -> dict[str, tuple[Tensor, bool]]:
        if not conditions:
            raise ValueError("conditions must name at least one condition, got none")
        coded = {name: condition_of(name, values) for name, values in conditions.items()}
        for name, (values, labels) in coded.items():
            if tuple(values.shape) not in {tuple(data.shape[:1]), tuple(data.shape[:-1])}:
                raise ValueError(
                    f"condition {name!r} must have {len(data)} trials like responses (and their "
                    f"time), got shape {tuple(values.shape)}"
                )
            if self.method == "regression":
                continue
            if not labels or values.ndim == 2:
                raise ValueError(
                    f"method={self.method!r} takes one label per trial, but condition {name!r} has "
                    f"values or a time axis; use method='regression'"
                )
        return coded

    def _groups(self, names: Sequence[str]) -> dict[str, str]:
        """The group of every condition."""
        if self.groups is None:
            found = {n: g for n in names for g in _GROUPS if n.startswith(g)}
        else:
            found = {n: g for g, members in self.groups.items() for n in members}
        lost = [n for n in names if n not in found]
        if lost:
            raise ValueError(
                f"conditions {', '.join(map(repr, lost))} are in no group; start their names with "
                f"one of {', '.join(_GROUPS)}, or pass groups={{'task': [...], ...}}"
            )
        return found

    def _folds(self, cv: int | None, n_trials: int, n_samples: int) -> list[Tensor] | None:
        if cv is None:
            return None
        order = torch.randperm(n_trials, generator=self.generator)
        per_trial = n_samples // n_trials
        samples = order[:, None] * per_trial + torch.arange(per_trial)
        return [rows.flatten() for rows in samples.tensor_split(cv)]

    def _demixed(
        self, data: Tensor, coded: Mapping[str, tuple[Tensor, bool]], groups: Mapping[str, str]
    ) -> dict[str, Any]:
        codes = [values for values, _ in coded.values()]
        shape = tuple(int(c.max()) + 1 for c in codes)
        cells = _cells(data.double(), codes, shape)
        means = torch.stack([cell.mean(0) for cell in cells])
        # (cell, [time,] unit) becomes (unit, levels of each condition, [time]).
        means = means.reshape(*shape, *means.shape[1:]).movedim(-1, 0)
        joined = _joined(tuple(coded), groups, has_time=data.ndim == 3)
        regularizer = self.regularizer
        if isinstance(regularizer, str):
            if min(map(len, cells)) < 2:
                raise ValueError(
                    "regularizer='auto' holds a trial of every combination out and needs two of "
                    "each; pass a number"
                )
            trials = [cell.movedim(-1, 1) for cell in cells]
            regularizer = best_regularizer(
                trials, shape, joined, n_components=self.n_components, generator=self.generator
            )
        parts = join(marginalize(means), joined)
        found = demix(means, parts, n_components=self.n_components, regularizer=float(regularizer))
        return {
            name + "s" if name != "explained" else name: {
                key: getattr(one, name).to(data) for key, one in found.items()
            }
            for name in Demixed._fields
        }


def _samples(
    data: Float[Tensor, "trial *time unit"], coded: dict[str, tuple[Tensor, bool]]
) -> tuple[Float[Tensor, "sample output"], dict[str, tuple[Tensor, bool]], int]:
    """Rows of one linear model: trials, or trials and times where a condition changes in time."""
    if data.ndim == 2:
        return data, coded, 1
    n_time = data.shape[1]
    if all(values.ndim == 1 for values, _ in coded.values()):
        return data.flatten(1), coded, n_time
    spread = {
        name: ((v if v.ndim == 2 else v[:, None].expand(-1, n_time)).flatten(), labels)
        for name, (v, labels) in coded.items()
    }
    return data.flatten(0, 1), spread, 1


@dataclass(frozen=True)
class _Sums:
    """Sums of squares per neuron of responses (samples, time * neurons)."""

    terms: Sequence[Term]
    samples: Tensor
    n_neurons: int
    n_time: int
    unbiased: bool = field(kw_only=True)

    def split(self, folds: Sequence[Tensor] | None) -> "_Split":
        """Divide the squares about the mean."""
        n = len(self.samples)
        if folds is None:
            parts, rest = partition(self.terms, self.samples)
            within = (self.samples - self.samples.mean(0)).square().sum(0)
        else:
            parts, rest, within = cross_validated(self.terms, self.samples, folds)
        if self.unbiased:
            used = sum(t.columns.shape[1] for t in self.terms)
            if n <= used + 1:
                raise ValueError(
                    f"unbiased=True needs more than {used + 1} samples for {used} effects, got {n}"
                )
            noise = rest / (n - 1 - used)
            parts = {t: s - t.columns.shape[1] * noise for t, s in parts.items()}
            rest = rest + used * noise
        course = self._neurons(self.samples.mean(0).reshape(self.n_time, -1), centre=True) * n
        total = self._summed(within) + course
        named = {t.conditions: self._summed(s) for t, s in parts.items()}
        return _Split(named, self._summed(rest), course, total)

    def _summed(self, values: Tensor) -> Tensor:
        return values.reshape(self.n_time, self.n_neurons).sum(0)

    @staticmethod
    def _neurons(course: Tensor, *, centre: bool) -> Tensor:
        return (course - course.mean(0) if centre else course).square().sum(0)

    def axes(self) -> dict[str, Tensor]:
        """Coefficients of every effect, (columns, [time,] neurons)."""
        design = torch.cat([t.columns for t in self.terms], 1).to(self.samples)
        centred = self.samples - self.samples.mean(0)
        found = torch.linalg.lstsq(design - design.mean(0), centred, driver="gelsd").solution
        pieces = torch.split(found, [t.columns.shape[1] for t in self.terms])
        shape = (self.n_neurons,) if self.n_time == 1 else (self.n_time, self.n_neurons)
        return {t.name: p.reshape(-1, *shape) for t, p in zip(self.terms, pieces, strict=True)}


class _Split(NamedTuple):
    """Sums of squares of every neuron: of the effects, of the rest, of time, and of all."""

    parts: dict[tuple[str, ...], Tensor]
    rest: Tensor
    time: Tensor
    total: Tensor


def _result(groups: Mapping[str, str], split: _Split, dtype: torch.dtype) -> dict[str, Any]:
    parts, rest, time, total = split

    def fraction(sums: Tensor) -> VarianceFraction:
        return VarianceFraction((sums.sum() / total.sum()).to(dtype), (sums / total).to(dtype))

    nothing = torch.zeros_like(total)
    by_group = dict.fromkeys((*_GROUPS, "interaction"), nothing)
    for names, sums in parts.items():
        owners = {groups[n] for n in names}
        owner = owners.pop() if len(owners) == 1 else "interaction"
        by_group[owner] = by_group[owner] + sums
    together = total - rest - time - sum(parts.values(), nothing)
    # What is left of a balanced design is rounding.
    together = torch.where(together.abs() > 1e-10 * total, together, 0.0)
    stacked = torch.stack(list(by_group.values())).clamp(min=0)
    return {
        "task_component": fraction(by_group["task"]),
        "motor_component": fraction(by_group["motor"]),
        "cognitive_component": fraction(by_group["cognitive"]),
        "interaction_terms": fraction(by_group["interaction"]),
        "time_component": fraction(time),
        "shared": fraction(together),
        "residual": fraction(rest),
        "selectivity_index": (1 - stacked.amax(0) / stacked.sum(0)).to(dtype),
        "by_term": {":".join(names): fraction(sums) for names, sums in parts.items()},
    }


def _cells(
    data: Float[Tensor, "trial *time unit"], codes: Sequence[Tensor], shape: tuple[int, ...]
) -> list[Float[Tensor, "repeat *time unit"]]:
    """The trials of every combination of labels, the last condition fastest."""
    index = torch.zeros(len(data), dtype=torch.long)
    for values, n in zip(codes, shape, strict=True):
        index = index * n + values
    n_cells = int(torch.tensor(shape).prod())
    return [data[index == cell] for cell in range(n_cells)]


def _joined(
    names: Sequence[str], groups: Mapping[str, str], *, has_time: bool
) -> dict[str, list[tuple[int, ...]]]:
    """The sets of axes of every component: each with its interaction with time."""
    n = len(names)
    found: dict[str, list[tuple[int, ...]]] = {}
    for axes in marginalize(torch.zeros(1, *[1] * (n + has_time))):
        owners = {groups[names[a]] for a in axes if a < n}
        name = "time" if not owners else owners.pop() if len(owners) == 1 else "interaction"
        found.setdefault(name, []).append(axes)
    return found
