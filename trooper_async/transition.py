"""An accepted action as plain data, and the text that it is stored as."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from typing import get_args

from attrs import frozen

from trooper_async.errors import ConfigurationError
from trooper_async.models import Action, OrderStatus, StatusChange, status_word


@frozen
class Transition:
    """An action that the API has accepted, as plain data without secrets: store it, and wait for it later.

    `history_before` is what the history held before a restart was sent (None where it could not be read): a restart
    starts and ends at `running`, so what it is proven by has to be new.
    """

    order_id: int
    action: Action
    target: OrderStatus | str
    history_before: tuple[StatusChange, ...] | None = None
    migration_allowed: bool = False
    """Whether a start may move the server to other hardware, which takes 10 to 90 minutes."""

    def to_json(self) -> str:
        """This transition as JSON text for `from_json`, in another process or a later release too."""
        history = None
        if self.history_before is not None:
            history = [
                {
                    "status": row.status_user,
                    "since": row.status_since and row.status_since.isoformat(),
                    "text": row.status_txt,
                    "id": row.id,
                }
                for row in self.history_before
            ]
        return json.dumps(
            {
                "trooper_transition": 1,
                "order_id": self.order_id,
                "action": self.action,
                "target": self.target,
                "history_before": history,
                "migration_allowed": self.migration_allowed,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Transition:
        """The transition that `to_json` wrote.

        Raises:
            ConfigurationError: the text is not a stored transition, or one of a later release.
        """
        problem = "not a stored Transition (Transition.to_json writes one)"
        # raised outside `suppress`: the exceptions in it hold the text, and would be the context of ours
        with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
            data = json.loads(text)
            if data["trooper_transition"] != 1:
                problem = "this Transition was stored by a later release: update trooper-async"
                raise ValueError
            problem = "this stored Transition is damaged"
            history, migration_allowed = data["history_before"], data["migration_allowed"]
            if type(data["order_id"]) is not int or data["action"] not in get_args(Action):
                raise ValueError
            if not isinstance(history, list | None) or type(migration_allowed) is not bool:
                raise ValueError
            return cls(
                order_id=data["order_id"],
                action=data["action"],
                target=status_word(data["target"]),
                history_before=None if history is None else tuple(map(_stored_row, history)),
                migration_allowed=migration_allowed,
            )
        raise ConfigurationError(problem)


def _stored_row(row: dict[str, str | int | None]) -> StatusChange:
    status, since, text, row_id = row["status"], row["since"], row["text"], row["id"]
    if not isinstance(status, str) or not isinstance(text, str | None) or type(row_id) not in (int, type(None)):
        raise ValueError
    time = None
    if since is not None:
        time = datetime.fromisoformat(since)  # type: ignore[arg-type]  # a number is a TypeError, and that is caught
        time = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return StatusChange(status_word(status), time, text, row_id)  # type: ignore[arg-type]  # checked
