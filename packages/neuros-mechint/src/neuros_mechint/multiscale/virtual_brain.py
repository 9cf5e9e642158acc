"""Whole brains of delayed neural masses, with torch models in some of their regions."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor, nn

from neuros_mechint._arrays import Array, Number, one_of
from neuros_mechint.multiscale._brain_arguments import (
    Noise,
    check_embedding,
    check_outputs,
    clock_of,
    region_numbers,
    sweep_of,
)
from neuros_mechint.multiscale._brain_engine import run_torch, seen
from neuros_mechint.multiscale._brain_fit import BrainFit, Loss, check_fit, descend
from neuros_mechint.multiscale._brain_outputs import bold_of, changes
from neuros_mechint.multiscale._brain_step import Embedding
from neuros_mechint.multiscale._brain_tvb import run_tvb
from neuros_mechint.multiscale._masses import NeuralMassModel, equations_of
from neuros_mechint.multiscale.connectome import Connectome, load_connectome

__all__ = ["VirtualBrainInterface"]

Parameters: TypeAlias = Mapping[str, Number | Tensor]


class VirtualBrainInterface:
    r"""A brain of neural masses that hear each other through delayed connections.

    In every region a mass $\dot x_i = f(x_i, c_i)$ receives
    $c_i = K \sum_j w_{ij}\, s(x_j(t - d_{ij}))$, the delay of a tract its length by the speed,
    rounded to steps. Whole sets of parameters run at once, a torch model may stand in for the
    masses of some regions, and gradients flow through all of it.

    Args:
        connectome: `"desikan"`, `"tvb76"`, `"hagmann66"`, a path, matrices (weights,
            tract_lengths) of (to, from), or `"random"`; see `load_connectome`.
        speed: Conduction speed in mm/ms; inf leaves no delays.
        normalize: `"max"`, `"rows"` or None; see `load_connectome`.
        region_labels: Names of the regions.
        n_regions: How many regions to draw; only for `"random"`.
        generator: Source of a random connectome; only for `"random"`.

    Raises:
        TypeError: When a matrix is neither a tensor nor a real array.
        ValueError: When the speed is not positive or the connectome is not one.
        ImportError: When a named connectome needs tvb-data and it is not installed.

    Examples:
        Two oscillators whose frequencies differ by less than twice their coupling lock:

        >>> off = 1 - torch.eye(2)
        >>> brain = VirtualBrainInterface((off, torch.zeros(2, 2)))
        >>> model = brain.create_neural_mass_model("kuramoto", omega=torch.tensor([0.05, 0.06]))
        >>> found = brain.simulate(0.6, coupling_strength=0.01, initial_state=torch.zeros(1, 2))
        >>> theta = found["state"][0]
        >>> round(float(theta[1, -1] - theta[0, -1]), 2)  # arcsin(0.01 / 0.02)
        0.52

    References:
        Sanz Leon et al. (2013). The Virtual Brain: a simulator of primate brain network dynamics.
        Frontiers in Neuroinformatics 7, 10. doi:10.3389/fninf.2013.00010

        Jansen, B. H., & Rit, V. G. (1995). Electroencephalogram and visual evoked potential
        generation in a mathematical model of coupled cortical columns. Biological Cybernetics 73,
        357. doi:10.1007/BF00199471
    """

    def __init__(
        self,
        connectome: str | Path | tuple[Array, Array] = "desikan",
        *,
        speed: Number = 3.0,
        normalize: str | None = None,
        region_labels: Sequence[str] | None = None,
        n_regions: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not speed > 0:
            raise ValueError(f"speed must be positive, in mm/ms, got {speed}")
        self.speed = float(speed)
        self._connectome = load_connectome(
            connectome,
            normalize=normalize,
            region_labels=region_labels,
            n_regions=n_regions,
            generator=generator,
        )
        self._embedding: Embedding | None = None
        self._model = NeuralMassModel(equations := equations_of("jansen-rit"),
                                      region_numbers(equations, {}, self._n_regions))  # fmt: skip

    def __repr__(self) -> str:
        return (
            f"VirtualBrainInterface({self._n_regions} regions, {self._model['name']!r}, "
            f"speed={self.speed:g})"
        )

    @property
    def connectivity(self) -> Connectome:
        """Weights, lengths, labels and centres of the regions."""
        return self._connectome

    @property
    def model(self) -> NeuralMassModel:
        """The mass in every region; `jansen-rit` until another is made."""
        return self._model

    @property
    def _n_regions(self) -> int:
        return len(self._connectome.labels)

    def create_neural_mass_model(
        self, model_type: str = "jansen-rit", **params: Number | Tensor
    ) -> NeuralMassModel:
        r"""Put a neural mass in every region; an embedded model is taken out.

        Args:
            model_type: `"jansen-rit"` (states y0 to y5; sends the sigmoid of y1 - y2),
                `"wilson-cowan"` (E, I; sends E), `"kuramoto"` (theta; sends its phase, without
                a division by the number of regions), `"montbrio"` (r, V; sends both, weighted by
                cr and cv) or `"hopf"` (x, y; coupled by differences). Times are in ms, rates and
                frequencies in 1/ms and rad/ms.
            **params: Parameters of the model, numbers or one per region (region,).

        Returns:
            The model, with all its parameters.

        Raises:
            TypeError: When a parameter is neither a number nor a floating tensor.
            ValueError: When the model or a parameter is unknown, or a shape does not fit.
        """
        equations = equations_of(model_type)
        numbers = region_numbers(equations, params, self._n_regions)
        self._model, self._embedding = NeuralMassModel(equations, numbers), None
        return self._model

    def embed_foundation_model(
        self,
        model: nn.Module,
        region_mapping: Mapping[str, int],
        *,
        mode: str = "derivative",
        state_dim: int,
        input_scale: Number = 1.0,
        readout: Callable[[Tensor], Tensor] | None = None,
        initial_state: Tensor | None = None,
    ) -> None:
        """Let a torch model stand in for the masses of some regions.

        It must give the same for the same input every time: its gradient is found by running
        single steps again. Noise does not act on it.

        Args:
            model: Maps state (sets, k, d) and coupling (sets, k, c) to the derivative of the state
                per ms, or to the next state. The coupling is what a mass would receive; c is 1,
                and 2 for `hopf`.
            region_mapping: Region's name to its place among the k regions of the model.
            mode: `"derivative"` (integrated as the masses are) or `"map"` (called once a step).
            state_dim: Size d of the state of a region.
            input_scale: Factor of the coupling.
            readout: Activity (sets, k) of a state (sets, k, d), which others receive in place of
                what a mass sends (for `kuramoto` a phase). Without one the state is that of a mass
                and sends what that would send. A readout with parameters is a module.
            initial_state: First state (k, d) where there is a readout; None starts at 0.

        Raises:
            TypeError: When the model is not a module.
            ValueError: When a region is unknown or repeated, the places are not 0 to k - 1, the
                mode is unknown, or without a readout the state is not one of the mass.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch module, got {type(model).__name__}")
        indices = check_embedding(self._connectome.labels, region_mapping, mode)
        n_states = len(self._model.equations.states)
        if readout is None and state_dim != n_states:
            raise ValueError(
                f"state_dim must be {n_states} as in {self._model['name']!r}, got {state_dim}; "
                "or give readout=, which says what other regions receive"
            )
        if initial_state is not None and (
            readout is None or initial_state.shape != (len(indices), state_dim)
        ):
            raise ValueError(
                f"initial_state goes with readout= and must be ({len(indices)}, {state_dim}), "
                f"got shape {tuple(initial_state.shape)}"
            )
        self._embedding = Embedding(
            model, torch.tensor(indices), mode, state_dim, float(input_scale), readout,
            initial_state,
        )  # fmt: skip

    def simulate(
        self,
        duration: Number,
        dt: Number = 0.001,
        *,
        params: Parameters | None = None,
        coupling_strength: Number | Tensor = 1.0,
        noise: Noise = 0.0,
        integrator: str = "heun",
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
        transient: Number = 0.0,
        tr: Number = 0.72,
        record_every: int = 1,
        checkpoint_every: int | None = None,
        fcd_window: Number = 30.0,
        fcd_step: Number = 2.0,
        engine: str = "torch",
    ) -> dict[str, Tensor]:
        r"""Run the brain; times are in seconds.

        A step reads the delayed coupling at its start and holds it. What was before time 0 is the
        initial state. Noise of deviation $\sigma$ adds $\sigma \sqrt{dt}$ times a normal number
        in every step, dt in ms.

        Any of `params`, `coupling_strength`, `noise` and `initial_state` may hold P sets, which
        run at once; results then have a leading axis of sets.

        Args:
            duration: Time that is kept.
            dt: Step.
            params: Parameters in place of those of the model: a number, one per set (P,), or one
                per set and region (P, region).
            coupling_strength: Factor K of all connections, a number or one per set (P,).
            noise: Deviation of the noise on all states, a number or one per set (P,); or such
                values by name of the state.
            integrator: `"heun"` or `"euler"`.
            initial_state: State (n_state, region) or (P, n_state, region); its dtype and device
                are those of the run. None starts each model at a fixed state.
            generator: Source of noise; None starts one from seed 0.
            transient: Time before the first that is kept.
            tr: Time between volumes of BOLD.
            record_every: Keep one in so many steps.
            checkpoint_every: With gradients, keep the state once in so many steps and run the
                steps between again on the way back: same gradient, less memory.
            fcd_window: Length of a window of connectivity.
            fcd_step: Time between windows.
            engine: `"torch"`, or `"tvb"`: The Virtual Brain runs the same, without gradients.

        Returns:
            `time` (T,), `state` (..., n_state, region, T), `lfp` (..., region, T), `bold`
            (..., region, volume), `connectivity_dynamics` (..., window, region, region) and `fcd`
            (..., window, window), both without windows in a run too short for one. With a
            `readout`, also `embedded_state` (..., d, k, T); `state` is NaN at its regions.

        Raises:
            TypeError: When a number or tensor is of another kind.
            ValueError: When a time is not positive, a shape or the number of sets does not fit, a
                name is unknown, or `engine="tvb"` has an embedded model.
            ImportError: When `engine="tvb"` and tvb-library is not installed.

        Warns:
            RuntimeWarning: When a run does not stay finite.
        """
        one_of("integrator", integrator, ("heun", "euler"))
        one_of("engine", engine, ("torch", "tvb"))
        clock = clock_of(duration, dt, transient, record_every)
        check_outputs(tr, fcd_window, fcd_step, checkpoint_every)
        equations = self._model.equations
        sweep = sweep_of(
            equations, self._model.parameters, self._n_regions, params=params or {},
            strength=coupling_strength, noise=noise, state=initial_state,
        )  # fmt: skip
        if engine == "tvb" and self._embedding is not None:
            raise ValueError("engine='tvb' runs no embedded model; choose engine='torch'")
        if engine == "tvb":
            states = run_tvb(
                equations, self._connectome, sweep, clock,
                speed=self.speed, integrator=integrator, generator=generator,
            )  # fmt: skip
            records: tuple[Tensor, ...] = (states, equations.observe(states))
        else:
            records = run_torch(
                equations, self._connectome, sweep, clock, speed=self.speed,
                integrator=integrator, generator=generator, embedding=self._embedding,
                checkpoint_every=checkpoint_every,
            )  # fmt: skip
        if not bool(torch.isfinite(records[0][-1]).all()):
            warnings.warn(
                "the run does not stay finite; lower dt, the coupling or the noise",
                RuntimeWarning,
                stacklevel=2,
            )
        found = seen(equations, self._embedding, records)
        if not sweep.batched:
            found = {key: x[0] for key, x in found.items()}
        step = record_every * float(dt)
        bold = bold_of(found["lfp"], step, float(tr))
        views = changes(bold, float(tr), float(fcd_window), float(fcd_step))
        n = found["lfp"].shape[-1]
        time = torch.arange(1, n + 1, dtype=bold.dtype, device=bold.device) * step
        return {
            "time": time, **found, "bold": bold, "connectivity_dynamics": views.connectivity,
            "fcd": views.fcd,
        }  # fmt: skip

    def fit(
        self,
        target: Tensor,
        *,
        loss: Loss = "bold_fc",
        params: Sequence[str],
        duration: Number,
        dt: Number = 0.001,
        lr: float = 0.05,
        steps: int = 100,
        coupling_strength: Number = 1.0,
        noise: Noise = 0.0,
        initial_state: Tensor | None = None,
        generator: torch.Generator | None = None,
        transient: Number = 0.0,
        tr: Number = 0.72,
        record_every: int = 1,
        checkpoint_every: int | None = None,
    ) -> BrainFit:
        """Find parameters by gradient descent; the model itself is left as it is.

        Adam moves the logarithm of each parameter, which keeps its sign; every step sees the same
        noise.

        Args:
            target: What the loss compares with; for `"bold_fc"` correlations (region, region).
            loss: `"bold_fc"`, the mean squared difference of BOLD correlations; or a function of
                the results of `simulate` and the target.
            params: Names of parameters of the model, and `"coupling_strength"`, to fit.
            duration: Time of every run, s.
            dt: Step, s.
            lr: Size of a step in the logarithm.
            steps: Number of steps.
            coupling_strength: As in `simulate`, to start with.
            noise: As in `simulate`.
            initial_state: As in `simulate`.
            generator: As in `simulate`.
            transient: As in `simulate`.
            tr: As in `simulate`.
            record_every: As in `simulate`.
            checkpoint_every: As in `simulate`.

        Returns:
            The parameters of the smallest loss, and the losses.

        Raises:
            ValueError: When a name or the loss is unknown, a setting fits nothing, or the loss is
                NaN from the start.
        """
        check_fit(params, lr, steps)
        if isinstance(loss, str):
            one_of("loss", loss, ("bold_fc",))
        held = {**self._model.parameters, "coupling_strength": torch.tensor(coupling_strength)}
        unknown = [name for name in params if name not in held]
        if unknown:
            raise ValueError(
                f"params names {', '.join(map(repr, unknown))}; there are "
                f"{', '.join(map(repr, held))}"
            )
        source = torch.Generator().manual_seed(0) if generator is None else generator
        seen = source.get_state()

        def simulated(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
            source.set_state(seen)
            rest = {k: x for k, x in values.items() if k != "coupling_strength"}
            # In a sweep a line of numbers is one per set: a set of one, one per region.
            rows = {k: x[None] if x.ndim else x for k, x in rest.items()}
            found = self.simulate(
                duration, dt, params=rows,
                coupling_strength=values.get("coupling_strength", coupling_strength),
                noise=noise, initial_state=initial_state, generator=source, transient=transient,
                tr=tr, record_every=record_every, checkpoint_every=checkpoint_every,
            )  # fmt: skip
            single = not any(x.ndim for x in rest.values())
            return found if single else {k: x if k == "time" else x[0] for k, x in found.items()}

        start = {name: held[name].detach().double() for name in params}
        return descend(simulated, start, target, loss=loss, lr=lr, steps=steps)
