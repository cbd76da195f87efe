"""``POST /predict``: image files in, labels out; ``POST /invocations`` as MLflow has it."""

import time
from typing import Any

import numpy as np
from fastapi import APIRouter, Query, Request
from numpy.typing import NDArray
from python_multipart.exceptions import FormParserError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from imgclf.model_file import INPUT, OUTPUTS
from imgclf.serving.body import read_body
from imgclf.serving.engine import Engine, Unread
from imgclf.serving.errors import RequestError
from imgclf.serving.protocol import as_pixels, read_json

# Besides image/*; curl's --data-binary says that it sends a form.
_IMAGE_TYPES = ("", "application/octet-stream", "application/x-www-form-urlencoded")
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
    router = APIRouter(tags=["images"])

    @router.post("/predict", openapi_extra=_UPLOAD)
    async def predict(
        request: Request, top_k: int = Query(5, ge=1, le=1000, description="Classes to list.")
    ) -> dict[str, Any]:
        """Classify image files: one as the body, or several as multipart/form-data."""
        started = time.perf_counter()
        named = await _read_files(request, engine)
        loaded = engine.model()
        decoded = await engine.decode(loaded, [file for _, file in named])
        arrays = [pixels for pixels in decoded if not isinstance(pixels, Unread)]
        if not arrays:
            first = next(one for one in decoded if isinstance(one, Unread))
            name = f"{named[0][0]}: " if len(named) > 1 else ""
            raise RequestError(first.status, f"{name}{first.reason}")
        _, probabilities = await engine.answer(loaded, np.stack(arrays))
        read = [
            name
            for (name, _), one in zip(named, decoded, strict=True)
            if not isinstance(one, Unread)
        ]
        answers = iter(loaded.predictor.answers(read, probabilities, top_k))
        predictions = [
            {"image": name, "error": one.reason}
            if isinstance(one, Unread)
            else next(answers).to_dict()
            for (name, _), one in zip(named, decoded, strict=True)
        ]
        return {
            "model": engine.served.name,
            "version": loaded.version,
            "predictions": predictions,
            "milliseconds": round(1000 * (time.perf_counter() - started), 3),
        }

    @router.post("/invocations", openapi_extra=_TENSOR)
    async def invocations(request: Request) -> dict[str, Any]:
        """Answer pixels as ``mlflow models serve`` does: a client of that can switch."""
        body = read_json(await read_body(request, engine.settings.max_body))
        loaded = engine.model()
        pixels = _pixels(body, engine, loaded.card.preprocessing)
        answers = await engine.answer(loaded, pixels)
        return {
            "predictions": {
                name: values.tolist() for name, values in zip(OUTPUTS, answers, strict=True)
            }
        }

    return router


async def _read_files(request: Request, engine: Engine) -> list[tuple[str, bytes]]:
    """Return names and contents of the image files of a request; at least one."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _read_form(request, engine)
    if kind not in _IMAGE_TYPES and not kind.startswith("image/"):
        raise RequestError(
            415, f"Content-Type {kind!r:.80}; send an image file, or several as multipart/form-data"
        )
    body = await read_body(request, engine.settings.max_body)
    if not body:
        raise RequestError(422, "the body is empty; send an image file")
    return [("image", body)]


async def _read_form(request: Request, engine: Engine) -> list[tuple[str, bytes]]:
    # Starlette reads a form from the body, once that is here; so the limits are the same.
    request._body = await read_body(request, engine.settings.max_body)
    most = engine.settings.max_images
    try:
        async with request.form(max_files=most, max_fields=most) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            named = [(_name(file, f"#{n}"), await file.read()) for n, file in enumerate(files)]
    # UnicodeError: the client has named an encoding that there is, and that reads nothing.
    except (HTTPException, FormParserError, UnicodeError) as error:
        reason = str(getattr(error, "detail", error))
        # Starlette tells only in words that there are more than it was to read.
        status = 413 if reason.startswith("Too many") else 400
        raise RequestError(status, f"the form cannot be read: {reason}") from error
    if not named:
        raise RequestError(422, "the form holds no files")
    return named


def _name(file: UploadFile, otherwise: str) -> str:
    """Return a file's name as text that can be written."""
    return (file.filename or otherwise).encode("utf-8", "replace").decode()


def _pixels(body: Any, engine: Engine, size: Any) -> NDArray[np.uint8]:
    """Read MLflow's ``inputs`` or ``instances``."""
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
    most = engine.settings.max_images
    if len(data) > most:
        raise RequestError(413, f"{len(data)} images in one request; the limit is {most}")
    shape = (len(data), size.height, size.width, size.channels)
    return as_pixels(data, shape)
