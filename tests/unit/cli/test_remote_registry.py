"""Commands over `--server` print what they print in the home of the registry, errors included."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.scenarios.test_bundle_signatures import write_key

from bascule.bundle.disk import sign_bundle
from bascule.cli import main
from bascule.core import Untrusted
from bascule.registry import RemoteRegistry, open_registry
from bascule_client.control import ControlClient

_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:\+\d\d:\d\d|Z)?")
_SECRET = re.compile(r"bsc_[0-9a-f]{12}_[\w-]{43}")
_KEY_ID = re.compile(r"\b[0-9a-f]{12}\b")
_PATH = re.compile(r'"path": .*')


@contextmanager
def control(home: Path, **environment: str) -> Iterator[str]:
    """The address of `bascule control` over a home."""
    process = subprocess.Popen(
        [sys.executable, "-m", "bascule.cli", "control", "--control-port=0", "--json"],
        env={**os.environ, "BASCULE_HOME": str(home), **environment},
        stdout=subprocess.PIPE, text=True, cwd=home.parent,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        lines: list[str] = []
        while not lines or lines[-1].strip() != "}":
            lines.append(process.stdout.readline())
            assert lines[-1], "it ended"
        yield json.loads("".join(lines))["control"]
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.fixture(scope="module")
def filled(tmp_path_factory, cancer_bundle) -> Path:
    """A home with gb/1, tagged and with an alias."""
    home = tmp_path_factory.mktemp("filled") / "home"
    registry = open_registry(home)
    registry.push(cancer_bundle, by="ada")
    registry.set_alias("gb", "champion", 1, by="ada", reason="first")
    registry.set_tag("gb/1", "team", "risk", by="ada")
    return home


@pytest.fixture(scope="module")
def served(filled) -> Iterator[str]:
    with control(filled) as url:
        yield url


@pytest.fixture
def run(tmp_path, monkeypatch, capsys) -> Any:
    """`run(home, url, "models")`: exit code, output and messages; over the server if `url`."""
    monkeypatch.chdir(tmp_path)
    for variable in ("COLUMNS", "FORCE_COLOR", "BASCULE_SERVER"):
        monkeypatch.delenv(variable, raising=False)

    def call(home: Path, url: str, *words: str) -> tuple[int, str, str]:
        monkeypatch.setenv("BASCULE_HOME", str(home))
        options = ["--server", url] if url else []
        monkeypatch.setattr(sys, "argv", ["bascule", *options, *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return call


def known(said: tuple[int, str, str]) -> tuple[int, str, str]:
    """Without times, keys, their ids and the path of a bundle, which differ from call to call."""
    code, *texts = said
    for pattern in (_TIME, _SECRET, _KEY_ID, _PATH):
        texts = [pattern.sub("#", text) for text in texts]
    return code, texts[0], texts[1]


READING = [
    "models",
    "models --json",
    "show gb/1",
    "show gb/1 --json",
    "show gb@champion",
    "show nobody",
    "show gb/7",
    "show gb/7 --json",
    "show gb@nobody",
    "show gb/x",
    "history gb",
    "history gb/1",
    "history nobody",
    "history gb --json",
    "search",
    "search tag.team = risk",
    "search tag.team = others",
    "search --json",
    "search metrc.auc > 1",
    "diff gb/1 gb@champion",
    "diff gb/1 nobody/1",
    "diff gb/1 gb/1 --json",
    "tag gb/1",
    "keys list",
    "alias gb/1",
    "alias gb@champion --drop --reason x gb extra",
    "tag gb/1 team",
    "retire gb --reason x",
]


@pytest.mark.parametrize("command", READING)
def test_reading_is_the_same_here_and_over_a_server(run, tmp_path, filled, served, command):
    words = command.split()
    here = run(filled, "", *words)
    there = run(tmp_path / "elsewhere", served, *words)
    assert known(there) == known(here)


@pytest.mark.slow
def test_a_passport_over_a_server_is_kept_there_and_required_here(
    run, tmp_path, filled, cancer_bundle
):
    write_key(tmp_path, "ada", ec.generate_private_key(ec.SECP256R1()))
    home = shutil.copytree(filled, tmp_path / "there")
    here = tmp_path / "elsewhere"
    with control(home) as url:
        verify = ("passport", "verify", "gb/1", "--key", "ada.pub", "--require", "parity")
        assert run(here, url, *verify)[0] == 5
        code, said, problem = run(here, url, "passport", "write", "gb/1", "--key", "ada.pem")
        assert (code, problem) == (0, "")
        assert "parity" in said
        assert run(here, url, *verify)[0] == 0
        keys = [tmp_path / "ada.pub"]
        signed = shutil.copytree(cancer_bundle, tmp_path / "signed")
        sign_bundle(signed, tmp_path / "ada.pem", now=datetime.now(UTC), by="ada")
        RemoteRegistry(ControlClient(url)).push(signed, by="ada")
        for claim, is_met in (("parity", True), ("fairness", False)):
            needing = RemoteRegistry(
                ControlClient(url), required_keys=keys, required_claims=[claim]
            )
            with nullcontext() if is_met else pytest.raises(Untrusted, match="'fairness'"):
                assert needing.path("gb/1").is_dir()
    kept = open_registry(home).statements(open_registry(home).resolve("gb/1"), "passport")
    assert len(kept) == 1


def test_changing_is_the_same_here_and_over_a_server(run, tmp_path, filled):
    """The same commands one after the other, in two copies of a registry."""
    here = shutil.copytree(filled, tmp_path / "here")
    there = shutil.copytree(filled, tmp_path / "there")
    commands = [
        "alias gb/1 candidate --reason try",
        "alias gb/1 candidate --json",
        "alias gb/7 candidate",
        "alias gb/1 not/allowed",
        "tag gb/1 audited=yes team=fraud",
        "tag gb/1 audited --unset --json",
        "tag gb/1 audited --unset",
        "tag gb/1 -bad=1",
        "retire gb/1 --reason old",
        "alias gb@candidate --drop",
        "alias gb@candidate --drop --json",
        "alias gb@champion --drop --reason over --json",
        "retire gb/1",
        "retire gb/1 --reason leaks --json",
        "retire gb/1 --reason again",
        "show gb/1",
        "alias gb/1 champion",
        "retire gb/1 --undo --reason fixed",
        "retire gb/1 --undo",
        "keys create ada --allow infer:gb --json",
        "keys create ada --allow infer:gb",
        "keys create bob --allow everything",
        "keys create eve --allow read:* --expires 1h",
        "keys revoke ada",
        "keys revoke nobody",
        "keys list --json",
        "history gb --json",
    ]
    with control(there) as url:
        for command in commands:
            words = command.split()
            expected = known(run(here, "", *words))
            assert known(run(tmp_path / "elsewhere", url, *words)) == expected, command


def test_a_bundle_is_pushed_exported_and_imported_over_a_server(
    run, tmp_path, filled, cancer_bundle
):
    with control(tmp_path / "there") as url:
        there = tmp_path / "there", url
        assert run(*there, "push", str(cancer_bundle)) == (0, "gb/1\n", "")
        pushed = json.loads(run(*there, "push", str(cancer_bundle), "--json")[1])
        assert (pushed["number"], pushed["path"]) == (1, None)

        code, said, _ = run(*there, "export", "gb/1", "there.tar", "--json")
        assert code == 0
        assert json.loads(said)["oci_digest"].startswith("sha256:")
        assert run(*there, "export", "gb/1", "there.tar")[0] == 4
        assert run(tmp_path / "third", "", "import", "there.tar") == (0, "gb/1\n", "")
        assert run(*there, "import", "there.tar") == (0, "gb/1\n", "")

        Path("broken.tar").write_bytes(b"no archive")
        assert run(*there, "import", "broken.tar")[0] == 5
        altered = shutil.copytree(cancer_bundle, Path("altered"))
        program = next(path for path in altered.rglob("*.onnx"))
        os.chmod(program.parent, 0o755)
        os.chmod(program, 0o644)
        program.write_bytes(program.read_bytes()[:-1] + b"x")
        assert run(*there, "push", "altered")[0] == 5
        assert run(*there, "push", "nothing")[0] == 3


def test_what_needs_the_registry_itself_says_so(run, tmp_path, served):
    for command in ("gc", "check gb/1"):
        code, _, said = run(tmp_path, served, *command.split())
        assert code == 2
        assert "does not work over --server" in said


def test_what_is_served_is_changed_at_the_same_address(run, tmp_path, served):
    for command in ("load gb/1", "swap gb/1", "unload gb/1"):
        code, _, said = run(tmp_path, served, *command.split())
        assert code == 3, said
        assert "no server runs beside this control process" in said


def test_a_server_that_is_not_there_is_unavailable(run, tmp_path):
    code, out, said = run(tmp_path, "http://127.0.0.1:1", "models")
    assert (code, out) == (6, "")
    assert "no server's control API answers at 127.0.0.1:1" in said
    assert "BASCULE_SERVER" in said


def test_the_name_of_the_key_is_recorded_where_callers_need_keys(
    run, tmp_path, filled, monkeypatch
):
    home = shutil.copytree(filled, tmp_path / "home")
    made = run(home, "", "keys", "create", "writer", "--allow", "write:gb", "--json")
    key = json.loads(made[1])["token"]
    with control(home, BASCULE_SECURITY__CALLERS="keys") as url:
        assert run(tmp_path, url, "tag", "gb/1", "team=x")[0] == 1
        monkeypatch.setenv("BASCULE_KEY", key)
        assert run(tmp_path, url, "tag", "gb/1", "team=x") == (0, "gb/1 team=x\n", "")
        event = json.loads(run(tmp_path, url, "history", "gb", "--json")[1])[0]
        assert (event["kind"], event["by"]) == ("tag_set", "writer")
        code, _, said = run(tmp_path, url, "keys", "list")
        assert code == 1
        assert "may not do this: keys" in said


@pytest.mark.slow
def test_outcomes_are_imported_over_the_server_as_they_are_in_its_home(
    filled, served, run, tmp_path
):
    (tmp_path / "truth.csv").write_text("id,truth\n007,1\n,1\nc,\n")
    command = ["outcomes", "import", "late", "truth.csv"]
    here, there = tmp_path / "here", filled
    said = run(here, "", *command)
    assert run(there, served, *command) == said
    assert said[1].splitlines()[0] == "1 outcome of late"
    sql = ["ledger", "query", "--json"]
    for home in (here, there):
        _, shown, _ = run(home, "", *sql, "select id, truth from outcomes")
        assert json.loads(shown) == [{"id": "007", "truth": "1"}]
    wrong = [*command, "--truth-column", "late"]
    assert run(there, served, *wrong) == run(here, "", *wrong)
