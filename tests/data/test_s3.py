"""The files of shares in S3, as moto serves it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from gridcloud.data.driver import Storage
from gridcloud.drivers.storages.fsspec import FsspecSettings, FsspecStorage
from tests.data.parts import ObjectStoreContract
from tests.labs.moto import CREDENTIALS, moto_server

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
    with moto_server() as moto:
        yield moto.url


class TestS3(ObjectStoreContract):
    """FsspecStorage over S3."""

    @pytest.fixture
    def storage(self, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Storage:
        import s3fs

        # Where S3's own chain looks for them; in that region a bucket is made without naming one.
        for name, value in {**CREDENTIALS, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        bucket = tmp_path.name.replace("_", "-").lower()
        s3fs.S3FileSystem(endpoint_url=s3).mkdir(bucket)
        options = {"endpoint_url": s3}
        url = f"s3://{bucket}/folder"
        return FsspecStorage(
            FsspecSettings(driver="fsspec", url=url, options=options, spool=tmp_path / "spool")
        )
