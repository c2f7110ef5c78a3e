"""What somebody may put into a bundle, with digests that fit: each refused before it is loaded.

The tests next door (`test_bundle_tampering`) alter a bundle without being able to seal it again.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile

import numpy as np
import onnx
import pyarrow
import pyarrow.parquet
import pytest
import skops.io
from hypothesis import given, strategies as st
from onnx import TensorProto, helper, numpy_helper
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import (
    CountVectorizer,
    HashingVectorizer,
    TfidfVectorizer,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, SplineTransformer
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

import bascule
from bascule.bundle.disk import folder as disk, heldout, limits
from bascule.bundle.disk.examples import columns_of
from bascule.bundle.originals.sklearn import load_trusted
from bascule.bundle.originals.structures import check_estimator
from bascule.bundle.programs.guard import check_graph
from bascule.bundle.programs.onnx import open_session
from bascule.core.digests import canonical_json, sha256_bytes
from bascule.core.errors import Invalid, Untrusted
from bascule.packing.flavors.sklearn import save

X, Y = load_iris(return_X_y=True)


@pytest.fixture(scope="module")
def sealed(tmp_path_factory, packed):
    model = DecisionTreeClassifier(max_depth=2, random_state=0).fit(X, Y)
    return packed("attacked", model, X, (X, Y))


@pytest.fixture
def bundle(sealed, tmp_path):
    """A copy to do harm to."""
    return shutil.copytree(sealed, tmp_path / "bundle")


def rewrite(bundle, change):
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    change(manifest)
    (bundle / "bundle.json").write_bytes(canonical_json(manifest))


def put(bundle, name, data):
    """Write a file and make the manifest agree."""
    (bundle / name).write_bytes(data)
    rewrite(
        bundle,
        lambda manifest: manifest["files"].update(
            {name: {"sha256": sha256_bytes(data), "bytes": len(data)}}
        ),
    )


# -- the folder --


def test_a_hard_link_to_the_source_does_not_reach_into_the_registry(bundle, tmp_path):
    """A copy that shared its inode with the source could be altered after it was verified."""
    from bascule.registry import open_registry

    linked = tmp_path / "linked"
    shutil.copytree(bundle, linked, copy_function=os.link)
    registry = open_registry(tmp_path / "home")
    version = registry.push(linked, by="ada")
    with (linked / "programs/onnx.onnx").open("r+b") as file:
        file.write(b"altered")

    assert bascule.load(registry.path(version)).digest == version.digest


def test_a_manifest_that_is_huge_is_refused_unread(bundle):
    with (bundle / "bundle.json").open("ab") as file:
        file.truncate(limits.MAX_MANIFEST_BYTES)
    with pytest.raises(Untrusted, match=r"bundle\.json of bundle .* is not a manifest"):
        bascule.load(bundle)
    with (bundle / "bundle.json").open("ab") as file:
        file.truncate(limits.MAX_MANIFEST_BYTES + 1)
    with pytest.raises(Untrusted, match=r"bundle\.json of bundle .* more than 16,777,216 bytes"):
        bascule.load(bundle)


def test_a_manifest_of_too_many_files_is_refused(bundle):
    def change(manifest):
        entry = {"sha256": "sha256:" + "0" * 64, "bytes": 0}
        more = limits.MAX_FILES + 1 - len(manifest["files"])
        manifest["files"].update({f"data/{number}": entry for number in range(more)})

    rewrite(bundle, change)
    with pytest.raises(Untrusted, match="names 10,001 files, and 10,000 may be"):
        bascule.load(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["programs"].append(m["programs"][0]),
        lambda m: m["programs"][0].update(file="programs/other.onnx"),
        lambda m: m["original"].update(file="original/other.skops"),
        lambda m: m["signature"].update(inputs=[]),  # and its program has one
        lambda m: m["signature"]["inputs"].append(m["signature"]["inputs"][0]),
        lambda m: m["signature"]["inputs"][0].update(shape=[-2]),
        lambda m: m["files"]["environment.txt"].update(bytes=1e400),
        lambda m: m.update(schema_version=True),
    ],
    ids=["twice", "no program", "no original", "no inputs", "one name", "shape", "size", "true"],
)
def test_a_manifest_that_contradicts_itself_is_refused(bundle, change):
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    change(manifest)
    (bundle / "bundle.json").write_text(json.dumps(manifest, sort_keys=True, separators=(",", ":")))
    with pytest.raises(Untrusted, match=r"bundle"):
        bascule.load(bundle)


def test_a_statement_that_is_no_plain_file_is_refused(bundle):
    (bundle / "statements" / "folder.json").mkdir()
    with pytest.raises(Untrusted, match=r"folder\.json is no plain file"):
        disk.read_statements(bundle)
    (bundle / "statements" / "folder.json").rmdir()
    os.mkfifo(bundle / "statements" / "pipe.json")
    with pytest.raises(Untrusted, match=r"pipe\.json is no plain file"):
        disk.read_statements(bundle)


def test_a_statement_that_is_huge_is_refused_unread(bundle):
    with (bundle / "statements" / "huge.json").open("wb") as file:
        file.truncate(limits.MAX_STATEMENT_BYTES + 1)
    with pytest.raises(Untrusted, match=r"huge\.json has more than"):
        disk.read_statements(bundle)


def test_a_pipe_in_the_place_of_a_file_is_refused_and_not_waited_for(bundle):
    (bundle / "environment.txt").unlink()
    os.mkfifo(bundle / "environment.txt")
    with pytest.raises(Untrusted, match=r"environment\.txt of bundle .* is missing"):
        bascule.load(bundle)


# -- the held-out rows --


def parquet(table, **settings):
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, **settings)
    return buffer.getvalue()


def test_a_parquet_bomb_of_rows_is_refused_by_what_it_declares(bundle, monkeypatch):
    """Run-length coding: a million equal values take some hundred bytes."""
    monkeypatch.setattr(heldout, "MAX_TABLE_CELLS", 999_999)
    data = parquet(pyarrow.table({"c0": np.zeros(1_000_000)}), compression="zstd")
    assert len(data) < 10_000
    put(bundle, "data/test.parquet", data)
    with pytest.raises(Untrusted, match=r"data/test\.parquet would unpack to 1,000,000 rows"):
        bascule.load(bundle).test_data()


def test_a_parquet_bomb_of_one_long_text_is_given_up_while_it_grows(bundle, monkeypatch):
    """The dictionary holds the text once; in memory it is there once a row."""
    monkeypatch.setattr(heldout, "MAX_TABLE_BYTES", 32 << 20)
    monkeypatch.setattr(heldout, "_ROWS_AT_ONCE", 64)
    text = pyarrow.array(["x" * 100_000] * 1_000)
    data = parquet(pyarrow.table({"c0": text}), compression="zstd", use_dictionary=True)
    assert len(data) < 100_000
    put(bundle, "data/test.parquet", data)
    with pytest.raises(Untrusted, match=r"data/test\.parquet unpacks to more than 33,554,432"):
        bascule.load(bundle).test_data()


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + b"\xff" * 100 + b"PAR1"])
def test_rows_that_are_no_parquet_are_refused_with_the_files_name(bundle, data):
    put(bundle, "data/test.parquet", data)
    with pytest.raises(Untrusted, match=r"data/test\.parquet cannot be read"):
        bascule.load(bundle).test_data()


def test_rows_of_other_columns_are_refused(bundle):
    put(bundle, "data/test.parquet", parquet(pyarrow.table({"strange": [1.0]})))
    with pytest.raises(Untrusted, match=r"data/test\.parquet cannot be read"):
        bascule.load(bundle).test_data()


@pytest.mark.parametrize(
    "example",
    [
        b"",
        b"[" * 50_000,
        b'{"inputs":[]}',
        b'{"inputs":[{"name":"input","data":[1,2,3],"shape":[1,4]}]}',
        b'{"inputs":[{"name":"input","data":[],"shape":[0,4]}]}',
        b'{"inputs":[{"name":"input","data":["a",2,3,4],"shape":[1,4]}]}',
        b'{"inputs":[{"name":"input","data":[1,2,3,4],"shape":[1,99999999999999999999]}]}',
    ],
)
def test_an_example_that_is_no_request_is_refused(sealed, example):
    inputs = disk.read_manifest(sealed).signature.inputs
    with pytest.raises(Untrusted, match=r"data/example\.json (is not|cannot be read as) a request"):
        columns_of(example, inputs)


# -- the original: skops --


def skops_parts(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def skops_of(parts, compression=zipfile.ZIP_STORED):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return made.getvalue()


def with_schema(data, change):
    parts = skops_parts(data)
    schema = json.loads(parts["schema.json"])
    schema = change(schema) or schema
    return skops_of({**parts, "schema.json": json.dumps(schema).encode()})


def npy(values):
    made = io.BytesIO()
    np.save(made, values)
    return made.getvalue()


@pytest.fixture(scope="module")
def tree_file():
    return save(DecisionTreeClassifier(max_depth=2, random_state=0).fit(X, Y))


def json_node(value):
    return {
        "__class__": "str", "__module__": "builtins", "__loader__": "JsonNode",
        "content": json.dumps(value), "is_json": True,
    }  # fmt: skip


def tuple_node(*values):
    return {
        "__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode",
        "content": [json_node(value) for value in values],
    }  # fmt: skip


def test_a_class_called_with_arguments_of_the_file_is_refused_and_not_called(tree_file, tmp_path):
    """`numpy.memmap(path, "uint8", "w+", 0, [8])` empties any file that the process may write."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    constructor = {
        "__class__": "memmap", "__module__": "numpy", "__loader__": "ConstructorFromReduceNode",
        "content": tuple_node(str(victim), "uint8", "w+", 0, [8]),
    }  # fmt: skip

    def change(schema):
        schema["content"]["content"]["random_state"] = constructor

    with pytest.raises(Untrusted, match=r"m\.skops holds numpy\.memmap, which is not trusted"):
        load_trusted(with_schema(tree_file, change), "m.skops")
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(
    ("loader", "name"),
    [
        ("ListNode", "numpy.lib._datasource.DataSource"),
        ("LossNode", "numpy.memmap"),
        ("TreeNode", "sklearn.neighbors._kd_tree.KDTree"),
        ("NdArrayNode", "numpy.memmap"),
        ("TypeNode", "numpy.memmap"),
        ("OperatorFuncNode", "operator.methodcaller"),
        ("MethodNode", "sklearn.tree._classes.DecisionTreeClassifier"),
        ("ObjectNode", "sklearn.conftest.Anything"),
        ("ObjectNode", "numpy.random.mtrand.RandomState"),
        ("ObjectNode", "subprocess.Popen"),
        ("FutureNode", "builtins.list"),
    ],
)
def test_a_loader_makes_only_what_it_is_for(tree_file, loader, name):
    module, _, kind = name.rpartition(".")

    def change(schema):
        schema["content"]["content"]["random_state"] = {
            "__class__": kind, "__module__": module, "__loader__": loader, "content": [],
        }  # fmt: skip

    with pytest.raises(Untrusted, match=f"holds {name}, which is not trusted as a {loader}"):
        load_trusted(with_schema(tree_file, change), "m.skops")


def test_two_parts_under_one_number_are_refused(tree_file):
    """skops would take the first for both, and so something else than what was looked at."""

    def change(schema):
        attributes = schema["content"]["content"]
        attributes["ccp_alpha"] = {**json_node(1.5), "__id__": 999_999}
        attributes["criterion"] = {**json_node("gini"), "__id__": 999_999}

    with pytest.raises(Untrusted, match="holds two parts under one number"):
        load_trusted(with_schema(tree_file, change), "m.skops")


def test_an_old_protocol_is_refused(tree_file):
    with pytest.raises(Untrusted, match="protocol 0 of skops, which is too old"):
        load_trusted(with_schema(tree_file, lambda schema: schema.update(protocol=0)), "m.skops")


def test_a_zip_bomb_is_refused_by_what_it_declares(tree_file):
    parts = {**skops_parts(tree_file), "000099.npy": b"\0" * (limits.FREE_ARCHIVE_BYTES + 1)}
    bomb = skops_of(parts, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 200_000
    with pytest.raises(Untrusted, match=r"m\.skops unpacks to more than 67,108,864 bytes"):
        load_trusted(bomb, "m.skops")


def test_an_archive_that_uses_one_file_many_times_is_counted_each_time(tree_file):
    parts = skops_parts(tree_file)
    schema = json.loads(parts["schema.json"])
    array = {
        "__class__": "ndarray", "__module__": "numpy", "__loader__": "NdArrayNode",
        "type": "numpy", "file": "big.npy",
    }  # fmt: skip
    schema["content"]["content"]["random_state"] = {
        "__class__": "list", "__module__": "builtins", "__loader__": "ListNode",
        "content": [array] * 40,
    }  # fmt: skip
    parts |= {"schema.json": json.dumps(schema).encode(), "big.npy": npy(np.zeros(250_000))}
    with pytest.raises(Untrusted, match="unpacks to more than"):
        load_trusted(skops_of(parts, zipfile.ZIP_DEFLATED), "m.skops")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (npy(np.zeros(3))[:-8] + b"", "header does not fit"),
        (npy(np.zeros(3)).replace(b"(3,)", b"(9**9,)")[:128], "cannot be read"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f8', 'fortran_order': False, 'shape': (999999999,)}"
         .ljust(127) + b"\n", "header does not fit"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"
         .ljust(127) + b"\n" + b"\0" * 8, "pickled objects"),
        (b"PK\x05\x06" + b"\0" * 18, "cannot be read"),
    ],
    ids=["short", "code", "gigantic", "pickle", "zip"],
)  # fmt: skip
def test_an_array_whose_header_lies_is_refused_before_memory_is_taken(tree_file, data, said):
    parts = skops_parts(tree_file)
    name = next(name for name in parts if name.endswith(".npy"))
    with pytest.raises(Untrusted, match=said):
        load_trusted(skops_of({**parts, name: data}), "m.skops")


def crafted(tree_file, change):
    """The file with the nodes of its tree changed."""
    parts = skops_parts(tree_file)
    for name, data in parts.items():
        if name.endswith(".npy"):
            values = np.load(io.BytesIO(data))
            if values.dtype.names:
                change(values)
                parts[name] = npy(values)
    return skops_of(parts)


def set_to(field, at, value):
    def change(nodes):
        nodes[field][at] = value

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_to("left_child", 0, 1_000_000), "whose children are not its own"),
        (set_to("right_child", 0, -7), "whose children are not its own"),
        (set_to("left_child", 0, 0), "whose children are not its own"),
        (set_to("feature", 0, 1_000_000), "a feature outside of its 4"),
        (set_to("feature", 0, 4), "a feature outside of its 4"),
        (set_to("feature", 0, -1), "a feature outside of its 4"),
    ],
)
def test_a_tree_whose_nodes_lead_outside_of_it_is_refused_before_it_is_made(
    tree_file, change, said
):
    """scikit-learn follows them without a look: reading elsewhere, or round and round."""
    with pytest.raises(Untrusted, match=said):
        load_trusted(crafted(tree_file, change), "m.skops")


def test_a_tree_in_which_a_child_leads_back_is_refused(tree_file):
    def ring(nodes):
        inner = np.flatnonzero(nodes["left_child"] != -1)
        nodes["left_child"][inner[0]], nodes["left_child"][inner[1]] = (
            nodes["left_child"][inner[1]],
            inner[1],
        )

    with pytest.raises(Untrusted, match=r"a child leads back|children are not its own"):
        load_trusted(crafted(tree_file, ring), "m.skops")


def test_the_last_feature_of_a_tree_is_one_of_its_own(tree_file):
    model = load_trusted(crafted(tree_file, set_to("feature", 0, 3)), "m.skops")
    assert model.predict(X[:2]).shape == (2,)


def test_a_tree_with_more_outputs_than_classes_is_refused_before_its_constructor(tree_file):
    def change(schema):
        tree = schema["content"]["content"]["tree_"]
        tree["__reduce__"]["args"]["content"][2] = json_node(1_000_000)

    with pytest.raises(Untrusted, match="whose inputs and outputs make no sense"):
        load_trusted(with_schema(tree_file, change), "m.skops")


def test_a_tree_that_lies_about_its_depth_is_refused(tree_file):
    def change(schema):
        tree = schema["content"]["content"]["tree_"]
        tree["content"]["content"]["max_depth"] = json_node(1)

    with pytest.raises(Untrusted, match="a tree of depth 2 that says 1"):
        load_trusted(with_schema(tree_file, change), "m.skops")


def changed(model, change):
    """A fitted model after `change`, as a file that skops itself would have written of it."""
    import skops.io

    change(model)
    return skops.io.dumps(model)


def narrow_member(model):
    model.estimators_[1] = DecisionTreeClassifier().fit(np.c_[X, X], Y)


def wide_trees(model):
    model.n_features_in_ = 2


def histogram(field, value):
    def change(model):
        nodes = model._predictors[0][0].nodes
        nodes[field][0] = value

    return change


def more_stages(model):
    model.n_trees_per_iteration_ = 1


def high_category(model):
    model._bin_mapper.bin_thresholds_[0][-1] = 100_000


def short_coefficients(model):
    model._dual_coef_ = model._dual_coef_[:1]


def many_vectors(model):
    model._n_support[0] += 100


def neighbours(change):
    def apply(model):
        state = list(model._tree.__getstate__())
        state[1], state[2] = state[1].copy(), state[2].copy()
        change(state)
        model._tree.__setstate__(tuple(state))

    return apply


def rows_elsewhere(state):
    state[1][0] = 10**9


def nodes_elsewhere(state):
    state[2]["idx_end"][0] = 10**9


CRAFTED = {
    "a forest with a tree of other rows": (RandomForestClassifier(3), narrow_member),
    "a boosting of trees for wider rows": (GradientBoostingClassifier(n_estimators=2), wide_trees),
    "histogram trees with a child elsewhere": (
        HistGradientBoostingClassifier(max_iter=2), histogram("left", 10**6),
    ),
    "histogram trees with a feature elsewhere": (
        HistGradientBoostingClassifier(max_iter=2), histogram("feature_idx", 10**9),
    ),
    "histogram trees with more outputs": (HistGradientBoostingClassifier(max_iter=2), more_stages),
    "histogram trees with a high category": (
        HistGradientBoostingClassifier(max_iter=2, categorical_features=[0]), high_category,
    ),
    "support vectors with few coefficients": (SVC(), short_coefficients),
    "support vectors that are fewer": (SVC(), many_vectors),
    "neighbours whose rows are elsewhere": (
        KNeighborsClassifier(algorithm="kd_tree"), neighbours(rows_elsewhere),
    ),
    "neighbours whose nodes are elsewhere": (
        KNeighborsClassifier(algorithm="ball_tree"), neighbours(nodes_elsewhere),
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", CRAFTED)
def test_numbers_that_compiled_code_would_follow_are_refused(attack):
    model, change = CRAFTED[attack]
    fitted = model.fit(np.floor(X) if "category" in attack else X, Y)
    check_estimator(fitted, "m.skops")
    with pytest.raises(Untrusted, match=r"m\.skops holds "):
        load_trusted(changed(fitted, change), "m.skops")


def test_an_encoder_that_counts_other_columns_than_it_has_is_refused():
    encoder = OneHotEncoder().fit([["a"], ["b"], ["c"]])
    check_estimator(encoder, "m.skops")
    encoder._n_features_outs = [1]
    with pytest.raises(Untrusted, match="an encoder with 1 columns for 3 categories"):
        check_estimator(encoder, "m.skops")


def test_a_sparse_matrix_with_a_column_outside_of_it_is_refused():
    vectorizer = TfidfVectorizer().fit(["one two", "two three"])
    from scipy.sparse import csr_matrix

    matrix = csr_matrix(np.eye(3))
    vectorizer.extra_ = matrix
    check_estimator(vectorizer, "m.skops")
    matrix.indices[0] = 10**6
    with pytest.raises(Untrusted, match="a sparse matrix that is none"):
        check_estimator(vectorizer, "m.skops")


@pytest.mark.parametrize("place", [-1, 2, 10**9, 0.0, "1"])
def test_a_vocabulary_with_a_column_outside_of_the_counts_is_refused(place):
    """A product with a matrix follows the column, wherever that is."""
    vectorizer = CountVectorizer().fit(["one two"])
    check_estimator(vectorizer, "m.skops")
    vectorizer.vocabulary_["two"] = place
    with pytest.raises(Untrusted, match="a vocabulary whose columns are not its own"):
        load_trusted(skops.io.dumps(vectorizer), "m.skops")


@pytest.mark.parametrize("kind", [CountVectorizer, TfidfVectorizer, HashingVectorizer])
def test_a_vectorizer_that_opens_the_files_that_requests_name_is_refused(kind, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("one two")
    vectorizer = kind(input="filename").fit([str(secret)])
    with pytest.raises(Untrusted, match=f"a {kind.__name__} that opens the files"):
        load_trusted(skops.io.dumps(vectorizer), "m.skops")
    with pytest.raises(Invalid, match="could not be loaded safely"):
        save(vectorizer)


@pytest.mark.parametrize(
    ("name", "spoilt"),
    [
        ("c", lambda c: c[:-1]),
        ("t", lambda t: t[::-1].copy()),
        ("t", lambda t: np.where(t > 0, np.nan, t)),
        ("k", lambda _: 10**6),
        ("k", lambda _: -1),
        ("axis", lambda _: 1),
        ("c", lambda c: c.astype(np.float32)),
    ],
)
def test_a_spline_whose_knots_do_not_fit_is_refused(name, spoilt):
    made = SplineTransformer().fit(X)
    check_estimator(load_trusted(save(made), "m.skops"), "m.skops")
    spline = made.bsplines_[0]
    inner = getattr(spline, "_delegate_to", spline)  # where SciPy 1.18 keeps it
    kept = f"_{name}" if inner is spline and name in "tc" else name
    setattr(inner, kept, spoilt(getattr(inner, kept)))
    with pytest.raises(Untrusted, match="a spline whose knots do not fit its coefficients"):
        load_trusted(skops.io.dumps(made), "m.skops")


class Spline118:
    """A spline in the form of SciPy 1.18, whichever is installed."""

    def __init__(self, to):
        self._delegate_to = to


@pytest.mark.parametrize("inner", ["none", "another", "itself"])
def test_a_spline_that_hands_on_to_what_is_none_is_refused(inner):
    last = type("_BSpline", (Spline118,), {})
    spline = type("BSpline", (Spline118,), {})
    to = {"none": None, "another": spline(None), "itself": last(last(None))}[inner]
    with pytest.raises(Untrusted, match="a spline that hands on to what is none"):
        check_estimator([spline(to)], "m.skops")


def test_a_forest_that_chooses_more_features_than_there_are_is_refused():
    """With all features asked for, its trees get the rows as they are."""
    forest = IsolationForest(n_estimators=1).fit(np.repeat(X, 2, axis=1))
    check_estimator(forest, "m.skops")
    forest.n_features_in_ = forest._max_features = X.shape[1]
    forest.estimators_features_ = [np.arange(2 * X.shape[1]) % X.shape[1]]
    with pytest.raises(Untrusted, match="chooses features outside of its rows"):
        load_trusted(skops.io.dumps(forest), "m.skops")


def test_a_step_that_is_not_fitted_is_passed_over():
    table = make_pipeline(
        make_column_transformer((OneHotEncoder(), [0])), DecisionTreeClassifier()
    ).fit(np.array([["a"], ["b"]]), [0, 1])
    check_estimator(table, "m.skops")


# -- the program: ONNX --


def graph(*nodes, initializers=(), domain="", functions=()):
    made = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", 18)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(made, opset_imports=opsets, functions=list(functions), ir_version=9)


def identity():
    return helper.make_node("Identity", ["x"], ["y"])


def shape_of(*lengths, name="s"):
    return numpy_helper.from_array(np.array(lengths, np.int64), name)


def test_an_operator_of_a_strange_domain_is_refused():
    node = helper.make_node("Steal", ["x"], ["y"], domain="com.example")
    data = graph(node, domain="com.example").SerializeToString()
    with pytest.raises(Untrusted, match=r"p\.onnx uses the operator com\.example\.Steal"):
        open_session(data, "p.onnx")


def test_an_operator_of_the_models_own_is_looked_into():
    """A function is made of other operators; it is those that count."""
    own = [helper.make_opsetid("", 18)]
    good = helper.make_function("own", "Twice", ["a"], ["b"], [
        helper.make_node("Add", ["a", "a"], ["b"])
    ], own)  # fmt: skip
    bad = helper.make_function("own", "Twice", ["a"], ["b"], [
        helper.make_node("Steal", ["a"], ["b"], domain="com.example")
    ], [*own, helper.make_opsetid("com.example", 1)])  # fmt: skip
    node = helper.make_node("Twice", ["x"], ["y"], domain="own")
    check_graph(graph(node, domain="own", functions=[good]).SerializeToString(), "p.onnx")
    with pytest.raises(Untrusted, match=r"com\.example\.Steal"):
        check_graph(graph(node, domain="own", functions=[bad]).SerializeToString(), "p.onnx")


def test_an_operator_that_reads_files_is_refused():
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=0)
    data = graph(node, domain="com.microsoft").SerializeToString()
    with pytest.raises(Untrusted, match="EPContext, which reads other files"):
        check_graph(data, "p.onnx")


def external(name="w"):
    tensor = TensorProto(name=name, data_type=1, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/hostname")
    return tensor


def in_a_branch(tensor):
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["b"], value=tensor)],
        "branch",
        [],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, [1])],
    )
    return helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)


@pytest.mark.parametrize("place", ["initializer", "attribute", "branch", "function"])
def test_external_data_is_refused_wherever_it_stands(place):
    constant = helper.make_node("Constant", [], ["y"], value=external())
    model = {
        "initializer": lambda: graph(identity(), initializers=[external()]),
        "attribute": lambda: graph(constant),
        "branch": lambda: graph(in_a_branch(external())),
        "function": lambda: graph(
            helper.make_node("F", ["x"], ["y"], domain="own"), domain="own",
            functions=[helper.make_function(
                "own", "F", ["x"], ["y"], [constant], [helper.make_opsetid("", 18)])],
        ),
    }[place]()  # fmt: skip
    with pytest.raises(Untrusted, match=r"p\.onnx refers to data in other files"):
        open_session(model.SerializeToString(), "p.onnx")


HALF = limits.MAX_GROWN_ELEMENTS


@pytest.mark.parametrize(
    ("node", "initializers"),
    [
        (helper.make_node("ConstantOfShape", ["s"], ["y"]), [shape_of(HALF, 2)]),
        (helper.make_node("Expand", ["x", "s"], ["y"]), [shape_of(10**6, 10**6)]),
        (helper.make_node("Tile", ["x", "s"], ["y"]), [shape_of(10**6, 10**6)]),
        (helper.make_node("RandomNormal", [], ["y"], shape=[10**6, 10**6]), []),
        (
            helper.make_node("Range", ["a", "b", "c"], ["y"]),
            [shape_of(0, name="a"), shape_of(10**12, name="b"), shape_of(1, name="c")],
        ),
        (helper.make_node("ConstantOfShape", ["s"], ["y"]), [shape_of(-1, 10**12)]),
    ],
    ids=lambda part: part.op_type if hasattr(part, "op_type") else "",
)
def test_a_graph_that_asks_for_a_gigantic_tensor_is_refused(node, initializers):
    data = graph(node, initializers=initializers).SerializeToString()
    with pytest.raises(Untrusted, match=r"p\.onnx asks for a tensor of [\d,]+ elements by"):
        check_graph(data, "p.onnx")


def test_a_constant_that_stands_in_a_node_is_a_shape_too():
    constant = helper.make_node("Constant", [], ["s"], value=shape_of(10**6, 10**6))
    data = graph(constant, helper.make_node("ConstantOfShape", ["s"], ["y"])).SerializeToString()
    with pytest.raises(Untrusted, match="asks for a tensor"):
        check_graph(data, "p.onnx")


@pytest.mark.parametrize(("length", "passes"), [(HALF, True), (HALF + 1, False)])
def test_the_bound_of_grown_tensors_is_the_largest_that_is_allowed(length, passes):
    node = helper.make_node("ConstantOfShape", ["s"], ["y"])
    data = graph(node, initializers=[shape_of(length)]).SerializeToString()
    if passes:
        check_graph(data, "p.onnx")
        return
    with pytest.raises(Untrusted, match="asks for a tensor"):
        check_graph(data, "p.onnx")


@pytest.mark.parametrize("dims", [[10**6, 10**6], [-1], [2**62, 2**62]])
def test_a_tensor_that_declares_to_be_gigantic_is_refused(dims):
    tensor = TensorProto(name="w", data_type=1, raw_data=b"\0\0\0\0")
    tensor.dims.extend(dims)
    with pytest.raises(Untrusted, match=r"p\.onnx holds tensor 'w' of the shape"):
        open_session(graph(identity(), initializers=[tensor]).SerializeToString(), "p.onnx")


def test_graphs_nested_without_end_are_refused():
    node = identity()
    for depth in range(limits.MAX_GRAPH_DEPTH + 1):
        inner = helper.make_graph([node], "g", [], [])
        node = helper.make_node("If", ["c"], [f"o{depth}"], then_branch=inner, else_branch=inner)
        if depth > 12:  # both branches would double the file each time
            node.attribute.pop()
    with pytest.raises(Untrusted, match="nests graphs more than 32 deep"):
        check_graph(graph(node).SerializeToString(), "p.onnx")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        b"\x08\x00\x00\x00ORTM" + b"\0" * 200,
        b"\x3a\xff\xff\xff\xff\x0f",
        b"\x3b\x3c",
    ],
    ids=["empty", "zeros", "the runtime's own form", "too long", "group"],
)
def test_bytes_that_are_no_model_are_refused_before_the_runtime(data):
    with pytest.raises(Untrusted, match=r"p\.onnx cannot be loaded by ONNX Runtime: it is no"):
        check_graph(data, "p.onnx")


# -- trees that lead the runtime astray --


def trees_apart(**changed):
    """Two small trees as `TreeEnsemble` has them; what is None is left out."""
    from onnx import numpy_helper

    known = {
        "n_targets": 1, "aggregate_function": 1, "post_transform": 0, "tree_roots": [0, 2],
        "nodes_featureids": [0, 1, 0], "nodes_modes": [0, 0, 0], "nodes_splits": [0.0, 1.0, 2.0],
        "nodes_truenodeids": [1, 0, 3], "nodes_trueleafs": [0, 1, 1],
        "nodes_falsenodeids": [2, 1, 4], "nodes_falseleafs": [1, 1, 1],
        "leaf_targetids": [0] * 5, "leaf_weights": [1.0, 2.0, 3.0, 4.0, 5.0],
    }  # fmt: skip
    known |= changed
    types = {"nodes_modes": np.uint8, "nodes_splits": np.float64, "leaf_weights": np.float64}
    for name, kind in types.items():
        known[name] = numpy_helper.from_array(np.array(known[name], kind), name)
    node = helper.make_node(
        "TreeEnsemble", ["x"], ["y"], domain="ai.onnx.ml",
        **{name: value for name, value in known.items() if value is not None},
    )  # fmt: skip
    return of_trees(node, TensorProto.DOUBLE, 5)


def trees_together(**changed):
    """One small tree as `TreeEnsembleRegressor` has it."""
    known = {
        "n_targets": 1, "nodes_treeids": [0] * 5, "nodes_nodeids": [0, 1, 2, 3, 4],
        "nodes_featureids": [0, 1, 0, 0, 0], "nodes_values": [0.0, 1.0, 0.0, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 3, 0, 0, 0], "nodes_falsenodeids": [2, 4, 0, 0, 0],
        "target_treeids": [0] * 3, "target_nodeids": [2, 3, 4], "target_ids": [0] * 3,
        "target_weights": [1.0, 2.0, 3.0],
    }  # fmt: skip
    node = helper.make_node(
        "TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **(known | changed)
    )
    return of_trees(node, TensorProto.FLOAT, 3)


def of_trees(node, kind, opset):
    made = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("x", kind, [None, 2])],
        [helper.make_tensor_value_info("y", kind, [None, 1])],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", opset)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9).SerializeToString()


@pytest.mark.parametrize(
    ("make", "kind", "expected"),
    [(trees_apart, np.float64, 5.0), (trees_together, np.float32, 2.0)],
)
def test_honest_trees_pass_and_run(make, kind, expected):
    session = open_session(make(), "m.onnx")
    assert session.run(None, {"x": np.zeros((2, 2), kind)})[0].tolist() == [[expected]] * 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"nodes_truenodeids": [3, 0, 3]}, "leads nowhere"),
        ({"nodes_truenodeids": [-1, 0, 3]}, "leads nowhere"),
        ({"nodes_falsenodeids": [2, 5, 4]}, "leads nowhere"),
        ({"tree_roots": [0, 3]}, "leads nowhere"),
        ({"tree_roots": None}, "leads nowhere"),
        ({"nodes_truenodeids": [0, 0, 3]}, "grow together"),
        ({"nodes_truenodeids": [2, 0, 3]}, "grow together"),
        ({"tree_roots": [0, 0]}, "grow together"),
        ({"leaf_targetids": [0, 0, 0, 0, 1]}, "target that is not there"),
        ({"leaf_targetids": [0, 0, 0, 0, -1]}, "target that is not there"),
        ({"nodes_featureids": [0, -1, 0]}, "column that is none"),
        ({"nodes_featureids": [0, 1]}, "differ in length"),
        ({"nodes_trueleafs": [0, 1]}, "differ in length"),
        ({"nodes_splits": [0.0, 1.0]}, "differ in length"),
        ({"leaf_weights": [1.0, 2.0]}, "differ in length"),
        ({"nodes_missing_value_tracks_true": [1]}, "differ in length"),
        ({"nodes_modes": [0, 6, 0]}, "not sure to survive"),
    ],
)
def test_a_tree_of_tests_and_leaves_apart_that_leads_astray_is_refused(changed, said):
    """ONNX Runtime ends the process, or reads what is not its own."""
    with pytest.raises(Untrusted, match=rf"m\.onnx holds trees in TreeEnsemble with .*{said}"):
        open_session(trees_apart(**changed), "m.onnx")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"nodes_truenodeids": [1, 0, 0, 0, 0]}, "does not end"),
        ({"nodes_truenodeids": [1, 1, 0, 0, 0]}, "does not end"),
        ({"nodes_truenodeids": [1, 5, 0, 0, 0]}, "leads nowhere"),
        ({"nodes_falsenodeids": [2, -4, 0, 0, 0]}, "leads nowhere"),
        ({"nodes_nodeids": [0, 1, 2, 3, 3]}, "two nodes of one number"),
        ({"nodes_nodeids": [0, 1, 2, 3, 1 << 40]}, "whose number is none"),
        ({"nodes_featureids": [0, -2, 0, 0, 0]}, "column that is none"),
        ({"target_ids": [0, 0, 1]}, "target that is not there"),
        ({"target_weights": [1.0]}, "leaves that differ in length"),
        ({"nodes_values": [0.0]}, "nodes that differ in length"),
        ({"nodes_modes": ["LEAF"]}, "nodes that differ in length"),
    ],
)
def test_a_tree_of_tests_and_leaves_together_that_leads_astray_is_refused(changed, said):
    with pytest.raises(Untrusted, match=rf"TreeEnsembleRegressor with .*{said}"):
        open_session(trees_together(**changed), "m.onnx")


def chain(depth):
    """A tree whose every test leads to a leaf, or one test further down."""
    return trees_apart(
        tree_roots=[0], nodes_featureids=[0] * depth, nodes_modes=[0] * depth,
        nodes_splits=[0.0] * depth, nodes_truenodeids=list(range(depth)),
        nodes_trueleafs=[1] * depth, nodes_falsenodeids=[*range(1, depth), depth],
        nodes_falseleafs=[0] * (depth - 1) + [1], leaf_targetids=[0] * (depth + 1),
        leaf_weights=np.arange(depth + 1.0),
    )  # fmt: skip


def test_a_tree_that_is_deep_enough_to_end_the_process_is_refused():
    deepest = open_session(chain(limits.MAX_TREE_DEPTH), "m.onnx")
    assert deepest.run(None, {"x": np.ones((1, 2))})[0] == limits.MAX_TREE_DEPTH
    with pytest.raises(Untrusted, match="does not end within 5,000 tests"):
        open_session(chain(limits.MAX_TREE_DEPTH + 1), "m.onnx")


def test_an_attribute_of_trees_that_is_there_twice_is_refused():
    """Which of the two the runtime would take is its own affair."""
    model = onnx.load_from_string(trees_apart())
    again = next(one for one in model.graph.node[0].attribute if one.name == "tree_roots")
    model.graph.node[0].attribute.append(again)
    with pytest.raises(Untrusted, match="says twice what the tree_roots of TreeEnsemble are"):
        open_session(model.SerializeToString(), "m.onnx")


@given(st.lists(st.integers(-(1 << 63), (1 << 63) - 1), max_size=30), st.booleans())
def test_the_numbers_of_an_attribute_are_read_as_they_were_written(values, packed):
    from bascule.bundle.programs.forests import read_attribute

    attribute = onnx.AttributeProto(name="n", type=onnx.AttributeProto.INTS, ints=values)
    data = attribute.SerializeToString()
    if packed:
        data = b"\x0a\x01n" + packed_ints(values)
    name, read = read_attribute(data, 0, len(data))
    assert (name, read.whole.tolist()) == ("n", values)


def packed_ints(values):
    """Field 8 as a writer of packed numbers has it, which any reader must take too."""
    body = b""
    for value in values:
        rest = value & 0xFFFF_FFFF_FFFF_FFFF
        while rest >= 0x80:
            body += bytes([rest & 0x7F | 0x80])
            rest >>= 7
        body += bytes([rest])
    length, size = len(body), b""
    while length >= 0x80:
        size += bytes([length & 0x7F | 0x80])
        length >>= 7
    return b"\x42" + size + bytes([length]) + body


def test_a_graph_of_many_numbers_is_looked_through_quickly():
    """Numbers of a tree ensemble are single records, and millions of them."""
    import time

    trees = 100_000
    data = trees_together(
        nodes_treeids=np.repeat(np.arange(trees), 3).tolist(), nodes_nodeids=[0, 1, 2] * trees,
        nodes_featureids=[1000] * 3 * trees, nodes_values=np.ones(3 * trees).tolist(),
        nodes_modes=["BRANCH_LEQ", "LEAF", "LEAF"] * trees,
        nodes_truenodeids=[1, 0, 0] * trees, nodes_falsenodeids=[2, 0, 0] * trees,
        target_treeids=np.repeat(np.arange(trees), 2).tolist(), target_nodeids=[1, 2] * trees,
        target_ids=[0] * 2 * trees, target_weights=np.ones(2 * trees).tolist(),
    )  # fmt: skip
    started = time.process_time()
    check_graph(data, "p.onnx")
    assert time.process_time() - started < 3.0
