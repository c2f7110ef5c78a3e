"""From a table to a bundle that answers the rows nearest to a text or a vector."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import Bundle, read_table
from bascule.bundle.disk import read_file
from bascule.bundle.originals import retrieval
from bascule.bundle.programs import TokenizedProgram
from bascule.core import Columns, Invalid
from bascule.documents import progress_line
from bascule.packing.flavors.retrieval import VectorIndex
from bascule.packing.flavors.tabular import fields_of
from bascule.packing.packing import pack

_ROWS_AT_ONCE = 256
SEARCHES = ("exact", "hnsw")


def build_index(
    table: Any,
    *,
    embedding: Bundle,
    name: str,
    text: str = "",
    vector: str = "",
    id_column: str = "",
    payload: tuple[str, ...] = (),
    k: int = 10,
    search: str = "exact",
    to: str | Path | None = None,
    overwrite: bool = False,
) -> Bundle:
    """A bundle that answers `id`, `score` (the cosine) and the payload of the `k` nearest rows.

    Args:
        table: Any table.
        embedding: The bundle that embeds its texts, or that made its vectors. Its digest is part of
            the index.
        name: Of the index, as of a model.
        text: The column to embed; the index then takes texts, and embeds them itself.
        vector: Or the column of vectors; the index then takes vectors, and the digest with each.
        id_column: The column that names a row; the row's number if empty.
        payload: Further columns to answer.
        k: How many rows are answered.
        search: `exact`, or `hnsw` for more than some 100,000 rows.
        to: The folder to make; `./NAME.bundle` if None.
        overwrite: Whether to replace a bundle that is there.

    Raises:
        Invalid: A column is not there or has missing values, ids are not unique, there are fewer
            rows than `k`, or the model is no embedding.
        MissingExtra: hnswlib is not installed.
    """
    if search not in SEARCHES:
        raise Invalid(f"search {search!r} is not known", hint=f"known are {', '.join(SEARCHES)}")
    if bool(text) == bool(vector):
        raise Invalid("an index is of one column", hint="name a column of texts, or of vectors")
    import pyarrow

    rows = pyarrow.table(table)
    names = [text or vector, *([id_column] if id_column else []), *payload]
    if absent := [column for column in names if column not in rows.column_names]:
        known = ", ".join(rows.column_names)
        raise Invalid(f"the table has no column {absent[0]!r}", hint=f"it has {known}")
    if not 1 <= k <= rows.num_rows:
        raise Invalid(f"k is {k}, and the table has {rows.num_rows} rows", hint="pass another k")
    ids = rows[id_column] if id_column else pyarrow.array(range(rows.num_rows))
    named = {retrieval.ID: ids, **{column: rows[column] for column in payload}}
    if len(named) <= len(payload) or {*named} & {retrieval.SCORE}:
        raise Invalid("payload names id or score, which the answer has", field="payload")
    for column in (*named.values(), rows[text or vector]):
        if column.null_count:
            raise Invalid("a column of the index has missing values", hint="fill or drop them")
    if len(ids.unique()) < len(ids):
        raise Invalid(f"ids in {id_column} are not unique", hint="name another column")
    kept = read_table(pyarrow.table(named))
    texts, graph = None, b""
    if text:
        (values,) = read_table(rows.select([text])).columns.values()
        graph, texts = _graph(embedding), {embedding.signature.inputs[0].name: values}
        vectors = _embedded(embedding, texts)
    else:
        vectors = _matrix(rows[vector].combine_chunks(), vector)
    model = VectorIndex(
        vectors=retrieval.normalized(vectors, text or vector),
        payload=dict(kept.columns),
        fields=fields_of(kept),
        embedding=embedding.digest,
        k=k,
        search=search,
        texts=texts,
        graph=graph,
    )
    return pack(
        model, name=name, to=to, overwrite=overwrite, baseline=False, outliers=False, explain=False
    )


def _graph(embedding: Bundle) -> bytes:
    """The program of an embedding, which goes into the index, so that it takes texts."""
    entry = embedding.manifest.served
    if entry is None or not isinstance(embedding.program(entry.name), TokenizedProgram):
        raise Invalid(
            f"{embedding.name} is no embedding that is packed from a folder with its tokenizer",
            hint="embed the texts before, and build the index of the vectors: vector=COLUMN",
        )
    return read_file(embedding.path, embedding.manifest, entry.file)


def _embedded(embedding: Bundle, texts: Columns) -> NDArray[Any]:
    program, ((name, values),) = embedding.program(), texts.items()
    if len(embedding.signature.outputs) != 1 or len(embedding.signature.outputs[0].shape) != 1:
        raise Invalid(f"{embedding.name} answers no vector", hint="name an embedding")
    pieces = []
    with progress_line("index") as tell:
        step = getattr(tell, "step", lambda *_: None)
        for start in range(0, len(values), _ROWS_AT_ONCE):
            step("embedding texts", start, len(values))
            (vectors,) = program.run({name: values[start : start + _ROWS_AT_ONCE]}).values()
            pieces.append(vectors)
    return np.concatenate(pieces)


def _matrix(vectors: Any, name: str) -> NDArray[Any]:
    flat = vectors.flatten().to_numpy(zero_copy_only=False) if hasattr(vectors, "flatten") else ()
    if not len(flat) or len(flat) % len(vectors) or len({*map(len, vectors)}) != 1:
        raise Invalid(f"{name} is no column of vectors of one length", field=name)
    return np.asarray(flat, np.float32).reshape(len(vectors), -1)
