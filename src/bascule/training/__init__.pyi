from .automl import (
    Candidate as Candidate,
    Outcome as Outcome,
    automl as automl,
)
from .judging import (
    CHALLENGE as CHALLENGE,
    Verdict as Verdict,
    challenges_of as challenges_of,
    confidence_of_look as confidence_of_look,
    judged as judged,
)
from .pipelines import Pipeline as Pipeline, pipeline as pipeline, read_pipeline as read_pipeline
from .rows import Rows as Rows, read_newest as read_newest
from .runs import Run as Run, compared as compared
from .tables import Plan as Plan
from .training import (
    Prepared as Prepared,
    RunLog as RunLog,
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
