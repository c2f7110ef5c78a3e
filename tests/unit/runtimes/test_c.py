"""The C header: what compilers and programs say of it."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.scenarios.commands import is_gone
from tests.unit.runtimes.models import MODELS, TABLE, TRUTH
from tests.waiting import until

from bascule.bundle import for_program, recombined
from bascule.bundle.programs import MACHINE_CODE, ONNX
from bascule.core import Conflict, DType, Invalid, TimedOut, Unconvertible
from bascule.packing import pack
from bascule.runtimes import c, export, tools

STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("c")


@pytest.fixture(scope="module")
def exports(folder, bundles):
    """Each model's bundle and export."""
    return {name: (b, export(b, "c", folder / f"{name}.c")) for name, b in bundles.items()}


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_compilers_find_nothing_to_warn_of_and_no_heap(compiler, exports, folder, tmp_path):
    includes = [f"-I{folder / name}.c" for name in exports]
    names = [name.replace("-", "_") for name in exports]
    lines = [f'#include "{name}.h"' for name in names]
    for name in names:
        taken = f"(const {name}_input *in, {name}_output *out)"
        lines += [f"void f_{name}{taken};", f"void f_{name}{taken} {{ {name}_predict(in, out); }}"]
    (tmp_path / "uses.c").write_text("\n".join(lines) + "\n")

    command = [compiler, *STRICT, "-Os", *includes, "-c", "uses.c", "-o", "uses.o"]
    subprocess.run(command, cwd=tmp_path, check=True)

    needed = subprocess.check_output(["nm", "-u", tmp_path / "uses.o"], text=True).split()
    assert {*needed} <= {"U", "exp", "strcmp"}


@pytest.mark.parametrize("name", MODELS)
def test_real_and_made_up_rows_are_answered_as_the_program_does(name, exports):
    _, exported = exports[name]
    assert exported.parity.passed
    assert exported.parity.max_difference <= 1e-14
    assert exported.parity.label_differences == 0
    assert exported.parity.probes > 300
    assert 0 < exported.latency_p50_us < 1000
    assert exported.facts["code_bytes"] > 100
    assert exported.facts["stack_bytes"] < 4096


@pytest.mark.parametrize("name", ["forest", "boosted"])
def test_sums_of_trees_have_the_bits_of_the_program(name, exports, folder):
    assert_same_bits(name, exports, folder, 5000)


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
@pytest.mark.parametrize("name", ["forest", "boosted"])
def test_a_million_rows_have_the_bits_of_the_program(name, compiler, exports, folder, monkeypatch):
    monkeypatch.setenv("CC", compiler)
    assert_same_bits(name, exports, folder, 1_000_000)


def asked(name, kind, exports, folder):
    """The program of a kind, and what asks its header."""
    bundle, _ = exports[name]
    entry = next(each for each in bundle.manifest.programs if each.kind == kind)
    return bundle.program(kind), c.asked(bundle, entry, folder / f"{name}.c")


def assert_same_bits(name, exports, folder, count):
    program, in_c = asked(name, MACHINE_CODE, exports, folder)
    rows = for_program(recombined(exports[name][0].test_data()[0], count), program.inputs)
    expected, (answers, _) = program.run(rows), in_c(rows)
    for field in program.outputs:
        if field.name == "label":
            assert (expected["label"] == answers["label"]).all()
        else:
            assert expected[field.name].tobytes() == answers[field.name].tobytes()


def test_a_missing_text_is_null_and_a_missing_number_nan(exports, folder):
    program, in_c = asked("rates", ONNX, exports, folder)
    rows = {
        field.name: np.full(1, None if field.dtype is DType.BYTES else np.nan, field.dtype.numpy)
        for field in program.inputs
    }
    assert in_c(rows)[0]["prediction"] == pytest.approx(program.run(rows)["prediction"])


def test_a_step_without_a_form_in_c_is_refused_by_its_name(tmp_path):
    from sklearn.svm import SVR

    rows = TABLE[["a", "int"]].to_numpy()
    bundle = pack(
        SVR().fit(rows, TRUTH), name="svr", train=(rows, TRUTH), to=tmp_path / "svr",
        explain=False, outliers=False, baseline=False, measure=False,
    )  # fmt: skip
    with pytest.raises(Unconvertible, match=r"step \w+ has no form in C"):
        export(bundle, "c", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_compiler_that_changes_the_answers_is_found_out(exports, folder, monkeypatch, tmp_path):
    """With thresholds and leaves of 16 bits the header still compiles."""
    bundle, _ = exports["boosted"]
    wrong = program_file(tmp_path, "exec gcc -include math.h '-Dfloat=_Float16' \"$@\"")
    monkeypatch.setenv("CC", wrong)
    with pytest.raises(Unconvertible, match="the export is refused: c differs from the program"):
        export(bundle, "c", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_compiler_that_does_not_end_is_ended_with_its_children(bundles, monkeypatch, tmp_path):
    monkeypatch.setenv("CC", program_file(tmp_path, f"sleep 999 & echo $! > {tmp_path}/pid; wait"))
    monkeypatch.setattr(tools, "TOOL_TIMEOUT_S", 0.5)

    with pytest.raises(TimedOut, match=r"cc took over 0\.5 s"):
        export(bundles["rates"], "c", tmp_path / "out")

    until(lambda: is_gone(int((tmp_path / "pid").read_text())))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_export_that_is_killed_between_its_files_leaves_none(bundles, tmp_path):
    """Its compiler kills it when the header is written and `model.json` is not."""
    killing = program_file(
        tmp_path, f"ls {tmp_path}/.out.*/rates.h > {tmp_path}/seen; kill -9 $PPID"
    )
    words = f"export(load({str(bundles['rates'].path)!r}), 'c', {str(tmp_path / 'out')!r})"
    program = f"from bascule import load; from bascule.runtimes import export; {words}"

    ended = subprocess.run([sys.executable, "-c", program], env={**os.environ, "CC": killing})

    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / "seen").read_text()
    assert not (tmp_path / "out").exists()
    export(bundles["rates"], "c", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"rates.h", "model.json"}
    assert not [*tmp_path.glob(".out.*")]


def test_of_two_exports_into_one_folder_at_once_one_is_there_whole(bundles, tmp_path):
    both = threading.Barrier(2)

    def exported(runtime):
        both.wait()
        try:
            return export(bundles["rates"], runtime, tmp_path / "out")
        except Conflict as refusal:
            return refusal

    with ThreadPoolExecutor(2) as threads:
        results = [*threads.map(exported, ["onnx", "c"])]

    (whole,) = (each for each in results if not isinstance(each, Conflict))
    files = {path.name: path.stat().st_size for path in (tmp_path / "out").iterdir()}
    assert files == whole.files


def program_file(folder, script):
    (folder / "cc").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "cc").chmod(0o755)
    return str(folder / "cc")


def test_a_folder_that_exists_and_an_unknown_runtime_are_refused(exports, folder):
    bundle, _ = exports["rates"]
    with pytest.raises(Conflict, match="exists already"):
        export(bundle, "c", folder / "rates.c")
    with pytest.raises(Invalid, match="there is no runtime 'coreml'"):
        export(bundle, "coreml", folder / "other")
