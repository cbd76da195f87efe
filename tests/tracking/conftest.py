"""A real tracking server, and runs that begin to speak to it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from faulty_proxy import FaultyProxy
from imgclf.tracking import sender
from imgclf.tracking.identity import create_identity
from imgclf.tracking.tracker import Tracker
from tracking_server import TrackingServer, say_beginning


@pytest.fixture(scope="session")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    server = TrackingServer(tmp_path_factory.mktemp("server"))
    yield server
    if server.lives:
        server.kill()


@pytest.fixture
def server(one_server: TrackingServer) -> TrackingServer:
    """A server that answers, whatever was done to it before."""
    if one_server.lives:
        one_server.go_on()
    else:
        one_server.start()
    return one_server


@pytest.fixture
def proxy(server) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(server.address)
    yield proxy
    proxy.close()


@pytest.fixture
def runs_dir(tmp_path: Path, workplace: Path) -> Path:
    """Where a test's runs go, which go to the session's database."""
    return tmp_path / "runs"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run give its server up a second after its end."""
    monkeypatch.setattr("imgclf.tracking.tracker.PATIENCE_SECONDS", 1.0)


@pytest.fixture
def begin(tmp_path, monkeypatch) -> Callable[[str], tuple[Tracker, Path]]:
    """Begin a run that goes to a server, and say what comes before its first epoch."""
    # Machines that run tests may be slow.
    monkeypatch.setattr("imgclf.tracking.tracker.OPENING_SECONDS", 300.0)
    sender.stop_kept_senders()

    def begin_at(address: str) -> tuple[Tracker, Path]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        identity = create_identity(tmp_path / "runs", "train", "", "outage")
        folder = Path(identity.folder)
        tracker = Tracker(identity, folder)
        say_beginning(tracker, folder)
        tracker.wait_until_open()
        return tracker, folder

    return begin_at
