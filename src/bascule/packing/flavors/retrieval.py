"""Indexes of vectors, from tables; see `bundle.originals.retrieval`."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import Bundle, read_table, take
from bascule.bundle.disk import read_file, to_parquet
from bascule.bundle.originals import installed_version, retrieval
from bascule.bundle.programs import TokenizedProgram
from bascule.core import Columns, DType, Field, Invalid, Signature, Unconvertible
from bascule.documents import progress_line
from bascule.packing.flavors.own_code import to_archive
from bascule.packing.flavors.tabular import fields_of
from bascule.packing.imported import Compilation, ImportedModel, Rows

_EXAMPLES = 16
_ROWS_AT_ONCE = 256
_SEARCHES = ("exact", "hnsw")


@dataclass(frozen=True)
class VectorIndex:
    """A model that answers `id`, `score` (the cosine) and the payload of the `k` nearest rows.

    Attributes:
        table: Any table.
        embedding: The bundle that embeds its texts, or that made its vectors. Its digest is part of
            the index.
        text: The column to embed; the index then takes texts, and embeds them itself.
        vector: Or the column of vectors; the index then takes vectors, and the digest with each.
        id: The column that names a row; the row's number if empty.
        payload: Further columns to answer.
        k: How many rows are answered.
        search: `exact`, or `hnsw` for more than some 100,000 rows.
    """

    table: Any
    embedding: Bundle
    text: str = ""
    vector: str = ""
    id: str = ""
    payload: Sequence[str] = ()
    k: int = 10
    search: str = "exact"


class Retrieval:
    """See `packing.imported.Flavor`."""

    name = "retrieval"

    def recognises(self, model: Any) -> bool:
        return isinstance(model, VectorIndex)

    def read(self, model: VectorIndex, _train: Any, _test: Any) -> ImportedModel:
        source, answered = _columns(model)
        parts: dict[str, bytes] = {}
        if model.text:
            (field,) = inputs = model.embedding.signature.inputs
            (texts,) = read_table(source).columns.values()
            rows: Columns = {field.name: texts}
            parts[retrieval.GRAPH] = _graph(model.embedding)
            vectors = _embedded(model.embedding, rows)
        else:
            vectors = _matrix(source[model.vector].combine_chunks(), model.vector)
            inputs = (
                Field(retrieval.VECTOR, DType.FP32, vectors.shape[1:]),
                Field(retrieval.VERSION, DType.BYTES),
            )
            versions = np.full(len(vectors), model.embedding.digest, object)
            rows = {retrieval.VECTOR: vectors, retrieval.VERSION: versions}
        vectors = retrieval.normalized(vectors, model.text or model.vector)
        kept = read_table(answered)
        fields = (Field(retrieval.SCORE, DType.FP32), *fields_of(kept))
        outputs = tuple(Field(each.name, each.dtype, (model.k,)) for each in fields)
        array = io.BytesIO()
        np.save(array, vectors, allow_pickle=False)
        is_exact = model.search == "exact"
        parts[model.search] = array.getvalue() if is_exact else retrieval.graph_of(vectors)
        payload = to_parquet(kept.columns, None, Signature(fields[1:], ()))
        data = to_archive({**parts, retrieval.PAYLOAD: payload})
        width, digest = vectors.shape[1], model.embedding.digest
        frame = {"search": model.search, "width": width, "embedding": digest}
        needed = [*([] if is_exact else ["usearch"]), *(["tokenizers"] if model.text else [])]
        signature = Signature(inputs, outputs)
        return ImportedModel(
            task="other",
            signature=signature,
            original=retrieval.load_index(data, signature, frame),
            saved=data,
            saved_file=retrieval.FILE,
            saved_format=retrieval.FORMAT,
            requires={name: installed_version(name) for name in needed},
            frame=frame,
            train=Rows(take(rows, slice(_EXAMPLES))),
            test=None,
            parameters={"rows": str(len(vectors)), "k": str(model.k)},
        )

    def compilations(self, _model: Any, _subject: ImportedModel) -> Iterator[Compilation]:
        raise Unconvertible("an index is not compiled", hint="serve it as it is")


def _columns(model: VectorIndex) -> tuple[Any, Any]:
    """Arrow tables: of the column of texts or vectors, and of what is answered."""
    import pyarrow

    if model.search not in _SEARCHES or bool(model.text) == bool(model.vector):
        raise Invalid(
            f"an index is of one column, and searched by {' or '.join(_SEARCHES)}",
            hint="name a column of texts, or of vectors",
        )
    rows, source = pyarrow.table(model.table), model.text or model.vector
    names = (source, *([model.id] if model.id else []), *model.payload)
    if absent := [name for name in names if name not in rows.column_names]:
        known = ", ".join(rows.column_names)
        raise Invalid(f"the table has no column {absent[0]!r}", hint=f"it has {known}")
    if not 1 <= model.k <= rows.num_rows:
        raise Invalid(f"k is {model.k}, and the table has {rows.num_rows} rows", hint="change k")
    if holes := [name for name in names if rows[name].null_count]:
        raise Invalid(f"column {holes[0]!r} has missing values", hint="fill or drop them")
    ids = rows[model.id] if model.id else pyarrow.array(range(rows.num_rows))
    if len(ids.unique()) < len(ids):
        raise Invalid(f"ids in {model.id} are not unique", hint="name another column")
    answered = {retrieval.ID: ids, **{name: rows[name] for name in model.payload}}
    if len(answered) <= len(model.payload) or retrieval.SCORE in answered:
        raise Invalid("payload has id or score, or a column twice", hint="rename the column")
    return rows.select([source]), pyarrow.table(answered)


def _graph(embedding: Bundle) -> bytes:
    """The program of an embedding, which goes into the index, so that it takes texts."""
    entry = embedding.manifest.served
    program = None if entry is None else embedding.program(entry.name)
    is_vector = [len(each.shape) for each in embedding.signature.outputs] == [1]
    if entry is None or not isinstance(program, TokenizedProgram) or not is_vector:
        raise Invalid(
            f"{embedding.name} is no embedding that is packed from a folder with its tokenizer",
            hint="embed the texts before, and make the index of the vectors",
        )
    return read_file(embedding.path, embedding.manifest, entry.file)


def _embedded(embedding: Bundle, texts: Columns) -> NDArray[Any]:
    program, count = embedding.program(), len(next(iter(texts.values())))
    pieces: list[NDArray[Any]] = []
    with progress_line("index") as tell:
        for start in range(0, count, _ROWS_AT_ONCE):
            getattr(tell, "step", lambda *_: None)("embedding texts", start, count)
            rows = take(texts, slice(start, start + _ROWS_AT_ONCE))
            pieces += program.run(rows).values()
    return np.concatenate(pieces)


def _matrix(vectors: Any, name: str) -> NDArray[Any]:
    lengths = {*map(len, vectors)} if hasattr(vectors, "flatten") else {0}
    if len(lengths) != 1 or 0 in lengths:
        raise Invalid(f"{name} is no column of vectors of one length", hint="name another column")
    values = vectors.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values, np.float32).reshape(len(vectors), -1)
