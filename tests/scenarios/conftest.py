"""The protocols as the conformance suite has them, for scenarios in which many are asked."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bascule.serving.protocols.table import PROTOCOLS

CONFORMANCE = Path(__file__).parent.parent / "conformance"


def load(file: Path, name: str) -> ModuleType:
    """A module of the conformance suite, which is no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.fixture(scope="session")
def protocol() -> ModuleType:
    return load(CONFORMANCE / "protocol.py", "conformance_protocol")


@pytest.fixture(scope="session")
def forms(protocol: ModuleType) -> dict[str, Any]:
    """Every form of every protocol, and gRPC, which is none."""
    made: dict[str, Any] = {}
    for name in PROTOCOLS:
        module = load(CONFORMANCE / "protocols" / f"{name}.py", f"conformance_protocol_{name}")
        made.update({f"{name}/{form}": value for form, value in module.FORMS.items()})
    return {**made, "grpc": None}


@pytest.fixture(scope="session")
def trees(packed: Any) -> tuple[Any, Any]:
    """`m`, whose answers have the same bits in any company, and rows for it."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import GradientBoostingClassifier

    import bascule

    X, y = load_breast_cancer(return_X_y=True)
    model = GradientBoostingClassifier(random_state=0).fit(X, y)
    return bascule.load(packed("m", model, X)), X
