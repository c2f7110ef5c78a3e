"""The ONNX and ORT formats, and the command that exports."""

import json

import pytest
import typer
from typer.testing import CliRunner

from bascule.cli import exporting
from bascule.core import MissingExtra, Unconvertible
from bascule.runtimes import export


@pytest.mark.parametrize(("name", "runtime"), [("logistic", "onnx"), ("forest", "ort")])
def test_real_and_made_up_rows_are_answered_as_the_program_does(name, runtime, bundles, tmp_path):
    exported = export(bundles[name], runtime, tmp_path / "out")

    assert exported.parity.passed
    assert exported.parity.max_difference <= 1e-12
    assert exported.parity.probes > 300
    assert set(exported.files) == {"model.json", f"model.{runtime}"}
    assert exported.files[f"model.{runtime}"] == (tmp_path / f"out/model.{runtime}").stat().st_size
    assert 0 < exported.latency_p50_us < 100_000


def test_what_a_runtime_lacks_is_named(bundles, tmp_path):
    with pytest.raises(Unconvertible, match="tflite is for networks of PyTorch"):
        export(bundles["rates"], "litert", tmp_path / "out")
    with pytest.raises(MissingExtra, match="onnxruntime-web/dist is not there"):
        export(bundles["rates"], "web", tmp_path / "out", tools=tmp_path)
    assert not (tmp_path / "out").exists()


def test_the_command_tells_size_latency_and_parity(bundles, tmp_path):
    app = typer.Typer()
    app.callback()(lambda: None)
    app.command()(exporting.export)
    arguments = ["export", str(bundles["rates"].path), "--runtime"]

    table = CliRunner().invoke(app, [*arguments, "c", "--out", str(tmp_path / "a")])
    document = CliRunner().invoke(app, [*arguments, "ort", "--out", str(tmp_path / "b"), "--json"])

    assert table.exit_code == document.exit_code == 0
    assert f"{tmp_path / 'a' / 'rates.h'}" in table.stdout
    assert "code bytes" in table.stdout
    assert "equal to the program onnx within" in table.stdout
    exported = json.loads(document.stdout)
    assert exported["runtime"] == "ort"
    assert exported["bytes"] == sum(exported["files"].values())
    assert exported["parity"]["passed"]
    assert exported["latency_p50_us"] > 0
