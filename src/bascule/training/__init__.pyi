from .judging import (
    CHALLENGE as CHALLENGE,
    Verdict as Verdict,
    challenges_of as challenges_of,
    confidence_of_look as confidence_of_look,
    judged as judged,
)
from .pipelines import Pipeline as Pipeline, pipeline as pipeline, read_pipeline as read_pipeline
from .rows import Rows as Rows, read_newest as read_newest
from .run_log import RunLog as RunLog
from .runs import Run as Run, compared as compared
from .tracking import write_to_mlflow as write_to_mlflow
from .training import (
    Prepared as Prepared,
    Trained as Trained,
    prepare as prepare,
    train as train,
)
from .triggers import (
    ALERTS as ALERTS,
    Decision as Decision,
    Facts as Facts,
    PastRun as PastRun,
    Trigger as Trigger,
    decide as decide,
)
