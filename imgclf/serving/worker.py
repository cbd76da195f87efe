"""One of several processes that serve, as `supervisor` starts it.

``python -m imgclf.serving.worker SETTINGS DESCRIPTOR NUMBER``
"""

import os
import signal
import socket
import sys
import threading

from prometheus_client import values

from imgclf.errors import ImgclfError
from imgclf.serving.run import serve_process
from imgclf.serving.settings import ServerSettings


def main() -> None:
    """Serve on the socket that was handed over."""
    text, descriptor, number = sys.argv[1:]
    settings = ServerSettings.from_json(text)
    # A process that takes another's place goes on with its figures. By its process id it would
    # begin files of its own, and those of the dead would grow in number for ever.
    values.ValueClass = values.MultiProcessValue(lambda: number)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with socket.socket(fileno=int(descriptor)) as listener:
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
