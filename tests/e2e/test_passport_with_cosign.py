"""What others verify or print: a passport (cosign), an ML-BOM (CycloneDX), a PDF (Chromium)."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tests.scenarios.test_bundle_signatures import write_key
from typer.testing import CliRunner

from bascule.bundle import Said, read_manifest
from bascule.bundle.disk import read_statements
from bascule.cli.commands import app
from bascule.core import Untrusted
from bascule.ship import ml_bill_of_materials


def bascule(*words):
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def bundle(cancer_bundle, tmp_path):
    for name in ("ada", "eve"):
        write_key(tmp_path, name, ec.generate_private_key(ec.SECP256R1()))
    return shutil.copytree(cancer_bundle, tmp_path / "gb")


def cosign(bundle, envelope, key, blob="bundle.json"):
    words = (
        "cosign", "verify-blob-attestation", "--key", key, "--insecure-ignore-tlog", "--type",
        "https://bascule.dev/passport/v1", "--signature", envelope, bundle / blob,
    )  # fmt: skip
    done = subprocess.run(
        [*map(str, words)], capture_output=True, text=True, check=False, timeout=60
    )
    return done.stderr


def test_cosign_verifies_the_passport_of_every_file_and_of_no_other_bundle(bundle, tmp_path):
    bascule("passport", "write", bundle, "--key", tmp_path / "ada.pem")
    verify = ("passport", "verify", str(bundle), "--key", str(tmp_path / "ada.pub"))
    assert "signed by ada.pub" in bascule(*verify, "--require", "parity")
    envelope = tmp_path / "passport.json"
    bascule("passport", "show", bundle, "--envelope", envelope)
    assert "Verified OK" in cosign(bundle, envelope, tmp_path / "ada.pub")
    assert "Verified OK" in cosign(bundle, envelope, tmp_path / "ada.pub", "programs/onnx.onnx")
    assert "do not match threshold" in cosign(bundle, envelope, tmp_path / "eve.pub")
    (bundle / "bundle.json").write_bytes((bundle / "bundle.json").read_bytes() + b" ")
    assert "no matching subject" in cosign(bundle, envelope, tmp_path / "ada.pub")
    assert isinstance(CliRunner().invoke(app, verify).exception, Untrusted)


def test_the_ml_bom_is_valid_and_names_rows_and_metrics(bundle):
    text = ml_bill_of_materials(read_manifest(bundle), Said.of(read_statements(bundle)))
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    assert '"train rows"' in text
    assert '"machine-learning-model"' in text


def test_a_document_is_printed_as_pdf_and_names_who_must_write_what(bundle, tmp_path, monkeypatch):
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    bascule("push", bundle)
    pdf = tmp_path / "annex.pdf"
    assert "compliance officer" in bascule("document", "annex-iv", "gb/1", "--out", pdf)
    assert pdf.read_bytes().startswith(b"%PDF-")
