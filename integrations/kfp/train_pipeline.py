"""A component of Kubeflow Pipelines that has a Bascule server do a training run, and waits for it.

Compile a pipeline that uses it with the KFP SDK. It needs `bascule-client` alone.
"""

# No annotations of the future: KFP reads the types of a component from its signature.

from kfp import dsl


@dsl.component(base_image="python:3.12-slim", packages_to_install=["bascule-client"])
def train_pipeline(
    server: str, pipeline: str, file: str = "pipeline.toml", key: str = "", poll_s: float = 5.0
) -> str:
    """Do a run of a pipeline; the output is its verdict, in a sentence.

    Args:
        server: Its control API: `http://models:8082`.
        pipeline: The name.
        file: Of the pipeline, as the server sees it.
        key: Of `bascule keys create`.
        poll_s: How often the server is asked.
    """
    import time

    from bascule_client.control import ControlClient

    client = ControlClient(server, key=key)
    content = {"pipeline": pipeline, "file": file, "why": "a pipeline of Kubeflow"}
    job = client.do(
        "POST /api/v1/jobs", {"kind": "train", "input": content}, user="kubeflow"
    )  # fmt: skip
    while job["state"] in ("queued", "running"):
        time.sleep(poll_s)
        job = client.do("GET /api/v1/jobs/{job}", job=job["id"])
    if job["state"] != "done":
        raise RuntimeError(f"run {job['id']} is {job['state']}: {job['error']}")
    return str(job["result"]["sentence"])
