"""What every fitted model shares: parameters by name as in scikit-learn, and a folder it is saved to and read back from.

A model takes its settings in `__init__` and nothing else there; what it learns in `fit` ends in an underscore. Saving writes
both, loading gives a model whose predictions are the same to the bit, in another process too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Self

from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from brainlens import store
from brainlens.looks import look
from brainlens.types import DataError


class NotFitted(DataError, NotFittedError):
    """A model is asked for what it has not learned; a DataError that scikit-learn knows too."""


class Model(BaseEstimator):
    """A model with `get_params`, `set_params` and `clone` of scikit-learn, `save(folder)` and `load(folder)`.

    version: raised by a class when what it stores changes. `_pack` and `_unpack` say what is stored: by default all learned
    attributes; a class that learns networks stores their weights and builds them anew.
    """

    version: ClassVar[int] = 1

    def _repr_html_(self) -> str:
        return str(look("model", self))

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """In place of scikit-learn's diagram, which notebooks would prefer."""
        return {"text/plain": repr(self), "text/html": self._repr_html_()}

    def save(self, folder: str | Path) -> Path:
        """Writes the fitted model into a folder; an older model there is replaced at the very end. Returns the folder.

        Raises DataError for a model that is not fitted, and for a parameter that cannot be stored (a module, a function).
        """
        state = self._pack()
        if not state:
            raise DataError(f"{type(self).__name__} is not fitted, so there is nothing to save; call fit first")
        store.save_model(
            folder, model=type(self).__name__, version=self.version, parameters=self.get_params(deep=False), state=state
        )
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """The model that `save` wrote. Raises DataError for another class, another version, or a damaged folder."""
        found = store.load_model(folder)
        if found.model != cls.__name__:
            raise DataError(f"{folder} holds a {found.model}, not a {cls.__name__}; use {found.model}.load")
        if found.version != cls.version:
            raise DataError(
                f"{folder}: saved in version {found.version} of {cls.__name__}, this library reads {cls.version}; fit it again"
            )
        unknown = sorted(set(found.parameters) - set(cls._get_param_names()))
        if unknown:
            raise DataError(f"{folder}: {cls.__name__} has no parameter {unknown[0]!r}; fit it again with this version")
        model = cls(**found.parameters)
        model._unpack(found.state)
        return model

    def _check_fitted(self, attribute: str) -> None:
        """Raises NotFitted where the learned attribute is missing."""
        if not hasattr(self, attribute):
            raise NotFitted(f"{type(self).__name__} is not fitted; call fit first, or load a saved one")

    def _pack(self) -> dict[str, Any]:
        """What was learned, as nested dicts, lists, numbers, text, arrays and tensors; empty before `fit`."""
        return {name: value for name, value in vars(self).items() if name.endswith("_") and not name.startswith("_")}

    def _unpack(self, state: dict[str, Any]) -> None:
        """Takes over what `_pack` gave."""
        for name, value in state.items():
            setattr(self, name, value)


def check_device(device: str) -> None:
    """Raises DataError for a device that this machine or this build of torch does not have."""
    if device != "cpu":
        from brainlens.datasets.source import check_device as check

        check(device)
