"""The application: where the server's parts are wired."""

import base64
import hashlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from imgclf import __version__
from imgclf.errors import ImgclfError
from imgclf.serving.deadline import Deadline
from imgclf.serving.engine import Engine
from imgclf.serving.errors import RequestError, refusals
from imgclf.serving.gate import Gate
from imgclf.serving.images import images_router
from imgclf.serving.keys import key_check, read_keys
from imgclf.serving.loading import model_in_service
from imgclf.serving.measured import Measures, log
from imgclf.serving.protocol import HEADER_LENGTH
from imgclf.serving.served_model import ServedModel
from imgclf.serving.settings import ServerSettings
from imgclf.serving.v2 import health_router, v2_router


def create_app(settings: ServerSettings, give_up: Callable[[str], None]) -> Gate:
    """Build the server's application.

    Args:
        settings: how it is set up.
        give_up: is told why, where the model does not prove itself at the start.

    Raises:
        ImgclfError: the keys cannot be read.
    """
    measures = Measures(shared=settings.workers > 1)
    served = ServedModel(
        Path(settings.model), settings.name, settings.session_threads, settings.device
    )
    engine = Engine(settings, served, measures)
    key_guards = _key_guards(settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with model_in_service(settings, served, give_up):
            yield
        engine.close()

    app = FastAPI(
        title="imgclf",
        version=__version__,
        lifespan=lifespan,
        # Their pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        # A redirect would lead to whatever host the request names.
        redirect_slashes=False,
    )
    # Who watches over the server must learn that it lives, however many others ask.
    app.include_router(health_router(engine))
    keyless = refusals(401) if key_guards else {}
    # A request is held against one route after the other.
    for router in (images_router(engine), v2_router(engine)):
        app.include_router(router, dependencies=key_guards, responses=keyless)
    _add_pages(app, engine, measures, key_guards)
    _add_errors(app)
    answering: ASGIApp = Deadline(app, settings.timeout)
    if settings.cors_origins:
        # Around all that answers: pages must be able to read errors as well.
        answering = CORSMiddleware(
            answering,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After", HEADER_LENGTH],
        )
    return Gate(answering, measures)


def _key_guards(settings: ServerSettings) -> list[Any]:
    """Return the dependencies of routes that ask for a key, where there is a file of keys."""
    if not settings.api_key_file:
        return []
    # The first one only describes it: its own errors are not worded as ours.
    described = HTTPBearer(auto_error=False, description="One of the keys of --api-key-file.")
    return [Depends(described), Depends(key_check(read_keys(settings.api_key_file)))]


def _add_pages(app: FastAPI, engine: Engine, measures: Measures, key_guards: list[Any]) -> None:
    page = (files("imgclf.serving") / "page.html").read_text(encoding="utf-8")
    policy = _content_security_policy(page)
    described = refusals(503, *([401] if key_guards else []))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def index() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.get("/model", tags=["images"], dependencies=key_guards, responses=described)
    async def model() -> dict[str, Any]:
        """Tell what the model is, where it comes from, and how it was proved."""
        loaded = engine.model()
        card = loaded.card
        return {
            "name": engine.served.name,
            "version": loaded.version,
            "sha256": loaded.predictor.sha256,
            "classes": list(card.classes),
            "input": {
                "height": card.preprocessing.height,
                "width": card.preprocessing.width,
                "channels": card.preprocessing.channels,
            },
            "temperature": card.temperature,
            "provenance": dict(card.provenance),
            "metrics": dict(card.metrics),
            "parity": dict(card.parity),
            "golden_inputs": loaded.verification.inputs,
            "providers": list(loaded.predictor.providers),
        }

    @app.get("/metrics", include_in_schema=False, dependencies=key_guards)
    async def metrics() -> Response:
        return Response(measures.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _content_security_policy(page: str) -> str:
    """Allow the page's own style and script, by their digests, and nothing from elsewhere."""

    def digest(tag: str) -> str:
        content = page.partition(f"<{tag}>")[2].partition(f"</{tag}>")[0]
        return base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()

    return (
        f"default-src 'none'; style-src 'sha256-{digest('style')}';"
        f" script-src 'sha256-{digest('script')}'; img-src 'self' blob: data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _add_errors(app: FastAPI) -> None:
    """Answer every error as the protocol has it: ``{"error": "..."}``."""

    @app.exception_handler(RequestError)
    async def request_error(_: Request, error: RequestError) -> JSONResponse:
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"error": error.message}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"error": f"{where}: {first['msg']}"}, 422)

    @app.exception_handler(ImgclfError)
    async def model_failed(_: Request, error: ImgclfError) -> JSONResponse:
        log("model failed", logging.ERROR, reason=error.message)
        return JSONResponse({"error": error.message}, 500)

    @app.exception_handler(Exception)
    async def server_failed(_: Request, error: Exception) -> JSONResponse:
        # Starlette raises it once more: the gate writes all of it to the log.
        return JSONResponse({"error": "the server failed; its log has the X-Request-ID"}, 500)
