"""The HTTP API: one app for the private socket and for HTTPS, one shape for every error (RFC 9457)."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import gridcloud
from gridcloud.errors import GridcloudError, InvalidRequest, NotFound
from gridcloud.service import commands, events, instances, offers, providers, sessions
from gridcloud.service.house import House

__all__ = ["build_app"]

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"


def build_app(house: House) -> FastAPI:
    """Return the API over an open house. Its documentation lies at ``/v1/openapi.json``."""
    app = FastAPI(
        title="gridcloud",
        version=gridcloud.__version__,
        openapi_url="/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    app.state.house = house
    for module in (offers, instances, commands, sessions, providers, events):
        app.include_router(module.router, prefix="/v1")
    app.add_exception_handler(GridcloudError, _problem)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _fault)
    return app


async def _problem(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, GridcloudError):
        raise error
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
    return JSONResponse(error.problem(), status_code=error.status, media_type=PROBLEM, headers=headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    words = "; ".join(
        f"{_place(entry['loc'])}: {entry['msg'].removeprefix('Value error, ')}" for entry in error.errors()
    )
    return await _problem(request, InvalidRequest(f"The request is not valid: {words}."))


async def _http(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    problem: GridcloudError = InvalidRequest(f"{request.method} {request.url.path}: {error.detail}")
    if error.status_code == 404:
        problem = NotFound(f"There is nothing at {request.url.path}.")
    return JSONResponse(
        problem.problem(), status_code=error.status_code, media_type=PROBLEM, headers=error.headers
    )


async def _fault(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return await _problem(request, GridcloudError("gridcloud failed; its log tells more."))


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location if part != "body") or "body"
