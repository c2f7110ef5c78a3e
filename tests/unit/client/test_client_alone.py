"""The client needs numpy and nothing else, and is the same one with `bascule` and without."""

from __future__ import annotations

import json
import subprocess
import sys

import bascule
import bascule_client
from bascule.core import errors, fields
from bascule_client.errors import KINDS

LOADED = """
import sys, json
import bascule_client
from bascule_client.fields import DType, Field, Signature
from bascule_client.tables import conform
bascule_client.Client("http://127.0.0.1:1").close()
bascule_client.AsyncClient("https://127.0.0.1:1")
conform([[1.0, 2.0]], Signature((Field("input", DType.FP64, (2,)),), ()))
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_a_client_imports_numpy_and_the_standard_library_alone():
    done = subprocess.run(
        [sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, timeout=60
    )
    before = {name.partition(".")[0] for name in started_with()}
    assert set(json.loads(done.stdout)) - sys.stdlib_module_names - before == {
        "bascule_client", "numpy",
    }  # fmt: skip


def started_with():
    """The modules that this interpreter has at its start: those of `.pth` files among them."""
    script = "import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


def test_what_is_caught_of_one_package_is_caught_of_the_other():
    assert bascule.Client is bascule_client.Client
    assert bascule.Answer is bascule_client.Answer
    assert errors.KINDS is KINDS
    assert [getattr(errors, kind.__name__) for kind in KINDS] == list(KINDS)
    assert fields.Field is bascule_client.fields.Field
