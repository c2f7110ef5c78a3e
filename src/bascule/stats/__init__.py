"""Statistics: conformal prediction, mergeable profiles, paired comparisons. Pure: no I/O.

Import what is needed from its module. `conformal` and `sketches` need numpy alone, so that a
serving worker can use them.
"""
