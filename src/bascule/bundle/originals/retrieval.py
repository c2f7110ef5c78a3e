"""An index of vectors: the nearest ones to a query, with their ids and payload.

The file is an archive of what is searched, the payload as Parquet and, where queries are texts, the
graph that embeds them. Vectors of two embeddings cannot be compared: an index keeps the digest of
the bundle that made its vectors, and a query of vectors names it too.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle.disk import Manifest, from_parquet
from bascule.bundle.originals.libraries import library
from bascule.bundle.programs import open_tokenized
from bascule.core import Columns, Field, Invalid, Program, Scratch, Signature, Untrusted

FORMAT = "vector-index"
FILE = "original/index.zip"
PAYLOAD = "payload.parquet"
EMBEDDING = "embedding.onnx"
VECTOR, VERSION, SCORE, ID = "vector", "embedding", "score", "id"
_SHORT = len("sha256:") + 12
"""A digest may be cut to so many characters, as commands print it."""

Nearest = Callable[[NDArray[np.float32]], tuple[NDArray[np.int64], NDArray[np.float32]]]
"""The port. From vectors of length 1, shape (rows, width), to places in the table and cosines, both
of shape (rows, k), the best first."""


class IndexProgram(Program):
    """Searches for each row on its own, so that no answer depends on the others."""

    name = "original"

    def __init__(
        self, nearest: Nearest, payload: Columns, signature: Signature, embedding: str,
        texts: Program | None = None,
    ) -> None:  # fmt: skip
        self.inputs, self.outputs = signature.inputs, signature.outputs
        self._nearest, self._payload = nearest, payload
        self._embedding, self._texts = embedding, texts

    def run(self, columns: Columns, outputs: Sequence[str] | None = None) -> Columns:
        """The outputs asked for; see `core.programs.Program`.

        Raises:
            Invalid: A vector is not finite, or was made by another embedding than the index's.
        """
        if self._texts is None:
            self._check_versions(columns[VERSION].tolist())
            vectors = columns[VECTOR]
        else:
            (vectors,) = self._texts.run(columns).values()
        places, scores = self._nearest(normalized(vectors, VECTOR))
        names = [field.name for field in self.outputs] if outputs is None else outputs
        return {name: scores if name == SCORE else self._payload[name][places] for name in names}

    def _check_versions(self, versions: Sequence[str]) -> None:
        for row, version in enumerate(versions):
            if len(str(version)) < _SHORT or not self._embedding.startswith(version):
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
        raise Invalid(f"{what}: the vector in row {row} is zero or not finite", field=what, row=row)
    return np.asarray(vectors / lengths, np.float32)


def exact(vectors: NDArray[np.float32], k: int) -> Nearest:
    """Compares with every vector. Of equal scores, the first in the table is the better one."""

    def nearest(queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        places = np.empty((len(queries), k), np.int64)
        scores = np.empty((len(queries), k), np.float32)
        for row, query in enumerate(queries):
            cosines = vectors @ query
            least = np.partition(cosines, -k)[-k]
            candidates = np.flatnonzero(cosines >= least)
            places[row] = candidates[np.argsort(-cosines[candidates], kind="stable")[:k]]
            scores[row] = cosines[places[row]]
        return places, scores

    return nearest


def graph_of(vectors: NDArray[np.float32]) -> bytes:
    """A graph of neighbours (HNSW, Malkov and Yashunin 2018); the same vectors give the same bytes.

    Raises:
        MissingExtra: hnswlib is not installed.
    """
    index = library("hnswlib", "retrieval").Index("ip", vectors.shape[1])
    index.init_index(len(vectors), M=16, ef_construction=200, random_seed=0)
    index.add_items(vectors, np.arange(len(vectors)), num_threads=1)
    with Scratch() as folder:
        index.save_index(str(folder / "graph"))
        return (folder / "graph").read_bytes()


def approximate(graph: bytes, width: int, k: int, threads: int = 1) -> Nearest:
    """Walks the graph of `graph_of`. It is read by C++ that checks nothing; see `saved`."""
    index = library("hnswlib", "retrieval").Index("ip", width)
    with Scratch() as folder:
        (folder / "graph").write_bytes(graph)
        index.load_index(str(folder / "graph"))
    index.set_ef(max(100, 4 * k))

    def nearest(queries: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        places, distances = index.knn_query(queries, k, num_threads=threads)
        return places.astype(np.int64), 1 - distances

    return nearest


def open_index(data: bytes, manifest: Manifest, *, threads: int = 1) -> IndexProgram:
    """The index of a bundle; raises `Untrusted` where its archive holds something else."""
    return load_index(data, manifest.signature, manifest.original.frame, threads=threads)


def load_index(data: bytes, signature: Signature, frame: Any, *, threads: int = 1) -> IndexProgram:
    """The same, from what a manifest says: `search`, `width`, `embedding`."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                raise Untrusted(f"{FILE} is compressed, which no index is", file=FILE)
            parts = {name: archive.read(name) for name in archive.namelist()}
    except zipfile.BadZipFile:
        raise Untrusted(f"{FILE} is not an archive", file=FILE) from None
    kept = tuple(
        Field(field.name, field.dtype) for field in signature.outputs if field.name != SCORE
    )
    k = signature.outputs[0].shape[0]
    payload, _ = from_parquet(parts[PAYLOAD], Signature(kept, ()))
    search = parts[str(frame["search"])]
    if frame["search"] == "hnsw":
        nearest = approximate(search, int(frame["width"]), k, threads)
    else:
        vectors = np.load(io.BytesIO(search), allow_pickle=False)
        if vectors.shape != (len(payload[ID]), frame["width"]) or vectors.dtype != np.float32:
            raise Untrusted(f"{FILE} has other vectors than its manifest says", file=FILE)
        nearest = exact(vectors, k)
    texts = None
    if EMBEDDING in parts:
        texts = open_tokenized(parts[EMBEDDING], EMBEDDING, threads=threads)
    return IndexProgram(nearest, payload, signature, str(frame["embedding"]), texts)
