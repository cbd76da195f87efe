"""A process that decodes image files: ``python -m imgclf.data.decode_worker``.

Its argument is the `Preprocessing` of the pixels as JSON. Each line of standard input is a JSON
list of paths, and is answered by a line of JSON, the outcomes, and by the pixels as they are. It
ends with its input, and so with the process that has started it, however that goes.
"""

import json
import os
import sys
from pathlib import Path

from imgclf.card import Preprocessing
from imgclf.data.decode import decode_batch


def main() -> None:
    """Answer until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    # What a library prints must not get between the pixels.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    stored = Preprocessing(**json.loads(sys.argv[1]))
    for request in sys.stdin.buffer:
        pixels, outcomes = decode_batch([Path(path) for path in json.loads(request)], stored)
        try:
            answers.write(json.dumps(outcomes).encode() + b"\n")
            answers.write(pixels.data)
            answers.flush()
        except BrokenPipeError:
            os._exit(0)  # nobody waits for answers any more, nor for what is still buffered


if __name__ == "__main__":
    main()
