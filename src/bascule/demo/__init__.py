"""`bascule demo`: a model from training to serving, on real flights, with a report of each step.

The heavy parts are imported by `story` when it runs, so that other commands do not pay for them.
"""

from __future__ import annotations

from bascule.demo.story import run_demo

__all__ = ["run_demo"]
