"""The console: pages for people, served by the control process beside its API.

Pages are HTML from templates; they work without a script, and htmx makes parts of them live. A page
reads views that are pure functions of facts. What a page changes, it asks of the control API in the
same process, with the rights of the person: every action is a documented call (`calling.py`).
"""
