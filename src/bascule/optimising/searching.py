"""Searches for a smaller model within a budget, judges it against its parent, and packs it.

Each candidate is a bundle, measured and judged by the criteria of the gates. Half of the held-out
rows serve the search: they calibrate, prune and compare. The other half is asked afterwards, of the
candidates on the front within the budget, from the largest to the smallest, until the first one
fails. With an order that other rows have fixed, the chance to choose a model that is worse by the
margin or more stays that of a single test, 5 %, however many are tried (Maurer, Hothorn and
Lehmacher 1995).
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bascule.bundle import take
from bascule.bundle.disk import EXPLAINING, ProgramEntry, read_file
from bascule.bundle.programs import MACHINE_CODE, ONNX
from bascule.core import (
    BasculeError,
    Columns,
    Invalid,
    MissingExtra,
    Scratch,
    Unconvertible,
    user_name,
)
from bascule.optimising.devices import Device
from bascule.optimising.front import Candidate, draw, non_dominated
from bascule.packing import DerivedGraph, pack
from bascule.release import FIRST_CRITERION, Criterion, GateReport, NotWorse, check

if TYPE_CHECKING:
    from bascule.bundle import Bundle

_PARENT = "parent"
_Rows = tuple[Columns, Any]
_Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Optimised:
    """What came of a search.

    Attributes:
        parent: The bundle itself, measured as the candidates were.
        candidates: In the order of the search, with the reasons of those that could not be made.
        chosen: The smallest that passed; None where none did.
        bundle: It, packed.
        compared: The criterion that compares it with its parent.
    """

    parent: Candidate
    candidates: tuple[Candidate, ...]
    chosen: Candidate | None
    bundle: Bundle | None
    compared: NotWorse

    def to_json(self) -> dict[str, Any]:
        front, chosen = non_dominated(self.candidates), self.chosen
        return {
            "parent": self.parent.to_json(),
            "candidates": [
                {**own.to_json(), "on_front": own in front, "is_chosen": own is chosen}
                for own in self.candidates
            ],
            "compared": str(self.compared),
            "chart": draw(self.candidates, self.compared.margin, self.compared.metric),
        }


def optimise(
    parent: Bundle,
    *,
    reference: str,
    to: str | Path,
    device: Device | None = None,
    trials: int = 60,
    prunes: bool = False,
    seed: int = 0,
    tell: _Tell = lambda _: None,
) -> Optimised:
    """The smallest model within the budgets of a device that is not worse than its parent.

    Args:
        parent: A bundle with held-out rows, answered by an ONNX graph.
        reference: What the lineage calls it: `late/4`.
        to: The folder of the new bundle; it is made where a candidate passes.
        device: Its budgets; one that compares (`rmse <= parent + 0.5`) names the metric. Without
            one the first metric of the task may lose 0.01.
        trials: How many points of the space are drawn.
        prunes: Whether small weights of networks are set to zero, for smaller downloads.
        seed: Of the search, and of the halves of the held-out rows.
        tell: Called with a sentence for each candidate.

    Raises:
        Invalid: There are no held-out rows with their truth, or a budget cannot be read.
        Unconvertible: There are no weights or trees in the graph to make smaller.
        MissingExtra: Optuna is not installed.
    """
    search = _Search(parent, device or Device(), reference, seed)
    search.run(trials, tell, prunes=prunes)
    chosen, bundle = search.confirm(tell), None
    if chosen is not None:
        # It has been packed before, and has the same digest: what is measured is no part of it.
        bundle = search.packed(chosen, Path(to), measure=parent.cost is not None)
    return Optimised(search.own, tuple(search.tried), chosen, bundle, search.compared)


class _Search:
    """The candidates of one parent, and the rows that each question is asked on."""

    def __init__(self, parent: Bundle, device: Device, reference: str, seed: int) -> None:
        columns, truth = parent.test_data() or ({}, None)
        if truth is None:
            raise Invalid(
                f"{parent.name} holds no test rows with their truth, to judge smaller models by",
                hint="pack it with test=(X, y)",
            )
        self._parent, self._reference, self._seed = parent, reference, seed
        self._device = device
        self.limits, self.compared = criteria_of(parent.task, device)
        self._held_out = columns, truth
        order = np.random.default_rng(seed).permutation(len(truth))
        first, second = order[: len(order) // 2], order[len(order) // 2 :]
        self._search_rows = take(columns, first), truth[first]
        self._gate_rows = take(columns, second), truth[second]
        self._entry, self._graph = graph_of(parent)
        self._room = _room_of(self._graph)
        self.tried: list[Candidate] = []
        self.own = self._measured(parent, {"way": "as it is"}, b"")

    def run(self, trials: int, tell: _Tell, *, prunes: bool) -> None:
        """Draw points of the space, and measure each once."""
        try:
            import optuna
        except ImportError:
            hint = "pip install 'bascule[optimise]'"
            raise MissingExtra("optuna is not installed", hint=hint) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self._seed)
        study = optuna.create_study(directions=["minimize"] * 3, sampler=sampler)
        known: dict[str, Candidate] = {}
        for _ in range(trials):
            trial = study.ask()
            settings = self._room.suggest(trial, prunes=prunes)
            if (key := repr(settings)) not in known:
                known[key] = self._try(settings)
                self.tried.append(known[key])
                tell(f"{known[key].words}: {known[key].problem or _figures(known[key])}")
            if math.isfinite(sum(known[key].losses)):
                study.tell(trial, known[key].losses)
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def _try(self, settings: Mapping[str, Any]) -> Candidate:
        """Made, packed, measured; with the problem where that cannot be."""
        try:
            with Scratch("bascule-optimise-") as folder:
                data = self._room.make(self._graph, settings, self._entry, self._search_rows[0])
                plain = {"keep_test": False, "baseline": False, "outliers": False, "explain": False}
                bundle = self._pack(data, settings, folder / "bundle", measure=False, **plain)
                candidate = self._measured(bundle, settings, data)
        except BasculeError as problem:
            return Candidate(settings, problem=problem.message)
        if candidate.size_mb >= self.own.size_mb:
            return replace(candidate, problem="it is no smaller than its parent")
        return candidate

    def _measured(self, bundle: Bundle, settings: Mapping[str, Any], data: bytes) -> Candidate:
        report = self._check(bundle, [*self.limits, self.compared], self._search_rows)
        values = {
            own.criterion.metric: own.value for own in report.results if own.value is not None
        }
        unknown = [f"{own.criterion}: {own.reason}" for own in report.results if own.value is None]
        if unknown:
            raise Invalid(unknown[0], hint="bascule check measures the same of the parent")
        problem = "; ".join(f"{own.criterion}: {own.reason}" for own in report.failures)
        return Candidate(
            settings, values["size"], len(zlib.compress(data)) / 1e6, values["latency_p50"],
            values[self.compared.metric], problem,
        )  # fmt: skip

    def confirm(self, tell: _Tell) -> Candidate | None:
        """The smallest of the front that passes the gate, as it is packed, with all larger ones."""
        chosen = None
        for candidate in non_dominated([own for own in self.tried if not own.problem]):
            with Scratch("bascule-optimise-") as folder:
                bundle = self.packed(candidate, folder / "bundle", measure=False)
                report = self._check(bundle, [*self.limits, self.compared], self._gate_rows)
            reasons = [own.reason for own in report.failures] or [report.results[-1].reason]
            confirmed = replace(candidate, confirmed="; ".join(reasons))
            self.tried[self.tried.index(candidate)] = confirmed
            tell(f"{candidate.words}, on the rows of the gate: {confirmed.confirmed}")
            if not report.passed:
                break
            chosen = confirmed
        return chosen

    def packed(self, candidate: Candidate, to: Path, *, measure: bool) -> Bundle:
        """As any model is packed, explained where its parent is."""
        settings, parent = candidate.settings, self._parent
        data = self._room.make(self._graph, settings, self._entry, self._search_rows[0])
        return self._pack(
            data, settings, to, lineage=[f"bundle:{self._reference}@{parent.digest}"],
            explain=EXPLAINING in parent.manifest.files, measure=measure,
            parameters=dict(settings),
            description=f"{self._reference}, made smaller for {self._device.name}",
        )  # fmt: skip

    def _pack(self, data: bytes, settings: Mapping[str, Any], to: Path, **options: Any) -> Bundle:
        manifest, words = self._parent.manifest, Candidate(settings).words
        return pack(
            DerivedGraph(manifest, self._entry, data, words), name=manifest.name, to=to,
            test=self._handed_over(self._held_out), tolerance=self._entry.tolerance,
            allow_non_finite=manifest.allows_non_finite, progress=lambda _: None, **options,
        )  # fmt: skip

    def _check(self, bundle: Bundle, criteria: Sequence[Criterion], rows: _Rows) -> GateReport:
        return check(
            bundle, criteria, test=self._handed_over(rows), now=datetime.now(UTC), by=user_name(),
            record=lambda _: None, find=lambda _: self._parent,
        )  # fmt: skip

    def _handed_over(self, rows: _Rows) -> tuple[Any, Any]:
        """Rows as callers give them; a matrix by the names of its columns, where it has them."""
        signature = self._parent.signature
        if not signature.is_matrix:
            return rows
        (matrix,) = rows[0].values()
        names = signature.columns
        table = {name: matrix[:, at] for at, name in enumerate(names)} if names else matrix
        return table, rows[1]


def criteria_of(task: str, device: Device) -> tuple[list[Criterion], NotWorse]:
    """The budgets, with limits of latency in those of this machine; and the one that compares.

    Size and latency are measured in any case.

    Raises:
        Invalid: A budget is no criterion, or not exactly one of them compares with the parent and
            the task has no metric of its own.
    """
    parsed = [Criterion.parse(text) for text in device.budgets]
    compared = [own for own in parsed if isinstance(own, NotWorse)]
    if not compared and task in FIRST_CRITERION:
        usual = Criterion.parse(f"{FIRST_CRITERION[task].split()[0]} >= {_PARENT} - 0.01")
        compared = [own for own in (usual,) if isinstance(own, NotWorse)]
    if len(compared) != 1:
        raise Invalid(
            f"{len(compared)} criteria compare a {task} model with its parent, and one is needed",
            hint="give one: --budget 'accuracy >= parent - 0.01'",
        )
    limits = [
        replace(own, limit=own.limit / device.latency_factor) if own.unit == "ms" else own
        for own in parsed
        if own is not compared[0]
    ]
    free = [Criterion("size", "<=", math.inf), Criterion("latency_p50", "<=", math.inf, batch=1)]
    named = {own.metric for own in limits}
    return [*limits, *(own for own in free if own.metric not in named)], compared[0]


def graph_of(parent: Bundle) -> tuple[ProgramEntry, Any]:
    """The graph that answers; of trees in machine code, the one beside it with all sums apart.

    Raises:
        Unconvertible: The model is served as it was saved, or behind steps of its own.
    """
    import onnx

    for entry in reversed(parent.manifest.programs):
        if entry.features is not None:
            continue
        data = read_file(parent.path, parent.manifest, entry.file)
        if entry.kind == MACHINE_CODE:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                data = arrays["whole"].tobytes()
        return replace(entry, kind=ONNX), onnx.load_from_string(data)
    raise Unconvertible(
        f"{parent.name} is not answered by an ONNX graph alone",
        hint="only the graph of a compiled model is made smaller; bascule show says what is served",
    )


def _room_of(graph: Any) -> Any:
    """The module that makes graphs of that kind smaller."""
    from bascule.optimising import networks, trees

    for room in (trees, networks):
        if room.applies(graph):
            return room
    raise Unconvertible(
        "the graph has neither a sum of trees nor large tensors of weights in floats",
        hint="it is small already; models that gain are ensembles of trees and networks",
    )


def _figures(own: Candidate) -> str:
    return f"{own.size_mb:.3g} MB, {own.latency_ms:.3g} ms, better by {own.worst:+.3g} or more"
