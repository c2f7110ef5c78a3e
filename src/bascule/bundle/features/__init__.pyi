from .filling import AGE as AGE, FilledProgram as FilledProgram
from .port import (
    FEATURES_KIND as FEATURES_KIND,
    STORES as STORES,
    Features as Features,
    FeatureStore as FeatureStore,
    declared as declared,
    features_of as features_of,
    join as join,
    open_store as open_store,
)
