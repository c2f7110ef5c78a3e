"""Turn a fitted scikit-learn model into one ONNX graph, with the preprocessing inside.

The rule of the whole folder: a program computes in the precision in which the original computes.
scikit-learn's preprocessing works in double, and a single rounding before a tree can carry a value
over a threshold, so the graph works in double too. Where the original itself rounds (its tree
ensembles cast their input to float), the graph rounds at the same place.
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
