"""Models that a pipeline trains with parameters out of the ranges of its `search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bascule.core import Scratch
from bascule.training.run_log import RunLog
from bascule.training.training import Prepared, fitted, packed, split

if TYPE_CHECKING:
    from bascule.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Architectures:
    """What `optimising.optimise` draws from, in place of ways to make a graph smaller."""

    FIRST: ClassVar[Sequence[dict[str, Any]]] = ()
    prepared: Prepared
    _models: dict[str, Any] = field(default_factory=dict)

    def held_out(self) -> tuple[dict[str, Any], Any]:
        """The newest rows, which no architecture is trained on, as columns, and their truth."""
        inputs, truth = split(self.prepared.pipeline, self.prepared.rows.newest)
        return {name: inputs[name].to_numpy() for name in inputs}, truth.to_numpy()

    def suggest(self, trial: Any, **_options: bool) -> dict[str, Any]:
        """A point of the space, drawn by Optuna."""
        search = self.prepared.pipeline.search
        return {name: _drawn(trial, name, values) for name, values in search.items()}

    def pack(self, settings: Mapping[str, Any], to: Path, **options: Any) -> Bundle:
        """Packed after one fit on the older rows: what is judged is what is packed in the end."""
        rows, pipeline = self.prepared.rows, self.prepared.pipeline.with_parameters(settings)
        if (key := repr(settings)) not in self._models:
            with Scratch("bascule-train-") as scratch:
                log = RunLog(scratch)
                self._models[key] = fitted(pipeline, self.prepared.fit, rows, log, scratch)
        return packed(pipeline, self._models[key], rows, to, **options)


def _drawn(trial: Any, name: str, values: Sequence[Any]) -> Any:
    ends, is_log = [end for end in values if not isinstance(end, str | bool)], values[0] == "log"
    if not is_log and not len(values) == len(ends) == 2:
        return trial.suggest_categorical(name, values)
    if all(isinstance(end, int) for end in ends):
        return trial.suggest_int(name, *ends, log=is_log)
    return float(f"{trial.suggest_float(name, *ends, log=is_log):.3g}")
