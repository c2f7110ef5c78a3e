"""Routes that FastAPI analyses when a request comes for them, and not when the process starts.

FastAPI makes models of the parameters and the answer of a route when the route is made. For all
routes of the control process together that takes longer than the rest of its application, and most
processes are asked for few of them. A route here knows its path and its methods from the start,
which is all that finding it takes.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import RLock
from typing import Any

from fastapi.routing import APIRoute
from starlette.routing import compile_path, get_name

_making = RLock()
"""Held while a route is analysed: the document of all routes may be made on another thread."""


class DeferredRoute(APIRoute):
    """A route whose parameters and answer are analysed at its first request.

    Raises what FastAPI raises of declarations that it refuses, then or when the document of the
    API is made.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.path, self.endpoint = path, endpoint
        self.name = options.get("name") or get_name(endpoint)
        self.methods = {method.upper() for method in options.get("methods") or ["GET"]}
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self.include_in_schema = options.get("include_in_schema", True)
        self._options: dict[str, Any] | None = options

    def __getattr__(self, name: str) -> Any:
        """Only of what is not there: all that the analysis gives."""
        with _making:
            if name not in self.__dict__ and self.__dict__.get("_options") is not None:
                options, self._options = self._options, None
                super().__init__(self.path, self.endpoint, **options)  # type: ignore[arg-type]
        if name in self.__dict__:
            return self.__dict__[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
