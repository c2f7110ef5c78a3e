"""Code of the user's own in a bundle, run in a process and an environment of its own."""

from __future__ import annotations

from bascule.bundle.disk import Manifest
from bascule.bundle.originals.code_archive import from_archive, in_child
from bascule.bundle.originals.python_environment import interpreter, python_version
from bascule.bundle.programs import ChildProgram
from bascule.core import Field, Invalid

CODE_FILE = "original/model.zip"
CODE_FORMAT = "python"
LOCK_FILE = "requirements.txt"


def open_code(data: bytes, manifest: Manifest, *, threads: int = 1) -> ChildProgram:
    """The code inside a bundle, in a process and an environment of its own.

    Raises:
        Untrusted: The file is not what `pack` writes.
        Unavailable: The environment cannot be built here.
        ModelFailed: The class cannot be loaded.
    """
    packed_under = str(manifest.original.frame.get("python"))
    if packed_under != python_version():
        raise Invalid(
            f"{manifest.name} was packed under Python {packed_under}, and this is "
            f"{python_version()}",
            hint=f"serve it with Python {packed_under}",
        )
    signature = manifest.signature
    entry = str(manifest.original.frame.get("entry"))
    return open_class(data, entry, signature.inputs, signature.outputs, threads=threads)


def open_class(
    data: bytes, entry: str, inputs: tuple[Field, ...], outputs: tuple[Field, ...], *, threads: int
) -> ChildProgram:
    files = from_archive(data, CODE_FILE, LOCK_FILE)
    python = interpreter(files.pop(LOCK_FILE).decode())
    return in_child(
        files,
        lambda folder: ["class", folder, entry],
        name="original",
        inputs=inputs,
        outputs=outputs,
        python=str(python),
        threads=threads,
    )
