"""What a model's own process does to open the original inside a bundle; see `programs.child`."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from bascule.bundle.format import open_original, read_manifest
from bascule.bundle.programs.host import Refused
from bascule.core.errors import Invalid
from bascule.core.fields import Columns

_LEFT_OUT = tuple(
    f"sklearn.externals.array_api_compat.{library}" for library in ("torch", "cupy", "dask")
)
"""skops imports every package of scikit-learn to learn the names in it, and each of these imports a
whole framework, where it is installed, for arrays that no original of scikit-learn is given."""


def original_of(path: str, threads: str) -> Callable[[Columns, Sequence[str] | None], Columns]:
    """A function that answers with the original of the bundle at `path`."""
    with _in_haste():
        program = open_original(path, read_manifest(path), threads=int(threads))

    def predict(columns: Columns, outputs: Sequence[str] | None) -> Columns:
        try:
            return program.run(columns, outputs)
        except Invalid as refused:
            raise Refused(refused.message, refused.hint) from refused

    return predict


@contextmanager
def _in_haste() -> Iterator[None]:
    """Callers wait while a process that died is replaced: import what is needed, and no more.

    The collector would look through what imports make again and again, and find nothing.
    """
    modules: dict[str, Any] = sys.modules
    absent = [name for name in _LEFT_OUT if name not in modules]
    modules.update(dict.fromkeys(absent))  # None says that there is no such module
    gc.disable()
    try:
        yield
    finally:
        for name in absent:
            del modules[name]
        gc.enable()
        gc.freeze()
