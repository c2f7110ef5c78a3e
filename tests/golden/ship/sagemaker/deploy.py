"""Create or update the SageMaker endpoint late with boto3: python deploy.py ROLE_ARN [INSTANCE_TYPE]"""

import sys

import boto3

MODELS = [
    {
        "variant": "current", "model": "late-v3-3a3a3a3a3a3a",
        "image": "registry.example.com/ml/late:3-3a3a3a3a3a3a-0d0d0d0d", "share_percent": 90,
        "workers": "1",
    },
    {
        "variant": "candidate", "model": "late-v4-4b4b4b4b4b4b",
        "image": "registry.example.com/ml/late:4-4b4b4b4b4b4b-0d0d0d0d", "share_percent": 10,
        "workers": "1",
    },
]
CONFIGURATION = "late-3a3a3a-90-4b4b4b-10"


def requests(role, instance_type):
    """The calls of SageMaker's API, in their order: the name of each, and its parameters."""
    for one in MODELS:
        yield "create_model", {
            "ModelName": one["model"],
            "ExecutionRoleArn": role,
            "PrimaryContainer": {
                "Image": one["image"],
                "Environment": {
                    "BASCULE_SERVING__WORKERS": one["workers"],
                    "BASCULE_SECURITY__CALLERS": "anybody",
                },
            },
        }
    yield "create_endpoint_config", {
        "EndpointConfigName": CONFIGURATION,
        "ProductionVariants": [
            {
                "VariantName": one["variant"],
                "ModelName": one["model"],
                "InstanceType": instance_type,
                "InitialInstanceCount": 2,
                "InitialVariantWeight": float(one["share_percent"]),
            }
            for one in MODELS
        ],
    }


def main(role, instance_type="ml.m7i.large"):
    client = boto3.client("sagemaker")
    for name, parameters in requests(role, instance_type):
        try:
            getattr(client, name)(**parameters)
        except client.exceptions.ClientError as problem:
            if "already exist" not in str(problem):  # its name has the digest: it is the same
                raise
    known = client.list_endpoints(NameContains="late")["Endpoints"]
    is_there = any(one["EndpointName"] == "late" for one in known)
    call = client.update_endpoint if is_there else client.create_endpoint
    call(EndpointName="late", EndpointConfigName=CONFIGURATION)
    client.get_waiter("endpoint_in_service").wait(EndpointName="late")


if __name__ == "__main__":
    main(*sys.argv[1:])
