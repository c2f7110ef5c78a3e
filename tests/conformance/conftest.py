"""Packs each sample of each flavor once."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import bascule
from bascule.packing.flavors import TABLE

HERE = Path(__file__).parent


def load(file: Path, name: str) -> ModuleType:
    """A module of this folder, which is no package."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


load(HERE / "sample.py", "conformance_sample")


ONLY = "BASCULE_CONFORMANCE_ONLY"
"""The one flavor whose samples are run, where an environment has nothing but that framework."""


WITHOUT_ROWS = {"generation", "retrieval"}
"""Texts are drawn and neighbours are looked up: their own tests, test_packing_generation.py and
test_packing_indexing.py, say what holds for them."""


def samples() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Every sample of every flavor in the table; a flavor without any is a failing test."""
    for flavor in [os.environ[ONLY]] if ONLY in os.environ else TABLE:
        if flavor in WITHOUT_ROWS:
            continue
        file = HERE / "samples" / f"{flavor}.py"
        if not file.exists():
            yield f"{flavor}-has-no-samples", lambda file=file: pytest.fail(f"write {file}")
            continue
        for name, make in load(file, f"conformance_{flavor}").SAMPLES.items():
            yield f"{flavor}-{name}", make


def pack(made: Any, to: Path) -> bascule.Bundle:
    """Pack without what is the same for every flavor: its cost, and the scorer of outliers."""
    options = {"measure": False, "outliers": False, **made.options}
    return bascule.pack(made.model, name="model", train=made.train, to=to, **options)


_MAKERS = dict(samples())
FIRST_TIER = {
    "catboost-binary", "catboost-categories",
    "composition-chain",
    "derived-the-same-trees",
    "keras-two-in-two-out",
    "lightgbm-binary", "lightgbm-categories", "lightgbm-missing-is-nan",
    "onnx-turned-text", "onnx-two-in-two-out",
    "sklearn-elliptic-envelope", "sklearn-pipeline-on-a-table", "sklearn-several-labels",
    "sklearn-texts-alone",
    "torch-classifier",
    "transformers-classifier",
    "xgboost-categories", "xgboost-native-binary", "xgboost-pipeline",
}  # fmt: skip
"""Samples of each kind of model that take the least; the second tier packs all."""


@pytest.fixture(scope="session", autouse=True)
def own_environments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Environments of models that have their own are built anew, and not in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BASCULE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(name, marks=() if name in FIRST_TIER else pytest.mark.slow) for name in _MAKERS
    ],
)
def sample(request: pytest.FixtureRequest) -> Any:
    return _MAKERS[request.param]()


@pytest.fixture(scope="session")
def bundle(sample: Any, tmp_path_factory: pytest.TempPathFactory) -> bascule.Bundle:
    return pack(sample, tmp_path_factory.mktemp("conformance") / "first")


@pytest.fixture(scope="session")
def again(sample: Any, tmp_path_factory: pytest.TempPathFactory) -> bascule.Bundle:
    return pack(sample, tmp_path_factory.mktemp("elsewhere") / "second")


# -- protocols --

if ONLY not in os.environ:  # an environment of a framework alone cannot serve
    load(HERE / "protocol.py", "conformance_protocol")
    _protocols = load(HERE / "protocol_forms.py", "conformance_protocols")
    _protocols.FORMS.update(_protocols.forms(load))
