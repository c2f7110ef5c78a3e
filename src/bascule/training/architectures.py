"""Models that a pipeline trains with parameters out of the ranges of its `search`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bascule.training.training import Prepared, split, train

if TYPE_CHECKING:
    from bascule.bundle import Bundle


@dataclass(frozen=True, slots=True)
class Architectures:
    """What `optimising.optimise` draws from, in place of ways to make a graph smaller.

    Attributes:
        prepared: The pipeline, its rows and its code.
        work: The folder of the bundles: each architecture is trained once.
        lineage: Of each bundle.
    """

    prepared: Prepared
    work: Path
    lineage: Sequence[str]
    FIRST: Sequence[Mapping[str, Any]] = ()

    def held_out(self) -> tuple[dict[str, Any], Any]:
        """The newest rows, which no architecture is trained on, as columns, and their truth."""
        inputs, truth = split(self.prepared.pipeline, self.prepared.rows.newest)
        return {name: inputs[name].to_numpy() for name in inputs}, truth.to_numpy()

    def suggest(self, trial: Any, **_options: bool) -> dict[str, Any]:
        """A point of the space, drawn by Optuna."""
        search = self.prepared.pipeline.search
        return {name: _drawn(trial, name, values) for name, values in search.items()}

    def train(self, settings: Mapping[str, Any]) -> Bundle:
        """Fitted on the older rows and packed; raises as `training.train` does."""
        chosen = self.prepared.with_parameters(settings)
        return train(chosen, self.work, lineage=self.lineage).bundle


def _drawn(trial: Any, name: str, values: Sequence[Any]) -> Any:
    is_log, ends = values[0] == "log", values[values[0] == "log" :]
    if not is_log and (len(values) != 2 or isinstance(values[0], str | bool)):
        return trial.suggest_categorical(name, values)
    is_whole = all(isinstance(end, int) for end in ends)
    return (trial.suggest_int if is_whole else trial.suggest_float)(name, *ends, log=is_log)
