"""What every request leaves behind: its id, its line in the log, its figures."""

import asyncio
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Receive, Scope, Send

from asgi import Exchange
from imgclf.serving.gate import Gate
from imgclf.serving.measured import Measures
from server_process import IMAGE, Server, figures, slow_request, until


@pytest.mark.parametrize("given", ["mine", "x" * 128, "a b/c:1"])
def test_a_request_keeps_the_id_that_it_came_with(server: Server, given: str):
    response = server.post("/predict", IMAGE, headers={"X-Request-ID": given})
    assert response.headers["X-Request-ID"] == given
    until(lambda: any(entry.get("id") == given for entry in server.log))


@pytest.mark.parametrize("given", ["", "x" * 129, b"\xe4", "tab\tin it"])
def test_what_is_no_id_is_replaced(server: Server, given: Any):
    response = server.post("/predict", IMAGE, headers={"X-Request-ID": given})
    found = response.headers["X-Request-ID"]
    assert len(found) == 16
    assert int(found, 16) >= 0


def test_each_request_is_a_line_of_json_and_health_is_none(server: Server):
    server.get("/v2/health/ready")
    done = server.post("/predict?top_k=1", IMAGE).headers["X-Request-ID"]
    failed = server.get("/n\u00e4chste\nZeile").headers["X-Request-ID"]
    until(lambda: any(entry.get("id") == failed for entry in server.log))
    entries = {entry["id"]: entry for entry in server.log if "id" in entry}
    assert entries[done]["event"] == "request"
    assert entries[done]["level"] == "info"
    assert (entries[done]["method"], entries[done]["path"]) == ("POST", "/predict")
    assert entries[done]["status"] == 200
    assert 0 < entries[done]["milliseconds"] < 30_000
    assert entries[failed]["status"] == 404
    assert entries[failed]["path"] == "/n\u00e4chste\nZeile"
    assert not any(entry.get("path") == "/v2/health/ready" for entry in server.log)
    assert server.other_lines == []


def test_a_client_that_goes_is_logged_and_disturbs_nobody(server: Server):
    counted = ("imgclf_requests_total", "499", "/predict")
    before = figures(server).get(counted, 0)
    with slow_request(server):
        pass
    until(lambda: any(entry.get("status") == 499 for entry in server.log))
    until(lambda: figures(server).get(counted, 0) == before + 1)
    assert server.post("/predict", IMAGE).status_code == 200


def test_figures_count_requests_by_path_and_code_and_have_histograms(server: Server):
    before = figures(server)
    for path, content, status in (
        ("/predict", IMAGE, 200),
        ("/predict", IMAGE, 200),
        ("/predict", b"x", 415),
        ("/v2/models/made-up/infer", b"{}", 404),
        ("/made-up", b"", 404),
    ):
        assert server.post(path, content).status_code == status
    after = figures(server)

    def more(*key: str) -> float:
        return after.get(key, 0.0) - before.get(key, 0.0)

    assert more("imgclf_requests_total", "200", "/predict") == 2
    assert more("imgclf_requests_total", "415", "/predict") == 1
    assert more("imgclf_requests_total", "404", "/v2/models/{name}/infer") == 1
    assert more("imgclf_requests_total", "404", "unknown") == 1
    assert not any("made-up" in part for key in after for part in key)
    assert more("imgclf_request_seconds_count", "/predict") == 3
    assert more("imgclf_request_seconds_bucket", "30.0", "/predict") == 3
    assert more("imgclf_request_seconds_bucket", "+Inf", "/predict") == 3
    assert more("imgclf_batch_images_sum") == 2
    assert more("imgclf_batch_images_bucket", "1.0") == more("imgclf_batch_images_count") == 2
    assert more("imgclf_queue_seconds_count") == 2


def test_a_request_that_the_servers_end_cuts_off_is_counted_as_a_failure():
    async def never_answers(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    measures = Measures(shared=False)

    async def work() -> None:
        exchange = Exchange(Gate(never_answers, measures), "GET", "/")
        await asyncio.sleep(0)
        exchange.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await exchange.task

    asyncio.run(work())
    families = text_string_to_metric_families(measures.text().decode())
    codes = {
        sample.labels["code"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "imgclf_requests_total"
    }
    assert codes == {"500": 1}
