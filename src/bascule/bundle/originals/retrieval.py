"""An index of vectors: the nearest ones to a query, with their ids and payload.

The file is an archive of what is searched, the payload as Parquet and, where queries are texts, the
graph that embeds them. Vectors of two embeddings cannot be compared: an index keeps the digest of
the bundle that made its vectors, and a query of vectors names it too.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk import Manifest, from_parquet, reading
from bascule.bundle.programs import open_tokenized
from bascule.core import Columns, Field, Invalid, Program, Signature, Untrusted, library

FORMAT = "vector-index"
FILE = "original/index.zip"
PAYLOAD, GRAPH = "payload.parquet", "embedding.onnx"
VECTOR, VERSION, SCORE, ID = "vector", "embedding", "score", "id"
_SHORT = len("sha256:") + 12
"""A digest may be cut to so many characters, as commands print it."""
_OTHER = f"{FILE} has other vectors than its manifest says"

Nearest = Callable[[NDArray[np.float32], int], tuple[NDArray[Any], NDArray[np.float32]]]
"""The port. From vectors of length 1, shape (rows, width), and k to places in the table and
cosines, both of shape (rows, k), the best first."""


class IndexProgram(Program):
    """Searches for each row on its own, so that no answer depends on the others."""

    name = "original"

    def __init__(
        self, nearest: Nearest, payload: Columns, signature: Signature, embedding: str,
        texts: Program | None,
    ) -> None:  # fmt: skip
        self.inputs, self.outputs = signature.inputs, signature.outputs
        self._nearest, self._payload = nearest, payload
        self._embedding, self._texts = embedding, texts

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for; see `core.programs.Program`.

        Raises:
            Invalid: A vector is zero or not finite, or another embedding made it.
        """
        if self._texts is None:
            self._check_versions(columns[VERSION].tolist())
            vectors = columns[VECTOR]
        else:
            (vectors,) = self._texts.run(columns).values()
        places, scores = self._nearest(normalized(vectors, VECTOR), self.outputs[0].shape[0])
        names = [field.name for field in self.outputs] if outputs is None else outputs
        return {name: scores if name == SCORE else self._payload[name][places] for name in names}

    def _check_versions(self, versions: Sequence[str]) -> None:
        for row, version in enumerate(versions):
            if len(version) < _SHORT or not self._embedding.startswith(version):
                raise Invalid(
                    f"{VERSION}: the vector in row {row} is of {version!r}, and the index holds "
                    f"vectors of {self._embedding[:_SHORT]}",
                    hint="embed the query with the bundle of that digest, or build the index again",
                    field=VERSION,
                    row=row,
                )


def normalized(vectors: NDArray[Any], what: str) -> NDArray[np.float32]:
    """The vectors at length 1; raises `Invalid` where one is zero or not finite."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    bad = ~(np.isfinite(lengths) & (lengths > 0)).ravel()
    if bad.any():
        row = int(bad.argmax())
        message = f"{what}: the vector in row {row} is zero or not finite"
        raise Invalid(message, hint="leave the row out", field=what, row=row)
    return np.asarray(vectors / lengths, np.float32)


def exact(vectors: NDArray[np.float32]) -> Nearest:
    """Compares with every vector. Of equal scores, the first in the table is the better one."""

    def nearest(queries: NDArray[np.float32], k: int) -> tuple[Any, NDArray[np.float32]]:
        shape = len(queries), k
        places, scores = np.empty(shape, np.int64), np.empty(shape, np.float32)
        for row, query in enumerate(queries):
            cosines = vectors @ query
            candidates = np.flatnonzero(cosines >= np.partition(cosines, -k)[-k])
            places[row] = candidates[np.argsort(-cosines[candidates], kind="stable")[:k]]
            scores[row] = cosines[places[row]]
        return places, scores

    return nearest


def graph_of(vectors: NDArray[np.float32]) -> bytes:
    """A graph of neighbours (HNSW, Malkov and Yashunin 2018); the same vectors give the same bytes.

    Raises:
        MissingExtra: usearch is not installed.
    """
    index = _graph_index(vectors.shape[1])
    order = np.random.default_rng(0).permutation(len(vectors))  # equal ones in a row cut the graph
    index.add(order, vectors[order], threads=1)
    return bytes(index.save())


def approximate(graph: bytes, rows: int, width: int, threads: int) -> Nearest:
    """Walks the graph of `graph_of`. It is read by C++ that checks little; see `saved`.

    Raises:
        Untrusted: The graph has other rows or another width.
    """
    index = _graph_index(width)
    with reading(FILE, what="a graph of usearch", also=(RuntimeError,)):
        index.load(graph)
    if (len(index), index.ndim) != (rows, width):
        raise Untrusted(_OTHER, hint="pack it again", file=FILE)

    def nearest(queries: NDArray[np.float32], k: int) -> tuple[Any, NDArray[np.float32]]:
        index.expansion_search = max(100, 4 * k)
        matches = index.search(queries, k, threads=threads)
        if np.isfinite(matches.distances).sum() < len(queries) * k:  # no path leads to enough
            matches = index.search(queries, k, threads=threads, exact=True)
        places, distances = map(np.atleast_2d, (matches.keys, matches.distances))
        return places.astype(np.int64), 1 - distances

    return nearest


def _graph_index(width: int) -> Any:
    """Vectors in 16 bits: 0.6 of the time, half of the bytes, cosines within 0.001."""
    index = library("usearch.index", "retrieval").Index
    return index(ndim=width, metric="ip", dtype="f16", connectivity=16, expansion_add=200)


def open_index(data: bytes, manifest: Manifest, *, threads: int = 1) -> IndexProgram:
    """The index of a bundle; raises `Untrusted` where its archive holds something else."""
    return load_index(data, manifest.signature, manifest.original.frame, threads=threads)


def load_index(
    data: bytes, signature: Signature, frame: Mapping[str, Any], *, threads: int = 1
) -> IndexProgram:
    """The same, of the `search`, `width` and `embedding` that a manifest's frame says."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise Untrusted(f"{FILE} is compressed", hint="pack it again", file=FILE)
            parts = {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        raise Untrusted(f"{FILE} is not an archive", hint="pack it again", file=FILE) from None
    kept = tuple(Field(each.name, each.dtype) for each in signature.outputs if each.name != SCORE)
    payload, _ = from_parquet(parts[PAYLOAD], Signature(kept, ()))
    searched = parts[frame["search"]]
    if frame["search"] == "hnsw":
        nearest = approximate(searched, len(payload[ID]), frame["width"], threads)
    else:
        vectors = np.load(io.BytesIO(searched), allow_pickle=False)
        if vectors.shape != (len(payload[ID]), frame["width"]) or vectors.dtype != np.float32:
            raise Untrusted(_OTHER, hint="pack it again", file=FILE)
        nearest = exact(vectors)
    texts = open_tokenized(parts[GRAPH], GRAPH, threads=threads) if GRAPH in parts else None
    return IndexProgram(nearest, payload, signature, frame["embedding"], texts)
