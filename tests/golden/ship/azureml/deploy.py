"""Create the Azure ML online endpoint late with its SDK: python deploy.py SUBSCRIPTION GROUP WORKSPACE"""

import sys

from azure.ai.ml import MLClient
from azure.ai.ml.entities import Environment, ManagedOnlineDeployment, ManagedOnlineEndpoint
from azure.identity import DefaultAzureCredential

ARMS = [
    {"name": "late-v3", "image": "registry.example.com/ml/late:3-3a3a3a3a3a3a-0d0d0d0d", "share_percent": 90},
    {"name": "late-v4", "image": "registry.example.com/ml/late:4-4b4b4b4b4b4b-0d0d0d0d", "share_percent": 10},
]
ROUTES = {
    "liveness_route": {"path": "/", "port": 5001},
    "readiness_route": {"path": "/", "port": 5001},
    "scoring_route": {"path": "/score", "port": 5001},
}


def main(subscription, group, workspace):
    client = MLClient(DefaultAzureCredential(), subscription, group, workspace)
    endpoint = ManagedOnlineEndpoint(name="late", auth_mode="key")
    client.online_endpoints.begin_create_or_update(endpoint).result()
    for arm in ARMS:
        environment = Environment(name=arm["name"], image=arm["image"], inference_config=ROUTES)
        deployment = ManagedOnlineDeployment(
            name=arm["name"],
            endpoint_name=endpoint.name,
            environment=environment,
            environment_variables={
                "BASCULE_SERVING__PORT": "5001", "BASCULE_SECURITY__CALLERS": "anybody"
            },
            instance_type="Standard_F4s_v2",
            instance_count=2,
        )
        client.online_deployments.begin_create_or_update(deployment).result()
    endpoint.traffic = {arm["name"]: arm["share_percent"] for arm in ARMS}
    client.online_endpoints.begin_create_or_update(endpoint).result()


if __name__ == "__main__":
    main(*sys.argv[1:])
