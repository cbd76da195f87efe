"""When a signal is heard. The process is a real one: signals belong to processes."""

import signal
import subprocess
import sys
import threading

import pytest

from imgclf.interruption import interruptions

pytestmark = pytest.mark.faults

PROGRAM = """
import signal, sys, time
from imgclf.interruption import interruptions

outside = signal.getsignal(signal.SIGTERM)
try:
    with interruptions() as interruption:
{body}
finally:
    print("restored", signal.getsignal(signal.SIGTERM) == outside, flush=True)
"""


def run(body: str, *launcher: str) -> tuple[int, str]:
    indented = "\n".join(f"        {line}" for line in body.strip().splitlines())
    command = [*launcher, sys.executable, "-c", PROGRAM.format(body=indented)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_a_signal_is_raised_at_once_where_nothing_holds_it() -> None:
    code, said = run("signal.raise_signal(signal.SIGTERM)\nprint('after')")
    assert (code, said) == (143, "restored True\n")


def test_a_held_signal_is_asked_for_and_raised_at_the_end() -> None:
    code, said = run("""
with interruption.held():
    signal.raise_signal(signal.SIGTERM)
    print("asked", interruption.requested())
print("after")
""")
    assert (code, said) == (143, "asked True\nrestored True\n")


def test_a_part_of_what_is_held_may_be_left_at_once() -> None:
    code, said = run("""
with interruption.held():
    try:
        with interruption.held(waits=False):
            signal.raise_signal(signal.SIGINT)
            print("after")
    except KeyboardInterrupt:
        print("saved")
        raise
""")
    assert code != 0
    assert said == "saved\nrestored True\n"


def test_a_signal_that_waits_keeps_out_of_the_next_such_part() -> None:
    code, said = run("""
with interruption.held():
    signal.raise_signal(signal.SIGTERM)
    with interruption.held(waits=False):
        print("entered")
""")
    assert (code, said) == (143, "restored True\n")


@pytest.mark.skipif(sys.platform == "win32", reason="signals end no process there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asking_twice_leaves_at_once(number: signal.Signals) -> None:
    code, said = run(f"""
with interruption.held():
    signal.raise_signal(signal.{number.name})
    time.sleep(0.2)
    signal.raise_signal(signal.{number.name})
    print("after")
""")
    assert (code, said) == (-number, "")


@pytest.mark.skipif(sys.platform == "win32", reason="signals end no process there")
@pytest.mark.parametrize(
    ("name", "moments", "exit_code"),
    [("SIGTERM", (100.0, 100.001), 143), ("SIGHUP", (100.0, 100.001, 102.0), 129)],
)
def test_a_signal_that_others_repeat_is_one_wish(
    name: str, moments: tuple[float, ...], exit_code: int
) -> None:
    """The shell's ``timeout`` sends to a process and to its group; of a closed terminal the kernel
    tells, then the shell. A process that sleeps hears all of them.
    """
    code, said = run(f"""
clock = 100.0
time.monotonic = lambda: clock
with interruption.held():
    for clock in {moments}:
        signal.raise_signal(signal.{name})
    print("held", flush=True)
""")
    assert (code, said) == (exit_code, "held\nrestored True\n")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no terminals to close there")
def test_what_nohup_has_ignored_stays_ignored() -> None:
    code, said = run("signal.raise_signal(signal.SIGHUP)\nprint('still here')", "nohup")
    assert (code, said) == (0, "still here\nrestored True\n")


@pytest.mark.skipif(sys.platform == "win32", reason="signals end no process there")
def test_what_a_runner_passes_on_is_no_second_wish_unless_it_comes_later() -> None:
    code, said = run("""
clock = 100.0
time.monotonic = lambda: clock
with interruption.held():
    signal.raise_signal(signal.SIGINT)
    for clock in (100.3, 109.0):
        signal.raise_signal(signal.SIGTERM)
        print("held", flush=True)
    clock = 111.0
    signal.raise_signal(signal.SIGTERM)
    print("after")
""")
    assert (code, said) == (-signal.SIGTERM, "held\nheld\n")


def test_in_another_thread_nothing_is_heard() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def look() -> None:
        with interruptions() as interruption, interruption.held():
            seen.append((signal.getsignal(signal.SIGTERM), interruption.requested()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
