"""Opens the model as it was trained: where no program may stand in for it, or it is faster."""

from __future__ import annotations

from dataclasses import replace

from bascule.bundle.disk import GENERATION, Manifest, OriginalEntry, reading
from bascule.bundle.originals.boosted import BOOSTED_FORMATS, inputs_read
from bascule.bundle.originals.libraries import installed_version
from bascule.core import Field, Program, Untrusted, load_named

_OPENERS = {
    "catboost-cbm": "bascule.bundle.originals.boosted:open_boosted",
    "keras": "bascule.bundle.originals.keras:open_keras",
    "lightgbm-text": "bascule.bundle.originals.boosted:open_boosted",
    "onnx": "bascule.bundle.originals.saved:open_graph",
    "torch-aten": "bascule.bundle.originals.aten:open_aten",
    "python": "bascule.bundle.originals.python:open_code",
    "sklearn-pickle": "bascule.bundle.originals.pickled:open_pickled",
    "skops": "bascule.bundle.originals.sklearn:open_skops",
    "transformers": "bascule.bundle.originals.pipelines:open_pipeline",
    "vector-index": "bascule.bundle.originals.retrieval:open_index",
    "xgboost-json": "bascule.bundle.originals.boosted:open_boosted",
}
"""By format: what opens it, given the bytes, the manifest and the number of threads."""

_BOOSTED = ("catboost", "lightgbm", "xgboost", "xgboost-cpu")
"""Libraries whose own readers open what is theirs in a file, and are not as careful as ours."""


def is_isolated(original_format: str) -> bool:
    """Whether an original of that format holds code, and always opens in a process of its own."""
    return original_format in (GENERATION, "python", "sklearn-pickle")


def is_as_saved(original: OriginalEntry) -> bool:
    """Whether all that the original needs is installed as it was when it was compared.

    Looks at what is installed, and imports nothing. Under other versions it may answer otherwise
    than the programs beside it.
    """
    return all(installed_version(name) == saved for name, saved in original.requires.items())


def is_inspected(original: OriginalEntry) -> bool:
    """Whether every part of the file is looked into before it is opened, according to its entry.

    If not, it is opened in a process of its own, unless the caller names the original.
    """
    return original.format == "skops" and not set(original.requires) & set(_BOOSTED)


def is_read_by_its_library(original: OriginalEntry) -> bool:
    """Whether a library's own reader opens the file, or a part of it.

    Those of XGBoost, LightGBM, CatBoost and usearch end the process on some damaged files, or never
    return.
    """
    return original.format in (*BOOSTED_FORMATS, "vector-index") or (
        original.format == "skops" and not is_inspected(original)
    )


def open_inspected(data: bytes, manifest: Manifest) -> Program:
    """An original that `is_inspected`.

    Raises:
        Untrusted: As of any; and where it holds more than scikit-learn's own, regardless of the
            manifest.
    """
    from bascule.bundle.originals.sklearn import open_skops

    return open_skops(data, manifest, boosted=False)


def inputs_of(manifest: Manifest) -> tuple[Field, ...]:
    """What the opened original reads, told without opening it."""
    if manifest.original.format in BOOSTED_FORMATS:
        return inputs_read(manifest.original.frame, manifest.signature)
    if manifest.original.format == "onnx" and manifest.served is not None:
        return manifest.served.inputs
    return manifest.signature.inputs


def open_saved(data: bytes, manifest: Manifest, *, threads: int = 1) -> Program:
    """The saved original as a program; `data` has been verified against the manifest."""
    original = manifest.original
    if original.format not in _OPENERS:
        raise Untrusted(
            f"the original is in format {original.format!r}, which this version cannot open",
            hint="update bascule",
            file=original.file,
        )
    with reading(original.file, what="the original that its manifest tells of"):
        program: Program = load_named(_OPENERS[original.format])(data, manifest, threads=threads)
        return program


def open_graph(data: bytes, manifest: Manifest, *, threads: int) -> Program:
    """An ONNX graph that is its own original, and reads its columns as the program does."""
    from bascule.bundle.programs import open_kind, open_onnx

    inputs, outputs = manifest.signature.inputs, manifest.signature.outputs
    if (entry := manifest.served) is not None:
        entry = replace(entry, name="original", file=manifest.original.file)
        return open_kind(entry, data, outputs=outputs, threads=threads)
    file = manifest.original.file
    return open_onnx(
        data, name="original", file=file, inputs=inputs, outputs=outputs, threads=threads
    )
