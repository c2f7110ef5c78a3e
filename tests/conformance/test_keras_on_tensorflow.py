"""The conformance suite on Keras as most of its users have it: on TensorFlow.

TensorFlow would nearly double what has to be installed to work on Bascule, so the suite is run by
the Python of an environment of its own.
"""

from __future__ import annotations

import os
import re
import subprocess

import pytest
from tests.own_environments import ROOT, python_of


@pytest.mark.slow  # building the environment takes a minute or two the first time
def test_every_law_holds_for_keras_on_tensorflow():
    done = subprocess.run(
        [
            python_of("keras"), "-m", "pytest", "tests/conformance/test_flavors.py",
            "-q", "-p", "no:cacheprovider", "--confcutdir=tests/conformance", "-W", "default",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "BASCULE_CONFORMANCE_ONLY": "keras",
            "KERAS_BACKEND": "tensorflow",
            "PYTHONPATH": str(ROOT / "src"),
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed in", done.stdout)
    assert passed is not None, done.stdout[-2000:]
    assert int(passed[1]) >= 32
