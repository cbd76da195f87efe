"""How a server is set up: every setting of `imgclf serve` once, with its default."""

import json
from dataclasses import asdict, dataclass
from typing import Any

from imgclf.cores import available_cores


@dataclass(frozen=True)
class ServerSettings:
    """What a server serves, to whom, and how much of it.

    Attributes:
        model: path of the ``model.onnx``.
        name: what clients call the model; empty for the data set's name on its card.
        device: ``cpu`` or ``cuda``.
        threads: CPU threads of this process's session; 0: the cores over the workers.
        workers: processes that share the port.
        max_connections: clients that each process takes at once. Fewer than the 1024 open files
            that a process usually may have.
        max_body_mb: largest request, in MiB, and largest request once decompressed.
        max_pixels: largest image.
        max_images: images in a request.
        max_batch: images in one call of the model; a larger request takes several.
        max_queue: images in a process that are decoded, wait or are answered; a request past it is
            refused, unless there are none.
        timeout: seconds that a request may take, its reading included.
        api_key_file: holds one key a line; empty: no key is asked for.
        cors_origins: web pages from there may call; none unless named.
        reload: whether a changed file is taken up by itself.
    """

    model: str
    name: str = ""
    device: str = "cpu"
    threads: int = 0
    workers: int = 1
    max_connections: int = 512
    max_body_mb: int = 32
    max_pixels: int = 50_000_000
    max_images: int = 256
    max_batch: int = 32
    max_queue: int = 1024
    timeout: float = 30.0
    api_key_file: str = ""
    cors_origins: tuple[str, ...] = ()
    reload: bool = False

    @property
    def session_threads(self) -> int:
        """CPU threads of each process's session."""
        return self.threads or max(1, available_cores() // self.workers)

    @property
    def max_body(self) -> int:
        """Largest request in bytes."""
        return self.max_body_mb * 2**20

    def to_json(self) -> str:
        """Return the settings for another process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "ServerSettings":
        """Read what `to_json` wrote."""
        values: dict[str, Any] = json.loads(text)
        values["cors_origins"] = tuple(values["cors_origins"])  # JSON knows no tuples
        return cls(**values)
