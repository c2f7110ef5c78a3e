"""Training runs of a Bascule server in Dagster: a model is an asset."""

# No annotations of the future: Dagster reads the types of an asset's arguments.

from collections.abc import Mapping
from typing import Any

from dagster import (
    AssetExecutionContext,
    AssetsDefinition,
    ConfigurableResource,
    DataVersion,
    Failure,
    MaterializeResult,
    asset,
)

from bascule_client.control import ControlClient
from bascule_client.errors import ModelFailed
from bascule_client.training import TrainingRuns

__all__ = ["BasculeServer", "model_asset"]


class BasculeServer(ConfigurableResource):  # type: ignore[type-arg]
    """The control API of a server; `key` is one of `bascule keys create`."""

    url: str = "http://127.0.0.1:8082"
    key: str = ""


def model_asset(
    pipeline: str, file: str = "pipeline.toml", *, parameters: Mapping[str, Any] | None = None,
    poll_s: float = 2.0, **options: Any,
) -> AssetsDefinition:  # fmt: skip
    """The model of a pipeline as an asset; to materialise it is to do a run.

    Its data version is the digest of the bundle: a run of equal inputs changes nothing
    downstream. It needs a `BasculeServer` as the resource `bascule`. A run that is not done fails
    the step with its reason, and a step that is terminated cancels its run.

    Args:
        pipeline: The name.
        file: Of the pipeline, as the server sees it.
        parameters: Of the run, over those of the pipeline.
        poll_s: How often the server is asked.
        options: Of `dagster.asset`, such as `deps` or `group_name`.
    """

    @asset(**{"name": pipeline.replace("-", "_"), "kinds": {"bascule"}, **options})
    def model(context: AssetExecutionContext, bascule: BasculeServer) -> MaterializeResult[Any]:
        runs = TrainingRuns(ControlClient(bascule.url, key=bascule.key), user="dagster")
        why = f"run {context.run_id} of Dagster"
        run = runs.start(pipeline, file, parameters=parameters, why=why)["run"]
        context.log.info("run %s", run)
        try:
            status = runs.follow(run, poll_s=poll_s)
        except ModelFailed as problem:
            raise Failure(problem.message, metadata={"run": run}) from None
        metadata = {
            **{name: status[name] for name in ("run", "version", "wins", "sentence", "deployed")},
            **{f"metric/{name}": value for name, value in status["metrics"].items()},
            "rows": status["rows"].get("sha256", ""), "commit": status["code"].get("commit", ""),
        }  # fmt: skip
        data = status["digest"] or f"{status['rows_seen']} outcomes"  # one that goes on learning
        return MaterializeResult(metadata=metadata, data_version=DataVersion(data))

    return model
