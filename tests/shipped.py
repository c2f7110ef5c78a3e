"""A version `late/2` with its image, made once for all tests that run it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import images, production

import bascule

REPOSITORY = "localhost/bascule-test"


@dataclass(frozen=True)
class Shipped:
    """A home with `late/2` under the alias champion, and its image.

    Attributes:
        home: Has the registry.
        bundle: The folder of `late/2` as it was packed.
        files: What `bascule ship container` rendered.
        wheels: What the image was built from.
        built: What `bascule ship container --build` said.
    """

    home: Path
    bundle: Path
    files: Path
    wheels: Path
    built: dict[str, Any]

    def cli(self, *words: Any, **options: Any) -> str:
        return _cli(self.home, *words, **options)

    def build(self, tag: str, *options: str) -> dict[str, Any]:
        return _build(self.home, self.wheels, tag, *options)

    @staticmethod
    def rows(count: int = 20) -> dict[str, list[Any]]:
        rows = production.flights(np.random.default_rng(7), count)
        return {name: values.tolist() for name, values in rows.items()}

    def request(self, count: int = 20) -> dict[str, Any]:
        """The rows in the Open Inference Protocol."""
        kinds = {str: "BYTES", float: "FP64"}
        inputs = [
            {"name": name, "shape": [count], "datatype": kinds[type(values[0])], "data": values}
            for name, values in self.rows(count).items()
        ]
        return {"inputs": inputs}


def _cli(home: Path, *words: Any, **options: Any) -> str:
    environment = {**images.environment(), "BASCULE_HOME": str(home)}
    return images.run(sys.executable, "-m", "bascule.cli", *words, env=environment, **options)


def _build(home: Path, wheels: Path, tag: str = "", *options: str) -> dict[str, Any]:
    said = _cli(
        home, "ship", "container", "late@champion", "--build", "--json", "--image", REPOSITORY,
        "--base", images.python_base(), "--wheels", wheels, "--tag", tag,
        *options,
    )  # fmt: skip
    built: dict[str, Any] = json.loads(said)
    return built


def ship_late(made: pytest.TempPathFactory) -> Shipped:
    home, files = made.mktemp("home"), made.mktemp("files")
    for seed in (0, 1):
        bundle: bascule.Bundle = production.packed(made.mktemp("packed"), seed=seed)
        _cli(home, "push", bundle.path)
    _cli(home, "alias", "late/2", "champion")
    _cli(home, "ship", "container", "late@champion", "--out", files)
    wheels = images.wheelhouse((files / "requirements.txt").read_text())
    return Shipped(home, bundle.path, files, wheels, _build(home, wheels))
