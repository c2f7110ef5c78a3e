from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bascule.app import limits_of, open_registry, protocols_of, shown_settings
from bascule.core import secret_in
from bascule.core.errors import BasculeWarning, Invalid, NotFound
from bascule.serving import Limits
from bascule.serving.protocols.chosen import EVERY_PROTOCOL, PROTOCOL_NAMES
from bascule.settings import GateSettings, ModelSettings, load_settings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def written(folder: Path, text: str) -> Path:
    (folder / "bascule.toml").write_text(text)
    return folder


def refusal(folder: Path, environ: dict[str, str] | None = None) -> Invalid:
    with pytest.raises(Invalid) as caught:
        load_settings(folder, environ or {})
    return caught.value


def test_without_a_file_and_variables_everything_has_a_default(folder):
    settings = load_settings(folder, {})

    assert settings.home == folder / ".bascule"
    assert settings.gates == GateSettings(criteria=())
    assert settings.registry.require_gates is False
    assert (settings.serving.port, settings.serving.control_port) == (8080, 8082)
    assert settings.serving.deadline_s == 10
    assert settings.serving.max_body_bytes == 64 * 1024 * 1024
    assert settings.serving.max_queue_requests == 512


def test_the_file_is_read(folder):
    written(
        folder,
        'home = "data/home"\n[gates]\ncriteria = ["roc_auc >= 0.8", "size <= 20 MB"]\n'
        "[registry]\nrequire_gates = true\n[serving]\nworkers = 3\ndeadline_s = 0.5\n",
    )
    settings = load_settings(folder, {})

    assert settings.home == folder / "data/home"
    assert settings.gates.criteria == ("roc_auc >= 0.8", "size <= 20 MB")
    assert settings.registry.require_gates is True
    assert (settings.serving.workers, settings.serving.deadline_s) == (3, 0.5)


def test_a_variable_wins_over_the_file_and_leaves_the_rest(folder):
    written(folder, "[serving]\nworkers = 3\nport = 9000\n")

    settings = load_settings(
        folder,
        {
            "BASCULE_HOME": "/srv/models",
            "BASCULE_SERVING__WORKERS": "2",
            "BASCULE_GATES__CRITERIA": '["r2 >= 0.5"]',
        },
    )
    assert settings.home == Path("/srv/models")
    assert (settings.serving.workers, settings.serving.port) == (2, 9000)
    assert settings.gates.criteria == ("r2 >= 0.5",)


def test_a_wrong_value_in_the_file_is_not_minded_where_a_variable_replaces_it(folder):
    written(folder, "[serving]\nworkers = 0\n")

    assert load_settings(folder, {"BASCULE_SERVING__WORKERS": "1"}).serving.workers == 1


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("WORKERS", "0", "serving.workers: 0 is not >= 1"),
        ("WORKERS", "1025", "serving.workers: 1025 is not <= 1024"),
        ("PORT", "-1", "serving.port: -1 is not >= 0"),
        ("PORT", "65536", "serving.port: 65536 is not <= 65535"),
        ("CONTROL_PORT", "65536", "serving.control_port: 65536 is not <= 65535"),
        ("DEADLINE_S", "0", "serving.deadline_s: 0 is not > 0"),
        ("MAX_BODY_BYTES", "0", "serving.max_body_bytes: 0 is not >= 1"),
        ("MAX_QUEUE_REQUESTS", "0", "serving.max_queue_requests: 0 is not >= 1"),
    ],
)
def test_a_value_over_a_limit_is_refused_with_its_limit_and_its_variable(
    folder, variable, value, message
):
    name = f"BASCULE_SERVING__{variable}"

    assert refusal(folder, {name: value}).message == f"{message} ({name})"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("WORKERS", "1"),
        ("WORKERS", "1024"),
        ("PORT", "0"),
        ("PORT", "65535"),
        ("DEADLINE_S", "0.001"),
        ("MAX_BODY_BYTES", "1"),
        ("MAX_QUEUE_REQUESTS", "1"),
    ],
)
def test_a_value_at_its_limit_is_taken(folder, variable, value):
    settings = load_settings(folder, {f"BASCULE_SERVING__{variable}": value})

    assert str(getattr(settings.serving, variable.lower())) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[serving]\nworkers = 0\n", "serving.workers: 0 is not >= 1 (bascule.toml)"),
        (
            "[serving]\nworkres = 1\n",
            "serving.workres: there is no such setting; did you mean 'workers'? (bascule.toml)",
        ),
        (
            "[servign]\nworkers = 1\n",
            "servign: there is no such setting; did you mean 'serving'? (bascule.toml)",
        ),
        ("zzz = 1\n", "zzz: there is no such setting (bascule.toml)"),
        (
            '[gates]\ncriteria = "r2 >= 1"\n',
            "gates.criteria: 'r2 >= 1' is not a list (bascule.toml)",
        ),
        (
            '[gates]\ncriteria = ["r2 >= 1", "f11 >= 1"]\n',
            "gates.criteria[1]: 'f11 >= 1': there is no metric 'f11'; did you mean 'f1'? "
            "(bascule.toml)",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_named_with_its_place(folder, text, message):
    assert refusal(written(folder, text)).message == message


def test_every_wrong_value_is_named_at_once(folder):
    message = refusal(written(folder, "[serving]\nworkers = 0\nport = 70000\n")).message

    assert "serving.workers: 0 is not >= 1" in message
    assert "serving.port: 70000 is not <= 65535" in message


def test_an_unknown_setting_is_answered_with_those_of_its_section(folder):
    hint = refusal(written(folder, "[registry]\nzzz = 1\n")).hint

    assert hint == "settings here are store, objects, require_gates"


@pytest.mark.parametrize("value", ["r2 >= 1", '["r2 >= 1"', "[“r2 >= 1”]"])
def test_a_list_in_a_variable_that_is_no_json_is_refused_with_how_to_write_it(folder, value):
    error = refusal(folder, {"BASCULE_GATES__CRITERIA": value})

    assert "(BASCULE_GATES__CRITERIA)" in error.message
    assert '["one", "two"]' in error.hint


def test_a_whole_section_in_a_variable_is_read_or_refused(folder):
    settings = load_settings(folder, {"BASCULE_SERVING": '{"port": 9000}'})
    assert settings.serving.port == 9000

    assert refusal(folder, {"BASCULE_SERVING": "{port"}).message == "BASCULE_SERVING is not JSON"


def test_a_misspelt_variable_is_refused_and_a_strange_one_is_warned_of(folder):
    error = refusal(folder, {"BASCULE_SERVIGN__WORKERS": "2"})
    assert "did you mean BASCULE_SERVING__WORKERS?" in error.message

    error = refusal(folder, {"BASCULE_SERVING__WORKRES": "2"})
    assert "did you mean 'workers'? (BASCULE_SERVING__WORKRES)" in error.message

    with pytest.warns(BasculeWarning, match="BASCULE_QUITE_ANOTHER_THING is no setting"):
        assert load_settings(folder, {"BASCULE_QUITE_ANOTHER_THING": "2"})


def test_a_file_that_is_no_toml_is_refused_with_the_line(folder):
    assert "is not TOML" in refusal(written(folder, "[serving\n")).message
    assert "line 1" in refusal(written(folder, "[serving\n")).message


def test_a_file_that_is_no_text_is_refused(folder):
    (folder / "bascule.toml").write_bytes(b"\xff\xfe\x00")

    assert "cannot be read" in refusal(folder).message


def test_the_working_directory_and_the_environment_are_the_default(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("BASCULE_SERVING__PORT", "9001")

    settings = load_settings()

    assert settings.home == folder / ".bascule"
    assert settings.serving.port == 9001


def test_the_address_of_the_catalogue_may_be_kept_in_a_file_or_a_variable(folder, monkeypatch):
    kept = folder / "catalogue"
    kept.write_text("postgresql://bascule:hidden@db/bascule\n")
    monkeypatch.setenv("BUNDLES", "s3://bundles/late")
    settings = load_settings(
        folder,
        {"BASCULE_REGISTRY__STORE": f"file:{kept}", "BASCULE_REGISTRY__OBJECTS": "env:BUNDLES"},
    )
    assert secret_in(settings.registry.store) == "postgresql://bascule:hidden@db/bascule"
    assert secret_in(settings.registry.objects) == "s3://bundles/late"
    assert "hidden" not in str(shown_settings(settings))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("file:/nowhere/catalogue", "/nowhere/catalogue cannot be read"),
        ("env:NOWHERE", "the variable NOWHERE is not set"),
        ("env:BAD", "'mongo://db' is not of a kind that is known"),
    ],
)
def test_an_address_that_is_not_where_the_setting_says_is_refused(said, why, folder, monkeypatch):
    monkeypatch.setenv("BAD", "mongo://db")
    found = refusal(folder, {"BASCULE_REGISTRY__STORE": said})
    assert found.message.startswith("registry.store: ")
    assert why in found.message
    assert "BASCULE_REGISTRY__STORE" in found.message


def test_settings_open_the_registry_of_their_home_without_making_it(folder):
    registry = open_registry(load_settings(folder, {"BASCULE_REGISTRY__REQUIRE_GATES": "yes"}))

    with pytest.raises(NotFound, match=str(folder / ".bascule")):
        registry.models()
    assert list(folder.iterdir()) == []


def test_every_bound_of_a_worker_that_is_a_setting_is_taken_from_it(folder):
    written(
        folder,
        "[serving]\ndeadline_s = 1.5\nmax_queue_requests = 2\nmax_body_bytes = 3\n"
        'drain_s = 4.5\nworker_silent_s = 5.5\nbatching = "never"\nmemory_budget_mb = 6\n'
        "confidence = 0.5\n",
    )
    limits = limits_of(load_settings(folder, {}))

    assert limits == Limits(
        deadline_s=1.5, max_queue_requests=2, max_body_bytes=3, drain_s=4.5, worker_silent_s=5.5,
        batching="never", memory_budget_mb=6, confidence=0.5,
    )  # fmt: skip


def test_rooms_are_imported_without_settings_or_frameworks():
    script = (
        "import sys, bascule.app, bascule.settings, bascule.registry, bascule.release\n"
        "heavy = 'pydantic pydantic_settings sqlalchemy alembic sklearn onnxruntime pyarrow'\n"
        "print(*(name for name in heavy.split() if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


# -- protocols, and what platforms say --


def protocols(folder, environ):
    return protocols_of(load_settings(folder, environ).serving)


def test_every_protocol_is_spoken_unless_some_are_named(folder):
    assert protocols(folder, {}) == EVERY_PROTOCOL

    written(folder, '[serving]\nprotocols = ["oip", "vertex"]\n')
    assert protocols(folder, {}).names == ("oip", "vertex")
    assert protocols(folder, {"BASCULE_SERVING__PROTOCOLS": '["azureml"]'}).names == ("azureml",)


@pytest.mark.parametrize("route", ["/metrics", "/v2/models/late/outcomes"])
def test_a_route_of_vertex_ai_may_not_be_a_path_of_the_server(folder, route):
    chosen = {
        "BASCULE_SERVING__PROTOCOLS": '["vertex"]', "BASCULE_SERVING__VERTEX_PREDICT_ROUTE": route
    }  # fmt: skip
    with pytest.raises(Invalid, match="a path of the server itself"):
        protocols(folder, chosen)


def test_an_unknown_protocol_is_refused_with_the_known_ones(folder):
    told = refusal(folder, {"BASCULE_SERVING__PROTOCOLS": '["oip", "soap"]'})

    assert told.message.startswith("serving.protocols[1]: 'soap' is wrong: input should be 'oip'")
    assert "BASCULE_SERVING__PROTOCOLS" in told.message
    assert "list" in refusal(folder, {"BASCULE_SERVING__PROTOCOLS": "oip"}).message


def test_a_platform_says_the_port_and_the_routes(folder):
    written(folder, "[serving]\nport = 9000\n")

    sagemaker = load_settings(folder, {"SAGEMAKER_BIND_TO_PORT": "8081"}).serving
    vertex = load_settings(
        folder,
        {
            "AIP_HTTP_PORT": "8082",
            "AIP_HEALTH_ROUTE": "/v1/endpoints/1/deployedModels/2",
            "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict",
        },
    ).serving
    ours = load_settings(
        folder, {"SAGEMAKER_BIND_TO_PORT": "8081", "bascule_serving__port": "8083"}
    ).serving

    assert (sagemaker.port, vertex.port, ours.port) == (8081, 8082, 8083)
    assert protocols_of(vertex).names == PROTOCOL_NAMES
    assert protocols_of(vertex).vertex_predict_route.endswith(":predict")


def test_what_a_platform_says_is_refused_under_its_own_name(folder):
    assert "AIP_HTTP_PORT" in refusal(folder, {"AIP_HTTP_PORT": "70000"}).message
    told = refusal(folder, {"AIP_PREDICT_ROUTE": "predict"})
    assert told.message == (
        "serving.vertex_predict_route: 'predict' is not a path (AIP_PREDICT_ROUTE)"
    )


@pytest.mark.parametrize(
    ("route", "left_out"),
    [
        ("/invocations", "invocations"),
        ("/models/m", "invocations"),
        ("/health/", "invocations"),
        ("/score", "azureml"),
        ("/", "azureml"),
        ("/v1/models/m:predict", "tfserving openai"),
        ("/v1/embeddings", "openai"),
        ("/invocations2", ""),
        ("/predict", ""),
    ],
)
def test_a_route_of_vertex_takes_the_place_of_a_protocol_that_is_not_named(folder, route, left_out):
    for variable in ("AIP_PREDICT_ROUTE", "AIP_HEALTH_ROUTE"):
        names = protocols(folder, {variable: route}).names
        assert names == tuple(name for name in PROTOCOL_NAMES if name not in left_out.split())
    for other in left_out.split():
        written(folder, f'[serving]\nprotocols = ["vertex", "{other}"]\n')
        told = refusal(folder, {"AIP_PREDICT_ROUTE": route})
        assert f"{route} is a path of the protocol {other!r}" in told.message
        written(folder, f'[serving]\nprotocols = ["{other}"]\n')
        assert protocols(folder, {"AIP_PREDICT_ROUTE": route}).names == (other,)


@pytest.mark.parametrize("route", ["/v2", "/v2/models/m/infer"])
def test_a_route_of_vertex_may_not_be_one_of_the_first_protocol(folder, route):
    assert "is a path of the protocol 'oip'" in refusal(folder, {"AIP_HEALTH_ROUTE": route}).message


@pytest.mark.parametrize("route", ["/metrics", "/metrics/of/vertex"])
@pytest.mark.parametrize("chosen", ["", '[serving]\nprotocols = ["vertex"]\n'])
def test_a_route_of_vertex_may_not_be_one_of_the_server_itself(folder, chosen, route):
    """The server answers there, whichever protocols it speaks."""
    written(folder, chosen)
    assert "is a path of the server itself" in refusal(folder, {"AIP_PREDICT_ROUTE": route}).message
    assert protocols(folder, {"AIP_PREDICT_ROUTE": "/metric"}).vertex_predict_route == "/metric"


@pytest.mark.parametrize("route", ["", "predict", "/a?b", "/a b", "/a#b", "/é"])
def test_a_route_that_is_no_path_is_refused(folder, route):
    assert "vertex_predict_route" in refusal(folder, {"AIP_PREDICT_ROUTE": route}).message


# -- settings of models --


def test_models_have_settings_by_their_names(folder):
    written(
        folder,
        '[serving.models.late]\nbreaker_failures = 5\nfallback = "late/1"\n'
        "[serving.models.early]\ntimeout_s = 0.5\n",
    )

    models = load_settings(folder, {}).serving.models

    assert models["late"] == ModelSettings(breaker_failures=5, fallback="late/1")
    assert models["early"] == ModelSettings(timeout_s=0.5)


def test_a_variable_can_hold_the_settings_of_models(folder):
    said = {"BASCULE_SERVING__MODELS": '{"late": {"retry_percent": 10}}'}

    assert load_settings(folder, said).serving.models == {"late": ModelSettings(retry_percent=10)}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("timeout_s = -1", "serving.models.late.timeout_s: -1 is not >= 0 (bascule.toml)"),
        ("breaker_open_s = 0", "serving.models.late.breaker_open_s: 0 is not > 0 (bascule.toml)"),
        ("retry_percent = 101", "serving.models.late.retry_percent: 101 is not <= 100"),
        ('fallback = "a b"', "serving.models.late.fallback: model name 'a b' is not allowed"),
        ('fallback = "late/"', "serving.models.late.fallback: version '' is not allowed"),
        (
            "breaker_failure = 5",
            "serving.models.late.breaker_failure: there is no such setting; did you mean "
            "'breaker_failures'? (bascule.toml)",
        ),
    ],
)
def test_a_wrong_setting_of_a_model_is_refused_with_its_place(folder, line, said):
    refused = refusal(written(folder, f"[serving.models.late]\n{line}\n"))

    assert refused.message.startswith(said)
    assert refused.hint or "(bascule.toml)" in refused.message


def test_a_name_that_no_model_can_have_is_refused(folder):
    refused = refusal(written(folder, '[serving.models."late/1"]\ntimeout_s = 1\n'))

    assert "model name 'late/1' is not allowed" in refused.message


def test_settings_of_models_that_are_no_json_are_refused_with_the_variable(folder):
    refused = refusal(folder, {"BASCULE_SERVING__MODELS": "late"})

    assert "BASCULE_SERVING__MODELS" in refused.message


@pytest.mark.parametrize("address", ["http://collector:4318/v1/traces", "https://c/", ""])
def test_the_address_of_a_collector_is_taken(folder, address):
    written(folder, f'[serving]\ntrace_endpoint = "{address}"\n')
    assert load_settings(folder, {}).serving.trace_endpoint == address


@pytest.mark.parametrize("address", ["collector:4318", "grpc://c:4317", "http://", "http://[c"])
def test_what_is_no_address_of_a_collector_is_refused_with_one_that_is(folder, address):
    written(folder, f'[serving]\ntrace_endpoint = "{address}"\n')
    problem = refusal(folder)
    assert "serving.trace_endpoint" in problem.message
    assert "is not the address of a collector" in problem.message
    assert "http://HOST:4318/v1/traces" in problem.hint + problem.message


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("BASCULE_PORT", "BASCULE_SERVING__PORT"),
        ("BASCULE_WORKERS", "BASCULE_SERVING__WORKERS"),
        ("BASCULE_STORE", "BASCULE_REGISTRY__STORE"),
        ("BASCULE_CRITERIA", "BASCULE_GATES__CRITERIA"),
        ("BASCULE_CONTROLPORT", "BASCULE_SERVING__CONTROL_PORT"),
    ],
)
def test_a_setting_without_its_section_is_refused_with_the_whole_name(folder, variable, meant):
    assert f"did you mean {meant}?" in refusal(folder, {variable: "9999"}).message


@pytest.mark.parametrize(
    "variables",
    [
        {"BASCULE_KEY": "x", "BASCULE_CACHE_DIR": "/tmp", "BASCULE_HOME": "/tmp"},
        {  # beside a service of Kubernetes that is called bascule
            "BASCULE_PORT": "tcp://10.0.0.1:8080", "BASCULE_SERVICE_HOST": "10.0.0.1",
            "BASCULE_SERVICE_PORT": "8080", "BASCULE_PORT_8080_TCP": "tcp://10.0.0.1:8080",
            "BASCULE_PORT_8080_TCP_ADDR": "10.0.0.1",
        },
    ],
)  # fmt: skip
def test_other_variables_of_ours_and_of_kubernetes_are_left_alone(folder, variables):
    assert load_settings(folder, variables).serving.port == 8080
