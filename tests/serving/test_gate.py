"""What every request leaves behind: its id, its line in the log, its figures."""

from typing import Any

import pytest

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
    with slow_request(server):
        pass
    until(lambda: any(entry.get("status") == 499 for entry in server.log))
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
