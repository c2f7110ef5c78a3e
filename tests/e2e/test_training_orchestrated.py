"""Kubeflow Pipelines has a real server do a training run, in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.origins import ROOT, environment_of
from tests.unit.training.test_training_runs import FIT, TOML, table

pytestmark = pytest.mark.slow  # building an environment takes minutes the first time

PIPELINE = """
import os
from kfp import compiler, dsl, local
from train_pipeline import train_pipeline

@dsl.pipeline(name="late")
def late(server: str, file: str) -> str:
    return train_pipeline(server=server, pipeline="late", file=file, poll_s=0.2).output

compiler.Compiler().compile(late, "late.yaml")
local.init(runner=local.SubprocessRunner(use_venv=False), raise_on_error=True)
done = train_pipeline(
    server=os.environ["CONTROL"], pipeline="late", file=os.environ["FILE"], poll_s=0.2
)
print("verdict:", done.output)
"""


def test_a_component_of_kubeflow_is_compiled_and_run_by_its_local_runner(
    serve, table_bundle: Path, tmp_path: Path
):
    (tmp_path / "train.py").write_text(FIT)
    (tmp_path / "pipeline.toml").write_text(
        TOML.replace("rows.parquet", f"{tmp_path}/rows.parquet").replace(
            "train.py:", f"{tmp_path}/train.py:"
        )
    )
    pq.write_table(table(), tmp_path / "rows.parquet")
    started = serve(table_bundle, env={"BASCULE_HOME": str(tmp_path / "home")})
    wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", ROOT / "packages/client"]
    subprocess.run([*wheel, "--wheel-dir", tmp_path / "wheels"], check=True, cwd=tmp_path)
    environment = {
        **os.environ, "CONTROL": f"http://127.0.0.1:{started.control_port}", "NO_PROXY": "*",
        "FILE": str(tmp_path / "pipeline.toml"),
        "PYTHONPATH": str(ROOT / "integrations/kfp"),
        # The runner installs what the component names.
        "PIP_NO_DEPS": "1", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path / "wheels"),
    }  # fmt: skip

    python = environment_of(ROOT / "tests/environments/kfp.txt") / "bin" / "python"
    done = subprocess.run(
        [python, "-c", PIPELINE], env=environment, cwd=tmp_path, capture_output=True,
        text=True, timeout=900.0, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-5_000:] + done.stderr[-5_000:]
    assert "verdict: late/1 wins: there is no champion yet" in done.stdout
    assert "bascule-client" in (tmp_path / "late.yaml").read_text()
