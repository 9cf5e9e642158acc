"""Analyses of activations between the steps of a training loop."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from neuros_core import RunManifest
from neuros_mechint.activations._analyses import AnalysisContext, find_analysis
from neuros_mechint.activations._digest import model_digest
from neuros_mechint.activations._probe import Forward, copied, moved, run_batch, stacked
from neuros_mechint.activations._results import plain, scalars, write_record
from neuros_mechint.activations._undisturbed import undisturbed
from neuros_mechint.activations.intervene import intervene
from neuros_mechint.activations.site import Site, SiteLike, as_site, find_module

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TrainingHooks"]


class TrainingHooks:
    """Run analyses of activations between the steps of any training loop.

    A loop calls `step` after each of its steps and `evaluate` when it wants results. The analyses
    see the activations of a few probe batches, the same ones every time, so that what changes is
    the model. The object is also a `neuros_core.Callback`, which a trainer calls by itself.

    The training goes on as if nothing had happened: random state, the mode of every module,
    buffers and gradients are put back, and its parameters stay bit-identical.

    Each evaluation is one JSON file in `out_dir` with the results, the losses that a trainer told
    last, and the run manifest (versions, code state, configuration, hash of the model). It is in
    `history` as well.

    Args:
        analyses: Names of analyses. Built in are `fractal_dims` (configured by `k_max` and the time
            `axis`), `geometry` (`unit_axis`), `sae` (`dictionary_size`, `k`, `steps`, `batch_size`,
            `unit_axis`), `alignment` (`reference`, the key of a member of the batches, and
            `unit_axis`), `dynamics` (`rank`) and `latent_circuits` (`n_latent`, `inputs`, the key
            of a member of the batches, `n_restarts`, `n_epochs`); others come from
            `register_analysis`.
        analysis_configs: Name -> keyword arguments of that analysis.
        sites: Where activations are read.
        every_n_epochs: After how many epochs `on_epoch_end` evaluates; `evaluate` always does.
        max_batches: Most probe batches.
        out_dir: Folder of the results; it is made when it does not exist.
        probe: Batches to analyse; None copies the first `max_batches` that `step` is given.
        forward: Runs the model on a batch, `(model, batch) -> output`. None calls
            `model.forward_batch(batch)` where there is one; else the model gets the first member of
            a tuple or list, those members of a mapping that its forward names, or the batch itself.
        seed: Seed of the generator that the analyses draw from.

    Raises:
        TypeError: When an analysis does not take its configuration.
        ValueError: When an analysis is unknown, a configuration belongs to none, there is no
            analysis or no site, or a number is not positive.

    Examples:
        >>> import tempfile
        >>> net = nn.Sequential(nn.Linear(3, 2))
        >>> hooks = TrainingHooks(["fractal_dims"], sites=["0"], out_dir=tempfile.mkdtemp())
        >>> batch = torch.arange(40.0)[None, :, None].expand(2, 40, 3)
        >>> hooks.step(net, batch, 1)
        >>> round(hooks.evaluate(net, epoch=1)["fractal_dims"]["0"]["mean"], 3)
        1.0
    """

    def __init__(
        self,
        analyses: Iterable[str],
        analysis_configs: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        sites: Iterable[SiteLike],
        every_n_epochs: int = 1,
        max_batches: int = 4,
        out_dir: str | PathLike[str],
        probe: Iterable[Any] | None = None,
        forward: Forward | None = None,
        seed: int = 0,
    ) -> None:
        for name, number in (("every_n_epochs", every_n_epochs), ("max_batches", max_batches)):
            if number < 1:
                raise ValueError(f"{name} needs at least 1, got {number}")
        configs = {name: dict(config) for name, config in (analysis_configs or {}).items()}
        names = list(dict.fromkeys(analyses))
        self._analyses = {name: find_analysis(name, configs.get(name, {})) for name in names}
        self._configs = configs
        self._sites = [sites] if isinstance(sites, (str, Site, nn.Module)) else list(sites)
        _check_settings(names, configs, self._sites)
        self.every_n_epochs = every_n_epochs
        self.max_batches = max_batches
        self.out_dir = Path(out_dir)
        self.seed = seed
        self.history: list[dict[str, Any]] = []
        self._forward = forward or run_batch
        self._fixed = probe is not None
        self._batches = [] if probe is None else [copied(b) for b in islice(probe, max_batches)]
        self._step = 0
        self._checked = False
        self._metrics: dict[str, float] = {}
        self._manifest = RunManifest.collect(
            kind="training-analysis",
            config={
                "analyses": names,
                "analysis_configs": plain(configs, "analysis_configs"),
                "sites": [*map(_site_text, self._sites)],
                "max_batches": max_batches,
            },
            seed=seed,
        )

    def __repr__(self) -> str:
        names = list(self._analyses)
        return f"TrainingHooks({names}, sites={len(self._sites)}, evaluations={len(self.history)})"

    def step(self, model: nn.Module, batch: Any, step: int) -> None:
        """Take note of a step; the first batches are copied as probes unless `probe` was given.

        Args:
            model: The model in training.
            batch: What the step was trained on.
            step: Number of the step.

        Raises:
            KeyError: At the first step, when a site names no module.
            ValueError: At the first step, when a site lies inside compiled code.

        Examples:
            >>> hooks = TrainingHooks(["fractal_dims"], sites=["1"], out_dir="out")
            >>> hooks.step(nn.Sequential(nn.Linear(3, 2)), torch.ones(1, 3), 1)
            Traceback (most recent call last):
            KeyError: "no module '1' in Sequential; nearest names: ['0']"
        """
        self._note(model, step)
        if not self._fixed and len(self._batches) < self.max_batches:
            self._batches.append(copied(batch))

    def evaluate(self, model: nn.Module, epoch: int) -> dict[str, Any]:
        """Run every analysis now and write the results.

        Args:
            model: The model in training.
            epoch: Number of completed epochs, for the record.

        Returns:
            Name of the analysis -> its result, as plain numbers, lists and dicts.

        Raises:
            KeyError: When a site names no module.
            RuntimeError: When there is no batch yet, or a site was not reached.
            TypeError: When an analysis returns something else than a mapping of plain values.
            ValueError: When the batches give activations of different shape, or a site is reached
                several times without `@call`.

        Examples:
            >>> import tempfile
            >>> hooks = TrainingHooks(["fractal_dims"], sites=["0"], out_dir=tempfile.mkdtemp())
            >>> hooks.evaluate(nn.Sequential(nn.Linear(3, 2)), epoch=1)
            Traceback (most recent call last):
            RuntimeError: no batch to analyse: call step(model, batch, step) first, or pass probe=
        """
        if not self._batches:
            raise RuntimeError(
                "no batch to analyse: call step(model, batch, step) first, or pass probe="
            )
        with undisturbed(model):
            batches = [moved(batch, model) for batch in self._batches]
            context = AnalysisContext(
                activations=self._observe(model, batches),
                model=model,
                batches=batches,
                generator=torch.Generator(),
                epoch=epoch,
                step=self._step,
            )
            results = {name: self._analyse(name, context) for name in self._analyses}
            digest = model_digest(model)
        record = {
            "epoch": epoch,
            "step": self._step,
            "metrics": plain(self._metrics, "the trainer"),
            "results": results,
        }
        self.history.append(record)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        manifest = replace(self._manifest, model_hash=digest, created=created)
        write_record(self.out_dir, record, manifest)
        return results

    def on_step_end(self, trainer: Any, step: int, loss: float) -> None:
        """Take note of a trainer's step; part of `neuros_core.Callback`.

        A trainer tells no batch here, so that `probe` has to be given.

        Args:
            trainer: Anything with the attribute `model`.
            step: Number of the step.
            loss: Its loss.

        Examples:
            >>> from types import SimpleNamespace
            >>> hooks = TrainingHooks(["fractal_dims"], sites=["0"], out_dir="out", probe=[])
            >>> hooks.on_step_end(SimpleNamespace(model=nn.Sequential(nn.Identity())), 1, 0.5)
        """
        self._note(trainer.model, step)
        self._metrics = {"loss": loss}

    def on_epoch_end(self, trainer: Any, epoch: int, metrics: Mapping[str, float]) -> None:
        """Evaluate after every n-th epoch; part of `neuros_core.Callback`.

        Args:
            trainer: Anything with the attribute `model`.
            epoch: Number of completed epochs.
            metrics: The epoch's losses.

        Raises:
            RuntimeError: When there is no batch.

        Examples:
            >>> hooks = TrainingHooks(
            ...     ["fractal_dims"], sites=["0"], every_n_epochs=2, out_dir="out", probe=[]
            ... )
            >>> hooks.on_epoch_end(None, 1, {})
        """
        self._metrics = dict(metrics)
        if epoch % self.every_n_epochs == 0:
            self.evaluate(trainer.model, epoch)

    def to_dataframe(self) -> "pd.DataFrame":
        """Return every single number of all evaluations.

        Returns:
            Frame with the columns epoch, step, analysis, quantity (such as `"0/mean"`) and value.

        Examples:
            >>> hooks = TrainingHooks(["fractal_dims"], sites=["0"], out_dir="out")
            >>> list(hooks.to_dataframe())
            ['epoch', 'step', 'analysis', 'quantity', 'value']
        """
        import pandas as pd

        rows = [
            (record["epoch"], record["step"], analysis, quantity, value)
            for record in self.history
            for analysis, result in record["results"].items()
            for quantity, value in scalars(result)
        ]
        return pd.DataFrame(rows, columns=["epoch", "step", "analysis", "quantity", "value"])

    def _note(self, model: nn.Module, step: int) -> None:
        if not self._checked:
            # An unknown site is told now and not after the first epoch.
            for site in self._sites:
                find_module(model, as_site(model, site))
            self._checked = True
        self._step = step

    def _observe(self, model: nn.Module, batches: Sequence[Any]) -> dict[str, Tensor]:
        sites = [as_site(model, like) for like in self._sites]
        seen: dict[str, list[Tensor]] = {str(site): [] for site in sites}
        for batch in batches:
            with intervene(model, capture=sites) as cache:
                self._forward(model, batch)
            for site in sites:
                seen[str(site)].append(cache[site])
        return {name: stacked(name, values) for name, values in seen.items()}

    def _analyse(self, name: str, context: AnalysisContext) -> Any:
        # The draws of one analysis do not depend on which others run.
        own = replace(context, generator=torch.Generator().manual_seed(self.seed))
        try:
            result = self._analyses[name](own, **self._configs.get(name, {}))
        except Exception as error:
            error.add_note(f"in the analysis {name!r} after {context.epoch} epochs")
            raise
        if not isinstance(result, Mapping):
            raise TypeError(f"analysis {name!r} needs to return a mapping, got {type(result)}")
        return plain(result, f"analysis {name!r}")


def _check_settings(
    names: Sequence[str], configs: Mapping[str, object], sites: Sequence[SiteLike]
) -> None:
    if not names:
        raise ValueError("at least one analysis is needed, got none")
    if not sites:
        raise ValueError("at least one site is needed, got none")
    unused = sorted(set(configs) - set(names))
    if unused:
        raise ValueError(
            f"analysis_configs holds {unused}, which are not among the analyses {names}"
        )


def _site_text(site: SiteLike) -> str:
    return type(site).__name__ if isinstance(site, nn.Module) else str(site)
