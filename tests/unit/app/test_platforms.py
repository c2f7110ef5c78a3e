"""What platforms say to the containers that they start: the model, and the ports."""

from __future__ import annotations

import pytest

from bascule.core.errors import Invalid
from bascule.platforms import look_for_bundles, model_of_platform, other_ports
from bascule.settings import ServingSettings, load_settings


def bundles_in(**places: list[str] | None):
    """A machine with these folders, `opt_ml_model=[...]`, and the bundles in them."""
    found = {"/" + place.replace("_", "/"): bundles for place, bundles in places.items()}

    def look(folder):
        bundles = found.get(str(folder))
        return None if bundles is None else tuple(folder / name for name in bundles)

    return look


def refusal(environ, look):
    with pytest.raises(Invalid) as caught:
        model_of_platform(environ, look)
    return caught.value


# -- the model --


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"SAGEMAKER_BIND_TO_PORT": "8080"}, "/opt/ml/model/late"),
        ({}, "/opt/ml/model/late"),
        ({"SAGEMAKER_REGION": "x", "SAGEMAKER_BASE_DIR": "/base"}, "/base/model/late"),
        ({"AIP_STORAGE_URI": "/vertex"}, "/vertex/late"),
        ({"AIP_STORAGE_URI": "file:///vertex"}, "/vertex/late"),
        ({"AIP_HTTP_PORT": "8080", "AIP_STORAGE_URI": ""}, "/opt/ml/model/late"),
        ({"AZUREML_MODEL_DIR": "/azure"}, "/azure/late"),
    ],
)
def test_the_model_is_where_the_platform_put_it(environ, place):
    look = bundles_in(opt_ml_model=["late"], base_model=["late"], vertex=["late"], azure=["late"])
    assert model_of_platform(environ, look) == place


IMAGE = "late/3=/opt/bascule/models/late/3"


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"SAGEMAKER_BIND_TO_PORT": "8080"},
        {"AIP_HTTP_PORT": "8080", "AIP_STORAGE_URI": ""},
        {"AZUREML_MODEL_DIR": "/azure"},
        {"AZUREML_MODEL_DIR": "/nowhere"},
        {"AIP_STORAGE_URI": "file:///azure"},
    ],
)
def test_the_bundle_of_the_image_is_the_model_where_the_platform_has_put_none(environ):
    look = bundles_in(opt_ml_model=[], azure=[])
    assert model_of_platform(environ, look, default=IMAGE) == IMAGE


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, "/opt/ml/model/late"),
        ({"AZUREML_MODEL_DIR": "/azure"}, "/azure/late"),
        ({"AIP_STORAGE_URI": "gs://bucket/late"}, "gs://bucket/late"),
    ],
)
def test_the_bundle_of_a_platform_wins_over_that_of_the_image(environ, place):
    look = bundles_in(opt_ml_model=["late"], azure=["late"])
    assert model_of_platform(environ, look, default=IMAGE) == place


def test_a_folder_that_is_a_bundle_itself_is_the_model():
    look = bundles_in(azure=[""])
    assert model_of_platform({"AZUREML_MODEL_DIR": "/azure"}, look) == "/azure"


def test_without_a_platform_a_model_must_be_named():
    told = refusal({}, bundles_in())

    assert told.message.startswith("missing argument MODEL...")
    assert "bascule serve late" in told.hint


@pytest.mark.parametrize(
    ("environ", "look", "told"),
    [
        (
            {"SAGEMAKER_BIND_TO_PORT": "8080"},
            bundles_in(),
            "SAGEMAKER_BIND_TO_PORT: there is no folder /opt/ml/model",
        ),
        (
            {},
            bundles_in(opt_ml_model=[]),
            "no MODEL was named: there is no bundle in /opt/ml/model",
        ),
        (
            {"AZUREML_MODEL_DIR": "/azure"},
            bundles_in(azure=["a", "b"]),
            "AZUREML_MODEL_DIR: there are several bundles in /azure: a, b",
        ),
        (
            {"AIP_STORAGE_URI": "/vertex"},
            bundles_in(),
            "AIP_STORAGE_URI: there is no folder /vertex",
        ),
        (
            {"AIP_HTTP_PORT": "8080"},
            bundles_in(),
            "no MODEL was named, AIP_HTTP_PORT is set, and AIP_STORAGE_URI says no place",
        ),
    ],
)
def test_what_is_missing_is_told_with_the_variable_the_place_and_the_next_step(environ, look, told):
    error = refusal(environ, look)

    assert error.message == told
    assert error.hint


@pytest.mark.parametrize("variable", ["AIP_STORAGE_URI", "AZUREML_MODEL_DIR"])
@pytest.mark.parametrize("place", ["gs://bucket/late", "s3://bucket/late"])
def test_a_place_in_a_bucket_is_the_model(variable, place):
    assert model_of_platform({variable: place}, bundles_in()) == place


@pytest.mark.parametrize("place", ["https://bucket/late", "file://late", "gs:/bucket/late"])
def test_a_place_that_is_neither_folder_nor_bucket_is_refused_with_what_to_do(place):
    told = refusal({"AIP_STORAGE_URI": place}, bundles_in())

    assert told.message.startswith("AIP_STORAGE_URI: ")
    assert place in told.message
    assert told.hint


def test_a_password_in_a_place_is_not_shown():
    told = refusal({"AIP_STORAGE_URI": "https://ada:secret@bucket/late"}, bundles_in())

    assert "secret" not in told.message


def test_bundles_are_looked_for_in_a_folder_and_directly_in_it(tmp_path):
    for name in ("a", "b", "b/deep"):
        (tmp_path / name).mkdir()
    (tmp_path / "b" / "deep" / "bundle.json").touch()
    assert look_for_bundles(tmp_path) == ()
    (tmp_path / "a" / "bundle.json").touch()
    assert look_for_bundles(tmp_path) == (tmp_path / "a",)
    assert look_for_bundles(tmp_path / "a") == (tmp_path / "a",)
    assert look_for_bundles(tmp_path / "gone") is None
    (tmp_path / "bundle.json").touch()
    assert look_for_bundles(tmp_path) == (tmp_path,)


# -- many models --


def test_a_multi_model_endpoint_is_one_by_what_the_platform_says(tmp_path):
    assert load_settings(tmp_path, {"SAGEMAKER_MULTI_MODEL": "true"}).serving.multi_model
    assert not load_settings(tmp_path, {}).serving.multi_model
    with pytest.raises(Invalid, match="SAGEMAKER_MULTI_MODEL"):
        load_settings(tmp_path, {"SAGEMAKER_MULTI_MODEL": "perhaps"})


@pytest.mark.parametrize(
    "left_out",
    [{"BASCULE_SERVING__PROTOCOLS": '["oip"]'}, {"AIP_PREDICT_ROUTE": "/invocations"}],
)
def test_models_cannot_be_loaded_by_a_protocol_that_is_left_out(tmp_path, left_out):
    with pytest.raises(Invalid, match=r"serving\.multi_model: .* which is left out"):
        load_settings(tmp_path, {"SAGEMAKER_MULTI_MODEL": "true", **left_out})


# -- ports --


def left(given, safe_ports):
    asked = ServingSettings(**given)
    return other_ports(
        asked.port, asked.grpc_port, asked.control_port,
        default=ServingSettings().control_port, safe_ports=safe_ports,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("given", "safe_ports", "grpc", "control"),
    [
        ({}, "", -1, 8082),
        ({"port": 8082}, "", -1, 8083),
        ({"port": 8082, "grpc_port": 8083}, "", 8083, 8084),
        ({"grpc_port": 8082}, "", 8082, 8083),
        ({"port": 8082, "control_port": 0}, "", -1, 0),
        ({"port": 8082, "control_port": 9000}, "", -1, 9000),
        ({}, "8000-8999", -1, 8082),
        ({}, "9000-9999", -1, 9000),
        ({"port": 9000}, "9000-9999", -1, 9001),
        ({"port": 8082}, "8082-8083", -1, 8083),
        ({"grpc_port": 0, "control_port": 0}, "9000-9001", 9000, 9001),
        ({"grpc_port": 9000}, "9000-9999", 9000, 9001),
        ({"control_port": 9500}, "9000-9999", -1, 9500),
    ],
)
def test_other_ports_are_neither_taken_nor_forbidden(given, safe_ports, grpc, control):
    assert left(given, safe_ports) == (grpc, control)


@pytest.mark.parametrize(
    ("given", "safe_ports", "told"),
    [
        ({"control_port": 7000}, "9000-9999", "serving.control_port: 7000 is not in"),
        ({"grpc_port": 7000}, "9000-9999", "serving.grpc_port: 7000 is not in"),
        ({"port": 9000}, "9000-9000", "has no port left for serving.control_port"),
        ({"grpc_port": 0}, "9000-9000", "has no port left for serving.control_port"),
        *(
            ({}, wrong, "is not a range of ports")
            for wrong in ("9000", "9-8", "0-9", "1-70000", "x")
        ),
    ],
)
def test_a_range_that_does_not_do_is_refused_by_its_name(given, safe_ports, told):
    with pytest.raises(Invalid) as caught:
        left(given, safe_ports)
    assert told in caught.value.message
    assert "SAGEMAKER_SAFE_PORT_RANGE" in caught.value.message
    assert caught.value.hint


def test_the_ports_of_the_settings_are_those_that_are_left(tmp_path):
    said = {"AIP_HTTP_PORT": "8082", "SAGEMAKER_SAFE_PORT_RANGE": "8000-8999"}
    serving = load_settings(tmp_path, said).serving

    assert (serving.port, serving.control_port) == (8082, 8000)
