from .finding import Sides as Sides, find_slices as find_slices
from .measuring import measure_slices as measure_slices, slice_blocks as slice_blocks
