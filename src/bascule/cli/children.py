"""Questions to modules that run in a process of their own, by the settings of this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bascule.core import answer_parent

if TYPE_CHECKING:
    from bascule.settings import Settings


def told_settings(settings: Settings) -> dict[str, Any]:
    """The settings as JSON, for a process that must have the same."""
    from pydantic import TypeAdapter

    from bascule.settings import Settings as Kind

    told: dict[str, Any] = TypeAdapter(Kind).dump_python(settings, mode="json")
    return told


def answer_with_settings(answer: Callable[[Settings, dict[str, Any]], dict[str, Any]]) -> None:
    """See `core.answer_parent`; the question has `settings`, as `told_settings` gives them."""
    from pydantic import TypeAdapter

    from bascule.settings import Settings as Kind

    def answered(question: dict[str, Any]) -> dict[str, Any]:
        return answer(TypeAdapter(Kind).validate_python(question["settings"]), question)

    answer_parent(answered)
