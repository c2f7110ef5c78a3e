"""Calls a function of Bascule in a worker of a Ray cluster, which must have the same packages."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from bascule.batch import connected_to_ray
from bascule.core import BasculeError, Unavailable, error_from_json, error_to_json, first_line


def call_on_ray(
    on: str, resources: Mapping[str, float], call: Callable[..., Any], *arguments: Any
) -> Any:
    """What a function of an installed module returns; it is called again where its worker dies.

    Args:
        on: See `connected_to_ray`, also for what is raised.
        resources: By the names of Ray: `CPU` (1), `GPU` (0), and those of the cluster.
        call: The function.
        arguments: Of it; each is sent once.

    Raises:
        BasculeError: What the function raised.
    """
    needed = {"CPU": 1.0, "GPU": 0.0, **resources}
    with connected_to_ray(on, math.ceil(needed["CPU"])):
        import ray

        task = ray.remote(_outcome).options(
            num_cpus=needed.pop("CPU"), num_gpus=needed.pop("GPU"), resources=needed
        )
        try:
            result, problem = ray.get(task.remote(call, *map(ray.put, arguments)))
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise Unavailable(
                f"the fit on Ray has ended: {first_line(getattr(error, 'cause', None) or error)}",
                hint="has the cluster the same packages? Its logs say more",
            ) from None
    if problem is not None:
        raise error_from_json(problem)
    return pickle.loads(result)


def _outcome(call: Callable[..., Any], *arguments: Any) -> tuple[bytes, dict[str, Any] | None]:
    """The result as bytes: arrays of Ray are read-only, and end with the connection."""
    import ray.cloudpickle

    try:
        return ray.cloudpickle.dumps(call(*arguments)), None
    except BasculeError as problem:  # Ray would wrap it
        return b"", error_to_json(problem)
