"""What dials out goes where it was told to, and tells nobody a password that it was not told to tell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from gridcloud.agents.dialling import Way
from gridcloud.agents.outward import environment_proxy
from gridcloud.errors import Unreachable

Told = list[tuple[str, str | None]]
Serve = Callable[[web.Response], AbstractAsyncContextManager[tuple[str, Told]]]


@pytest.fixture
def serve() -> Serve:
    @asynccontextmanager
    async def serving(answer: web.Response) -> AsyncIterator[tuple[str, Told]]:
        told: Told = []

        async def take(request: web.Request) -> web.Response:
            told.append((request.path, request.headers.get("Authorization")))
            return answer

        app = web.Application()
        app.router.add_get("/{rest:.*}", take)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}", told
        finally:
            await runner.cleanup()

    return serving


@pytest.fixture(autouse=True)
def netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that knows a password for every host, where aiohttp looks for it."""
    (tmp_path / "netrc").write_text("default login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


async def test_no_redirection_is_followed(serve: Serve) -> None:
    async with serve(web.Response()) as (inside, seen):
        redirect = web.Response(status=302, headers={"Location": f"{inside}/latest/meta-data"})
        async with serve(redirect) as (url, told), Way(url).session() as session:
            with pytest.raises(Unreachable, match="redirects elsewhere"):
                await Way(url).open(session, "lab-pc/control")
    assert told == [("/v1/agents/lab-pc/control", None)]
    assert not seen


async def test_a_stream_has_its_own_secret_and_no_other(serve: Serve) -> None:
    async with serve(web.Response(status=404)) as (url, told), Way(url).session() as session:
        with pytest.raises(Unreachable):
            await Way(url).open(session, "streams/1", "shown once")
    assert told == [("/v1/agents/streams/1", "Bearer shown once")]


@pytest.mark.parametrize(
    ("url", "named", "excepted", "proxy"),
    [
        ("https://hub.example", "http://proxy.example:3128", "", "http://proxy.example:3128"),
        ("https://hub.example", "proxy.example:3128", "", "http://proxy.example:3128"),
        ("https://hub.example", "http://ann:pw@proxy.example:3128", "", "http://ann:pw@proxy.example:3128"),
        ("https://hub.example", "http://proxy.example:3128", "localhost,.example", None),
        ("https://10.0.0.5:8443", "http://proxy.example:3128", "10.0.0.5", None),
        ("http://hub.example", "http://proxy.example:3128", "", None),
        ("https://hub.example", "", "", None),
    ],
)
def test_the_proxy_is_that_of_the_environment(
    url: str, named: str, excepted: str, proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", named)
    monkeypatch.setenv("NO_PROXY", excepted)
    found = environment_proxy(url)
    assert (str(found).rstrip("/") if found else None) == proxy
