from .exporting import export as export
