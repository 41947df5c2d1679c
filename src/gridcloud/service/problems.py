"""Errors as answers: problem documents (RFC 9457), and nothing that was not meant to be told."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from gridcloud.errors import GridcloudError, InvalidRequest, NotFound

__all__ = ["PROBLEM", "answer", "explain_invalid", "tell_problems"]

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"

NAMED = 10
"""Mistakes that one answer names."""


def tell_problems(app: FastAPI) -> None:
    """Answer every error of the app with a problem document."""
    app.add_exception_handler(GridcloudError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _fault)


def answer(
    error: GridcloudError, status: int | None = None, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return the error as a response, with its own status or another."""
    document = error.problem()
    document["status"] = status or error.status
    headers = dict(headers or {})
    if document["status"] == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(document, document["status"], headers, media_type=PROBLEM)


def explain_invalid(mistakes: Sequence[Mapping[str, Any]]) -> str:
    """Say in words where a document is wrong, never what it holds: that may be secret."""
    words = [f"{_place(entry['loc'])}: {_message(entry)}" for entry in mistakes[:NAMED]]
    if len(mistakes) > NAMED:
        words.append(f"and {len(mistakes) - NAMED} more")
    return "; ".join(words)


async def _known(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, GridcloudError):
        raise error
    return answer(error)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    return answer(InvalidRequest(f"The request is not valid: {explain_invalid(error.errors())}."))


async def _http(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    path = request.url.path[:200]
    problem: GridcloudError = InvalidRequest(f"{request.method} {path}: {error.detail}.")
    if error.status_code == HTTPStatus.NOT_FOUND:
        problem = NotFound(f"There is nothing at {path}.")
    return answer(problem, error.status_code, error.headers)


async def _fault(request: Request, error: Exception) -> JSONResponse:
    # Where no server is between (a service within this process) nobody else tells where it failed.
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return answer(GridcloudError("gridcloud failed; its log tells more."))


def _place(location: object) -> str:
    parts = location if isinstance(location, tuple) else (location,)
    return ".".join(str(part)[:100] for part in parts if part != "body") or "body"


def _message(entry: Mapping[str, Any]) -> str:
    if entry.get("type") == "json_invalid":
        return "this is no JSON"
    return str(entry["msg"]).removeprefix("Value error, ")[:300]
