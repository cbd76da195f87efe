"""``POST /predict``: image files in, labels out; ``POST /invocations`` as MLflow has it."""

import asyncio
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse
from numpy.typing import NDArray
from python_multipart.exceptions import FormParserError
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from imgclf.card import Preprocessing
from imgclf.model_file import INPUT, OUTPUTS
from imgclf.serving.connections import PlacedRoute
from imgclf.serving.engine import Engine, Unread
from imgclf.serving.errors import RequestError, refusals
from imgclf.serving.json_pixels import as_pixels, max_json_bytes, read_json
from imgclf.serving.protocol import check_number
from imgclf.serving.served_model import LoadedModel

# Besides image/*; curl's --data-binary says that it sends a form.
_IMAGE_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")
# Of a form, between two of which others have their turn.
_BYTES_AT_ONCE = 2**16
_IMAGE_FILE = {"schema": {"type": "string", "format": "binary"}}
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": _IMAGE_FILE,
            "application/octet-stream": _IMAGE_FILE,
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "images": {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                }
            },
        },
    }
}
_TENSOR = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "description": "Pixels 0 to 255, [batch, height, width, channels], under"
                    " 'inputs' (alone, or by the name 'image') or under 'instances'.",
                }
            }
        },
    }
}


def images_router(engine: Engine) -> APIRouter:
    """Return the routes that take images and answer labels."""
    router = APIRouter(
        tags=["images"],
        route_class=PlacedRoute,
        responses=refusals(400, 413, 415, 422, 429, 503),
    )
    settings = engine.settings

    @router.post("/predict", openapi_extra=_UPLOAD)
    async def predict(
        request: Request, top_k: int = Query(5, ge=1, le=1000, description="Classes to list.")
    ) -> JSONResponse:
        """Classify image files: one as the body, or several as multipart/form-data."""
        started = time.perf_counter()
        is_form = _is_form(request)
        async with engine.bodies.read(request, settings.max_body) as body:
            if is_form:
                named = await _read_form(request.headers, body, settings.max_images)
            elif body:
                named = [("image", body)]
            else:
                raise RequestError(422, "the body is empty; send an image file")
            loaded = engine.model()
            with engine.admitted(len(named)):
                predictions = await _predict(engine, loaded, named, top_k)
        milliseconds = round(1000 * (time.perf_counter() - started), 3)
        # As a response: FastAPI would look at each value of a dictionary first.
        return JSONResponse(
            {
                "model": engine.served.name,
                "version": loaded.version,
                "predictions": predictions,
                "milliseconds": milliseconds,
            }
        )

    @router.post("/invocations", openapi_extra=_TENSOR)
    async def invocations(request: Request) -> JSONResponse:
        """Answer pixels as ``mlflow models serve`` does: a client of that can switch."""
        loaded = engine.model()
        most, size = settings.max_images, loaded.card.preprocessing
        limit = min(settings.max_body, max_json_bytes(loaded.card, most))
        async with engine.bodies.read(request, limit) as body:
            pixels = await engine.bodies.parse(partial(_parse_pixels, most=most, size=size), body)
            with engine.admitted(len(pixels)):
                answers = await engine.answer(loaded, pixels)
        named = zip(OUTPUTS, answers, strict=True)
        return JSONResponse({"predictions": {name: values.tolist() for name, values in named}})

    return router


async def _predict(
    engine: Engine, loaded: LoadedModel, named: list[tuple[str, bytes]], top_k: int
) -> list[dict[str, Any]]:
    """Return the answers for image files, in order; an error in place of one that is not read.

    Raises:
        RequestError: none of them is read.
    """
    if len(named) == 1:
        ((name, file),) = named
        answers = await engine.answer_file(loaded, file)
        if isinstance(answers, Unread):
            raise RequestError(answers.status, answers.reason)
        (answer,) = loaded.predictor.answers([name], answers[1], top_k)
        return [answer.to_dict()]
    decoded = await engine.decode(loaded, [file for _, file in named])
    arrays = [pixels for pixels in decoded if not isinstance(pixels, Unread)]
    if not arrays:
        first = next(one for one in decoded if isinstance(one, Unread))
        raise RequestError(first.status, f"{named[0][0]}: {first.reason}")
    _, probabilities = await engine.answer(loaded, np.stack(arrays))
    pairs = [(name, one) for (name, _), one in zip(named, decoded, strict=True)]
    read = [name for name, one in pairs if not isinstance(one, Unread)]
    predictions = iter(loaded.predictor.answers(read, probabilities, top_k))
    return [
        {"image": name, "error": one.reason}
        if isinstance(one, Unread)
        else next(predictions).to_dict()
        for name, one in pairs
    ]


def _is_form(request: Request) -> bool:
    """Tell whether a request says that it is a form; else it must be an image."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return True
    if kind not in _IMAGE_TYPES and not kind.startswith("image/"):
        raise RequestError(
            415, f"Content-Type {kind!r:.80}; send an image file, or several as multipart/form-data"
        )
    return False


async def _read_form(headers: Headers, body: bytes, most: int) -> list[tuple[str, bytes]]:
    """Return names and contents of the image files of a form; at least one."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        for start in range(0, len(body), _BYTES_AT_ONCE):
            yield body[start : start + _BYTES_AT_ONCE]
            await asyncio.sleep(0)

    try:
        parser = MultiPartParser(headers, pieces(), max_files=most, max_fields=most)
        # It is in memory already: no file of it goes to the disk, which may be full or read-only.
        parser.spool_max_size = len(body) + 1
        form = await parser.parse()
    # UnicodeError: the client has named an encoding that there is, and that reads nothing.
    except (MultiPartException, FormParserError, UnicodeError) as error:
        reason = str(getattr(error, "message", error))
        # Starlette tells only in words that there are more than it was to read.
        status = 413 if reason.startswith("Too many") else 400
        raise RequestError(status, f"the form cannot be read: {reason}") from error
    try:
        files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
        named = [(_name(file, f"#{n}"), await file.read()) for n, file in enumerate(files)]
    finally:
        await form.close()
    if not named:
        raise RequestError(422, "the form holds no files")
    return named


def _name(file: UploadFile, otherwise: str) -> str:
    """Return a file's name as text that can be written."""
    return (file.filename or otherwise).encode("utf-8", "replace").decode()


def _parse_pixels(content: bytes, most: int, size: Preprocessing) -> NDArray[np.uint8]:
    """Read MLflow's ``inputs`` or ``instances``."""
    body = read_json(content)
    found = [body[key] for key in ("inputs", "instances") if isinstance(body, dict) and key in body]
    if len(found) != 1:
        raise RequestError(400, "give the pixels under 'inputs' or under 'instances'")
    (data,) = found
    if isinstance(data, dict):
        if set(data) != {INPUT}:
            raise RequestError(400, f"the input's name must be '{INPUT}'")
        data = data[INPUT]
    elif isinstance(data, list) and data and all(isinstance(row, dict) for row in data):
        if any(set(row) != {INPUT} for row in data):
            raise RequestError(400, f"the input's name must be '{INPUT}'")
        data = [row[INPUT] for row in data]
    if not isinstance(data, list) or not data:
        raise RequestError(422, "the pixels must be a list of images")
    check_number(len(data), most)
    return as_pixels(data, (len(data), size.height, size.width, size.channels))
