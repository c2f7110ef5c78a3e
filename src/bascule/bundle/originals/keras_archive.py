"""A Keras model as a file: its configuration as JSON and its weights as HDF5, and no code.

Keras' own reader builds what the configuration names. Before it is asked, here, the configuration
may name nothing but Keras' own layers and what they are made of, none of which runs code that the
file brings or opens other files; and the weights may be nothing but arrays inside the file.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bascule.bundle.disk import MAX_SCHEMA_BYTES
from bascule.core import BasculeError, Scratch, Untrusted, first_line, library

FORMAT = "keras"
FILE = "original/model.keras"
CONFIG = "config.json"
ABOUT = "metadata.json"
_WEIGHTS = "model.weights.h5"
MEMBERS = (CONFIG, ABOUT, _WEIGHTS)

_MODELS = frozenset({"Functional", "Model", "Sequential"})
_POLICIES = frozenset({"DTypePolicy", "FloatDTypePolicy"})
_PARTS = frozenset(
    f"keras.{part}" for part in ("activations", "constraints", "initializers", "regularizers")
)
_PLAIN = frozenset({"__keras_tensor__", "__tuple__", "__slice__", "__ellipsis__", "__numpy__"})
_REFUSED_LAYERS = frozenset(
    {
        # These run code that is in the file, or of another framework.
        "Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer",
        # These open a vocabulary, which may be any file.
        "StringLookup", "IntegerLookup", "TextVectorization",
    }
)  # fmt: skip


def load(data: bytes, file: str) -> Any:
    """The model in such bytes.

    Args:
        data: The file.
        file: What to call it.

    Raises:
        Untrusted: It holds what is refused above, or Keras cannot read it.
        MissingExtra: Keras is not installed.
    """
    keras = library("keras", "keras")
    try:
        _check(data)
        with Scratch() as folder:
            place = folder / "model.keras"
            place.write_bytes(data)
            with quietly():
                return keras.saving.load_model(place, compile=False, safe_mode=True)
    except BasculeError:
        raise
    except Exception as problem:  # layers may raise anything
        raise Untrusted(f"{file} cannot be read: {first_line(problem)}", file=file) from problem


@contextmanager
def quietly() -> Iterator[None]:
    """Without what Keras and its backend warn each other of."""
    with warnings.catch_warnings(action="ignore"):
        yield


def _check(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        if sorted(entry.filename for entry in entries) != sorted(MEMBERS):
            raise ValueError("it holds other files than those of a model")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed, which no model of a bundle is")
        if archive.getinfo(CONFIG).file_size > MAX_SCHEMA_BYTES:
            raise ValueError(f"its configuration is larger than {MAX_SCHEMA_BYTES:,} bytes")
        check_config(json.loads(archive.read(CONFIG)))
        _check_weights(archive.read(_WEIGHTS))


def check_config(config: Any) -> None:
    """Raise `ValueError` when a configuration names what is not known to be harmless."""
    for part in _objects(config):
        kind, module = part["class_name"], part.get("module")
        registered = part.get("registered_name")
        is_text = isinstance(kind, str) and (module is None or isinstance(module, str))
        if not is_text:
            raise ValueError("it names a class by what is no text")
        if registered not in (None, kind):
            raise ValueError(f"{registered} is code of your own")
        if not _is_known(kind, module or ""):
            raise ValueError(f"{f'{module}.' if module else ''}{kind} is not one of Keras' layers")
        if module == "keras.layers" and kind in _REFUSED_LAYERS:
            raise ValueError(f"the layer {kind} runs code or opens files when it is loaded")


def _is_known(kind: str, module: str) -> bool:
    if kind.startswith("__"):
        return kind in _PLAIN
    return (
        module in ("keras.layers", *_PARTS)
        or (module == "builtins" and kind == "function")
        or (module == "keras" and kind in _POLICIES | _MODELS)
        or (module in ("keras.models", "keras.src.models.functional") and kind in _MODELS)
        or (module.startswith("keras.src.ops.") and module.count(".") == 3)
    )


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    """Every part of a configuration that Keras would make an object of."""
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if "class_name" in part:
                yield part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


def _check_weights(data: bytes) -> None:
    """Raise `ValueError` unless every array is inside these bytes."""
    h5py = library("h5py", "keras")
    with h5py.File(io.BytesIO(data), "r") as file:
        waiting = [file]
        while waiting:
            group = waiting.pop()
            for name in group:
                is_inside = isinstance(group.get(name, getlink=True), h5py.HardLink)
                item = group[name] if is_inside else None
                if isinstance(item, h5py.Group):
                    waiting.append(item)
                elif not isinstance(item, h5py.Dataset) or (
                    item.external or item.is_virtual or item.chunks or item.nbytes > len(data)
                ):
                    raise ValueError(f"{name} in its weights is no array inside the file")
