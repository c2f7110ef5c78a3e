"""A corpus of mutated bundles: none loads wrongly, none crashes the process, none fills the memory.

Every file is mutated in every region, with the digests left as they were (then the mutant must be
refused) and with digests that fit (then it must be refused, or be what it says: another bundle,
under another digest). Each mutant is opened in a child process, which has to outlive it.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.tiers import first_of

import bascule
from bascule.core.digests import canonical_json, sha256_bytes

REGIONS = 24
"""Parts that a file is cut into; each gets its own mutants."""

REFUSALS = {"Untrusted", "Invalid", "ModelFailed", "TooLarge", "NotFound", "Unconvertible"}


class Child:
    """`mutants.py`, started once for many mutants, and again when one of them has killed it."""

    def __init__(self) -> None:
        self.process = self._start()

    def _start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("mutants.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def look_at(self, path: Path, *way: str) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write("\t".join([str(path), *way]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait(10)
            self.end()
            self.process = self._start()  # so that hypothesis can look for a smaller one
            raise AssertionError(f"the process died of it: {code}")
        return json.loads(line)

    def end(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)


@pytest.fixture(scope="module")
def child():
    started = Child()
    yield started
    started.end()


def histogram_trees(packed):
    from sklearn.datasets import load_iris
    from sklearn.ensemble import HistGradientBoostingClassifier

    X, y = load_iris(return_X_y=True)
    model = HistGradientBoostingClassifier(max_iter=3, categorical_features=[0])
    X[:, 0] = X[:, 0].round()
    return packed("histogram", model.fit(X, y), X, (X, y))


def outliers(packed):
    from sklearn.datasets import load_iris
    from sklearn.ensemble import IsolationForest

    X = load_iris().data
    return packed("outliers", IsolationForest(n_estimators=5, random_state=0).fit(X), X)


def several_outputs(packed):
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression
    from sklearn.multioutput import MultiOutputClassifier

    X, y = load_iris(return_X_y=True)
    both = np.column_stack([y, y > 0])
    model = MultiOutputClassifier(LogisticRegression(max_iter=200)).fit(X, both)
    return packed("several", model, (X, both), (X, both))


def texts(packed):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    said = ["the gate is open", "École fermée", "late again", "in time", "the wind"] * 8
    truth = np.array([0, 1, 1, 0, 1] * 8)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(said, truth)
    return packed("texts", model, (said, truth), (said, truth))


def of_pytorch(packed):
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 3)
    )
    return packed("pytorch", module, rng().normal(size=(12, 1, 8, 8)).astype(np.float32))


def of_keras(packed):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    import keras

    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2, activation="softmax"),
        ]
    )
    return packed("keras", model, rng().normal(size=(40, 4)).astype(np.float32))


def steps_of_ones_own(packed):
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    home = Path(__file__).parents[1] / "conformance" / "samples" / "own_steps.py"
    sys.path.append(str(home.parent))  # its neighbours have the names of libraries
    import own_steps

    X = rng().normal(size=(60, 2))
    y = (X[:, 0] > 0).astype(int)
    model = make_pipeline(FunctionTransformer(own_steps.ratios), LogisticRegression()).fit(X, y)
    return packed("own", model, (X, y), (X, y), code=[home])


def rng():
    return np.random.default_rng(0)


KINDS = {
    "histogram": histogram_trees,
    "outliers": outliers,
    "texts": texts,
    "several": several_outputs,
    "keras": of_keras,
    "own code": steps_of_ones_own,
    "pytorch": of_pytorch,
}
"""What else there is than a table with text, trees and encoders: each form of file once."""

CHEAP = {"kind": st.sampled_from(["table", "histogram", "several", "texts"])}
"""Kinds without a process of their own or a framework, for what the first tier draws at random."""


@pytest.fixture(scope="module")
def bundles(table_bundle, packed):
    """By kind; packed when it is asked for."""
    made = {"table": table_bundle}

    def get(kind):
        if kind not in made:
            made[kind] = KINDS[kind](packed)
        return made[kind]

    return get


def files_of(bundle: Path) -> list[str]:
    """All that a bundle is made of; the files of a library's form last."""
    manifest = json.loads((bundle / "bundle.json").read_bytes())
    return ["bundle.json", *sorted(manifest["files"])]


def of_a_library(bundle: Path) -> list[str]:
    return [name for name in files_of(bundle) if name.startswith(("original/", "programs/"))]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    return tmp_path_factory.mktemp("mutants")


def at_region(data: bytes, region: int, offset: int) -> int:
    size = max(1, len(data) // REGIONS)
    return min(region * size + offset % size, max(0, len(data) - 1))


def flip(data, at, value):
    return data[:at] + bytes([data[at] ^ (value or 1)]) + data[at + 1 :]


def cut(data, at, value):
    return data[:at]


def leave_out(data, at, value):
    return data[:at] + data[at + 1 + value :]


def put_in(data, at, value):
    return data[:at] + bytes([value]) * (1 + value) + data[at:]


def fill(data, at, value):
    return data[:at] + b"\xff" * min(8, len(data) - at) + data[at + 8 :]


def repeat(data, at, value):
    return data[:at] + data[max(0, at - 64) : at] * (1 + value % 8) + data[at:]


MUTATIONS = (flip, cut, leave_out, put_in, fill, repeat)


def mutate_inside(
    data: bytes, mutation, member: int, region: int, offset: int, value: int
) -> bytes:
    """The archive with one of its files mutated, and sums that fit again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = sorted(parts)[member % len(parts)]
    parts[name] = mutation(parts[name], at_region(parts[name], region, offset), value)
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    return made.getvalue()


def copy_of(bundle: Path, workplace: Path) -> Path:
    place = workplace / "mutant"
    shutil.rmtree(place, ignore_errors=True)
    return shutil.copytree(bundle, place)


def mutant_of(bundle: Path, workplace: Path, name: str, change, *, reseal: bool) -> Path:
    place = copy_of(bundle, workplace)
    data = change((place / name).read_bytes())
    if name == "bundle.json" and reseal:
        # The digest of a manifest is its own bytes: to fit, it has to be canonical.
        try:
            data = canonical_json(json.loads(data))
        except (ValueError, RecursionError):
            reseal = False
    (place / name).write_bytes(data)
    if reseal and name != "bundle.json":
        manifest = json.loads((place / "bundle.json").read_bytes())
        manifest["files"][name] = {"sha256": sha256_bytes(data), "bytes": len(data)}
        (place / "bundle.json").write_bytes(canonical_json(manifest))
    return place


def judge(said: dict[str, str], original: str, *, is_other: bool) -> None:
    for way, end in said.items():
        if way != "digest":
            assert end == "ok" or end in REFUSALS, f"{way}: {end}"
    if is_other:
        assert said["digest"] != original, "a mutant passes for the bundle that it was made of"


def try_mutant(child, bundle, workplace, name, change, reseal):
    before = (bundle / name).read_bytes()
    place = mutant_of(bundle, workplace, name, change, reseal=reseal)
    is_other = (place / name).read_bytes() != before
    said = child.look_at(place)
    original = bascule.bundle.disk.folder.digest_of(bundle)
    judge(said, original, is_other=is_other)
    if is_other and not reseal:
        assert said["load"] == "Untrusted"


@pytest.mark.parametrize("kind", first_of(["table", *KINDS], 2))
def test_a_mutant_with_the_old_digests_is_refused_in_every_region(child, bundles, workplace, kind):
    bundle = bundles(kind)
    for name in files_of(bundle)[1:]:  # the manifest's own bytes are its digest
        for region, mutation in zip(range(0, REGIONS, 8), (flip, cut, put_in), strict=True):

            def change(data, mutation=mutation, region=region):
                return mutation(data, at_region(data, region, 7 * region), 1 + region)

            try_mutant(child, bundle, workplace, name, change, reseal=False)


def names_of(kind: str, bundle: Path) -> list[str]:
    """Every file of the richest bundle, and of the others what is not in it."""
    return files_of(bundle) if kind == "table" else of_a_library(bundle)


def try_regions(child, bundle, workplace, names, seed, step):
    for name in names:
        for region in range(seed % step, REGIONS, step):
            mutation = MUTATIONS[(region + seed) % len(MUTATIONS)]

            def change(data, mutation=mutation, region=region):
                return mutation(data, at_region(data, region, (13 + seed) * region), 3 * region)

            try_mutant(child, bundle, workplace, name, change, reseal=True)


@pytest.mark.parametrize("kind", first_of(["table", *KINDS], 2))
def test_a_mutant_with_digests_that_fit_never_crashes(child, bundles, workplace, kind):
    bundle = bundles(kind)
    try_regions(child, bundle, workplace, names_of(kind, bundle), seed=len(kind), step=REGIONS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(len(MUTATIONS)))
@pytest.mark.parametrize("kind", ["table", *KINDS])
def test_no_mutation_of_any_file_in_any_region_crashes(child, bundles, workplace, kind, seed):
    bundle = bundles(kind)
    try_regions(child, bundle, workplace, names_of(kind, bundle), seed=seed, step=1)


PICKS = {
    "kind": st.sampled_from(["table", *KINDS]),
    "name": st.integers(0, 30),
    "mutation": st.sampled_from(MUTATIONS),
    "region": st.integers(0, REGIONS - 1),
    "offset": st.integers(0, 1 << 20),
    "value": st.integers(0, 255),
    "member": st.integers(-1, 200),
}


def try_pick(child, bundles, workplace, kind, name, mutation, region, offset, value, member):
    bundle = bundles(kind)
    if isinstance(name, int):
        names = files_of(bundle)
        name = names[name % len(names)]

    def change(data):
        if name.endswith((".skops", ".keras")) and member >= 0:
            return mutate_inside(data, mutation, member, region, offset, value)
        return mutation(data, at_region(data, region, offset), value)

    try_mutant(child, bundle, workplace, name, change, reseal=True)


# -- documents whose values are exchanged, all else fits: what somebody can do who packs bundles --

DOCUMENTS = (
    "bundle.json", "data/baseline.json", "data/calibration.json", "data/example.json",
    "calibration", "cost", "parity", "provenance", "training", "quality", "gates",
)  # fmt: skip
"""Files, and statements by their kind."""

STATEMENTS = {
    "cost": {
        "latency_us": {"onnx": {"1": 9.0, "512": 90.0}, "original": {"1": 99.0, "512": 990.0}},
        "peak_memory_bytes": 1 << 26, "size_bytes": 1 << 16, "machine": {"cpu": "Abacus 3"},
    },
    "quality": {
        "rows": 50, "overall": {"accuracy": 0.9}, "train_test_overlap": 0.0,
        "slices": {"airport": {"EWR": {"rows": 20, "metrics": {"accuracy": 0.8}}}},
    },
    "gates": {
        "passed": True,
        "results": [
            {"criterion": "accuracy >= 0", "value": 0.9, "limit": 0.0, "unit": "", "passed": True,
             "reason": "0.9 is >= 0"}
        ],
    },
}  # fmt: skip
"""Of the kinds that packing without measuring makes none of."""

EXCHANGED = (
    None, True, 0, -1, 3, 1e308, 10**30, "", "x", "\ud800", [], {}, [[]], [None], {"a": []},
    float("nan"), "no longer there",
)  # fmt: skip


def places_in(value, before=()):
    """The way to every value in a document."""
    yield before
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places_in(part, (*before, key))


def exchange(value, pick: int, new):
    """The document with one of its values exchanged, or taken out."""
    places = list(places_in(value))
    way = places[pick % len(places)]
    if not way:
        return None if new == "no longer there" else new
    holder = value
    for key in way[:-1]:
        holder = holder[key]
    if new == "no longer there":
        del holder[way[-1]]
    else:
        holder[way[-1]] = new
    return value


def as_json(value) -> bytes:
    try:
        return canonical_json(value)
    except ValueError:  # it has no canonical form, and is tried all the same
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def try_exchange(child, bundles, workplace, document, kind, pick, new):
    bundle = bundles(kind)
    place = copy_of(bundle, workplace)
    for what, body in STATEMENTS.items():
        bascule.bundle.disk.folder.write_statement(place, what, body, by="eve")
    file = place / document
    if file.suffix and not file.exists():
        return  # not every kind of model is calibrated
    if not file.suffix:
        file = sorted((place / "statements").glob(f"{document}-*.json"))[0]
    before = file.read_bytes()
    file.write_bytes(as_json(exchange(json.loads(before), pick, new)))
    if file.parent.name == "data":
        manifest = json.loads((place / "bundle.json").read_bytes())
        data = file.read_bytes()
        manifest["files"][document] = {"sha256": sha256_bytes(data), "bytes": len(data)}
        (place / "bundle.json").write_bytes(canonical_json(manifest))
    digest = sha256_bytes((place / "bundle.json").read_bytes())
    original = sha256_bytes((bundle / "bundle.json").read_bytes())
    for statement in (place / "statements").glob("*.json"):
        statement.write_bytes(statement.read_bytes().replace(original.encode(), digest.encode()))
    judge(child.look_at(place), original, is_other=digest != original)


EXCHANGES = {
    "document": st.sampled_from(DOCUMENTS),
    "kind": st.sampled_from(["table", *KINDS]),
    "pick": st.integers(0, 1 << 20),
    "new": st.sampled_from(EXCHANGED),
}


LENIENT = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=10, deadline=None, suppress_health_check=LENIENT)
@given(**EXCHANGES | CHEAP)
def test_no_exchanged_value_of_a_document_ends_in_anything_but_a_refusal_or_an_answer(
    child, bundles, workplace, document, kind, pick, new
):
    try_exchange(child, bundles, workplace, document, kind, pick, new)


@pytest.mark.slow
@settings(max_examples=1_500, deadline=None, suppress_health_check=LENIENT)
@given(**EXCHANGES)
def test_no_exchanged_value_of_thousands_does(child, bundles, workplace, document, kind, pick, new):
    try_exchange(child, bundles, workplace, document, kind, pick, new)


@settings(max_examples=10, deadline=None, suppress_health_check=LENIENT)
@given(**PICKS | CHEAP)
def test_no_mutant_crashes_the_process(
    child, bundles, workplace, kind, name, mutation, region, offset, value, member
):
    try_pick(child, bundles, workplace, kind, name, mutation, region, offset, value, member)


@settings(max_examples=10, deadline=None, suppress_health_check=LENIENT)
@given(**PICKS | CHEAP)
def test_no_mutant_of_the_originals_arrays_crashes_the_process(
    child, bundles, workplace, kind, name, mutation, region, offset, value, member
):
    names = [name for name in of_a_library(bundles(kind)) if name.startswith("original/")]
    name, member = names[0], abs(member)
    try_pick(child, bundles, workplace, kind, name, mutation, region, offset, value, member)


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None, suppress_health_check=LENIENT)
@given(**PICKS)
def test_no_mutant_of_thousands_crashes_the_process(
    child, bundles, workplace, kind, name, mutation, region, offset, value, member
):
    try_pick(child, bundles, workplace, kind, name, mutation, region, offset, value, member)


# -- originals that a library reads with code of its own: each in a process that it may end --

APART_REFUSALS = {"Untrusted", "Invalid", "ModelFailed", "TimedOut", "Unavailable"}
MOST_BYTES = 1 << 30
"""Of the process that asks, and of the one that reads. Honest ones take 0.2 GB."""


def of_xgboost():
    import xgboost

    return xgboost.XGBClassifier(n_estimators=2, max_depth=3, n_jobs=1)


def of_lightgbm():
    import lightgbm

    return lightgbm.LGBMClassifier(n_estimators=2, num_leaves=6, verbose=-1, n_jobs=1)


def of_catboost():
    import catboost

    return catboost.CatBoostClassifier(
        iterations=2, depth=3, verbose=0, allow_writing_files=False, thread_count=1
    )


LIBRARIES = {"catboost": of_catboost, "lightgbm": of_lightgbm, "xgboost": of_xgboost}


@pytest.fixture(scope="module")
def apart(packed, tmp_path_factory):
    """By library: a bundle that has no program, so that its original serves."""
    made = {}

    def get(library):
        if library not in made:
            from sklearn.datasets import load_iris

            X, y = load_iris(return_X_y=True)
            whole = packed(library, LIBRARIES[library]().fit(X, y), X, (X, y))
            made[library] = shutil.copytree(whole, tmp_path_factory.mktemp("apart") / library)
            manifest = json.loads((whole / "bundle.json").read_bytes())
            for file in {program["file"] for program in manifest["programs"]}:
                (made[library] / file).unlink()
                del manifest["files"][file]
            manifest.update(programs=[], serves="original")
            (made[library] / "bundle.json").write_bytes(canonical_json(manifest))
        return made[library]

    return get


@pytest.fixture(scope="module")
def asked():
    """A process for the mutants that are not read in it.

    The most memory that a process and its children ever had is kept for as long as it lives, and
    those that `child` reads by itself may take more.
    """
    started = Child()
    yield started
    started.end()


def file_of(bundle):
    return json.loads((bundle / "bundle.json").read_bytes())["original"]["file"]


def ask_apart(asked, bundle, workplace, change, way):
    """How a mutant ended that was asked in this way, whatever it is."""
    name = file_of(bundle)
    said = asked.look_at(mutant_of(bundle, workplace, name, change, reseal=True), way)
    assert said["end"] == "ok" or said["end"] in APART_REFUSALS, said["end"]
    assert said["end"] == "ok" or "original" in said["told"]
    assert said["read here"] == [], "the file was read by the process that asked"
    assert said["left"] == [], "a process was left"
    assert said["peak_bytes"] < MOST_BYTES
    return said


def swap(pattern, new):
    """Exchanges the first thing that is found, which must be there."""

    def change(data):
        changed, count = re.subn(pattern, new, data, count=1)
        assert count, f"{pattern} is not in the file"
        return changed

    return change


def of_its_trees(place, new):
    """Exchanges bytes behind where a cbm file tells of two trees with three tests each."""

    def change(data):
        (told,) = re.finditer(re.escape(struct.pack("<4i", 2, 3, 3, 6)), data)
        at = told.start() + place
        return data[:at] + new + data[at + len(new) :]

    return change


def of_many_classes(data):
    """LightGBM makes room for all of them before it asks a tree: 3.2 GB for four rows."""
    unmeasured = swap(rb"\ntree_sizes=", rb"\nother_sizes=")(data)
    return re.sub(rb"(num_class|num_tree_per_iteration)=3\b", rb"\1=100000000", unmeasured)


def in_a_ring(data):
    """Both ways lead from the root of the first tree to the root."""
    unmeasured = swap(rb"\ntree_sizes=", rb"\nother_sizes=")(data)
    return swap(rb"left_child=.*\nright_child=.*\n", b"left_child=0 -1\nright_child=0 -3\n")(
        unmeasured
    )


BLOWN = struct.pack("<i", 100_000_000)

APART = [
    pytest.param("catboost", "gates", of_its_trees(-14, b"\x01"), "", marks=pytest.mark.slow),
    pytest.param(
        "catboost", "served", of_its_trees(16, BLOWN),
        "model.cbm could not be opened: .* before it", marks=pytest.mark.slow,
    ),
    pytest.param(
        "catboost", "batch", of_its_trees(4, BLOWN), "ended .* and is started again",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "lightgbm", "batch", swap(rb"leaf_value=-0.9", b"leaf_value=-0.8"), "",
        marks=pytest.mark.slow,
    ),
    pytest.param(
        "lightgbm", "served", of_many_classes,
        "model.txt cannot be read: it answers other classes", marks=pytest.mark.slow,
    ),
    pytest.param(
        "xgboost", "served", swap(rb'"split_conditions":\[3E0', b'"split_conditions":[2E0'), "",
        marks=pytest.mark.slow,
    ),
    ("xgboost", "gates", swap(rb'"split_indices":\[2', b'"split_indices":[100000000'),
     "ended .* and is started again"),
]  # fmt: skip
"""Library, way, change, and a pattern of the error message; the pattern is empty where the mutated
bundle answers. The first tier has the file that ends the process which reads it."""


@pytest.mark.parametrize(("library", "way", "change", "told"), APART)
def test_a_file_that_ends_the_library_which_reads_it_ends_nothing_else(
    asked, apart, workplace, library, way, change, told
):
    said = ask_apart(asked, apart(library), workplace, change, way)
    assert (said["end"] == "ok") == (not told), said["told"]
    assert re.search(told, said["told"]), said["told"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "way", "change", "told"),
    [
        ("lightgbm", "batch", in_a_ring, "did not answer in time"),
        ("lightgbm", "served", in_a_ring, "did not answer in time"),
        ("lightgbm", "batch", of_many_classes, "model.txt cannot be read: it answers other cl"),
        ("lightgbm", "gates", swap(rb"num_leaves=3", b"num_leaves=1000"), "model.txt could not"),
        ("xgboost", "batch", swap(rb'size_leaf_vector":"1', b'size_leaf_vector":"100000000'),
         "model.json could not be opened: .* before it had"),
    ],
)  # fmt: skip
def test_nor_does_one_that_never_ends_or_ends_it_otherwise(
    asked, apart, workplace, library, way, change, told
):
    said = ask_apart(asked, apart(library), workplace, change, way)
    assert re.search(told, said["told"]), said["told"]


NUMBER = rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?"
WORDS = (b"-1", b"0", b"2147483647", b"4294967296", b"100000000", b"1e308", b"-5", b"nan")


def exchange_number(data, at, value):
    """Another number in place of the next one; of a binary file, of the next four bytes."""
    found = re.compile(NUMBER).search(data, at)
    if data.startswith(b"CBM1"):
        word = struct.pack("<I", (0xFFFFFFFF, 0, 0x7FFFFFFF, 100_000_000, 5, 1 << 31)[value % 6])
        at -= at % 4
        return data[:at] + word + data[at + 4 :]
    if found is None:
        return data[:at]
    return data[: found.start()] + WORDS[value % len(WORDS)] + data[found.end() :]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("library", LIBRARIES)
def test_no_mutation_of_a_librarys_own_file_in_any_region_ends_more_than_its_process(
    asked, apart, workplace, library, seed
):
    """Bytes and numbers in turn: most of what is no text any more is refused before it is read."""
    for region in range(REGIONS):
        mutation = exchange_number if (region + seed) % 2 else MUTATIONS[(region + seed) // 2 % 6]

        def change(data, mutation=mutation, region=region):
            return mutation(data, at_region(data, region, (13 + seed) * region), 3 * region + seed)

        way = ("served", "batch", "gates")[(region + seed) % 3]
        ask_apart(asked, apart(library), workplace, change, way)
