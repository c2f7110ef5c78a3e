"""Indexes of vectors, made by `packing.indexing`; see `bundle.originals.retrieval`."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bascule.bundle import take
from bascule.bundle.disk import to_parquet
from bascule.bundle.originals import installed_version, retrieval
from bascule.bundle.originals.retrieval import SCORE, VECTOR, VERSION
from bascule.core import Columns, DType, Field, Signature, Unconvertible
from bascule.packing.flavors.own_code import to_archive
from bascule.packing.imported import Compilation, ImportedModel, Rows

_EXAMPLES = 16


@dataclass(frozen=True)
class VectorIndex:
    """A model for `pack`.

    Attributes:
        vectors: Of length 1, shape (rows, width).
        payload: The column `id` and those that are answered with it.
        fields: Those of `payload`.
        embedding: The digest of the bundle that made the vectors.
        k: How many neighbours are answered.
        search: `exact` or `hnsw`.
        texts: Some texts, by the name of their column, where queries are texts; else None.
        graph: What embeds them.
    """

    vectors: NDArray[np.float32]
    payload: Columns
    fields: tuple[Field, ...]
    embedding: str
    k: int
    search: str
    texts: Columns | None = None
    graph: bytes = b""


class Retrieval:
    """See `packing.imported.Flavor`."""

    name = "retrieval"

    def recognises(self, model: Any) -> bool:
        return isinstance(model, VectorIndex)

    def read(self, model: VectorIndex, _train: Any, _test: Any) -> ImportedModel:
        width = model.vectors.shape[1]
        inputs: tuple[Field, ...] = (
            Field(VECTOR, DType.FP32, (width,)),
            Field(VERSION, DType.BYTES),
        )
        few = model.vectors[:_EXAMPLES]
        rows = {VECTOR: few, VERSION: np.full(len(few), model.embedding, object)}
        if model.texts is not None:
            (name,) = model.texts
            inputs, rows = (Field(name, DType.BYTES),), take(model.texts, slice(_EXAMPLES))
        answered = (Field(SCORE, DType.FP32), *model.fields)
        outputs = tuple(Field(field.name, field.dtype, (model.k,)) for field in answered)
        saved = io.BytesIO()
        np.save(saved, model.vectors, allow_pickle=False)
        hnsw = model.search == "hnsw"
        parts = {
            model.search: retrieval.graph_of(model.vectors) if hnsw else saved.getvalue(),
            retrieval.PAYLOAD: to_parquet(model.payload, None, Signature(model.fields, ())),
            **({retrieval.EMBEDDING: model.graph} if model.graph else {}),
        }
        data, signature = to_archive(parts), Signature(inputs, outputs)
        frame = {"search": model.search, "width": width, "embedding": model.embedding}
        needed = [*(["hnswlib"] if hnsw else []), *(["tokenizers"] if model.graph else [])]
        return ImportedModel(
            task="other",
            signature=signature,
            original=retrieval.load_index(data, signature, frame),
            saved=data,
            saved_file=retrieval.FILE,
            saved_format=retrieval.FORMAT,
            requires={name: installed_version(name) for name in needed},
            frame=frame,
            train=Rows(rows),
            test=None,
            parameters={"rows": str(len(model.vectors)), "k": str(model.k)},
        )

    def compilations(self, _model: Any, _subject: ImportedModel) -> Iterator[Compilation]:
        raise Unconvertible("an index is not compiled")
