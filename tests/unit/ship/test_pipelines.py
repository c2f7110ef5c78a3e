"""Pipelines are valid for their systems, and all of them call the steps of one script."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from tests.scenarios.commands import bascule, run

from bascule.core import Invalid
from bascule.ship import CHECKS, DELIVERY, SYSTEMS, Project, render_pipeline

FULL = Project(model="late", data="data/new.parquet", image="registry.example.com/ml/late")
BARE = Project(model="late")
BIN = Path(sys.executable).parent


def steps_of(text):
    return re.findall(r"sh ci/bascule\.sh (\w+)", text)


@pytest.fixture(params=[FULL, BARE], ids=["full", "bare"])
def project(request):
    return request.param


@pytest.fixture(params=SYSTEMS)
def system(request):
    return request.param


def test_every_step_of_a_workflow_is_one_of_the_script(system, project):
    files = render_pipeline(system, project)
    known = set(re.findall(r"^(\w+)\)$", files["ci/bascule.sh"], re.MULTILINE))
    for path, text in files.items():
        assert path == "ci/bascule.sh" or {*steps_of(text)} <= known, path
        assert "{{" not in text.replace("${{", ""), path
        assert "{%" not in text, path


def test_a_workflow_runs_the_checks_before_the_delivery_and_in_order(system):
    (main, *_) = [text for text in render_pipeline(system, FULL).values() if "deploy" in text]
    expected = [step for step, _ in (*CHECKS, *DELIVERY)]
    assert [step for step in steps_of(main) if step in expected][: len(expected)] == expected


def test_only_the_protected_job_has_the_key_that_deploys():
    files = render_pipeline("github", FULL)
    workflow = yaml.safe_load(files[".github/workflows/bascule.yml"])
    check, deliver = workflow["jobs"]["check"], workflow["jobs"]["deliver"]
    assert deliver["environment"] == "production"
    assert "refs/heads/main" in deliver["if"]
    assert set(re.findall(r"secrets\.(\w+)", json.dumps(check))) == {"BASCULE_READ_KEY"}
    assert "secrets.BASCULE_KEY" in json.dumps(deliver)
    assert "secrets.BASCULE_KEY" not in files[".github/workflows/bascule-updates.yml"]
    gitlab = yaml.safe_load(render_pipeline("gitlab", FULL)[".gitlab-ci.yml"])
    assert gitlab["deliver"]["environment"] == "production"
    assert gitlab["check"]["variables"]["BASCULE_KEY"] == "$BASCULE_READ_KEY"
    azure = yaml.safe_load(render_pipeline("azure", FULL)["azure-pipelines.yml"])
    assert "$(BASCULE_KEY)" not in json.dumps(azure["jobs"][0])
    assert azure["jobs"][1]["environment"] == "production"


def test_actions_are_those_of_a_commit(project):
    for path, text in render_pipeline("github", project).items():
        for used in re.findall(r"uses: (\S+)", text):
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", used), (path, used)


def test_without_an_image_nothing_is_built_scanned_or_signed(system):
    text = "\n".join(render_pipeline(system, BARE).values())
    assert not {"build", "scan", "publish"} & set(steps_of(text))
    assert "cosign" not in text
    assert "trivy" not in text


def test_the_script_is_a_script(project):
    text = render_pipeline("github", project)["ci/bascule.sh"]
    done = subprocess.run(["sh", "-n"], input=text, text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_workflows_of_github_pass_actionlint(project, tmp_path):
    actionlint = BIN / "actionlint"
    for path, text in render_pipeline("github", project).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    files = sorted(map(str, (tmp_path / ".github" / "workflows").iterdir()))
    assert len(files) == 2
    done = subprocess.run(
        [actionlint, "-no-color", *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    broken = Path(files[0])
    broken.write_text(broken.read_text().replace("runs-on:", "run-on:"))
    assert subprocess.run([actionlint, broken], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize(
    ("system", "schema", "names"),
    [
        ("gitlab", "vendor.gitlab-ci", [".gitlab-ci.yml"]),
        ("azure", "vendor.azure-pipelines", ["azure-pipelines.yml", "azure-pipelines-updates.yml"]),
        (
            "github", "vendor.github-workflows",
            [".github/workflows/bascule.yml", ".github/workflows/bascule-updates.yml"],
        ),
    ],
)  # fmt: skip
def test_pipelines_meet_the_schemas_of_their_systems(system, schema, names, project, tmp_path):
    from check_jsonschema import main as check_jsonschema  # takes a second

    files = render_pipeline(system, project)
    for name in names:
        (tmp_path / Path(name).name).write_text(files[name])
    # The patterns of Azure's schema are no regular expressions of Unicode.
    options = ["--regex-variant=nonunicode"] if system == "azure" else []
    # In this process: a process of its own would spend most of its time on imports.
    done = CliRunner().invoke(
        check_jsonschema, [*options, "--builtin-schema", schema, *map(str, tmp_path.iterdir())]
    )
    assert done.exit_code == 0, done.output


def test_no_secret_and_no_moving_tag_is_in_a_workflow(system, project):
    for path, text in render_pipeline(system, project).items():
        assert ":latest" not in text, path
        if path.endswith((".yml", ".yaml")):
            for name in ("BASCULE_KEY", "COSIGN_PASSWORD", "IMAGE_PASSWORD"):
                for value in re.findall(rf"^\s+{name}: (.+)$", text, re.MULTILINE):
                    known = ("${{ secrets.", "$(", "$BASCULE_READ_KEY")
                    assert value.startswith(known), f"{path}: {value}"
            assert yaml.safe_load(text), path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": "Not An Image"}, "is not the name of an image"),
        ({"image": "registry.example.com/ml/late:1"}, "is not the name of an image"),
        ({"model": "no such/name"}, "no such/name"),
        ({"train": "one\ntwo"}, "--train has several lines"),
    ],
)
def test_values_that_would_break_the_script_are_refused(change, said):
    with pytest.raises(Invalid, match=said):
        render_pipeline("github", Project(**{"model": "late", **change}))


def test_a_name_with_a_quote_cannot_leave_its_word():
    text = render_pipeline("github", Project(model="late", data="a'; touch evil; '.csv"))
    script = text["ci/bascule.sh"]
    assert "--current 'a'\"'\"'; touch evil; '\"'\"'.csv'" in script


def test_the_command_writes_files_keeps_them_and_replaces_no_change(tmp_path):
    words = ("ci", "init", "github", "--dir", tmp_path, "--model", "late")
    made = bascule(tmp_path, *words)
    assert made["changed"] == made["files"] == sorted(render_pipeline("github", BARE))
    assert bascule(tmp_path, *words)["changed"] == []
    (tmp_path / "ci" / "bascule.sh").write_text("mine\n")
    code, _, errors = run(tmp_path, *words)
    assert (code, "--overwrite" in errors) == (4, True)
    assert (tmp_path / "ci" / "bascule.sh").read_text() == "mine\n"
    assert bascule(tmp_path, *words, "--overwrite")["changed"] == ["ci/bascule.sh"]


def test_an_unknown_system_is_refused_with_those_that_are_known(tmp_path):
    code, out, _ = run(tmp_path, "ci", "init", "jenkins", "--dir", tmp_path, "--json")
    assert (code, json.loads(out)["hint"]) == (2, "one of github, gitlab, azure")
