"""Every snippet, run as a reader runs it, against a server: it prints what the model says."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from tests.scenarios import commands
from tests.tiers import first_of

import bascule
from bascule.bundle.disk.examples import columns_of
from bascule.bundle.disk.manifest import EXAMPLE
from bascule.core.errors import Invalid
from bascule.core.fields import DType, Field, Signature
from bascule.serving.protocols.chosen import PROTOCOL_NAMES
from bascule.serving.protocols.snippets import LANGUAGES, PROTOCOLS, SnippetRequest, snippet

PAIRS = [
    (protocol, lang)
    for protocol in PROTOCOLS
    for lang in (LANGUAGES if protocol != "grpc" else ["python"])
]

FIRST = {
    *(("table", "oip", lang) for lang in LANGUAGES), ("table", "tfserving", "python"),
    ("table", "invocations", "js"), ("table", "vertex", "curl"), ("table", "azureml", "curl"),
    ("table", "grpc", "python"),
}  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch, command):
    """`command`, in an empty folder with its own home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BASCULE_HOME", str(tmp_path / "home"))
    return command


def printed(text, lang, folder, **env):
    """What a snippet prints, in a process of its own."""
    name, words = {
        "curl": ("snippet.sh", ["bash", "-eu"]),
        "python": ("snippet.py", [sys.executable, "-W", "error"]),
        "js": ("snippet.js", ["node"]),
    }[lang]
    (folder / name).write_text(text)
    done = subprocess.run(
        [*words, str(folder / name)], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **env},
    )  # fmt: skip
    assert done.returncode == 0, (text, done.stderr)
    return done.stdout


def labels_in(output, protocol):
    """The answer proper of each row, from what a protocol's snippet printed."""
    if protocol == "grpc":
        lines = dict(line.split(" ", 1) for line in output.splitlines())
        return ast.literal_eval(lines["label"])
    said = json.loads(output)
    if protocol == "oip":
        return next(one["data"] for one in said["outputs"] if one["name"] == "label")
    if protocol == "tfserving":
        return [row["label"] for row in said["predictions"]]
    return said if protocol == "azureml" else said["predictions"]


def expected(path):
    bundle = bascule.load(path)
    example = columns_of((path / EXAMPLE).read_bytes(), bundle.signature.inputs)
    first = {name: values[:2] for name, values in example.items()}
    return bundle.predict(first)["label"].tolist()


@pytest.fixture(scope="module")
def served(request, start, table_bundle, cancer_bundle):
    path = table_bundle if request.param == "table" else cancer_bundle
    running = start(path, "--grpc-port=0")
    yield path, running
    running.end()
    running.process.stdout.close()


def address(running, protocol):
    if protocol == "grpc":
        return f"127.0.0.1:{running.grpc_port}"
    return f"http://127.0.0.1:{running.port}"


def test_there_is_a_snippet_for_every_face():
    """But for OpenAI's, which asks no table: docs/reference/openai.md has its clients."""
    assert {*PROTOCOLS, "openai"} == {*PROTOCOL_NAMES, "grpc"}


each_pair = pytest.mark.parametrize(
    ("served", "protocol", "lang"),
    [
        pytest.param(name, protocol, lang, marks=[pytest.mark.slow] if is_second else [])
        for name in ("table", "gb")
        for protocol, lang in PAIRS
        # The first tier runs each language, and each protocol once.
        for is_second in [(name, protocol, lang) not in FIRST]
    ],
    indirect=["served"],
)


@each_pair
def test_a_snippet_runs_as_it_is_and_prints_what_the_model_says(
    served, run, tmp_path, protocol, lang
):
    path, running = served
    code, text, notes = run(
        "snippet", path, "--protocol", protocol, "--lang", lang, "--url", address(running, protocol)
    )

    assert (code, notes) == (0, "")
    assert labels_in(printed(text, lang, tmp_path), protocol) == expected(path)


@pytest.fixture(scope="module")
def keyed(start, cancer_bundle, tmp_path_factory):
    """A server that asks callers for keys, and a key."""
    home = tmp_path_factory.mktemp("keyed")
    asks = {"BASCULE_SECURITY__CALLERS": "keys"}
    made = commands.run(home, "keys", "create", "me", "--allow", "infer:gb", **asks)
    running = start(cancer_bundle, "--grpc-port=0", env={"BASCULE_HOME": str(home), **asks})
    yield running, made[1].split()[-1]
    running.end()
    running.process.stdout.close()


@pytest.mark.parametrize(
    ("protocol", "lang"), first_of([PAIRS[-1], *(("oip", lang) for lang in LANGUAGES)], 2)
)
def test_a_snippet_shows_a_key_where_callers_need_one(
    keyed, run, tmp_path, monkeypatch, cancer_bundle, protocol, lang
):
    monkeypatch.setenv("BASCULE_SECURITY__CALLERS", "keys")
    running, token = keyed
    words = ("snippet", cancer_bundle, "--protocol", protocol, "--lang", lang, "--url",
             address(running, protocol))  # fmt: skip

    code, text, notes = run(*words)
    assert code == 0
    assert "put the key into BASCULE_KEY" in notes
    assert token not in text
    assert labels_in(printed(text, lang, tmp_path, BASCULE_KEY=token), protocol) == expected(
        cancer_bundle
    )
    assert "BASCULE_KEY" not in run(*words, "--no-key")[1]


@pytest.fixture(
    scope="module",
    params=[pytest.param(False, marks=pytest.mark.slow), True],
    ids=["anybody", "own certificate"],
)
def over_tls(request, start, cancer_bundle, authority):
    """A server within TLS, its settings, and what its callers need."""
    certificate, key = authority("server")
    settings = {
        "BASCULE_SERVING__TLS_CERTIFICATE": str(certificate),
        "BASCULE_SERVING__TLS_KEY": str(key),
    }
    own = {}
    if request.param:
        settings["BASCULE_SERVING__TLS_CLIENT_AUTHORITY"] = str(authority.root)
        own_certificate, own_key = authority("client")
        own = {
            "BASCULE_CERTIFICATE": str(own_certificate),
            "BASCULE_CERTIFICATE_KEY": str(own_key),
        }
    running = start(cancer_bundle, "--grpc-port=0", env=settings)
    yield running, settings, own
    running.end()
    running.process.stdout.close()


@pytest.mark.parametrize(
    ("protocol", "lang", "trusts"),
    first_of(
        [
            ("oip", "curl", "CURL_CA_BUNDLE"),
            ("tfserving", "python", "SSL_CERT_FILE"),
            ("invocations", "js", "NODE_EXTRA_CA_CERTS"),
            ("grpc", "python", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"),
        ]
    ),
)
def test_a_snippet_speaks_tls_and_shows_a_certificate_where_callers_need_one(
    over_tls, run, tmp_path, monkeypatch, cancer_bundle, authority, protocol, lang, trusts
):
    running, settings, own = over_tls
    for name, value in (settings | own).items():
        monkeypatch.setenv(name, value)
    url = address(running, protocol).replace("http:", "https:")
    code, text, notes = run(
        "snippet", cancer_bundle, "--protocol", protocol, "--lang", lang, "--url", url
    )

    assert code == 0
    assert trusts in notes
    for name in ("BASCULE_CERTIFICATE", "BASCULE_CERTIFICATE_KEY"):
        assert (name in text, name in notes) == (bool(own), bool(own))
    said = printed(text, lang, tmp_path, **{trusts: str(authority.root)})
    assert labels_in(said, protocol) == expected(cancer_bundle)


@pytest.mark.parametrize("settings_say_tls", [False, True])
@pytest.mark.parametrize(
    ("url", "says_tls"), [("h:8081", None), ("http://h:8081/", False), ("HTTPS://h:8081", True)]
)
def test_an_address_for_grpc_may_say_whether_it_speaks_tls(
    run, monkeypatch, cancer_bundle, settings_say_tls, url, says_tls
):
    if settings_say_tls:
        monkeypatch.setenv("BASCULE_SERVING__TLS_CERTIFICATE", "server.pem")
        monkeypatch.setenv("BASCULE_SERVING__TLS_CLIENT_AUTHORITY", "ca.pem")
    code, text, _ = run(
        "snippet", cancer_bundle, "--protocol=grpc", "--lang=python", "--no-key", "--url", url
    )
    assert code == 0
    assert '"h:8081"' in text
    speaks_tls = settings_say_tls if says_tls is None else says_tls
    assert ("ssl=True" in text) == speaks_tls
    assert ("certificate_chain" in text) == (speaks_tls and settings_say_tls)


@pytest.mark.parametrize("url", ["unix:///run/it.sock", "https://", "http://h:8081/path", "/"])
def test_an_address_that_is_none_for_grpc_is_refused_with_one_that_is(run, cancer_bundle, url):
    code, out, said = run(
        "snippet", cancer_bundle, "--protocol=grpc", "--lang=python", "--url", url
    )
    assert (code, out) == (2, "")
    assert f"--url: '{url}' is no address for grpc" in " ".join(said.split())
    assert "give HOST:PORT" in said


@pytest.mark.slow
def test_a_version_that_is_named_is_asked_and_the_plain_name_asks_the_default(
    serve, run, tmp_path, cancer_bundle
):
    assert run("push", cancer_bundle)[0] == 0
    assert run("alias", "gb/1", "champion")[0] == 0
    running = serve("gb@champion", "--grpc-port=0", env={"BASCULE_HOME": str(tmp_path / "home")})
    for protocol, lang in (("oip", "curl"), ("tfserving", "js"), ("grpc", "python")):
        for reference in ("gb", "gb/1", "gb@champion"):
            code, text, _ = run(
                "snippet", reference, "--protocol", protocol, "--lang", lang,
                "--url", address(running, protocol),
            )  # fmt: skip
            assert code == 0
            is_exact = reference != "gb"
            assert ("/versions/1" in text or 'model_version="1"' in text) == is_exact
            assert labels_in(printed(text, lang, tmp_path), protocol) == expected(cancer_bundle)


def test_the_paths_of_vertex_ai_are_those_of_the_settings(run, monkeypatch, cancer_bundle):
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/predict")
    monkeypatch.setenv("AIP_HTTP_PORT", "9090")
    assert "http://127.0.0.1:9090/predict " in run("snippet", cancer_bundle, "--protocol=vertex")[1]


def test_notes_say_what_a_server_with_these_settings_would_not_answer(
    run, monkeypatch, cancer_bundle
):
    assert "bascule serve --grpc-port" in run("snippet", cancer_bundle, "--protocol=grpc",
                                              "--lang=python")[2]  # fmt: skip
    monkeypatch.setenv("BASCULE_SERVING__PROTOCOLS", '["oip"]')
    assert "leaves tfserving out" in run("snippet", cancer_bundle, "--protocol=tfserving")[2]


def test_json_says_what_the_snippet_is_of(run, cancer_bundle):
    code, out, _ = run("snippet", cancer_bundle, "--lang=js", "--key", "--json")
    said = json.loads(out)
    assert code == 0
    assert said.pop("snippet").startswith("const body")
    assert said == {
        "model": "gb", "version": None, "protocol": "oip", "lang": "js",
        "url": "http://127.0.0.1:8080", "key": "BASCULE_KEY",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--protocol=soap"], 2, ["no protocol 'soap'", "tfserving, invocations"]),
        (["--lang=cobol"], 2, ["no language 'cobol'", "curl, python, js"]),
        (["--protocol=grpc"], 2, ["curl does not speak gRPC", "python"]),
    ],
)
def test_what_there_is_no_snippet_of_is_told_with_what_there_is(
    run, cancer_bundle, words, code, told
):
    found, out, said = run("snippet", cancer_bundle, *words)
    assert (found, out) == (code, "")
    assert all(part in said for part in told)


def test_a_model_that_is_not_there_is_told_with_those_that_are(run, cancer_bundle):
    assert run("push", cancer_bundle)[0] == 0
    code, _, said = run("snippet", "bg")
    assert code == 3
    assert "gb" in said
    assert json.loads(run("snippet", "bg", "--json")[1])["kind"] == "NotFound"


# -- the text itself -----------------------------------------------------------------------------

ODD = 'it\'s "a" \\ $HOME `x` \n END é 😀'


def odd(numbers=(1.5, 2.0)):
    fields = (Field("t", DType.BYTES, nullable=True), Field("n", DType.FP64, nullable=True))
    return SnippetRequest(
        "m", None, Signature(fields, ()),
        {"t": np.array([ODD, "b"], object), "n": np.array(numbers)},
    )  # fmt: skip


@pytest.mark.parametrize("lang", LANGUAGES)
def test_texts_of_any_kind_stay_what_they_are(tmp_path, lang):
    """The snippet is stopped from asking, and shows what it would send."""
    text = snippet(odd(), "tfserving", lang)
    if lang == "curl":
        text = "curl() { cat; }\n" + text
    elif lang == "python":
        text = text[: text.index("request =")] + "print(json.dumps(body))"
    else:
        text = text[: text.index("async")] + "console.log(JSON.stringify(body))"
    sent = json.loads(printed(text, lang, tmp_path))
    assert sent == {"instances": [{"t": ODD, "n": 1.5}, {"t": "b", "n": 2.0}]}


def test_numbers_that_javascript_would_round_are_sent_as_they_are_written(tmp_path):
    field = Field("n", DType.INT64)
    asked = SnippetRequest("m", None, Signature((field,), ()), {"n": np.array([2**53 + 1, 1])})
    text = snippet(asked, "tfserving", "js")
    text = text[: text.index("async")] + "console.log(body)"
    assert json.loads(printed(text, "js", tmp_path))["instances"][0]["n"] == 2**53 + 1


def test_rows_without_a_text_are_left_out_of_grpc_which_has_no_form_for_them():
    asked = odd()
    asked.example["t"][0] = None
    assert '"t": np.array(["b"], object)' in snippet(asked, "grpc", "python")
    asked.example["t"][1] = None
    with pytest.raises(Invalid, match="lacks a text"):
        snippet(asked, "grpc", "python")
    asked = odd((np.nan, 1.0))
    assert '"n": np.array([np.nan, 1.0], np.float64)' in snippet(asked, "grpc", "python")


def test_values_are_made_up_where_a_bundle_has_no_example():
    fields = (Field("t", DType.BYTES, categories=("x",)), Field("n", DType.FP32, (2,)))
    text = snippet(SnippetRequest("m", None, Signature(fields, ()), None), "oip", "curl")
    sent = json.loads(text.split("<<'END'\n")[1].removesuffix("\nEND"))
    assert [one["data"] for one in sent["inputs"]] == [["x"], [[0.0, 0.0]]]
    assert [one["shape"] for one in sent["inputs"]] == [[1], [1, 2]]
