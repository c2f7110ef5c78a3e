"""Upload each version to Vertex AI, and deploy it with its share: python deploy.py PROJECT REGION ENDPOINT"""

import sys

from google.cloud import aiplatform

ARMS = [
    {
        "arm": "current", "name": "late-v3", "image": "registry.example.com/ml/late:3-3a3a3a3a3a3a-0d0d0d0d",
        "share_percent": 90,
    },
    {
        "arm": "candidate", "name": "late-v4", "image": "registry.example.com/ml/late:4-4b4b4b4b4b4b-0d0d0d0d",
        "share_percent": 10,
    },
]


def main(project, region, endpoint_name, machine_type="n2-standard-2"):
    aiplatform.init(project=project, location=region)
    endpoint = aiplatform.Endpoint(endpoint_name)
    before = [one.id for one in endpoint.list_models()]
    deployed = {}
    for arm in ARMS:
        model = aiplatform.Model.upload(
            display_name=arm["name"],
            serving_container_image_uri=arm["image"],
            serving_container_ports=[8080],
            serving_container_health_route="/vertex/health",
            serving_container_predict_route="/vertex/predict",
            serving_container_environment_variables={"BASCULE_SECURITY__CALLERS": "anybody"},
        )
        model.deploy(
            endpoint,
            deployed_model_display_name=arm["arm"],
            machine_type=machine_type,
            min_replica_count=2,
            max_replica_count=10,
            traffic_percentage=0 if before or deployed else 100,
        )
        (new,) = {one.id for one in endpoint.list_models()} - set(before) - set(deployed)
        deployed[new] = arm["share_percent"]
    endpoint.update(traffic_split=deployed)
    for old in before:
        endpoint.undeploy(old)


if __name__ == "__main__":
    main(*sys.argv[1:])
