"""The console: pages for people, served by the control process beside its API.

Pages are HTML from templates; they work without a script, and htmx makes parts of them live. What a
page changes, it asks of the control API in the same process, with the rights of the person: every
action is a documented call (`console.calling`).
"""

from lazy_loader import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
