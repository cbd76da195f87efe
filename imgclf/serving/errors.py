"""What is wrong with a request, for whoever has sent it."""


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
