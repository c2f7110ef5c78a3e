"""lm-eval beside the packages of this environment, and tasks for it in YAML files.

Its lock has what this environment lacks alone, and no package that only some of its own tasks need.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.own_environments import files_of


def packages() -> Path:
    """The folder with the packages."""
    return files_of("lm_eval", python=f"{sys.version_info.major}.{sys.version_info.minor}")


@pytest.fixture(scope="session")
def lm_eval(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """`import lm_eval` works, and asks no hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(packages())])
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


def write_task(
    folder: Path, name: str, docs: Iterable[Mapping[str, Any]], metric: str = "", **fields: Any
) -> str:
    """A task on these documents; what a criterion has before `/METRIC]`."""
    folder.mkdir(exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    metrics = [{"metric": metric, "aggregation": "mean", "higher_is_better": True}]
    task = {
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": str(data)},
        "test_split": "train", "metadata": {"version": 2.0},
        **({"metric_list": metrics} if metric else {}), **fields,
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return f"{folder}/{name}"
