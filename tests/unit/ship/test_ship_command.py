"""`bascule ship`: what it writes, how it differs, and what it says without a platform's tool."""

import json

import pytest
from tests.shipments import documents
from tests.tiers import first_of
from tests.unit.cli.test_remote_registry import control

from bascule.core import Unavailable
from bascule.ship import findings_of
from bascule.ship.building import _run


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


@pytest.mark.parametrize("action", first_of(["apply", "remove"]))
def test_without_kubectl_the_error_names_it_and_the_command_to_run(home, command, action):
    folder = home / "files"
    code, _, errors = command("ship", "istio", "gb@champion", "--out", folder, f"--{action}")
    assert code == 6
    assert f"--{action} needs kubectl, which is not installed" in errors
    verb = {"apply": "apply", "remove": "delete --ignore-not-found"}[action]
    assert f"run in {folder}: kubectl {verb} --filename ." in errors
    assert (folder / "virtualservice.yaml").exists()


def test_what_no_tool_can_apply_is_said(home, command):
    code, _, errors = command("ship", "envoy", "gb@champion", "--out", home / "files", "--apply")
    assert code == 6
    assert "--apply does nothing for envoy" in errors


def test_apply_waits_for_the_pods_before_it_prunes_what_is_left(home, command):
    program(home, "kubectl", 'echo "$@" >> asked')
    folder = home / "files"
    words = ("ship", "kubernetes", "gb@champion", "--out", folder)
    assert command(*words, "--apply", "--prune", "--overlay", "plain")[0] == 0
    applied, serve, control, pruned = (folder / "asked").read_text().splitlines()
    assert applied == "apply --kustomize overlays/plain"
    assert serve == "rollout status deployment/gb--current --namespace bascule --timeout 10m"
    assert "deployment/gb--control" in control
    assert "--prune" in pruned
    assert "app.kubernetes.io/managed-by=bascule,bascule.dev/endpoint=gb" in pruned
    (folder / "asked").unlink()
    assert command(*words, "--remove")[0] == 0
    expected = "delete --ignore-not-found --kustomize overlays/production\n"
    assert (folder / "asked").read_text() == expected


def test_nothing_is_pruned_where_the_pods_are_not_ready(home, command):
    program(home, "kubectl", 'echo "$@" >> asked; [ "$1" != rollout ]')
    folder = home / "files"
    words = ("ship", "kubernetes", "gb@champion", "--out", folder, "--apply", "--prune")
    code, _, errors = command(*words)
    assert code == 6
    assert "kubectl rollout status ended with 1" in errors
    assert "--prune" not in (folder / "asked").read_text()


@pytest.mark.parametrize(("says", "code"), first_of([(0, 0), (1, 1), (2, 6)]))
def test_a_diff_with_apply_asks_the_cluster_and_writes_nothing(home, command, says, code):
    program(home, "kubectl", f'echo "$@" > {home}/asked; exit {says}')
    folder = home / "files"
    words = ("ship", "kubernetes", "gb@champion", "--out", folder, "--apply", "--diff")
    assert command(*words)[0] == code
    assert (home / "asked").read_text() == "diff --kustomize overlays/production\n"
    assert not folder.exists()


def test_the_settings_say_what_options_do_not(home, command, monkeypatch):
    monkeypatch.chdir(home)
    (home / "bascule.toml").write_text(
        '[ship]\nnamespace = "ml"\nimage = "r.example.com/ml"\npull_secrets = ["pull"]\n'
        'host = "gb.example.com"\ntls_secret = "gb-tls"\nnode_selector = {pool = "cpu"}\n'
        '[[ship.tolerations]]\nkey = "ml"\noperator = "Exists"\n'
    )
    assert command("ship", "kubernetes", "gb@champion", "--out", home / "files")[0] == 0
    (deployment,) = documents((home / "files/base/deployments.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    assert pod["nodeSelector"] == {"pool": "cpu"}
    assert pod["tolerations"] == [{"key": "ml", "operator": "Exists"}]
    assert pod["containers"][0]["image"].startswith("r.example.com/ml/gb:1-")
    (ingress,) = documents((home / "files/base/ingress.yaml").read_text())
    assert ingress["spec"]["tls"] == [{"hosts": ["gb.example.com"], "secretName": "gb-tls"}]
    words = ("ship", "kubernetes", "gb@champion", "--out", home / "other", "--namespace", "Bad")
    code, _, errors = command(*words)
    assert code == 2
    assert "namespace 'Bad' is not a name of Kubernetes" in errors


def test_an_image_that_was_pushed_is_named_by_its_digest(home, command):
    pushed = "r.example.com/ml/gb@sha256:" + "ab" * 32
    assert command("tag", "gb/1", f"image={pushed}")[0] == 0
    assert command("ship", "kubernetes", "gb/1", "--out", home / "files")[0] == 0
    assert f"image: {pushed}\n" in (home / "files/base/deployments.yaml").read_text()
    assert command("ship", "container", "gb/1", "--out", home / "image")[0] == 0
    assert command("tag", "gb/1", "image=r.example.com/ml/gb:latest")[0] == 0
    code, _, errors = command("ship", "kubernetes", "gb/1", "--out", home / "files")
    assert code == 2
    assert "which is no image by digest" in errors


def test_a_candidate_is_shipped_before_it_has_requests(home, command, table_bundle):
    assert command("push", table_bundle)[0] == 0
    name = command("models", "--json")[1]
    other = next(one["name"] for one in json.loads(name) if one["name"] != "gb")
    words = ("ship", "kubernetes", "gb@champion", "--out", home / "files", "--with", f"{other}/1")
    assert command(*words)[0] == 0
    deployments = documents((home / "files/base/deployments.yaml").read_text())
    assert [one["metadata"]["name"] for one in deployments] == ["gb--current", "gb--candidate"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("kubernetes", "--overlay", "prod"), "no overlay 'prod'"),
        (("istio", "--overlay", "plain"), "this target has none"),
        (("kubernetes", "--prune"), "--prune does nothing without --apply"),
        (("container", "--push"), "--push does nothing without --build"),
    ],
)
def test_options_that_would_do_nothing_are_refused(home, command, words, said):
    target, *options = words
    code, _, errors = command("ship", target, "gb@champion", "--out", home / "files", *options)
    assert code == 2
    assert said in errors
    assert not (home / "files").exists()


def test_a_pushed_image_is_noted_at_its_version(home, command):
    program(
        home, "podman",
        """case "$1" in
        image) echo '[{"Id": "ab", "Size": 5}]' ;;
        push) printf sha256:%064d 7 > "$3" ;;
        esac""",
    )  # fmt: skip
    words = ("ship", "container", "gb@champion", "--build", "--image", "r.example.com/ml")
    code, out, errors = command(*words, "--push")
    assert code == 0, errors
    pushed = f"r.example.com/ml/gb@sha256:{7:064d}"
    assert out.endswith(f"pushed {pushed}\n")
    assert json.loads(command("tag", "gb/1", "--json")[1])["image"] == pushed


def test_an_index_of_platforms_is_built_anew_and_pushed_with_all_its_images(
    home, command, monkeypatch
):
    monkeypatch.chdir(home)
    program(
        home, "podman",
        """echo "$1 $2" >> asked
        case "$1" in
        build) shift 1; echo "$@" > built ;;
        image) echo '[{"Id": "ab", "Size": 5}]' ;;
        manifest) [ "$2" = rm ] || printf sha256:%064d 7 > "$5" ;;
        esac""",
    )  # fmt: skip
    (home / "bascule.toml").write_text('[ship]\nplatforms = ["linux/amd64", "linux/arm64"]\n')
    words = ("ship", "container", "gb@champion", "--build", "--image", "r.example.com/ml")
    code, out, errors = command(*words, "--push")
    assert code == 0, errors
    assert (home / "asked").read_text().split("\n")[0] == "manifest rm"
    assert "--platform linux/amd64,linux/arm64 --manifest r.example" in (home / "built").read_text()
    assert out.endswith(f"pushed r.example.com/ml/gb@sha256:{7:064d}\n")


def test_docker_keeps_no_index_of_platforms(home, command):
    program(home, "docker", "exit 3")
    words = ("ship", "container", "gb@champion", "--build", "--platform", "linux/arm64")
    code, _, errors = command(*words)
    assert code == 2
    assert "install podman or buildah" in errors


def test_a_registry_behind_a_server_is_shipped_from(home, command):
    with control(home / "home") as url:
        words = ("ship", "kubernetes", "gb@champion", "--out")
        code, _, errors = command("--server", url, *words, home / "far")
        assert code == 0, errors
    assert command(*words, home / "near")[0] == 0
    for path in sorted((home / "near").rglob("*.yaml")):
        assert (home / "far" / path.relative_to(home / "near")).read_text() == path.read_text()


def test_compose_takes_podman_compose_where_docker_is_missing(home, command):
    program(home, "podman-compose", 'echo "$@" > asked')
    folder = home / "files"
    assert command("ship", "compose", "gb@champion", "--out", folder, "--apply")[0] == 0
    assert (folder / "asked").read_text() == "up --detach\n"


def test_a_tool_that_fails_is_named_with_its_exit_code(home, command):
    program(home, "kubectl", "exit 3")
    code, _, errors = command("ship", "istio", "gb@champion", "--out", home / "files", "--apply")
    assert code == 6
    assert "kubectl apply --filename ended with 3" in errors


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


NO_DATABASE = "FATAL\tinit error: DB error: --skip-update cannot be specified on the first run"


def test_a_scan_that_cannot_run_is_reported_with_its_reason(home, command):
    program(home, "podman", """[ "$1" = build ] || echo '[{"Id": "ab", "Size": 5}]'""")
    fails = f'echo "{NO_DATABASE}" >&2; exit 1'
    program(home, "trivy", f'if [ "$1" = sbom ]; then {fails}; fi; echo "{{}}"')
    code, out, errors = command("ship", "container", "gb@champion", "--build", "--tag", "gb:1")
    assert (code, out) == (0, "gb:1  sha256:ab  0 MB, built by podman\n")
    assert "secrets: nothing found" in errors
    assert "vulnerabilities: not scanned: trivy has no database of vulnerabilities here" in errors


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


def test_a_release_that_no_index_has_is_named_with_the_next_step():
    """What pip says in a build of an image, where Bascule was installed from a clone."""
    line = "ERROR: No matching distribution found for bascule==0.2.0"

    with pytest.raises(Unavailable) as problem:
        _run(["sh", "-c", f"echo '{line}'; exit 1"], lambda _: None)

    assert "pip wheel" in problem.value.hint
    assert "--wheels" in problem.value.hint
