"""A corpus of mutated bundles: none loads wrongly, none crashes the process, none fills the memory.

Every file is mutated in every region, with the digests left as they were (then the mutant must be
refused) and with digests that fit (then it must be refused, or be what it says: another bundle,
under another digest). Each mutant is opened in a child process, which has to outlive it.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bascule
from bascule.core.digests import canonical_json, sha256_bytes

FILES = (
    "bundle.json",
    "data/example.json",
    "data/test.parquet",
    "environment.txt",
    "original/model.skops",
    "programs/onnx.onnx",
)
REGIONS = 24
"""Parts that a file is cut into; each gets its own mutants."""

REFUSALS = {"Untrusted", "Invalid", "ModelFailed", "TooLarge", "NotFound"}


class Child:
    """`mutants.py`, started once for many mutants."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("mutants.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip

    def look_at(self, path: Path) -> dict[str, str]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{path}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the process died of it: {self.process.wait(10)}"
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


@pytest.fixture(scope="module")
def bundles(table_bundle, packed):
    """A table with text, trees and encoders; and histogram trees on a matrix."""
    from sklearn.datasets import load_iris
    from sklearn.ensemble import HistGradientBoostingClassifier

    X, y = load_iris(return_X_y=True)
    model = HistGradientBoostingClassifier(max_iter=3, categorical_features=[0])
    X[:, 0] = X[:, 0].round()
    return [table_bundle, packed("mutated", model.fit(X, y), X, (X, y))]


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


def mutant_of(bundle: Path, workplace: Path, name: str, change, *, reseal: bool) -> Path:
    place = workplace / "mutant"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(bundle, place)
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


def try_mutant(child, bundles, workplace, which, name, change, reseal):
    bundle = bundles[which % len(bundles)]
    before = (bundle / name).read_bytes()
    place = mutant_of(bundle, workplace, name, change, reseal=reseal)
    is_other = (place / name).read_bytes() != before
    said = child.look_at(place)
    original = bascule.bundle.format.digest_of(bundle)
    judge(said, original, is_other=is_other)
    if is_other and not reseal:
        assert said["load"] == "Untrusted"


@pytest.mark.parametrize("name", FILES[1:])  # the manifest's own bytes are its digest
def test_a_mutant_with_the_old_digests_is_refused_in_every_region(child, bundles, workplace, name):
    for region in range(0, REGIONS, 3):
        for which, mutation in enumerate((flip, cut, put_in)):

            def change(data, mutation=mutation, region=region):
                return mutation(data, at_region(data, region, 7 * region), 1 + region)

            try_mutant(child, bundles, workplace, which, name, change, reseal=False)


@pytest.mark.parametrize("name", FILES)
def test_a_mutant_with_digests_that_fit_never_crashes_in_any_region(
    child, bundles, workplace, name
):
    for region in range(REGIONS):
        mutation = MUTATIONS[region % len(MUTATIONS)]

        def change(data, mutation=mutation, region=region):
            return mutation(data, at_region(data, region, 13 * region), 3 * region)

        try_mutant(child, bundles, workplace, region // len(MUTATIONS), name, change, reseal=True)


PICKS = {
    "name": st.sampled_from(FILES),
    "mutation": st.sampled_from(MUTATIONS),
    "which": st.integers(0, 1),
    "region": st.integers(0, REGIONS - 1),
    "offset": st.integers(0, 1 << 20),
    "value": st.integers(0, 255),
    "member": st.integers(-1, 200),
}


def try_pick(child, bundles, workplace, name, mutation, which, region, offset, value, member):
    def change(data):
        if name.endswith(".skops") and member >= 0:
            return mutate_inside(data, mutation, member, region, offset, value)
        return mutation(data, at_region(data, region, offset), value)

    try_mutant(child, bundles, workplace, which, name, change, reseal=True)


LENIENT = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=30, deadline=None, suppress_health_check=LENIENT)
@given(**PICKS)
def test_no_mutant_crashes_the_process(
    child, bundles, workplace, name, mutation, which, region, offset, value, member
):
    try_pick(child, bundles, workplace, name, mutation, which, region, offset, value, member)


@settings(max_examples=30, deadline=None, suppress_health_check=LENIENT)
@given(**PICKS)
def test_no_mutant_of_the_originals_arrays_crashes_the_process(
    child, bundles, workplace, name, mutation, which, region, offset, value, member
):
    name, member = "original/model.skops", abs(member)
    try_pick(child, bundles, workplace, name, mutation, which, region, offset, value, member)


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None, suppress_health_check=LENIENT)
@given(**PICKS)
def test_no_mutant_of_thousands_crashes_the_process(
    child, bundles, workplace, name, mutation, which, region, offset, value, member
):
    try_pick(child, bundles, workplace, name, mutation, which, region, offset, value, member)
