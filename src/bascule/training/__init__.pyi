from .architectures import Architectures as Architectures
from .automl import (
    Candidate as Candidate,
    Outcome as Outcome,
    automl as automl,
)
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
from .engines import ENGINES as ENGINES, SEARCHED as SEARCHED
from .judging import (
    CHALLENGE as CHALLENGE,
    CHAMPION as CHAMPION,
    REFIT as REFIT,
    Verdict as Verdict,
    challenges_of as challenges_of,
    confidence_of_look as confidence_of_look,
    feedback_of as feedback_of,
    judged as judged,
    refits_of as refits_of,
    winner_over as winner_over,
)
from .learnable import opened as opened, packable as packable
from .loops import loop_of as loop_of
from .offline_wandb import write_to_wandb as write_to_wandb
from .pipelines import (
    Learner as Learner,
    Pipeline as Pipeline,
    pipeline as pipeline,
    read_pipeline as read_pipeline,
    read_values as read_values,
)
from .rows import read_newest as read_newest
from .run_log import RunLog as RunLog
from .runs import Run as Run, compared as compared
from .tables import Plan as Plan
from .tracking import write_to_mlflow as write_to_mlflow
from .training import (
    Prepared as Prepared,
    Trained as Trained,
    prepare as prepare,
    train as train,
)
from .triggers import (
    ALERTS as ALERTS,
    Facts as Facts,
    PastRun as PastRun,
    Trigger as Trigger,
    decide as decide,
)
