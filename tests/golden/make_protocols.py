"""Records `protocols/`. Run it for a new form; the records of the others must not change.

python tests/golden/make_protocols.py
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

CONFORMANCE = Path(__file__).parents[1] / "conformance"


def main() -> None:
    spec = importlib.util.spec_from_file_location("conformance", CONFORMANCE / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
    protocol, protocols = sys.modules["conformance_protocol"], sys.modules["conformance_protocols"]
    with tempfile.TemporaryDirectory() as folder:
        worker = protocol.Inside(Path(folder), protocol.Fixed(), protocol.Fixed.signature)
        protocols.write_golden(protocols.GOLDEN, worker)
        worker.close()


if __name__ == "__main__":
    main()
