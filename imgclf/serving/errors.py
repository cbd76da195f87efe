"""What is wrong with a request, for whoever has sent it."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel


class RequestError(Exception):
    """A request that cannot be answered.

    Args:
        status: HTTP status, 400 to 599.
        message: one line for the client.
        retry_after: seconds after which it may try again; None where trying again is no use.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after = retry_after


class Refusal(BaseModel):
    """The body of every answer that is an error."""

    error: str


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return how the description of a route names the statuses that it may refuse by."""
    return {
        status: {"model": Refusal, "description": HTTPStatus(status).phrase} for status in statuses
    }
