"""The run of a pipeline that goes on learning: outcomes learnt, snapshots pushed and judged."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from bascule.core import Conflict, NotFound, Scratch

if TYPE_CHECKING:
    from bascule.bundle import Bundle
    from bascule.jobs import Live, Task
    from bascule.registry import Registry, Version
    from bascule.settings import Settings
    from bascule.training import Learner, State, Verdict

_LOG = logging.getLogger("bascule.jobs")
_SNAPSHOT = "snapshot"
"""The kind of the statement beside each."""
Judge = Callable[["Registry", "Version", "Bundle", int], tuple["Verdict", str]]


def run_learner(
    settings: Settings, task: Task, live: Live, learner: Learner, judge: Judge
) -> dict[str, Any]:
    """Learn what has arrived; a snapshot is judged before later outcomes are learnt.

    `judge` gives the verdict on a version that has learnt so many rows, and what was deployed.
    Raises `Conflict` where the learner has its state in another home.
    """
    from bascule import training
    from bascule.app import open_registry
    from bascule.monitoring.ledger import Ledger

    registry, key = open_registry(settings), training.key_of(learner)
    file = settings.home / "training" / f"{key}.state"
    state = training.open_state(file, learner)
    for version, body in _snapshots(registry, learner, key):
        if body["state"] != state.id:
            raise Conflict(
                f"{version} is a snapshot of this learner in another home",
                hint=f"run it there, or bring its training/{file.name} to {file.parent}",
            )
    ledger, before = Ledger(settings.home), state.learned
    sentences, curve = [], []
    result: dict[str, Any] = {"version": "", "wins": False, "deployed": ""}
    for batch in training.new_batches(ledger, learner, state):
        sentences.append(training.learn(learner, state, batch))
        curve.append((state.learned, state.prequential.mean()))
        if state.is_due(learner):
            live.tell({"step": "judge", "done": state.learned})
            bundle, version = _pushed(registry, learner, state, key, task.by)
            verdict, deployed = judge(registry, version, bundle, state.snapshot_at)
            # A killed run may have let it win: then it is the champion by now.
            challenges = training.challenges_of(registry, learner.name)
            name = str(version)
            wins = any(body["wins"] for body in challenges if body["challenger"] == name)
            state.settle(name, wins=wins)
            training.save_state(file, state)
            sentences.append(verdict.sentence)
            result = {"version": name, "wins": wins, "deployed": deployed}
        if live.stopped:
            break
    training.save_state(file, state)
    # Without labels in the ledger, nothing is known of what was served.
    counts = training.arrived(ledger, learner) if state.served.tested and learner.classes else []
    weighted, bias = training.arrival(counts)
    sentence = "; ".join(filter(None, [
        f"{state.learned - before:,} outcomes learnt, {state.learned:,} in all", *sentences, bias,
    ]))  # fmt: skip
    _LOG.info("%s", sentence)
    if result["version"]:  # the record of a run that has pushed nothing is replaced by the next
        live.begin(f"{learner.name} {result['version']}", {})
    loss = "error_rate" if learner.classes else "absolute_error"
    metrics = {
        f"prequential_{loss}": state.prequential.mean(), "learned": state.learned,
        f"served_{loss}": state.served.mean(), "served_weighted_error_rate": 1 - weighted,
        "unknown_truths": state.unknown,
    }  # fmt: skip
    return {
        **result, "sentence": sentence, "parameters": learner.parameters, "was_known": False,
        "metrics": {name: value for name, value in metrics.items() if value == value},
        "curves": {f"prequential_{loss}": curve}, "rows_seen": state.learned,
    }  # fmt: skip


def _snapshots(registry: Registry, learner: Learner, key: str) -> list[tuple[Version, Any]]:
    """Of this learner, in the order of their numbers, with the body of each statement."""
    with suppress(NotFound):
        return [
            (version, statement.body)
            for version in registry.versions(learner.name)
            for statement in registry.statements(version, _SNAPSHOT)
            if statement.body["learner"] == key
        ]
    return []


def _pushed(
    registry: Registry, learner: Learner, state: State, key: str, by: str
) -> tuple[Bundle, Version]:  # fmt: skip
    """Pack and push the snapshot. A run that was killed after the push is given its version."""
    from bascule.bundle import load
    from bascule.packing import pack
    from bascule.training import opened, packable

    table = state.table().to_pandas()
    inputs, truth = table.drop(columns="truth"), table["truth"]
    cut = len(table) - int(learner.held_out)
    snapshot = opened(state.snapshot)
    with Scratch("bascule-learn-") as scratch:
        bundle = pack(
            packable(snapshot, learner.classes, list(inputs), scratch), name=learner.name,
            train=(inputs[:cut], truth[:cut]), test=(inputs[cut:], truth[cut:]),
            to=scratch / "bundle", parameters=learner.parameters,
        )  # fmt: skip
        version = registry.push(bundle.path, by=by)
    earlier = _snapshots(registry, learner, key)
    if version not in [snapshot for snapshot, _ in earlier]:
        body = {
            "learner": key, "state": state.id, "learned": state.snapshot_at,
            "parent": str(earlier[-1][0]) if earlier else "",
            "prequential": state.prequential.mean(), "tested": state.prequential.tested,
        }  # fmt: skip
        registry.add_statement(version, _SNAPSHOT, body, at=datetime.now(UTC), by=by)
    return load(registry.path(version)), version
