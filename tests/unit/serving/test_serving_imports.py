"""A worker has in memory what it needs, and nothing of what others do."""

from __future__ import annotations

import json
import subprocess
import sys

OTHERS = ("bascule.monitoring", "bascule.registry", "duckdb", "pyarrow", "sqlalchemy", "fastapi")


def test_a_worker_that_records_nothing_imports_no_ledger_no_table_and_no_database():
    script = (
        "import json, sys, bascule.serving.workers.worker; print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    loaded = json.loads(done.stdout)
    assert "bascule.serving.workers.worker" in loaded
    found = [name for name in loaded if name.startswith(OTHERS)]
    assert found == []
    assert "bascule.serving.telemetry.ledger" not in loaded


def test_the_control_process_follows_rollouts_without_tables_in_memory():
    """They are 40 MB; the ledger is read by it only while a rollout has guards on outcomes."""
    script = (
        "import json, sys, bascule.control.process, bascule.control.loops.rollouts, "
        "bascule.release.rollouts.counting, bascule.release.rollouts.following; "
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    heavy = {"pyarrow", "duckdb", "pandas", "sklearn", "onnxruntime"}
    assert heavy.isdisjoint(json.loads(done.stdout))
