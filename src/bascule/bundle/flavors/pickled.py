"""Estimators with code of their author's, or of libraries that skops does not know.

The caller of `pack` names that code (`code=`). Only then is the original a pickle, beside the
sources in one archive. A child process opens it, and no process that packs, loads or serves does.
"""

from __future__ import annotations

import json
import weakref
from typing import Any

from bascule.bundle.disk import Manifest, ProgramEntry
from bascule.bundle.flavors.code_archive import from_archive, lay_out, source_files, to_archive
from bascule.bundle.flavors.libraries import installed_version
from bascule.bundle.flavors.own_code import Code, Pickled
from bascule.bundle.imported import Rows
from bascule.bundle.programs import ChildProgram
from bascule.bundle.statements import parity
from bascule.bundle.tables import take
from bascule.core import Invalid, Program, Scratch, Signature, Untrusted

FILE = "original/model.zip"
FORMAT = "sklearn-pickle"
MODEL = "model.pkl"
RECIPE = "recipe.json"
PROGRAM = "program"
"""The file of the program that runs in place of the last step, where there is one."""
_START_TIMEOUT_S = 180.0
"""Libraries that compile themselves when they are imported, as umap-learn does, take a minute."""
_COMPARED_ROWS = 256
_SAVED_WITHIN = 1e-5
_LENIENT = ("numpy", "pandas", "polars", "scipy")
"""What they pickle is read by other versions too."""


def archive_of(made: Pickled, code: Code) -> bytes:
    """The pickle and the sources that it needs, as the file of a bundle."""
    return to_archive({MODEL: made.data, **source_files(code.paths)})


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
    scratch = Scratch("bascule-model-")
    try:
        parts = from_archive(data, FILE, MODEL)
        lay_out({**parts, **files, RECIPE: json.dumps(recipe).encode()}, scratch.path)
        made = ChildProgram(
            ["call", "bascule.bundle.flavors.hosted:answers_of", str(scratch.path)],
            name="original" if program is None else program[0].name,
            inputs=signature.inputs,
            outputs=signature.outputs,
            threads=threads,
            start_timeout_s=_START_TIMEOUT_S,
        )
    except BaseException:
        scratch.remove()
        raise
    weakref.finalize(made, scratch.remove)
    return made


def check_child(live: Program, child: ChildProgram, rows: Rows) -> None:
    """Refuse a model that answers otherwise in a fresh process, as one that reads a variable does.

    Raises:
        Invalid: It does, or cannot be loaded there.
    """
    few = take(rows.columns, slice(_COMPARED_ROWS))
    judged = parity.compare(
        live.run(few), child.run(few), tolerance=_SAVED_WITHIN, program="a fresh process",
        precision="", probes=0,
    )  # fmt: skip
    if not judged.passed:
        raise Invalid(
            f"the model depends on more than it holds: {judged.reason}",
            hint="keep what its functions use in the files that `code` names, and not in variables "
            "that a script sets",
            field="code",
        )
