"""`bascule ship`: what it writes, how it differs, and what it says without a platform's tool."""

import json

import pytest

from bascule.ship import findings_of


@pytest.fixture
def home(tmp_path, monkeypatch, command, cancer_bundle):
    """A home with `gb/1` under the alias champion, and no tool of any platform."""
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(tmp_path / "programs"))
    (tmp_path / "programs").mkdir()
    assert command("push", cancer_bundle)[0] == 0
    assert command("alias", "gb/1", "champion")[0] == 0
    return tmp_path


def program(folder, name, script):
    """A program of the path; `$0` and its words are what it was asked for."""
    path = folder / "programs" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_diff_names_what_would_change_and_then_that_nothing_does(home, command):
    words = ("ship", "istio", "gb@champion", "--out", home / "files")
    code, out, _ = command(*words, "--diff")
    assert code == 1
    assert "+++ b/virtualservice.yaml" in out
    assert not (home / "files").exists()
    assert command(*words)[0] == 0
    assert command(*words, "--diff") == (0, "", "")


@pytest.mark.parametrize("action", ["apply", "remove"])
def test_without_kubectl_the_error_names_it_and_the_command_to_run(home, command, action):
    folder = home / "files"
    code, _, errors = command("ship", "istio", "gb@champion", "--out", folder, f"--{action}")
    assert code == 6
    assert f"--{action} needs kubectl, which is not installed" in errors
    verb = {"apply": "apply", "remove": "delete"}[action]
    assert f"run in {folder}: kubectl {verb} --filename ." in errors
    assert (folder / "virtualservice.yaml").exists()


def test_what_no_tool_can_apply_is_said(home, command):
    code, _, errors = command("ship", "envoy", "gb@champion", "--out", home / "files", "--apply")
    assert code == 6
    assert "--apply does nothing for envoy" in errors


def test_apply_runs_the_tool_in_the_folder_of_the_files(home, command):
    program(home, "kubectl", 'echo "$@" > asked')
    folder = home / "files"
    assert command("ship", "kubernetes", "gb@champion", "--out", folder, "--apply")[0] == 0
    assert (folder / "asked").read_text() == "apply --kustomize overlays/production\n"
    assert command("ship", "kubernetes", "gb@champion", "--out", folder, "--remove")[0] == 0
    assert (folder / "asked").read_text() == "delete --kustomize overlays/production\n"


def test_compose_takes_podman_compose_where_docker_is_missing(home, command):
    program(home, "podman-compose", 'echo "$@" > asked')
    folder = home / "files"
    assert command("ship", "compose", "gb@champion", "--out", folder, "--apply")[0] == 0
    assert (folder / "asked").read_text() == "up --detach\n"


def test_a_tool_that_fails_is_named_with_its_exit_code(home, command):
    program(home, "kubectl", "exit 3")
    code, _, errors = command("ship", "istio", "gb@champion", "--out", home / "files", "--apply")
    assert code == 6
    assert "kubectl ended with 3" in errors


def test_a_folder_of_wheels_without_ours_is_refused_before_anything_is_built(home, command):
    program(home, "podman", "exit 0")
    (home / "wheels").mkdir()
    code, _, errors = command(
        "ship", "container", "gb@champion", "--build", "--wheels", home / "wheels"
    )
    assert code == 2
    assert "has no wheel of the packages in requirements.txt" in errors


SECRET = {
    "Results": [{"Target": "bundle/code/own.py", "Secrets": [{"RuleID": "aws-access-key-id"}]}]
}


def test_a_secret_that_the_scan_finds_stops_the_build(home, command):
    program(home, "podman", "touch built")
    program(home, "trivy", f"echo '{json.dumps(SECRET)}'")
    code, _, errors = command("ship", "container", "gb@champion", "--build")
    assert code == 1
    assert "the image is not built: aws-access-key-id: bundle/code/own.py" in errors


def test_findings_are_those_of_their_kind_and_checks_that_passed_are_none():
    report = {
        "Results": [
            {
                "Target": "Dockerfile",
                "Misconfigurations": [
                    {"ID": "DS-0002", "Status": "FAIL"}, {"ID": "DS-0001", "Status": "PASS"},
                ],
            },
            {
                "Target": "sbom.cdx.json",
                "Vulnerabilities": [{"VulnerabilityID": "CVE-2026-1", "PkgName": "numpy"}],
            },
        ]
    }  # fmt: skip
    assert findings_of("configuration", report) == ("DS-0002: Dockerfile",)
    assert findings_of("vulnerabilities", report) == ("CVE-2026-1: numpy",)
    assert findings_of("secrets", report) == findings_of("secrets", {}) == ()
