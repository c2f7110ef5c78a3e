"""Streams with a change at a known row, by river's generators, and ADWIN's delay on losses.

Runs in the environment of `drift.txt`: `python drift_streams.py make FOLDER` writes the streams as
.npz, `python drift_streams.py adwin FOLDER` reads the losses that `bench.drift_power` wrote there.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from river import drift
from river.datasets import synth

Row = tuple[dict[str, float], int]

BEFORE, AFTER = 9_000, 8_000
RUNS = 10

STREAMS: dict[str, Callable[[int], tuple[Any, Any]]] = {
    "SEA 0 to 3 (labels)": lambda seed: (
        synth.SEA(variant=0, seed=seed, noise=0.1),
        synth.SEA(variant=3, seed=seed + 1, noise=0.1),
    ),
    "Agrawal 0 to 2 (labels)": lambda seed: (
        synth.Agrawal(classification_function=0, seed=seed),
        synth.Agrawal(classification_function=2, seed=seed + 1),
    ),
    "Agrawal, 5 % perturbed (inputs)": lambda seed: (
        synth.Agrawal(classification_function=0, seed=seed),
        synth.Agrawal(classification_function=0, seed=seed + 1, perturbation=0.05),
    ),
    "RandomRBF, other centroids (both)": lambda seed: (
        synth.RandomRBF(seed_model=seed, seed_sample=seed, n_features=10),
        synth.RandomRBF(seed_model=seed + 1, seed_sample=seed + 1, n_features=10),
    ),
    "Waveform x 1.1 (inputs)": lambda seed: (
        synth.Waveform(seed=seed),
        _scaled(synth.Waveform(seed=seed + 1), 1.1),
    ),
}


def _scaled(stream: Iterable[Row], factor: float) -> Iterator[Row]:
    for x, y in stream:
        yield {name: value * factor for name, value in x.items()}, y


def make(folder: Path) -> None:
    for number, (name, streams) in enumerate(STREAMS.items()):
        for run in range(RUNS):
            rows: list[Row] = []
            for stream, count in zip(streams(100 * run), (BEFORE, AFTER), strict=True):
                rows += itertools.islice(iter(stream), count)
            X = np.array([[float(value) for value in x.values()] for x, _ in rows])
            y = np.array([int(label) for _, label in rows])
            np.savez(folder / f"stream-{number}-{run}.npz", X=X, y=y, change=BEFORE, name=name)


def adwin(folder: Path) -> None:
    found = {}
    for file in sorted(folder.glob("losses-*.npz")):
        data = np.load(file)
        detector = drift.ADWIN(delta=float(data["delta"]))  # type: ignore[no-untyped-call]
        alarms = []
        for place, loss in enumerate(data["losses"]):
            detector.update(float(loss))  # type: ignore[no-untyped-call]
            if detector.drift_detected:
                alarms.append(place)
        found[file.stem] = alarms
    print(json.dumps(found))


if __name__ == "__main__":
    {"make": make, "adwin": adwin}[sys.argv[1]](Path(sys.argv[2]))
