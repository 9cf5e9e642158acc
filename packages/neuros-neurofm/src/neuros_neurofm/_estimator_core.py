"""The conventions of scikit-learn without scikit-learn, and what an estimator has learned."""

import inspect
import sys
from collections.abc import Sequence
from operator import index
from typing import TYPE_CHECKING, Any, SupportsFloat, SupportsIndex, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Generator

from neuros_neurofm import _estimator_data as data
from neuros_neurofm._estimator_data import Arrays
from neuros_neurofm._estimator_state import Learned, ReadOut
from neuros_neurofm._estimator_training import run_training
from neuros_neurofm.models import MultiModalNeuroFMX

__all__ = ["Core", "RandomState", "not_fitted"]

RandomState: TypeAlias = (
    SupportsIndex | Generator | np.random.Generator | np.random.RandomState | None
)

if TYPE_CHECKING:
    from typing import Self
else:
    # The run-time type checker of the tests knows Self only in classes that it decorates whole.
    Self = object


class Core:
    """Parameters as in `sklearn.base.BaseEstimator`, and the way from arrays to the model."""

    modality: str
    batch_size: SupportsIndex
    learning_rate: SupportsFloat
    mask_ratio: SupportsFloat
    device: str
    progress: bool
    model_: MultiModalNeuroFMX
    sessions_: dict[str, int]
    classes_: NDArray[Any] | None
    loss_curve_: list[float]
    n_iter_: int
    n_features_in_: int

    @classmethod
    def _names(cls) -> list[str]:
        signature = inspect.signature(cls.__init__)
        return sorted(name for name in signature.parameters if name != "self")

    def get_params(self, *, deep: bool = True) -> dict[str, Any]:
        """The arguments of the constructor by name.

        Args:
            deep: Taken for scikit-learn's sake; no argument is an estimator.

        Returns:
            {name: value}.
        """
        del deep
        return {name: getattr(self, name) for name in self._names()}

    def set_params(self, **params: Any) -> Self:
        """Set arguments of the constructor; they are checked by the next `fit`.

        Args:
            params: Values by name.

        Returns:
            The estimator.

        Raises:
            ValueError: An unknown name.
        """
        names = self._names()
        for name, value in params.items():
            if name not in names:
                raise ValueError(
                    f"Invalid parameter {name!r} for estimator {self!r}. "
                    f"Valid parameters are: {names!r}."
                )
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self).__init__).parameters
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if repr(value) != repr(defaults[name].default)
        ]
        return f"{type(self).__name__}({', '.join(changed)})"

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False, multi_output=True),
            transformer_tags=TransformerTags(preserves_dtype=[]),
            input_tags=InputTags(positive_only=self.modality == "spike", allow_nan=True),
        )

    def _read(
        self, X: Arrays, y: Arrays, sessions: str | Sequence[str] | None, *, first: int = 0
    ) -> data.Given:
        """X and y as lists; sessions without a name are numbered from `first`."""
        recordings = data.read_recordings(X, counts=self.modality == "spike")
        targets = data.read_targets(y, [len(x) for x in recordings], several=data.is_several(X))
        default = [str(first + k) for k in range(len(recordings))]
        return data.Given(
            recordings, targets, data.name_sessions(sessions, len(recordings), default)
        )

    def _learn(self, learned: Learned, given: data.Given, n_steps: int) -> None:
        pieces = learned.join(*given)
        learned.losses += run_training(
            learned.model,
            learned.loader(pieces, n_steps, index(self.batch_size)),
            learned.contrast,
            mask_ratio=float(self.mask_ratio),
            learning_rate=float(self.learning_rate),
            device=self.device,
            seed=learned.next_seed,
            progress=self.progress,
        )
        self._publish(learned)

    def _publish(self, learned: Learned) -> None:
        """Show what is learned under the names that scikit-learn expects."""
        self._learned = learned
        self.model_, self.sessions_ = learned.model, learned.sessions
        self.classes_, self.loss_curve_ = learned.code.classes, learned.losses
        self.n_iter_ = len(learned.losses)
        widths = set(learned.sessions.values())
        if len(widths) == 1:
            self.n_features_in_ = widths.pop()
        elif hasattr(self, "n_features_in_"):
            del self.n_features_in_

    def _fitted(self) -> Learned:
        learned: Learned | None = getattr(self, "_learned", None)
        if learned is None:
            raise not_fitted(f"this {type(self).__name__} instance")
        return learned

    def _read_out(
        self,
        X: Arrays,
        sessions: str | Sequence[str] | None,
        *,
        infer_units: bool,
        decodes: bool,
    ) -> list[ReadOut]:
        learned = self._fitted()
        recordings = data.read_recordings(X, counts=learned.counts)
        if infer_units and decodes and learned.linear is not None:
            raise ValueError(
                "infer_units does not decode with linear_skip: nothing says how the unknown units "
                "are weighted; adapt(X, y) learns it"
            )
        if infer_units:
            return [learned.read_out(None, x, decodes=decodes) for x in recordings]
        n = len(recordings)
        names = data.name_sessions(learned.names_for(sessions, n), n, ())
        pairs = zip(names, recordings, strict=True)
        return [learned.read_out(name, x, decodes=decodes) for name, x in pairs]


def not_fitted(what: str) -> Exception:
    """The error of an estimator that has learned nothing, scikit-learn's where it is loaded."""
    message = f"{what} is not fitted yet; call fit(X, y) first, or load a saved one"
    if "sklearn" in sys.modules:
        from sklearn import exceptions

        error: Exception = exceptions.NotFittedError(message)
        return error
    return NotFittedError(message)


class NotFittedError(ValueError, AttributeError):
    """An estimator that has learned nothing is asked for something."""
