"""A serving worker reads bundles, and must stay small: what is imported is a promise."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("onnx", "pandas", "polars", "pyarrow", "skl2onnx", "sklearn", "skops", "scipy")
_PROBE = """
import sys
{code}
print(sorted(set({heavy!r}) & set(sys.modules)))
"""


@pytest.mark.parametrize(
    "code",
    [
        "import bascule",
        "import bascule.bundle.format, bascule.bundle.programs.onnx",
        "from bascule.bundle.format import *; p = {path!r}; open_program(p, read_manifest(p))",
        "import bascule; bascule.load({path!r}).predict([[0.0] * 30])",
    ],
)
def test_reading_and_predicting_import_no_framework(pack, boosted, cancer, code):
    bundle = pack(boosted, cancer[0])
    probe = _PROBE.format(code=code.format(path=str(bundle.path)), heavy=HEAVY)
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
