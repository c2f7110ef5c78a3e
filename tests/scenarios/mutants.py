"""Opens the bundles that it is told of, one a line, and says what became of each.

Where a way is named behind the path, it is one of `ways_apart`, and nothing else is tried.

It is a process of its own, so that one that crashes is seen to. Its memory is bounded, so that one
that grows is seen to as well.
"""

from __future__ import annotations

import gc
import io
import json
import logging
import resource
import shutil
import sys
import tempfile
import traceback
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil

import bascule
from bascule.bundle.card import Said, card_page, render
from bascule.bundle.disk.examples import columns_of
from bascule.bundle.disk.folder import read_file
from bascule.bundle.disk.manifest import EXAMPLE
from bascule.bundle.extras.confidence import Confidence
from bascule.bundle.opening import open_program
from bascule.bundle.programs.child import ChildProgram
from bascule.catalogue import Catalogue, SqliteDatabase
from bascule.cli.showing import print_bundle, showing_json
from bascule.core.errors import BasculeError, ModelFailed
from bascule.documents import page
from bascule.registry import open_registry
from bascule.release import check
from bascule.serving import Limits
from bascule.serving.protocols.oip_rest import Decoder

MEMORY_BYTES = 6 << 30
RUN_TIMEOUT_S = 5.0
"""How long the process of a mutant's own may take for four rows; some mutants never end."""
LIBRARIES = ("catboost", "lightgbm", "xgboost")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CRITERIA = ("accuracy >= 0", "coverage >= 0", "train_test_overlap <= 1", "parity <= 1",
            "size <= 1 GB", "accuracy >= champion - 0.5")  # fmt: skip


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
        return "".join(traceback.format_exception(problem))
    return "ok"


class Around:
    """What is needed around a bundle, made once."""

    def __init__(self, home):
        self.home = Path(home)
        self.empty = self.home.with_name("empty")
        Catalogue(SqliteDatabase(self.empty / "catalogue.db")).create()

    def push(self, path):
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.empty, self.home)
        registry = open_registry(self.home)
        version = registry.push(path, by="eve")
        registry.compare(version, version)
        registry.search("metric.roc_auc >= 0")
        registry.set_alias(version.model, "champion", version.number, by="eve")


def ways_into(bundle, path, around):
    """Everything that is done with a bundle which somebody handed over, by name."""
    manifest = bundle.manifest

    def rows(fields):
        return columns_of(read_file(path, manifest, EXAMPLE), fields)

    def run(program):
        program.run(rows(program.inputs))

    def served():
        """What a worker does before it listens, but for measuring how quick the program is."""
        program = bundle.program()
        limits, outputs = Limits(), bundle.signature.outputs
        decode = Decoder().for_fields(
            bundle.signature.inputs, program.inputs, outputs, limits.max_rows
        )
        _, call, _ = decode(read_file(path, manifest, EXAMPLE))
        program.run(call.columns)
        Confidence(bundle.calibration, outputs, 0.5)

    def shown():
        statements = bundle.statements()
        print_bundle(bundle, None, statements, ())
        showing_json(bundle, None, statements)

    def carded():
        said = Said.of(bundle.statements())
        render(manifest, said)
        page(card_page(manifest, said))

    return {
        "program": lambda: run(bundle.program()),
        "original": lambda: run(bundle.original()),
        "every program": lambda: [run(bundle.program(one.name)) for one in manifest.programs],
        "answers": lambda: bundle.predict(rows(bundle.signature.inputs), confidence=0.5),
        "test data": bundle.test_data,
        "baseline": lambda: bundle.baseline,
        "shown": shown,
        "card": carded,
        "gates": lambda: check(bundle, CRITERIA, now=NOW, by="eve", record=lambda _: None),
        "pushed": lambda: around.push(path),
        "served": served,
    }


def look_at(path, around):
    """What each way into a bundle ends with, and the digest that it loads under."""
    loaded = []
    said = {"load": attempt(lambda: loaded.append(bascule.load(path)))}
    if not loaded:
        return said | {"digest": None}
    (bundle,) = loaded
    for name, way in ways_into(bundle, path, around).items():
        said[name] = attempt(way)
    return said | {"digest": bundle.digest}


def ways_apart(bundle, path):
    """How those originals are asked that a library reads by itself, when nobody names them."""
    manifest = bundle.manifest

    def rows(fields):
        return columns_of(read_file(path, manifest, EXAMPLE), fields)

    def served():
        program = open_program(path, manifest, threads=1, isolated=True)
        try:
            program.run(rows(program.inputs))
        finally:
            program.close()

    def batch():
        bundle.predict(rows(bundle.signature.inputs))

    def gates():
        (judged,) = check(
            bundle, ("accuracy >= 0",), now=NOW, by="eve", record=lambda _: None
        ).results
        if not judged.passed:
            raise ModelFailed(judged.reason)

    return {"served": served, "batch": batch, "gates": gates}


def look_apart(path, way):
    """What one way of `ways_apart` ends with, in words too; and what it leaves."""
    told = []

    def step():
        try:
            ways_apart(bascule.load(path), path)[way]()
        except BasculeError as refusal:
            told.append(refusal.message)
            raise

    end = attempt(step)
    gc.collect()
    _, left = psutil.wait_procs(psutil.Process().children(), timeout=10)
    # Its own from its memory: what is counted of a process begins with what its parent had.
    status = Path("/proc/self/status").read_text("utf-8")
    (own,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    used = [int(own.split()[1]), resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]
    return {
        "end": end,
        "told": "".join(told),
        "left": [process.pid for process in left],
        "read here": [name for name in LIBRARIES if name in sys.modules],
        "peak_bytes": max(used) * 1024,
    }


def main():
    ChildProgram.__init__.__kwdefaults__["run_timeout_s"] = RUN_TIMEOUT_S
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    np.seterr(all="ignore")
    logging.disable()
    answers, sys.stdout = sys.stdout, io.StringIO()  # what is shown is no answer
    with tempfile.TemporaryDirectory() as home:
        around = Around(Path(home) / "home")
        for line in sys.stdin:
            path, _, way = line.strip().partition("\t")
            said = look_apart(Path(path), way) if way else look_at(Path(path), around)
            answers.write(json.dumps(said) + "\n")
            answers.flush()
            sys.stdout.truncate(0)


if __name__ == "__main__":
    main()
