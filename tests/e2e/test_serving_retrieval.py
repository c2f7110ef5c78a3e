"""Embeddings, scores of pairs and indexes as they are served: each is a model as any other."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import pytest
from tests.embeddings import cross_encoder, network, sentence_folder
from tests.tiny_pipelines import TEXTS

import bascule
from bascule.packing import VectorIndex
from bascule_client import Client, Invalid

LONGER = [f"{text} gate" for text in TEXTS[:30]]


@pytest.fixture(scope="module")
def bundles(packed, tmp_path_factory):
    folders = [tmp_path_factory.mktemp(name) for name in ("sentences", "pairs")]
    embedding = bascule.load(packed("sentences", network(sentence_folder(folders[0])), None))
    vectors = embedding.predict({"text": LONGER})["embedding"]
    tables = {"docs": {"body": LONGER}, "vectors": {"v": list(vectors)}}
    columns = {"docs": {"text": "body", "payload": ("body",)}, "vectors": {"vector": "v"}}
    indexes = [
        bascule.load(
            packed(name, VectorIndex(table, embedding, k=3, search="hnsw", **columns[name]), None)
        )
        for name, table in tables.items()
    ]  # fmt: skip
    return [embedding, bascule.load(packed("pairs", cross_encoder(folders[1]), None)), *indexes]


@pytest.fixture
def closing():
    with ExitStack() as stack:
        yield stack


def test_a_text_is_embedded_found_and_scored_over_http(serve, bundles, closing):
    server = serve(*(bundle.path for bundle in bundles))
    url = f"http://127.0.0.1:{server.port}"
    clients = [Client(url, model=bundle.name) for bundle in bundles]
    for client in clients:
        closing.enter_context(client)
    embed, score, search, nearest = clients
    embedding = bundles[0]
    vectors = embed.predict({"text": LONGER[:5]})["embedding"]
    np.testing.assert_allclose(
        vectors, embedding.predict({"text": LONGER[:5]})["embedding"], atol=1e-6
    )
    texts = search.predict({"text": LONGER[:5]})
    found = nearest.predict({"vector": vectors, "embedding": [embedding.digest] * 5})
    np.testing.assert_allclose(found["score"], texts["score"], atol=1e-5)
    documents = texts["body"][0].tolist()
    assert texts["body"].shape == (5, 3)
    pairs = {"query": LONGER[:1] * 3, "document": documents}
    np.testing.assert_allclose(
        score.predict(pairs)["score"], bundles[1].predict(pairs)["score"], atol=1e-6
    )
    with pytest.raises(Invalid, match="the index holds vectors of"):
        nearest.predict({"vector": vectors[:1], "embedding": ["sha256:" + "0" * 64]})
