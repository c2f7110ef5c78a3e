"""A component of Kubeflow Pipelines that has a Bascule server do a training run, and waits for it.

Compile a pipeline that uses it with the KFP SDK. It needs `bascule-client` alone.
"""

# No annotations of the future: KFP reads the types of a component from its signature.

from typing import NamedTuple

from kfp import dsl


@dsl.component(base_image="python:3.12-slim", packages_to_install=["bascule-client"])
def train_pipeline(
    server: str, pipeline: str, file: str = "pipeline.toml", key: str = "", poll_s: float = 5.0
) -> NamedTuple("Outputs", version=str, verdict=str, wins=bool, digest=str):  # type: ignore[valid-type]
    """Do a run of a pipeline; the outputs are the version, the verdict in a sentence, the digest.

    Args:
        server: Its control API: `http://models:8082`.
        pipeline: The name.
        file: Of the pipeline, as the server sees it.
        key: Of `bascule keys create`.
        poll_s: How often the server is asked.
    """
    from collections import namedtuple

    from bascule_client.control import ControlClient
    from bascule_client.training import TrainingRuns

    runs = TrainingRuns(ControlClient(server, key=key), user="kubeflow")
    run = runs.start(pipeline, file, why="a pipeline of Kubeflow")["run"]
    status = runs.follow(run, poll_s=poll_s)
    outputs = namedtuple("Outputs", "version verdict wins digest")
    return outputs(status["version"], status["sentence"], status["wins"], status["digest"])
