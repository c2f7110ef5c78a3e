from .continuous import (
    State as State,
    arrival as arrival,
    arrived as arrived,
    count_outcomes as count_outcomes,
    key_of as key_of,
    learn as learn,
    new_batches as new_batches,
    open_state as open_state,
    save_state as save_state,
)
from .judging import (
    CHALLENGE as CHALLENGE,
    Verdict as Verdict,
    challenges_of as challenges_of,
    confidence_of_look as confidence_of_look,
    judged as judged,
)
from .learnable import packable as packable
from .pipelines import (
    Learner as Learner,
    Pipeline as Pipeline,
    pipeline as pipeline,
    read_pipeline as read_pipeline,
)
from .rows import Rows as Rows, read_newest as read_newest
from .runs import Run as Run, compared as compared
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
