from .finding import FoundSlice as FoundSlice, Sides as Sides, find_slices as find_slices
from .measuring import measure_slices as measure_slices
from .page import slice_blocks as slice_blocks
