from .importances import measure_importances as measure_importances
from .making import Explained as Explained, Sources as Sources, explain as explain
from .sampling import SAMPLED_BACKGROUND as SAMPLED_BACKGROUND
