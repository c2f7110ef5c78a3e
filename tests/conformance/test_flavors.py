"""What holds for every model of every framework, once it is packed.

A flavor that is in `bascule.packing.flavors.TABLE` is found here by itself; its models are in
`samples/NAME.py`.
"""

from __future__ import annotations

import os
import sys
import zipfile

import numpy as np
import pytest
from conformance_sample import at_thresholds

import bascule
from bascule.bundle.tables import conform, for_program, take
from bascule.packing.statements import parity

FEW = 64


def close(expected, found, within):
    """The law of `bundle.parity`: labels equal, numbers within so much of their size."""
    judged = parity.compare(
        {name: np.asarray(values) for name, values in expected.items()},
        {name: np.asarray(found[name]) for name in expected},
        tolerance=max(within, 1e-300),
        program="it",
        precision="",
        probes=0,
    )
    assert judged.passed, judged.reason


def columns_of(bundle, rows):
    return conform(rows, bundle.signature)


# -- round trip ----------------------------------------------------------------------------------


def test_the_loaded_program_answers_as_the_framework_does(sample, bundle):
    loaded = bascule.load(bundle.path)
    assert loaded.manifest.serves == sample.serves, loaded.parity.reason
    close(sample.ask(sample.rows), loaded.predict(sample.rows), sample.within)


def test_the_loaded_original_answers_as_the_framework_does(sample, bundle):
    original = bascule.load(bundle.path).original()
    close(
        sample.ask(sample.rows),
        parity.answers(original, columns_of(bundle, sample.rows)),
        sample.saved_within,
    )


# -- types and shapes ----------------------------------------------------------------------------


def test_outputs_have_the_types_and_shapes_that_the_signature_says(sample, bundle):
    answer = bundle.predict(sample.rows)
    count = len(next(iter(answer.values())))
    assert list(answer) == [field.name for field in bundle.signature.outputs]
    for field in bundle.signature.outputs:
        values = answer[field.name]
        assert values.dtype == field.dtype.numpy
        assert len(values) == count
        for length, found in zip(field.shape, values.shape[1:], strict=True):
            assert length in (-1, found)


def test_the_program_reads_what_the_signature_says_but_for_the_types(bundle):
    program = bundle.program()
    assert [(field.name, field.shape) for field in program.inputs] == [
        (field.name, field.shape) for field in bundle.signature.inputs
    ]


def test_outputs_can_be_asked_for_one_by_one_in_any_order(sample, bundle):
    for program in (bundle.program(), bundle.original()):
        columns = for_program(take(columns_of(bundle, sample.rows), slice(3)), program.inputs)
        names = [field.name for field in program.outputs][::-1]
        assert list(program.run(columns, names)) == names
        for name in names:
            assert list(program.run(columns, [name])) == [name]


# -- batches -------------------------------------------------------------------------------------


def test_a_row_is_answered_alone_as_in_company(sample, bundle):
    program = bundle.program()
    columns = take(columns_of(bundle, sample.rows), slice(FEW))
    columns = for_program(columns, program.inputs)
    together = program.run(columns)
    alone = [program.run(take(columns, slice(row, row + 1))) for row in range(FEW)]
    entry = bundle.manifest.served
    for name, values in together.items():
        rows = np.concatenate([answer[name] for answer in alone])
        if entry is not None and entry.batch_invariant and values.dtype.kind != "O":
            assert rows.tobytes() == values.tobytes()
    apart = {name: np.concatenate([answer[name] for answer in alone]) for name in together}
    close(together, apart, sample.company_within)


# -- safety --------------------------------------------------------------------------------------

_seen: list[str] | None = None


def _listen(event: str, arguments: tuple[object, ...]) -> None:
    if _seen is not None and event == "pickle.find_class":
        _seen.append(str(arguments))


sys.addaudithook(_listen)


def test_nothing_is_unpickled_when_a_bundle_is_loaded_and_asked(sample, bundle):
    global _seen
    columns = take(columns_of(bundle, sample.rows), slice(3))
    _seen = []
    try:
        loaded = bascule.load(bundle.path)
        loaded.predict(sample.rows)
        original = loaded.original()
        original.run(for_program(columns, original.inputs))
        assert _seen == []
    finally:
        _seen = None


def test_no_file_of_the_bundle_is_a_pickle_unless_its_format_says_so(sample, bundle):
    found = []
    for name in bundle.manifest.files:
        path = bundle.path / name
        data = path.read_bytes()
        parts = [data]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                parts = [archive.read(part) for part in archive.namelist()]
        # Protocols 2 to 5 begin with the code PROTO and their number.
        found += [name for part in parts if part[:1] == b"\x80" and part[1:2] in b"\2\3\4\5"]
    assert found == ([bundle.manifest.original.file] if sample.is_pickled else [])


# -- parity on what real rows do not hold --------------------------------------------------------


def test_parity_holds_where_a_value_is_missing(sample, bundle):
    columns = take(columns_of(bundle, sample.rows), slice(FEW))
    changed = [field for field in bundle.signature.inputs if field.nullable]
    for field in changed:
        values = columns[field.name].copy()
        values[::2] = None if values.dtype.kind == "O" else np.nan
        _both_agree(sample, bundle, {**columns, field.name: values})


def test_parity_holds_for_extreme_numbers(sample, bundle):
    columns = take(columns_of(bundle, sample.rows), slice(FEW))
    extremes = [0.0, -0.0, 1e-30, -1e-30, 1e-45, 7.5, -7.5]
    if sample.allows_huge:
        extremes += [1e30, -1e30]
    for field in bundle.signature.inputs:
        if field.dtype.is_float and field.categories is None:
            values = columns[field.name].copy()
            for row in range(len(values)):
                values[row] = extremes[row % len(extremes)]
            _both_agree(sample, bundle, {**columns, field.name: values})


def test_parity_holds_at_every_threshold_and_beside_it(sample, bundle):
    if not sample.thresholds:
        return  # nothing is compared
    rows = at_thresholds(sample)
    close(sample.ask(rows), bundle.predict(rows), sample.within)


def _both_agree(sample, bundle, columns):
    program, original = bundle.program(), bundle.original()
    close(parity.answers(original, columns), parity.answers(program, columns), sample.within)


# -- identity ------------------------------------------------------------------------------------


@pytest.mark.slow  # the last tests here pack again too, from what is recorded
def test_the_same_model_has_the_same_digest_twice(bundle, again):
    assert again.path != bundle.path
    assert again.digest == bundle.digest


def test_what_the_bundle_says_of_its_parity_is_what_was_asked(sample, bundle):
    judged = bundle.parity
    assert judged is not None
    assert judged.passed is (sample.serves != "original" or judged.program == "original")
    assert judged.max_difference <= judged.tolerance or not judged.passed


@pytest.mark.parametrize("name", ["bundle.json", "card.md", "data/example.json"])
def test_every_bundle_is_the_same_kind_of_thing(bundle, name):
    assert (bundle.path / name).stat().st_size > 0


def check_packed_again(sample, bundle):
    rows = {"train": sample.train, "calibration": sample.options.get("calibration")}
    if sample.is_pickled or not sample.is_rebuilt:
        with pytest.raises(bascule.BasculeError, match="cannot be packed again"):
            bascule.rebuild(bundle.path, **rows)
        return
    rebuilt = bascule.rebuild(bundle.path, **rows)
    assert rebuilt.differences == ()
    assert rebuilt.same


FIRST = (
    "catboost-binary", "keras-two-in-two-out", "lightgbm-binary", "onnx-turned-text",
    "sklearn-pipeline-on-a-table", "torch-classifier", "xgboost-pipeline",
)  # fmt: skip


@pytest.mark.parametrize(
    "sample",
    [one for one in FIRST if one.startswith(os.environ.get("BASCULE_CONFORMANCE_ONLY", ""))],
    indirect=True,
)
def test_what_is_recorded_is_enough_to_pack_the_bundle_again(sample, bundle):
    check_packed_again(sample, bundle)


@pytest.mark.slow
def test_and_so_it_is_of_every_sample(sample, bundle):
    check_packed_again(sample, bundle)
