"""The Job that `bascule train manifest` prints, done as Kubernetes would do it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from tests.unit.training.test_training_runs import FIT, TOML, table

from bascule.app import open_registry
from bascule.settings import load_settings

pytestmark = pytest.mark.slow  # the process of the run imports what training needs


def test_the_container_of_the_job_trains_and_pushes(tmp_path, postgresql_url):
    """With the variables that its secret gives; a second pod of it fits another time, and pushes
    the same version."""
    (tmp_path / "train.py").write_text(FIT)
    (tmp_path / "pipeline.toml").write_text(TOML)
    pq.write_table(table(), tmp_path / "rows.parquet")
    secret = {"url": postgresql_url, "objects": f"files://{tmp_path}/objects"}

    def bascule(*words: str, **variables: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "bascule.cli", *words], cwd=tmp_path, check=True, text=True,
            stdout=subprocess.PIPE, env={**os.environ, **variables},
        ).stdout  # fmt: skip

    job = yaml.safe_load(bascule("train", "manifest", "--image", "registry.example.com/late:1"))
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "registry.example.com/late:1"
    for pod in ("first", "second"):
        variables = {}
        for variable in container["env"]:
            if "value" in variable:
                (mount,) = container["volumeMounts"]
                assert variable["value"] == mount["mountPath"]
                variables[variable["name"]] = str(Path(tmp_path, pod))
            else:
                reference = variable["valueFrom"]["secretKeyRef"]
                assert reference["name"] == "late--catalogue"
                variables[variable["name"]] = secret[reference["key"]]
        assert "late/1" in bascule(*container["args"], **variables)
    settings = load_settings(tmp_path, variables)
    assert len(open_registry(settings).versions("late")) == 1
