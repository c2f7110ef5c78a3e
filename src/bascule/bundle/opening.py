"""Opens the programs of a bundle: compiled ones, or the original.

Which of them serves requests is decided here too, from the cost statement of this machine.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bascule.bundle.choosing import pinned
from bascule.bundle.disk import (
    GENERATION,
    ORIGINAL,
    Manifest,
    parse,
    parse_manifest,
    read_file,
    read_manifest,
    read_statements,
    reading,
)
from bascule.bundle.programs import COMPOSITION, Refused, open_kind, runnable
from bascule.bundle.statements import Cost
from bascule.core import Columns, Invalid, NotFound, Program

if TYPE_CHECKING:
    from bascule.bundle.compositions import Plan

PARTS = "parts"
"""The folder of the parts of a composition, each a bundle without what only packing needs."""


def open_program(
    path: str | Path,
    manifest: Manifest,
    *,
    name: str | None = None,
    threads: int = 1,
    isolated: bool = False,
    providers: Sequence[str] = (),
) -> Program:
    """A program of the bundle, or the original itself.

    Args:
        path: The bundle's folder.
        manifest: Its manifest.
        name: Which one; None for the one that serves requests, see `pinned_program`.
        threads: How many it may use.
        isolated: Whether the original, which is foreign code, runs in a process of its own.
        providers: Of ONNX Runtime, for a program of that kind; see `programs.onnx.open_session`.

    Raises:
        NotFound: The bundle has no program of that name.
        MissingExtra: What runs it is not installed.
        Untrusted: The program's bytes are not those of the manifest, or the runtime cannot take
            them.
    """
    name = name or pinned_program(path, manifest)
    if name == ORIGINAL:
        return open_original(path, manifest, threads=threads, isolated=isolated)
    entry = manifest.program(name)
    if entry is not None and entry.kind == COMPOSITION:
        return open_composition(path, manifest, threads=threads, isolated=isolated)
    if entry is None:
        known = ", ".join([*(entry.name for entry in manifest.programs), ORIGINAL])
        raise NotFound(f"bundle {path} has no program {name!r}", hint=f"it has {known}")
    data = read_file(path, manifest, entry.file)
    if entry.features is not None:
        from bascule.bundle.originals import open_pickled

        original = read_file(path, manifest, manifest.original.file)
        return open_pickled(original, manifest, threads=threads, program=(entry, data))
    outputs = manifest.signature.outputs
    return open_kind(entry, data, outputs=outputs, threads=threads, providers=providers)


def pinned_program(path: str | Path, manifest: Manifest) -> str:
    """The program that serves requests here, so that a row's bits are the same in each of them.

    Of those that can run on this machine it is the one that the bundle's last cost statement
    shows to be the quickest for requests; see `bundle.choosing`.
    """
    if manifest.served is None:
        return ORIGINAL
    names = runnable(manifest.programs)
    if len(names) > 1 and (said := read_statements(path, "cost")):
        return pinned(names, Cost.from_json(said[-1].body).latency_us)
    return manifest.serves


def open_original(
    path: str | Path, manifest: Manifest, *, threads: int = 1, isolated: bool = False
) -> Program:
    """The model as it was trained, as a program. Needs the framework that it was trained with.

    Args:
        path: The bundle's folder.
        manifest: Its manifest.
        threads: How many it may use.
        isolated: Whether it runs in a process of its own, which may crash without harm.
    """
    from bascule.bundle.originals import is_isolated

    if manifest.original.format == GENERATION:
        from bascule.bundle.generation import open_generation

        return open_generation(Path(path), manifest, threads=threads)
    if manifest.original.format == COMPOSITION:
        return open_composition(path, manifest, threads=threads, isolated=isolated)
    if isolated and not is_isolated(manifest.original.format):
        from bascule.bundle.originals import inputs_of
        from bascule.bundle.programs import of_bundle

        outputs = manifest.signature.outputs
        inputs, file = inputs_of(manifest), manifest.original.file
        return of_bundle(Path(path), file, inputs=inputs, outputs=outputs, threads=threads)
    from bascule.bundle.originals import open_saved

    return open_saved(read_file(path, manifest, manifest.original.file), manifest, threads=threads)


def open_composition(
    path: str | Path, manifest: Manifest, *, threads: int = 1, isolated: bool = False
) -> Program:
    """A composition with the programs of its parts, which are bundles in `parts/NAME`.

    Args:
        path: The bundle's folder.
        manifest: Its manifest.
        threads: How many each part may use.
        isolated: Whether originals among the parts run in processes of their own. One that a
            library reads with code of its own does in any case.

    Raises:
        Untrusted: A part is not the bundle that was packed, or they do not fit together.
    """
    from bascule.bundle.compositions import CompositionProgram
    from bascule.bundle.originals import is_inspected

    plan, manifests = composition_of(path, manifest)
    ran = {part.name: part.program for part in plan.document.parts if part.name in manifests}
    programs: dict[str, Program] = {}
    try:
        for name, known in manifests.items():
            # The program that was packed, or where this machine cannot run it, one that all can.
            entry = known.program(ran[name])
            programs[name] = open_program(
                Path(path) / PARTS / name, known, threads=threads,
                name=ran[name] if entry is None or runnable([entry]) else known.serves,
                isolated=isolated or not is_inspected(known.original),
            )  # fmt: skip
    except BaseException:
        for program in programs.values():
            program.close()
        raise
    return CompositionProgram(plan, programs, {of: one.digest for of, one in manifests.items()})


def composition_of(path: str | Path, manifest: Manifest) -> tuple[Plan, dict[str, Manifest]]:
    """The plan of a composition, and the manifests of its parts. Raises as `open_composition`."""
    from bascule.bundle.compositions import Model, make_plan, read_document

    file = manifest.original.file
    said = parse(read_file(path, manifest, file), file, what="a composition")
    with reading(file, what="a composition", also=(Invalid,)):
        document = read_document(said)
        digests = {part.name: part.digest for part in document.parts if isinstance(part, Model)}
        manifests = {name: parse_manifest(Path(path) / PARTS / name) for name in digests}
        if digests != {name: known.digest for name, known in manifests.items()}:
            raise ValueError("a part is not the bundle that was packed")
        plan = make_plan(document, manifests)
        if plan.signature != manifest.signature:
            raise ValueError("its manifest has another signature")
    return plan, manifests


def original_of(path: str, threads: str) -> Callable[[Columns, Sequence[str] | None], Columns]:
    """A function that answers with the original of the bundle at `path`, in a process of its own.

    See `programs.child`.
    """
    # Callers wait while a process that died is replaced, and the collector would look through what
    # imports make again and again, and find nothing.
    gc.disable()
    try:
        program = open_original(path, read_manifest(path), threads=int(threads))
    finally:
        gc.enable()
        gc.freeze()

    def predict(columns: Columns, outputs: Sequence[str] | None) -> Columns:
        try:
            return program.run(columns, outputs)
        except Invalid as refused:
            raise Refused(refused.message, refused.hint) from refused

    return predict
