"""Opens the bundles that it is told of, one a line, and says what became of each.

It is a process of its own, so that one that crashes is seen to. Its memory is bounded, so that one
that grows is seen to as well.
"""

from __future__ import annotations

import json
import resource
import sys
import warnings
from pathlib import Path

import numpy as np

import bascule
from bascule.bundle.examples import columns_of
from bascule.bundle.format import EXAMPLE, read_file
from bascule.core.errors import BasculeError

MEMORY_BYTES = 6 << 30


def attempt(step):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            step()
    except BasculeError as refusal:
        return type(refusal).__name__
    except MemoryError:
        return "MemoryError"
    except Exception as problem:
        import traceback

        return "".join(traceback.format_exception(problem))
    return "ok"


def look_at(path):
    """What each way into a bundle ends with, and the digest that it loads under."""
    said = {}
    loaded = []
    said["load"] = attempt(lambda: loaded.append(bascule.load(path)))
    if not loaded:
        return said | {"digest": None}
    (bundle,) = loaded

    def rows(program):
        return columns_of(read_file(path, bundle.manifest, EXAMPLE), program.inputs)

    def run(program):
        program.run(rows(program))

    said["program"] = attempt(lambda: run(bundle.program()))
    said["original"] = attempt(lambda: run(bundle.original()))
    said["test_data"] = attempt(bundle.test_data)
    said["statements"] = attempt(lambda: (bundle.parity, bundle.cost, bundle.statements()))
    return said | {"digest": bundle.digest}


def main():
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    np.seterr(all="ignore")
    for line in sys.stdin:
        sys.stdout.write(json.dumps(look_at(Path(line.strip()))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
