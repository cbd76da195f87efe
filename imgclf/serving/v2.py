"""The routes of the Open Inference Protocol v2."""

from functools import partial
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from imgclf import __version__
from imgclf.model_file import INPUT, OUTPUTS
from imgclf.serving.body import compress
from imgclf.serving.connections import PlacedRoute
from imgclf.serving.engine import Engine, Unread
from imgclf.serving.errors import RequestError, refusals
from imgclf.serving.json_pixels import max_json_bytes
from imgclf.serving.protocol import (
    EXTENSIONS,
    HEADER_LENGTH,
    InferRequest,
    build_response,
    describe_model,
    parse_request,
)
from imgclf.serving.served_model import LoadedModel

_INPUT = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": {"const": INPUT},
        "datatype": {"enum": ["UINT8", "BYTES"]},
        "shape": {
            "type": "array",
            "items": {"type": "integer", "minimum": 1},
            "minItems": 1,
            "maxItems": 4,
        },
        "data": {"type": "array", "description": "Pixels 0 to 255, flat or nested."},
        "parameters": {
            "type": "object",
            "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
        },
    },
}
_OUTPUT = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"enum": list(OUTPUTS)},
        "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}},
    },
}
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
                        "inputs": {
                            "type": "array",
                            "items": _INPUT,
                            "minItems": 1,
                            "maxItems": 1,
                        },
                        "outputs": {"type": "array", "items": _OUTPUT},
                        "parameters": {
                            "type": "object",
                            "properties": {"binary_data_output": {"type": "boolean"}},
                        },
                    },
                }
            },
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}


_TENSORS = {"schema": {"type": "string", "format": "binary"}}
_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Tensors: as JSON, or behind a head of JSON as they are.",
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["outputs"]}},
            "application/octet-stream": _TENSORS,
        },
        "headers": {
            HEADER_LENGTH: {
                "description": "Bytes of the head of JSON, before binary tensors.",
                "schema": {"type": "integer"},
            }
        },
    },
    **refusals(400, 413, 415, 422, 429),
}


def health_router(engine: Engine) -> APIRouter:
    """Return the routes that tell whether the server lives and can answer."""
    router = APIRouter(tags=["health"])

    @router.get("/v2/health/live")
    async def live() -> dict[str, bool]:
        """Tell that the server runs."""
        return {"live": True}

    # mlflow's server is asked at the last two.
    @router.get("/v2/health/ready", responses=refusals(503))
    @router.get("/ping", include_in_schema=False)
    @router.get("/health", include_in_schema=False)
    async def ready() -> dict[str, bool]:
        """Tell whether the model has answered its golden inputs on this machine."""
        engine.model()
        return {"ready": True}

    return router


def v2_router(engine: Engine) -> APIRouter:
    """Return the routes about the model, and inference."""
    router = APIRouter(
        prefix="/v2",
        tags=["Open Inference Protocol v2"],
        route_class=PlacedRoute,
        responses=refusals(404, 422, 503),
    )

    @router.get("")
    async def server() -> dict[str, Any]:
        """Tell what the server is."""
        return {"name": "imgclf", "version": __version__, "extensions": list(EXTENSIONS)}

    async def respond(request: Request, name: str, version: str) -> Response:
        loaded = _find(engine, name, version)
        card, settings = loaded.card, engine.settings
        length = request.headers.get(HEADER_LENGTH)
        limit = settings.max_body
        if length is None:
            limit = min(limit, max_json_bytes(card, settings.max_images))
        async with engine.bodies.read(request, limit) as body:
            parser = partial(
                parse_request, header_length=length, card=card, max_images=settings.max_images
            )
            asked = await engine.bodies.parse(parser, body)
            with engine.admitted(len(asked.images)):
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

    @router.post("/models/{name}/infer", openapi_extra=_BODY, responses=_ANSWER)
    async def infer(request: Request, name: str) -> Response:
        """Answer pixels, or whole image files."""
        return await respond(request, name, "")

    @router.post("/models/{name}/versions/{version}/infer", openapi_extra=_BODY, responses=_ANSWER)
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
