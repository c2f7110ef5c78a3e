"""Score files in S3 by a batch transform job: python transform.py JOB s3://IN/ s3://OUT/ [INSTANCE_TYPE]

The files are JSON lines, one row each; the answers are lines in the same order. `deploy.py` or Terraform has
created the model.
"""

import sys

import boto3

MODEL = "late-v3-3a3a3a3a3a3a"


def request(job, source, target, instance_type):
    """The parameters of `create_transform_job`; how records are sent is asked of the container."""
    return {
        "TransformJobName": job,
        "ModelName": MODEL,
        "TransformInput": {
            "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": source}},
            "ContentType": "application/jsonlines",
            "SplitType": "Line",
        },
        "TransformOutput": {
            "S3OutputPath": target,
            "Accept": "application/jsonlines",
            "AssembleWith": "Line",
        },
        "TransformResources": {"InstanceType": instance_type, "InstanceCount": 1},
    }


def main(job, source, target, instance_type="ml.m7i.large"):
    client = boto3.client("sagemaker")
    client.create_transform_job(**request(job, source, target, instance_type))
    client.get_waiter("transform_job_completed_or_stopped").wait(TransformJobName=job)
    ended = client.describe_transform_job(TransformJobName=job)
    print(ended["TransformJobStatus"], ended.get("FailureReason", ""))


if __name__ == "__main__":
    main(*sys.argv[1:])
