"""Estimators with code of their author's, or of libraries that skops does not know: a pickle.

The caller of `pack` names that code (`code=`). Only then is the original a pickle, beside the
sources in one archive. A child process opens it, and no process that packs, loads or serves does.
Where a program of the bundle stands in for the model's last step, the steps before it run in that
child, and so does the program: rows pass from one process to the other once.
"""

from __future__ import annotations

import json
import pickle
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bascule.bundle.disk import Manifest, ProgramEntry, shaped
from bascule.bundle.originals.code_archive import from_archive, in_child
from bascule.bundle.originals.frames import Frame
from bascule.bundle.originals.libraries import check_versions
from bascule.bundle.originals.sklearn import SklearnOriginal, before_last_step
from bascule.bundle.programs import ChildProgram, open_kind
from bascule.core import Columns, Signature, Untrusted

PICKLE_FILE = "original/model.zip"
PICKLE_FORMAT = "sklearn-pickle"
MODEL = "model.pkl"
RECIPE = "recipe.json"
PROGRAM = "program"
"""The file of the program that runs in place of the last step, where there is one."""
_START_TIMEOUT_S = 180.0
"""Libraries that compile themselves when they are imported, as umap-learn does, take a minute."""
Answer = Callable[[Columns, Sequence[str] | None], Columns]
_LENIENT = ("numpy", "pandas", "polars", "scipy")
"""What they pickle is read by other versions too."""


def open_pickled(
    data: bytes,
    manifest: Manifest,
    *,
    threads: int = 1,
    program: tuple[ProgramEntry, bytes] | None = None,
) -> ChildProgram:
    """The saved original, in a process of its own; `program` as in `open_archive`.

    Raises:
        Untrusted: The file is not what `pack` writes, or a library has another version here.
        ModelFailed: The model cannot be loaded.
    """
    if manifest.original.format != PICKLE_FORMAT:
        raise Untrusted(
            f"the manifest puts a program behind the steps of {manifest.original.file}, which is "
            f"not in the format {PICKLE_FORMAT}",
            file=manifest.original.file,
        )
    check_versions(manifest, [name for name in manifest.original.requires if name not in _LENIENT])
    return open_archive(
        data, manifest.original.frame, manifest.signature, threads=threads, program=program
    )


def open_archive(
    data: bytes,
    frame: Any,
    signature: Signature,
    *,
    threads: int = 1,
    program: tuple[ProgramEntry, bytes] | None = None,
) -> ChildProgram:
    """The model of an archive, in a process of its own.

    Args:
        data: What `archive_of` made.
        frame: How the container of the training rows is rebuilt.
        signature: The inputs and outputs of the model.
        threads: How many it may use.
        program: What answers in place of the last step, and its bytes; None for the step itself.
    """
    recipe = {"frame": dict(frame), "signature": signature.to_json()}
    files = {}
    if program is not None:
        recipe["program"], files[PROGRAM] = program[0].to_json(), program[1]
    parts = {**from_archive(data, PICKLE_FILE, MODEL), **files, RECIPE: json.dumps(recipe).encode()}
    return in_child(
        parts,
        lambda folder: ["call", "bascule.bundle.originals.pickled:answers_of", folder],
        name="original" if program is None else program[0].name,
        inputs=signature.inputs,
        outputs=signature.outputs,
        threads=threads,
        start_timeout_s=_START_TIMEOUT_S,
    )


# -- in the child process --


def answers_of(folder: str) -> Answer:
    """A function that answers with the model in `folder`, whose modules are in `folder/code`."""
    home = Path(folder)
    sys.path.insert(0, str(home / "code"))
    recipe = json.loads((home / RECIPE).read_bytes())
    signature = shaped(recipe["signature"], Signature, RECIPE, what="a signature")
    with warnings.catch_warnings(action="ignore"):
        model = pickle.loads((home / MODEL).read_bytes())
    frame = Frame.from_json(recipe["frame"])
    if "program" not in recipe:
        return SklearnOriginal(model, frame, signature).run
    entry = shaped(recipe["program"], ProgramEntry, RECIPE, what="a program")
    return _behind_steps(model, frame, signature, entry, (home / PROGRAM).read_bytes())


def _behind_steps(
    model: Any, frame: Frame, signature: Signature, entry: ProgramEntry, data: bytes
) -> Answer:
    features = entry.features
    assert features is not None
    inner = open_kind(replace(entry, inputs=(features,)), data, outputs=signature.outputs)

    def answer(columns: Columns, outputs: Sequence[str] | None) -> Columns:
        made = before_last_step(model, frame.build(columns))
        made = np.ascontiguousarray(made, features.dtype.numpy)
        return inner.run({features.name: made}, outputs)

    return answer
