"""The files of shares in S3, as moto serves it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridcloud.data.driver import Storage
from gridcloud.drivers.storages.fsspec import FsspecSettings, FsspecStorage
from gridcloud.errors import Conflict, GridcloudError
from gridcloud.testing.storages import StorageContract
from tests.services import free_port

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(
        not importlib.util.find_spec("s3fs"), reason="needs s3fs: pip install 'gridcloud[s3]'"
    ),
    pytest.mark.keeps("fsspec's own loop, and its connections, live as long as the program"),
    # What s3fs leaves open when it is collected is its own affair.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Return the URL of an S3 of our own."""
    port = free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        url = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(url).close()
                break
            except OSError:
                time.sleep(0.1)
        yield url
        server.terminate()


class TestS3(StorageContract):
    """FsspecStorage over S3."""

    @pytest.fixture
    def storage(self, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
        import s3fs

        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")  # where S3's own chain looks for them
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        bucket = tmp_path.name.replace("_", "-").lower()
        s3fs.S3FileSystem(endpoint_url=s3).mkdir(bucket)
        options = {"endpoint_url": s3}
        url = f"s3://{bucket}/folder"
        return FsspecStorage(
            FsspecSettings(driver="fsspec", url=url, options=options, spool=tmp_path / "spool")
        )

    @pytest.mark.xfail(strict=True, reason="what is replaced is gone: its reader is told so", raises=Conflict)
    async def test_replacing_is_one_step(self, storage: Storage) -> None:
        await super().test_replacing_is_one_step(storage)

    @pytest.mark.xfail(strict=True, reason="object stores keep their own time", raises=AssertionError)
    async def test_writing_anywhere_and_keeping(self, storage: Storage) -> None:
        await super().test_writing_anywhere_and_keeping(storage)

    @pytest.mark.xfail(strict=True, reason="only names in UTF-8 without line breaks", raises=GridcloudError)
    async def test_strange_names(self, storage: Storage) -> None:
        await super().test_strange_names(storage)
