"""The page in real headless Chromium: by mouse, by keyboard, on a phone, with hostile names."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import onnx
import pytest
from PIL import Image

from model_files import write_sealed
from server_process import EXAMPLE, REFERENCE, Server

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """The page of the reference."""
    with opened(browser, server) as page:
        expect(page.locator("#summary")).to_contain_text("classes")
        yield page


@contextmanager
def opened(browser: Any, server: Server, **device: Any) -> Iterator[Any]:
    """Open the page; what it asks of others, or complains of, fails the test."""
    context = browser.new_context(**({"viewport": {"width": 1100, "height": 800}} | device))
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda message: complaints.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    asked: list[str] = []
    page.goto(server.url)
    yield page
    # A refusal by the server is shown by the page; the browser remarks on it as well.
    assert [text for text in complaints if not text.startswith("Failed to load resource")] == []
    assert all(url.startswith((server.url, "blob:", "data:")) for url in asked)
    context.close()


def answer_of(page: Any) -> str:
    """The first label, once there is an answer."""
    page.wait_for_selector("#answer li")
    return page.locator("#answer li .label span").first.inner_text()


def test_a_chosen_file_is_answered_with_bars_and_the_time(page: Any):
    page.set_input_files("#file", EXAMPLE)
    assert answer_of(page) == "1"
    shares = page.locator("#answer li .label span:last-child").all_inner_texts()
    assert len(shares) == 5
    values = [float(text.removesuffix("%")) for text in shares]
    assert values == sorted(values, reverse=True)
    widths = page.locator("#answer .bar div").evaluate_all("bars => bars.map(b => b.style.width)")
    assert [float(width.removesuffix("%")) for width in widths] == values
    assert "ms on the server" in page.locator("#time").inner_text()
    assert page.locator("#shown").is_visible()


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_a_dropped_or_pasted_file_is_answered(page: Any, event: str):
    page.evaluate(
        """([kind, numbers]) => {
            const data = new DataTransfer();
            data.items.add(new File([new Uint8Array(numbers)], "a.png", {type: "image/png"}));
            const options = {bubbles: true, cancelable: true};
            document.body.dispatchEvent(kind === "drop"
                ? new DragEvent("drop", {...options, dataTransfer: data})
                : new ClipboardEvent("paste", {...options, clipboardData: data}));
        }""",
        [event, list(EXAMPLE.read_bytes())],
    )
    assert answer_of(page) == "1"


def test_a_drawn_seven_is_a_seven_wherever_and_however_large_it_is_drawn(page: Any):
    box = page.locator("#canvas").bounding_box()
    for size, left, top in ((1.0, 60, 40), (0.5, 10, 10)):
        page.locator("#clear").click()
        page.mouse.move(box["x"] + left, box["y"] + top)
        page.mouse.down()
        for x, y in ((110, 0), (55, 140)):
            page.mouse.move(box["x"] + left + size * x, box["y"] + top + size * y, steps=8)
        with page.expect_response("**/predict**"):
            page.mouse.up()
        expect(page.locator("#answer .label span").first).to_have_text("7")


def test_a_digit_can_be_drawn_from_the_keyboard(page: Any):
    canvas = page.get_by_role("img", name="Drawing area")
    expect(canvas).to_have_accessible_description(re.compile("arrow keys"))
    canvas.focus()

    def press(*keys: str, times: int = 1) -> None:
        for _ in range(times):
            for key in keys:
                page.keyboard.press(key)

    press("Shift+ArrowDown", times=3)
    press("Delete")
    press("Enter")
    assert page.locator("#problem").inner_text() == "Nothing is drawn yet."
    press("ArrowLeft", times=5)
    press("ArrowUp", times=11)
    press("Shift+ArrowRight", times=10)
    press("Shift+ArrowDown", "Shift+ArrowDown", "Shift+ArrowLeft", times=6)
    press("Enter")
    assert answer_of(page) == "7"
    # What a hand would meet at the edge of the board.
    press("ArrowRight", times=30)
    assert page.locator("#cursor").evaluate("cursor => cursor.style.left") == "100%"


def test_an_empty_drawing_is_not_sent(page: Any):
    page.locator("#ask").click()
    assert page.locator("#problem").inner_text() == "Nothing is drawn yet."


def test_what_is_no_image_is_said_in_words(page: Any):
    page.set_input_files("#file", {"name": "a.png", "mimeType": "image/png", "buffer": b"text"})
    expect(page.locator("#problem")).to_contain_text("not an image")
    assert page.locator("#answer li").count() == 0


@pytest.mark.parametrize(
    ("kind", "body", "shown"),
    [
        ("text/html", "<h1>502 Bad Gateway</h1>", "502 Bad Gateway: the answer is not"),
        ("application/json", '{"message": "no upstream"}', "502 Bad Gateway"),
        ("application/json", "null", "502 Bad Gateway"),
    ],
)
def test_a_proxys_refusal_is_one_clear_line(page: Any, kind: str, body: str, shown: str):
    answer = {"status": 502, "content_type": kind, "body": body}
    page.route("**/predict**", lambda route: route.fulfill(**answer))
    page.set_input_files("#file", EXAMPLE)
    expect(page.locator("#problem")).to_contain_text(shown)
    assert "<" not in page.locator("#problem").inner_text()
    page.unroute("**/predict**")
    page.set_input_files("#file", EXAMPLE)
    assert answer_of(page) == "1"
    assert page.locator("#problem").inner_text() == ""


def test_a_server_that_is_gone_is_said_in_words(page: Any):
    page.route("**/predict**", lambda route: route.abort("connectionrefused"))
    page.set_input_files("#file", EXAMPLE)
    expect(page.locator("#problem")).to_have_text("The server cannot be reached.")


def test_the_card_and_the_proof_open_from_the_keyboard(page: Any):
    reached = []
    for _ in range(8):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
    assert {"file", "canvas", "ask", "clear", "SUMMARY"} <= set(reached)
    page.locator("summary").focus()
    page.keyboard.press("Enter")
    text = page.locator("#card").inner_text()
    assert "same answers, logits within" in text
    assert "golden inputs answered as at the export" in text


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Any):
    page.set_viewport_size({"width": 320, "height": 640})
    page.locator("summary").click()
    page.set_input_files("#file", EXAMPLE)
    answer_of(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    for button in page.locator("button:visible").all():
        assert button.bounding_box()["height"] >= 44


def test_a_finger_draws_and_the_page_stays_where_it_is(browser: Any, server: Server):
    phone = {"width": 390, "height": 500}
    with opened(browser, server, viewport=phone, has_touch=True, is_mobile=True) as page:
        page.locator("#canvas").scroll_into_view_if_needed()
        before = page.evaluate("scrollY")
        box = page.locator("#canvas").bounding_box()
        fingers = page.context.new_cdp_session(page)

        def touch(kind: str, *points: tuple[float, float]) -> None:
            at = [
                {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}
                for x, y in points
            ]
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

        touch("touchStart", (0.5, 0.15))
        for step in range(1, 15):
            touch("touchMove", (0.5, 0.15 + 0.05 * step))
        touch("touchEnd")
        assert page.evaluate("scrollY") == before
        page.locator("#ask").tap()
        assert answer_of(page) == "1"


def test_an_image_larger_than_the_page_fits(page: Any):
    file = BytesIO()
    Image.new("L", (1900, 50)).save(file, "PNG")
    page.set_input_files(
        "#file", {"name": "wide.png", "mimeType": "image/png", "buffer": file.getvalue()}
    )
    answer_of(page)
    shown, drop = page.locator("#shown").bounding_box(), page.locator("#drop").bounding_box()
    assert shown["width"] <= drop["width"]


def test_a_key_is_asked_for_where_one_is_needed_and_what_was_refused_is_sent_again(
    browser: Any, tmp_path: Path
):
    keys = tmp_path / "keys.txt"
    keys.write_text("a-key-that-is-long-enough\nein-schlüssel-ключ", encoding="utf-8")
    with Server(REFERENCE, "--api-key-file", keys) as server, opened(browser, server) as page:
        expect(page.locator("#problem")).to_contain_text("send a key")
        page.set_input_files("#file", EXAMPLE)
        expect(page.locator("#shown")).to_be_visible()
        page.locator("#key").fill("a-key-that-is-wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#keyform")).to_be_visible()
        page.locator("#key").fill("a-key-that-is-long-enough")
        page.keyboard.press("Enter")
        expect(page.locator("#summary")).to_contain_text("classes")
        assert answer_of(page) == "1"
        page.reload()
        page.locator("#key").fill("ein-schlüssel-ключ")
        page.keyboard.press("Enter")
        expect(page.locator("#summary")).to_contain_text("classes")


def test_names_of_classes_are_text_and_never_markup(browser: Any, tmp_path: Path):
    hostile = "<img src=x onerror=alert(1)>&amp;"
    proto = onnx.load(REFERENCE)
    for entry in proto.metadata_props:
        entry.value = entry.value.replace('"1"', json.dumps(hostile))
    write_sealed(proto, tmp_path / "model.onnx")
    with Server(tmp_path / "model.onnx") as server, opened(browser, server) as page:
        expect(page.locator("#summary")).to_contain_text("classes")
        page.set_input_files("#file", EXAMPLE)
        assert answer_of(page) == hostile
        assert page.locator("#answer img").count() == 0
        # They are no digits: there is nothing to draw.
        assert page.locator("#drawing").is_hidden()
