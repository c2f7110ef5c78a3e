"""The steps of a generated workflow, run as its runner does, on a repository with a model.

A good model is delivered, a bad one stops at the gates, and a better one is rolled out as a canary
by a running server, after which it is the champion.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest
import yaml
from tests.scenarios.commands import bascule, run

BIN = Path(sys.executable).parent
TRAIN = """
import os

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import bascule

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
X.columns = [name.replace(" ", "_") for name in X.columns]
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
if os.environ.get("SPOIL"):
    y_train = np.random.default_rng(0).permutation(y_train)
C = float(os.environ.get("C", "1"))
model = make_pipeline(StandardScaler(), LogisticRegression(C=C)).fit(X_train, y_train)
bascule.pack(
    model, name="tumours", train=X_train, test=(X_test, y_test), overwrite=True, measure=False
)
"""
SETTINGS = """
[gates]
criteria = ["accuracy >= 0.6", "accuracy >= champion - 0.05"]

[rollouts]
steps_percent = [50, 100]
step_s = 0
min_requests = 50
guards = ["errors +20 pp"]
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def repository(tmp_path):
    """A project as it is committed, with the workflow of `bascule ci init github`."""
    folder = tmp_path / "tumours"
    (folder / "tests").mkdir(parents=True)
    (folder / "train.py").write_text(TRAIN)
    (folder / "bascule.toml").write_text(SETTINGS)
    (folder / "tests" / "test_train.py").write_text("def test_it():\n    assert 1 + 1 == 2\n")
    subprocess.run(
        [sys.executable, "-c", "from sklearn.datasets import load_breast_cancer as load;"
         "t = load(as_frame=True).data; t.columns = [n.replace(' ', '_') for n in t.columns];"
         "t.sample(200, random_state=1).to_csv('new.csv', index=False)"],
        cwd=folder, check=True,
    )  # fmt: skip
    made = bascule(
        tmp_path, "ci", "init", "github", "--dir", folder, "--data", "new.csv",
        "--test", f"{sys.executable} -m pytest -q -p no:cacheprovider tests",
    )  # fmt: skip
    assert ".github/workflows/bascule.yml" in made["files"]
    # The team's registry is there, and has no version of this model yet.
    bascule(folder / ".bascule", "keys", "create", "ci", "--allow", "deploy:tumours")
    return folder


def jobs(repository, delivers):
    """The jobs of the workflow on the main branch or on a pull request, by their names."""
    text = (repository / ".github" / "workflows" / "bascule.yml").read_text()
    found = yaml.safe_load(text)["jobs"]
    return [job for name, job in found.items() if delivers or name != "deliver"]


def steps(job, delivers):
    """The commands of a job that run of us."""
    for step in job["steps"]:
        words, condition = step.get("run", ""), step.get("if", "")
        if words.startswith("sh ci/bascule.sh") and not (delivers and "pull_request" in condition):
            yield words.rsplit(" ", 1)[1], words, "always()" in condition


def begin_job(repository, job):
    """A job begins with what is committed, and with the artifact if it downloads one."""
    kept = repository.parent / "artifact"
    if any("download-artifact" in step.get("uses", "") for step in job["steps"]):
        shutil.rmtree(repository / "build")
        shutil.rmtree(repository / "tumours.bundle")
        shutil.copytree(kept, repository, dirs_exist_ok=True)


def end_job(repository, job):
    kept = repository.parent / "artifact"
    shutil.rmtree(kept, ignore_errors=True)
    for step in job["steps"]:
        if "upload-artifact" in step.get("uses", ""):
            for pattern in step["with"]["path"].split():
                for path in repository.glob(pattern):
                    target = kept / path.relative_to(repository)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    (shutil.copytree if path.is_dir() else shutil.copy)(path, target)


def pipeline(repository, *, delivers=True, **variables):
    """Run the steps in order as the runner does; the steps that ran, and the one that failed."""
    ran, failed, said = [], None, {}
    environ = {
        **os.environ, "BASCULE_HOME": str(repository / ".bascule"),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **variables,
    }  # fmt: skip
    environ.pop("GITHUB_ACTIONS", None)
    for job in jobs(repository, delivers):
        if failed:
            break
        begin_job(repository, job)
        for name, words, always in steps(job, delivers):
            if failed and not always:
                continue
            done = subprocess.run(
                ["bash", "-e", "-c", words], cwd=repository, env=environ, check=False,
                capture_output=True, text=True,
            )  # fmt: skip
            ran.append(name)
            said[name] = done.stdout + done.stderr
            if done.returncode and not failed:
                failed = name
        end_job(repository, job)
    return ran, failed, said


PODMAN = """
echo "$@" >>"$ASKED/asked"
case "$1" in
image) echo '[{"Id": "ab", "Size": 5}]' ;;
save) while [ "$1" != --output ]; do shift; done; echo layers >"$2" ;;
push) while [ "$1" != --digestfile ]; do shift; done; printf sha256:%064d 7 >"$2" ;;
build) for last in "$@"; do :; done; cp "$last/Dockerfile" "$ASKED/Dockerfile" ;;
esac
"""


def test_the_image_serves_under_the_number_of_the_registry_and_is_found_by_its_digest(
    repository, tmp_path
):
    """The tools of images are stand-ins that note what they are asked for; all else is real."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, script in {"podman": PODMAN, "trivy": "exit 0", "cosign": "exit 0"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    image = "registry.example.com/ml/tumours"
    bascule(
        tmp_path, "ci", "init", "github", "--dir", repository, "--image", image, "--test", "true",
        "--overwrite",
    )  # fmt: skip
    variables = {
        "PATH": os.pathsep.join([str(programs), str(BIN), os.environ["PATH"]]),
        "ASKED": str(programs), "COSIGN_PRIVATE_KEY": "key",
    }  # fmt: skip
    _, failed, said = pipeline(repository, **variables)
    assert failed is None, said["build"]
    ran, failed, said = pipeline(repository, C="0.5", SETTLE_S="0", **variables)
    assert failed in (None, "settle"), said  # no server decides on the canary
    assert ran[-5:-1] == ["build", "scan", "publish", "deploy"], ran
    home = repository / ".bascule"
    version = bascule(home, "show", "tumours/2", "--json")["version"]
    built = (programs / "asked").read_text().split("build ")[-1]
    assert f"--tag {image}:2-{version['digest'][7:19]} " in built
    assert "/opt/bascule/models/tumours/2/" in (programs / "Dockerfile").read_text()
    bascule(home, "ship", "kubernetes", "tumours/2", "--out", tmp_path / "files", "--json")
    manifest = (tmp_path / "files" / "base" / "deployments.yaml").read_text()
    assert f"image: {image}@sha256:{7:064d}\n" in manifest


def champion(repository):
    code, out, _ = run(repository / ".bascule", "show", "tumours@champion", "--json")
    return json.loads(out)["version"]["number"] if code == 0 else None


def test_a_good_model_is_delivered_and_a_bad_one_stops_at_the_gates(repository):
    ran, failed, said = pipeline(repository)
    assert failed is None, said
    assert ran == ["data", "test", "pack", "gates", "register", "deploy", "settle"]
    assert champion(repository) == 1
    assert "no champion yet" in said["data"]

    ran, failed, said = pipeline(repository, SPOIL="yes")
    assert (failed, ran[-1]) == ("gates", "gates"), said
    assert "deploy" not in ran
    assert "FAILED" in said["gates"]
    ran, failed, said = pipeline(repository, delivers=False, SPOIL="yes")
    assert (failed, ran[-1]) == ("gates", "comment"), said
    assert "accuracy" in said["comment"]
    assert champion(repository) == 1
    assert len(bascule(repository / ".bascule", "show", "tumours", "--json")["statements"]) > 0

    ran, failed, said = pipeline(repository)  # the first again
    assert failed is None, said
    assert "the champion already" in said["deploy"]


def test_a_pull_request_delivers_nothing(repository):
    ran, failed, said = pipeline(repository, delivers=False)
    assert failed is None, said
    assert ran == ["data", "test", "pack", "gates", "comment"]
    assert champion(repository) is None


def test_data_that_has_drifted_stops_the_pipeline_unless_it_is_reported_alone(repository):
    assert pipeline(repository)[1] is None
    rows = (repository / "new.csv").read_text().splitlines()
    moved = [",".join(f"{float(value) * 3:g}" for value in row.split(",")) for row in rows[1:]]
    (repository / "new.csv").write_text("\n".join([rows[0], *moved]) + "\n")
    ran, failed, _ = pipeline(repository)
    assert (ran, failed) == (["data"], "data")
    ran, failed, said = pipeline(repository, ON_DRIFT="report")
    assert failed is None, said
    assert "ON_DRIFT=report goes on" in said["data"]


def test_a_better_model_is_rolled_out_as_a_canary_before_it_is_the_champion(repository, serve):
    assert pipeline(repository)[1] is None
    server = serve("tumours", env={"BASCULE_HOME": str(repository / ".bascule")})
    stopped = threading.Event()
    example = repository / "tumours.bundle" / "data" / "example.json"
    body = example.read_bytes()

    def ask():
        with httpx.Client(timeout=30) as client:
            while not stopped.is_set():
                client.post(f"http://127.0.0.1:{server.port}/v2/models/tumours/infer", content=body)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        ran, failed, said = pipeline(repository, C="0.5", SETTLE_S="120")
    finally:
        stopped.set()
        asking.join()
    assert failed is None, said
    assert ran[-1] == "settle"
    assert "promoted" in said["settle"]
    assert champion(repository) == 2
