from . import provenance as provenance
from .mlflow import (
    asking as asking,
    open_mlflow as open_mlflow,
    quiet as quiet,
    usual_uri as usual_uri,
)
from .sources import TABLE as TABLE, trace as trace
