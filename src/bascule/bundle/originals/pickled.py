"""Estimators with code of their author's, or of libraries that skops does not know: a pickle.

The caller of `pack` names that code (`code=`). Only then is the original a pickle, beside the
sources in one archive. A child process opens it, and no process that packs, loads or serves does.
"""

from __future__ import annotations

import json
from typing import Any

from bascule.bundle.disk import Manifest, ProgramEntry
from bascule.bundle.originals.code_archive import from_archive, in_child
from bascule.bundle.originals.libraries import installed_version
from bascule.bundle.programs import ChildProgram
from bascule.core import Signature, Untrusted

PICKLE_FILE = "original/model.zip"
PICKLE_FORMAT = "sklearn-pickle"
MODEL = "model.pkl"
RECIPE = "recipe.json"
PROGRAM = "program"
"""The file of the program that runs in place of the last step, where there is one."""
_START_TIMEOUT_S = 180.0
"""Libraries that compile themselves when they are imported, as umap-learn does, take a minute."""
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
    for name, saved_with in manifest.original.requires.items():
        if name not in _LENIENT and (found := installed_version(name)) != saved_with:
            raise Untrusted(
                f"{manifest.name} was saved with {name} {saved_with}, and {found} is installed",
                hint=f"pip install '{name}=={saved_with}', or pack the model again",
            )
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
        lambda folder: ["call", "bascule.bundle.originals.hosted:answers_of", folder],
        name="original" if program is None else program[0].name,
        inputs=signature.inputs,
        outputs=signature.outputs,
        threads=threads,
        start_timeout_s=_START_TIMEOUT_S,
    )
