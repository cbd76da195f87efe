"""One of several processes that serve: ``python -m imgclf.serving.worker SETTINGS DESCRIPTOR``."""

import os
import signal
import socket
import sys
import threading

from imgclf.errors import ImgclfError
from imgclf.serving.run import serve_process
from imgclf.serving.settings import ServerSettings


def main() -> None:
    """Serve on the socket that was handed over."""
    settings = ServerSettings.from_json(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with socket.socket(fileno=int(sys.argv[2])) as listener:
        try:
            serve_process(settings, listener)
        except ImgclfError as error:
            sys.exit(f"Error: {error}")


def _end_with_parent() -> None:
    """End as if told to, once the process that has started this one is gone.

    Its end of the pipe is closed then, however it has ended.
    """
    # Not through sys.stdin: its lock, held by a waiting thread, breaks the interpreter's end.
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
