"""How a server is set up: by options that say what stands in one place."""

import dataclasses
import os

import click
import pytest

from imgclf.serve_command import serve
from imgclf.serving.settings import ServerSettings


def test_every_setting_is_an_option_with_its_default():
    options = {
        option.name: option.default
        for option in serve.params
        if isinstance(option, click.Option) and option.name not in ("host", "port")
    }
    fields = dataclasses.fields(ServerSettings)
    assert options == {field.name: field.default for field in fields if field.name != "model"}


def test_settings_reach_another_process_whole():
    settings = ServerSettings(
        "a b/ä.onnx", name="n", workers=3, timeout=0.5, cors_origins=("https://a", "https://b")
    )
    assert ServerSettings.from_json(settings.to_json()) == settings


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not Linux")
def test_sessions_share_the_cores_that_the_server_may_use():
    allowed = os.sched_getaffinity(0)
    assert ServerSettings("m").session_threads == len(allowed)
    assert ServerSettings("m", workers=len(allowed)).session_threads == 1
    assert ServerSettings("m", workers=len(allowed), threads=5).session_threads == 5
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert ServerSettings("m").session_threads == 1
        assert ServerSettings("m", workers=4).session_threads == 1
    finally:
        os.sched_setaffinity(0, allowed)
