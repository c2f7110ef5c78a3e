"""Indexes of vectors: what they answer, and which queries and tables they refuse."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st
from tests.embeddings import network, sentence_folder
from tests.tiers import first_of
from tests.tiny_pipelines import TEXTS

import bascule
from bascule.bundle import disk
from bascule.bundle.originals import retrieval
from bascule.core.errors import Invalid, ModelFailed, Untrusted
from bascule.packing import VectorIndex
from bascule.packing.flavors.own_code import to_archive

DOCUMENTS = [f"{text} {place}" for place, text in enumerate(TEXTS[:40])]
DIGEST = "sha256:" + "ab" * 32
VECTORS = np.random.default_rng(0).normal(size=(3000, 24)).astype(np.float32)
QUERIES = np.random.default_rng(1).normal(size=(200, 24)).astype(np.float32)


class Embedding:
    """What an index of vectors needs to know of the bundle that made them."""

    digest = DIGEST


@pytest.fixture(scope="module")
def embedding(packed, tmp_path_factory):
    folder = network(sentence_folder(tmp_path_factory.mktemp("sentences")))
    return bascule.load(packed("sentences", folder, None))


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    def built(table, *, search="exact", embedding=Embedding, **options):
        to = tmp_path_factory.mktemp("indexes") / "found.bundle"
        index = VectorIndex(table, embedding, search=search, **options)
        return bascule.pack(index, name="found", to=to, measure=False)

    return built


@pytest.fixture(scope="module")
def indexes(build):
    table = {"v": list(VECTORS)}
    return {name: build(table, vector="v", search=name) for name in ("exact", "hnsw")}


def ask(index, vectors, version=DIGEST):
    return index.predict({"vector": vectors, "embedding": [version] * len(vectors)})


def cosines(queries, vectors):
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)
    return queries @ vectors.T / lengths


def test_an_exact_index_answers_the_largest_cosines_in_order(indexes):
    answer = ask(indexes["exact"], QUERIES)
    expected = cosines(QUERIES, VECTORS)
    assert np.array_equal(answer["id"], np.argsort(-expected, axis=1)[:, :10])
    np.testing.assert_allclose(answer["score"], -np.sort(-expected, axis=1)[:, :10], atol=1e-6)


def test_an_approximate_index_finds_95_of_100_of_them(indexes):
    answer, exact = (ask(indexes[name], QUERIES) for name in ("hnsw", "exact"))
    hits = [len({*a} & {*b}) for a, b in zip(answer["id"], exact["id"], strict=True)]
    assert np.mean(hits) / 10 >= 0.95
    own = np.take_along_axis(cosines(QUERIES, VECTORS), answer["id"], axis=1)
    np.testing.assert_allclose(answer["score"], own, atol=1e-3)


@pytest.mark.parametrize("search", ["exact", "hnsw"])
def test_the_same_table_gives_the_same_digest(build, indexes, search):
    again = build({"v": list(VECTORS)}, vector="v", search=search)
    assert again.digest == indexes[search].digest


@given(st.lists(st.tuples(st.integers(-2, 2), st.integers(1, 2)), min_size=3, max_size=30))
def test_of_equal_scores_the_first_row_of_the_table_is_the_better_one(rows):
    vectors = retrieval.normalized(np.array(rows, np.float64), "v")
    places, scores = retrieval.exact(vectors)(vectors, 3)
    for row, best in enumerate(places):
        own = vectors @ vectors[row]
        assert best.tolist() == np.argsort(-own, kind="stable")[:3].tolist()
        assert np.array_equal(scores[row], own[best])


@pytest.mark.parametrize("version", first_of(["sha256:" + "cd" * 32, DIGEST[:18], ""]))
def test_a_vector_of_another_embedding_is_refused(indexes, version):
    versions = np.array([DIGEST, DIGEST[:19], version], object)
    program = indexes["exact"].program()
    with pytest.raises(Invalid, match=r"row 2.* holds vectors of sha256:abababababab"):
        program.run({"vector": QUERIES[:3], "embedding": versions})


@pytest.mark.parametrize("value", first_of([0.0, np.nan, np.inf]))
def test_a_query_without_a_direction_is_refused(indexes, value):
    vectors = np.array([[1.0] * 24, [value] * 24], np.float32)
    program = indexes["exact"].program()
    with pytest.raises(Invalid, match="row 1"):
        program.run({"vector": vectors, "embedding": np.array([DIGEST] * 2, object)})


@pytest.mark.parametrize("search", first_of(["exact", "hnsw"]))
def test_an_index_of_texts_embeds_the_query_itself(build, embedding, search):
    table = {"body": DOCUMENTS, "key": [f"d{place}" for place in range(40)], "year": range(40)}
    index = build(
        table, embedding=embedding, text="body", id="key", payload=("year", "body"), k=3,
        search=search,
    )  # fmt: skip
    answer = index.predict({"text": DOCUMENTS})
    vectors = embedding.predict({"text": DOCUMENTS})["embedding"]
    best = cosines(vectors, vectors).max(axis=1)
    np.testing.assert_allclose(answer["score"][:, 0], best, atol=1e-3)
    assert answer["id"].tolist() == [[f"d{year}" for year in years] for years in answer["year"]]
    assert answer["body"][0].tolist() == [DOCUMENTS[year] for year in answer["year"][0]]
    assert index.manifest.original.frame["embedding"] == embedding.digest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 5}, "k is 5, and the table has 4 rows"),
        ({"k": 0}, "k is 0"),
        ({"vector": "w"}, "no column 'w'"),
        ({"id": "key"}, "not unique"),
        ({"payload": ("hole",)}, "missing values"),
        ({"payload": ("score",)}, "payload has id or score"),
        ({"payload": ("key", "key")}, "column twice"),
        ({"search": "best"}, "searched by exact or hnsw"),
        ({"text": "key"}, "one column"),
        ({"vector": "key"}, "no column of vectors"),
        ({"vector": "ragged"}, "no column of vectors"),
        ({"vector": "zero"}, "row 0 is zero"),
    ],
)
def test_a_table_that_makes_no_index_is_refused(build, change, said):
    table = {
        "v": list(VECTORS[:4]), "key": ["a", "a", "b", "c"], "hole": [1, None, 2, 3],
        "score": range(4), "ragged": [[1.0], [1.0, 2.0], [1.0], [2.0]], "zero": [[0.0, 0.0]] * 4,
    }  # fmt: skip
    with pytest.raises(Invalid, match=said):
        build(table, **{"vector": "v", "k": 2, **change})


def test_a_model_that_is_no_embedding_cannot_answer_texts(build, packed):
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(QUERIES, QUERIES[:, 0])
    other = bascule.load(packed("line", model, QUERIES))
    with pytest.raises(Invalid, match="line is no embedding"):
        build({"body": DOCUMENTS}, text="body", embedding=other)


@pytest.mark.parametrize(("rows", "k"), first_of([(5, 1_000), (1, 700), (3_000, 3_000)]))
def test_an_approximate_index_has_k_answers_where_the_graph_leads_to_fewer(rows, k):
    vectors = retrieval.normalized(np.repeat(VECTORS[:rows], 3_000 // rows, axis=0), "v")
    nearest = retrieval.approximate(retrieval.graph_of(vectors), 3_000, 24, 1)
    for queries in (vectors[:1], vectors[::500]):
        places, scores = nearest(queries, k)
        assert [len({*found}) for found in places] == [k] * len(queries)
        own = np.take_along_axis(queries @ vectors.T, places, axis=1)
        np.testing.assert_allclose(scores, own, atol=1e-3)


@pytest.mark.parametrize("cut", first_of([0, 8, 100, 10_000, -1], 2))
def test_half_a_graph_is_refused(cut):
    vectors = retrieval.normalized(VECTORS, "v")
    graph = retrieval.graph_of(vectors)
    with pytest.raises(Untrusted, match="cannot be read as a graph"):
        retrieval.approximate(graph[:cut], 3_000, 24, 1)
    with pytest.raises(Untrusted, match="other vectors"):
        retrieval.approximate(graph, 2_999, 24, 1)


def test_a_changed_byte_of_a_graph_is_noticed_before_it_is_read(indexes, tmp_path):
    folder = tmp_path / "changed"
    shutil.copytree(indexes["hnsw"].path, folder)
    file = folder / indexes["hnsw"].manifest.original.file
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(data)
    with pytest.raises(Untrusted, match="is not the file that was sealed"):
        ask(bascule.load(folder), QUERIES[:1])


@pytest.mark.parametrize("start", first_of([96, 150_000]), ids=["its vectors", "its neighbours"])
def test_a_damaged_graph_ends_no_process_but_its_own(indexes, tmp_path, start):
    """usearch follows the numbers of a file without a look."""
    index = indexes["hnsw"]
    with zipfile.ZipFile(index.path / index.manifest.original.file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["hnsw"] = parts["hnsw"][:start] + b"\x7f" * (len(parts["hnsw"]) - start)
    with disk.drafting(tmp_path / "damaged", overwrite=False) as draft:
        held = {name: (index.path / name).read_bytes() for name in index.manifest.files}
        held[index.manifest.original.file] = to_archive(parts)
        files = {name: disk.write_file(draft, name, data) for name, data in held.items()}
        disk.write_manifest(draft, replace(index.manifest, files=files))
    with pytest.raises((ModelFailed, Untrusted)):
        ask(bascule.load(tmp_path / "damaged"), QUERIES[:1])


def test_the_command_builds_an_index_from_a_table(embedding, tmp_path, command):
    pq.write_table(pa.table({"body": DOCUMENTS}), tmp_path / "docs.parquet")
    to = tmp_path / "docs.bundle"
    words = ["--model", embedding.path, "--text", "body", "--to", to, "--json"]
    code, output, _ = command("index", "build", tmp_path / "docs.parquet", *words)
    said = json.loads(output)
    assert (code, said["name"], said["embedding"]) == (0, "docs", embedding.digest)
    assert bascule.load(to).predict({"text": ["late"]})["id"].shape == (1, 10)
