"""The routes of the Open Inference Protocol v2."""

from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from imgclf import __version__
from imgclf.model_file import OUTPUTS
from imgclf.serving.body import compress, read_body
from imgclf.serving.engine import Engine, Unread
from imgclf.serving.errors import RequestError
from imgclf.serving.protocol import (
    EXTENSIONS,
    HEADER_LENGTH,
    InferRequest,
    build_response,
    describe_model,
    parse_request,
)
from imgclf.serving.served_model import LoadedModel

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {"type": "array", "items": {"type": "object"}},
                        "outputs": {"type": "array", "items": {"type": "object"}},
                        "parameters": {"type": "object"},
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


def health_router(engine: Engine) -> APIRouter:
    """Return the routes that tell whether the server lives and can answer."""
    router = APIRouter(prefix="/v2", tags=["health"])

    @router.get("/health/live")
    async def live() -> dict[str, bool]:
        """Tell that the server runs."""
        return {"live": True}

    @router.get("/health/ready")
    async def ready() -> dict[str, bool]:
        """Tell whether the model has answered its golden inputs on this machine."""
        engine.model()
        return {"ready": True}

    return router


def v2_router(engine: Engine) -> APIRouter:
    """Return the routes about the model, and inference."""
    router = APIRouter(prefix="/v2", tags=["Open Inference Protocol v2"])

    @router.get("")
    async def server() -> dict[str, Any]:
        """Tell what the server is."""
        return {"name": "imgclf", "version": __version__, "extensions": list(EXTENSIONS)}

    async def respond(request: Request, name: str, version: str) -> Response:
        loaded = _find(engine, name, version)
        body = await read_body(request, engine.settings.max_body)
        length = request.headers.get(HEADER_LENGTH)
        asked = parse_request(body, length, loaded.card, engine.settings.max_images)
        pixels = await _pixels(engine, loaded, asked)
        answers = await engine.answer(loaded, pixels)
        content, header_length = build_response(
            name, loaded.version, asked, dict(zip(OUTPUTS, answers, strict=True))
        )
        content, headers = compress(content, request.headers.get("accept-encoding", ""))
        if header_length is None:
            return Response(content, media_type="application/json", headers=dict(headers))
        headers = {**headers, HEADER_LENGTH: str(header_length)}
        return Response(content, media_type="application/octet-stream", headers=headers)

    # The protocol has each route about a model with and without its version.

    @router.get("/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        """Tell what the model takes and gives."""
        loaded = _find(engine, name)
        return describe_model(name, loaded.version, loaded.card)

    @router.get("/models/{name}/versions/{version}")
    async def model_version(name: str, version: str) -> dict[str, Any]:
        """Tell what the model takes and gives."""
        return describe_model(name, version, _find(engine, name, version).card)

    @router.get("/models/{name}/ready")
    async def model_ready(name: str) -> dict[str, Any]:
        """Tell whether the model can answer."""
        _find(engine, name)
        return {"name": name, "ready": True}

    @router.get("/models/{name}/versions/{version}/ready")
    async def model_version_ready(name: str, version: str) -> dict[str, Any]:
        """Tell whether the model can answer."""
        _find(engine, name, version)
        return {"name": name, "ready": True}

    @router.post("/models/{name}/infer", openapi_extra=_BODY)
    async def infer(request: Request, name: str) -> Response:
        """Answer pixels, or whole image files."""
        return await respond(request, name, "")

    @router.post("/models/{name}/versions/{version}/infer", openapi_extra=_BODY)
    async def infer_version(request: Request, name: str, version: str) -> Response:
        """Answer pixels, or whole image files."""
        return await respond(request, name, version)

    return router


def _find(engine: Engine, name: str, version: str = "") -> LoadedModel:
    loaded = engine.model()
    if name != engine.served.name:
        raise RequestError(404, f"there is no model {name!r:.80}; there is: {engine.served.name}")
    if version and version != loaded.version:
        raise RequestError(404, f"there is no version {version!r:.80}; there is: {loaded.version}")
    return loaded


async def _pixels(engine: Engine, loaded: LoadedModel, asked: InferRequest) -> NDArray[np.uint8]:
    if isinstance(asked.images, np.ndarray):
        return asked.images
    decoded = await engine.decode(loaded, asked.images)
    arrays = []
    for number, one in enumerate(decoded):
        if isinstance(one, Unread):
            raise RequestError(one.status, f"image {number}: {one.reason}")
        arrays.append(one)
    return np.stack(arrays)
