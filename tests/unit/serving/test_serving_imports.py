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
