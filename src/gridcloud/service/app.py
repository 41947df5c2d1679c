"""The HTTP API: one app for the private socket and for HTTPS, one shape for every error (RFC 9457)."""

from __future__ import annotations

from fastapi import FastAPI

import gridcloud
from gridcloud.service import (
    agents,
    authority,
    budgets,
    clusters,
    commands,
    condition,
    configuration,
    courses,
    events,
    files,
    grid,
    grid_leases,
    instances,
    jobs,
    offers,
    overview,
    providers,
    sessions,
    shares,
    stacks,
    tokens,
)
from gridcloud.service.gate import Gate
from gridcloud.service.house import House
from gridcloud.service.problems import tell_problems

__all__ = ["build_app"]


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
    for module in (
        offers,
        instances,
        jobs,
        commands,
        files,
        sessions,
        stacks,
        shares,
        clusters,
        budgets,
        providers,
        configuration,
        courses,
        tokens,
        events,
        agents,
        authority,
        grid,
        grid_leases,
        condition,
        overview,
    ):
        app.include_router(module.router, prefix="/v1")
    app.add_middleware(Gate)
    tell_problems(app)
    return app
