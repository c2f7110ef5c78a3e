from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bascule.bundle.disk.folder import write_file, write_manifest, write_statement
from bascule.bundle.disk.manifest import Manifest, OriginalEntry, ProgramEntry
from bascule.core.fields import DType, Field, Signature
from bascule.registry import Registry, open_registry

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def write_bundle(folder: Path, name: str = "late", content: bytes = b"one") -> Path:
    """A sealed bundle whose program is `content`: the registry keeps bytes, and runs none."""
    folder.mkdir(parents=True)
    files = {
        "original/model.onnx": write_file(folder, "original/model.onnx", content),
        "programs/onnx.onnx": write_file(folder, "programs/onnx.onnx", content),
    }
    row = Field("input", DType.FP32, (3,))
    manifest = Manifest(
        name=name,
        flavor="onnx",
        task="other",
        classes=None,
        signature=Signature((row,), (Field("out", DType.FP32),)),
        original=OriginalEntry("original/model.onnx", "onnx", {}, {}),
        programs=(ProgramEntry("onnx", "onnx", "programs/onnx.onnx", (row,), True, 1e-5),),
        serves="onnx",
        files=files,
    )
    write_manifest(folder, manifest)
    (folder / "card.md").write_text("# a card\n")
    return folder


def say_gates(bundle: Path, *, passed: bool, at: datetime = T0) -> None:
    """Lay a gates statement beside a bundle."""
    result = {"criterion": "roc_auc >= 0.8", "passed": passed, "reason": "0.5 is not >= 0.8"}
    write_statement(bundle, "gates", {"passed": passed, "results": [result]}, at=at, by="ci")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / ".bascule"


@pytest.fixture
def registry(home: Path) -> Registry:
    return open_registry(home)


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """Makes bundles: `bundle("late", b"bytes", passed=True)`."""
    made = 0

    def make(
        name: str = "late", content: bytes | None = None, *, passed: bool | None = None
    ) -> Path:
        nonlocal made
        made += 1
        bytes_in = str(made).encode() if content is None else content
        folder = write_bundle(tmp_path / "bundles" / str(made), name, bytes_in)
        if passed is not None:
            say_gates(folder, passed=passed)
        return folder

    return make


@pytest.fixture
def now() -> datetime:
    return T0
