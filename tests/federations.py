"""A classifier, the rows of two devices, and a Flower app of `bascule edge federate`."""

from __future__ import annotations

import csv
import importlib.util
import json
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from tests.scenarios.commands import run

import bascule

LABELS = np.array(["late", "on time"])


def rows_around(center: float, count: int, seed: int) -> tuple[dict[str, Any], Any]:
    """Rows with three columns on very different scales, the last of integers, and their truth."""
    random = np.random.default_rng(seed)
    signal = random.normal(center, 1, count)
    columns = {
        "delay": 40 * signal, "share": random.uniform(0, 0.01, count),
        "hour": random.integers(0, 24, count),
    }  # fmt: skip
    return columns, LABELS[(signal + random.normal(0, 0.4, count) < 0).astype(int)]


def parent_bundle(folder: Path, **facts: Any) -> bascule.Bundle:
    """A poor classifier of rows like those of the devices: `hour` says nothing."""
    columns, truth = rows_around(0, 200, seed=0)
    model = LogisticRegression().fit(columns["hour"][:, None].repeat(3, 1), truth)
    options = {"train": columns, "test": rows_around(0, 300, seed=1), **facts}
    return packed(model, folder, **options)


def packed(model: Any, folder: Path, **options: Any) -> bascule.Bundle:
    """`late.bundle`, without what takes time to measure."""
    return bascule.pack(
        model, name="late", to=folder / "late.bundle", measure=False, explain=False,
        outliers=False, baseline=False, **options,
    )  # fmt: skip


def write_rows(file: Path, center: float, seed: int) -> Path:
    """The rows of a device as a CSV file."""
    columns, truth = rows_around(center, 200, seed)
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*columns, "target"])
        writer.writerows(zip(*columns.values(), truth, strict=True))
    return file


def device_rows(folder: Path) -> list[Path]:
    """Of two devices with unlike rows."""
    return [write_rows(folder / f"device{n}.csv", n - 0.5, seed=10 + n) for n in (0, 1)]


def write_app(folder: Path, app: str = "app") -> tuple[int, str, str]:
    """The command that writes the app of `late.bundle` beside it."""
    model = folder / "late.bundle"
    return run(folder / "home", "edge", "federate", folder / app, "--model", model)


def task_of(app: Path) -> ModuleType:
    """The module `task` of an app."""
    spec = importlib.util.spec_from_file_location("task_of_app", app / "task.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def options_of(app: Path) -> dict[str, Any]:
    document = tomllib.loads((app / "pyproject.toml").read_text())
    options: dict[str, Any] = document["tool"]["flwr"]["app"]["config"]
    return options


def averaged(app: Path, rows: list[Path], rounds: int) -> list[Any]:
    """The weights that federated averaging gives, without Flower; all devices weigh the same."""
    task, options = task_of(app), options_of(app)
    weights = task.initial_weights()
    for _ in range(rounds):
        trained = [
            task.train(weights, *task.load_rows(file), options["epochs"], options["learning-rate"])
            for file in rows
        ]
        weights = [np.mean(arrays, axis=0) for arrays in zip(*trained, strict=True)]
    return weights


def hand_over(app: Path, weights: list[Any], **facts: Any) -> None:
    """What the server app writes at the end of a run."""
    task = task_of(app)
    slopes = weights[0] / task.SCALES
    described = {**options_of(app), "completed": 3, "flwr": "1.42.0", **facts}
    np.savez(
        app / "federated.npz", slopes=slopes, biases=weights[1] - slopes @ task.CENTRES,
        run=json.dumps(described),
    )  # fmt: skip
