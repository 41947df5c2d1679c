"""The door of SFTP, asked by OpenSSH's sftp, sshfs, rclone, lftp and asyncssh."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import asyncssh
import pytest

from gridcloud.data.model import Rights
from gridcloud.data.shares import Shares, Wish
from tests.data.parts import RW, SFTPAddress, make, run


async def test_reading_and_writing(shares: Shares, sftp: SFTPAddress, folder: Path) -> None:
    secret = (await make(shares, folder, RW)).secret
    data = os.urandom(3 << 20)
    async with sftp.connect(secret) as connection, connection.start_sftp_client() as files:
        async with files.open("a", "wb") as file:
            await file.write(data[: 1 << 20])
            assert not (folder / "a").exists()
            assert (await files.stat("a")).size == 1 << 20
            await file.write(data[1 << 20 :])
        assert (folder / "a").read_bytes() == data
        async with files.open("a", "rb") as file:
            assert await file.read() == data
        async with files.open("a", "r+b") as file:
            await file.seek(5)
            await file.write(b"XYZ")
            assert (folder / "a").read_bytes() == data
        assert (folder / "a").read_bytes() == data[:5] + b"XYZ" + data[8:]
        async with files.open("log", "ab") as file:
            await file.write(b"one")
        async with files.open("log", "ab") as file:
            await file.write(b"two")
        assert (folder / "log").read_bytes() == b"onetwo"
        await files.makedirs("d/e")
        await files.rename("log", "d/e/log")
        assert sorted(one.filename for one in await files.readdir("/d/e")) == [".", "..", "log"]
        with pytest.raises(asyncssh.SFTPFailure):
            await files.rename("a", "d/e/log")
        await files.posix_rename("a", "d/e/log")
        with pytest.raises(asyncssh.SFTPFailure):
            await files.rmdir("d/e")
        await files.remove("d/e/log")
        await files.rmdir("d/e")
        assert await files.realpath("../../d/./x/..") == "/d"
        await files.utime("d", (1_000_000_000, 1_000_000_000))
        assert (await files.stat("d")).mtime == 1_000_000_000


async def test_opening_waits_for_what_was_closed(shares: Shares, sftp: SFTPAddress, folder: Path) -> None:
    """sshfs and others do not wait for the answer to a close."""
    secret = (await make(shares, folder, RW)).secret
    async with sftp.connect(secret) as connection, connection.start_sftp_client() as files:
        for number in range(20):
            name = f"f{number}"
            file = await files.open(name, "wb")
            await file.write(b"one")
            _, again = await asyncio.gather(file.close(), files.open(name, "ab"))
            await again.write(b"two")
            await asyncio.gather(again.close(), files.rename(name, f"d{number}"))
            assert (folder / f"d{number}").read_bytes() == b"onetwo"


async def test_nothing_leads_out(shares: Shares, sftp: SFTPAddress, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (folder / "out").symlink_to(tmp_path)
    secret = (await make(shares, folder, RW)).secret
    async with sftp.connect(secret) as connection, connection.start_sftp_client() as files:
        for path in ("../secret", "/etc/passwd", "out/secret", f"{tmp_path}/secret", "x" * 300, "a\0b"):
            for mode in ("rb", "r+b"):
                with pytest.raises(asyncssh.SFTPError):
                    async with files.open(path, mode):
                        pass
        with pytest.raises(asyncssh.SFTPError):
            await files.symlink("/etc/passwd", "p")
        with pytest.raises(asyncssh.SFTPError):
            await files.readlink("out")
        assert [one.filename for one in await files.readdir(".")] == [".", ".."]
    async with sftp.connect(secret) as connection:
        for work in (
            connection.run("id"),
            connection.create_process(),
            connection.open_connection("127.0.0.1", sftp.port),
        ):
            with pytest.raises((asyncssh.ChannelOpenError, asyncssh.Error)):
                await work


@pytest.mark.parametrize("way", ["connection", "channel"])
async def test_client_that_vanishes_leaves_nothing(
    shares: Shares, sftp: SFTPAddress, folder: Path, way: str
) -> None:
    (folder / "a").write_bytes(b"before")
    secret = (await make(shares, folder, RW)).secret
    async with sftp.connect(secret) as connection:
        files = await connection.start_sftp_client()
        file = await files.open("a", "wb")
        await file.write(b"x" * 100_000)
        assert list(folder.glob(".gridcloud-parts/*"))
        if way == "connection":
            connection.abort()
        else:
            files.exit()
        async with asyncio.timeout(10):
            while list(folder.glob(".gridcloud-parts/*")):  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.01)
    assert (folder / "a").read_bytes() == b"before"


async def test_revoking_cuts(shares: Shares, sftp: SFTPAddress, folder: Path) -> None:
    made = await make(shares, folder)
    async with sftp.connect(made.secret) as connection:
        files = await connection.start_sftp_client()
        await files.readdir(".")
        await shares.revoke(made.share.id)
        async with asyncio.timeout(10):
            await connection.wait_closed()
    with pytest.raises(asyncssh.PermissionDenied):
        async with sftp.connect(made.secret):
            pass


async def test_keys(shares: Shares, sftp: SFTPAddress, folder: Path) -> None:
    key, other = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    made = await make(shares, folder, Wish(keys=(key.export_public_key().decode(),)))
    async with (
        sftp.connect(made.secret, client_keys=[key]) as connection,
        connection.start_sftp_client() as files,
    ):
        assert await files.listdir(".") == [".", ".."]
    for options in ({}, {"client_keys": [other]}, {"password": "x"}):
        with pytest.raises(asyncssh.PermissionDenied):
            async with sftp.connect(made.secret, **options):
                pass


@pytest.mark.skipif(not shutil.which("sftp"), reason="needs OpenSSH's sftp")
async def test_openssh(shares: Shares, sftp: SFTPAddress, folder: Path, tmp_path: Path) -> None:
    secret = (await make(shares, folder, RW)).secret
    data = os.urandom(2 << 20)
    (tmp_path / "up").write_bytes(data)
    (tmp_path / "orders").write_text(
        f"mkdir d\ncd d\nput -p {tmp_path / 'up'} a\nrename a b\nls -l\n"
        f"get b {tmp_path / 'down'}\nrm b\ncd ..\nrmdir d\n"
    )
    words = [
        "sftp",
        "-q",
        *sftp.options,
        "-P",
        str(sftp.port),
        "-b",
        str(tmp_path / "orders"),
        f"{secret}@127.0.0.1",
    ]
    code, said = await run(*words)
    assert code == 0, said
    assert (tmp_path / "down").read_bytes() == data
    assert not list(folder.glob("[!.]*"))


@pytest.mark.needs_root
@pytest.mark.skipif(
    not shutil.which("sshfs") or not os.path.exists("/dev/fuse"), reason="needs sshfs and FUSE"
)
async def test_sshfs(shares: Shares, sftp: SFTPAddress, folder: Path, tmp_path: Path) -> None:
    secret = (await make(shares, folder, RW)).secret
    mount = tmp_path / "mount"
    mount.mkdir()
    words = [f"{secret}@127.0.0.1:/", str(mount), "-p", str(sftp.port), *sftp.options]
    # What stays in the background would keep our pipe open.
    code, said = await run("sh", "-c", 'exec sshfs "$@" > said 2>&1', "sh", *words, folder=tmp_path)
    assert code == 0, said
    try:
        # The folder is entered by the shell: were it by us, the door would wait for itself.
        script = (
            "mkdir d && echo one > d/a && echo two >> d/a && cp d/a d/b && mv d/b d/c && rm d/a && cat d/c"
        )
        code, said = await run("sh", "-ec", f'cd "$0" && {script}', str(mount))
        assert (code, said) == (0, "one\ntwo\n")
        assert (folder / "d" / "c").read_text() == "one\ntwo\n"
        script = "f = open('d/c', 'r+b'); f.seek(1); f.write(b'XX'); f.close(); print(open('d/c').read())"
        code, said = await run("sh", "-ec", 'cd "$0" && exec python3 -c "$1"', str(mount), script)
        assert (code, said) == (0, "oXX\ntwo\n\n")
    finally:
        await run("fusermount", "-u", "-z", str(mount))


@pytest.mark.skipif(not shutil.which("lftp"), reason="needs lftp: apt-get install lftp")
async def test_lftp(shares: Shares, sftp: SFTPAddress, folder: Path, tmp_path: Path) -> None:
    secret = (await make(shares, folder, RW)).secret
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a").write_bytes(os.urandom(200_000))
    ssh = " ".join(["ssh", "-a", "-x", *sftp.options])
    orders = (
        f"set sftp:connect-program '{ssh}'; open -p {sftp.port} sftp://{secret}:@127.0.0.1; "
        f"mirror -R {tmp_path / 'here'} d; cls d"
    )
    code, said = await run("lftp", "-c", orders)
    assert code == 0, said
    assert (folder / "d" / "a").read_bytes() == (tmp_path / "here" / "a").read_bytes()


@pytest.mark.skipif(not shutil.which("rclone"), reason="needs rclone: apt-get install rclone")
async def test_rclone(shares: Shares, sftp: SFTPAddress, folder: Path, tmp_path: Path) -> None:
    made = await make(shares, folder, Wish(rights=Rights.READ_WRITE, password="hunter2"))
    here = tmp_path / "here"
    here.mkdir()
    (here / "a").write_bytes(os.urandom(300_000))
    _, obscured = await run("rclone", "obscure", "hunter2")
    remote = ["--sftp-host", "127.0.0.1", "--sftp-port", str(sftp.port), "--sftp-user", made.secret]
    remote += ["--sftp-pass", obscured.strip(), "--sftp-known-hosts-file", str(sftp.known_hosts)]
    # Debian 12's rclone (1.60) sends more bytes than it says in the last of several writes at the same time, which
    # asyncssh does not take: one at a time, they are right.
    remote += [
        "--config",
        str(tmp_path / "none"),
        "--sftp-disable-hashcheck",
        "--sftp-disable-concurrent-writes",
    ]
    code, said = await run("rclone", "sync", str(here), ":sftp:/", *remote)
    assert code == 0, said
    assert (folder / "a").read_bytes() == (here / "a").read_bytes()
    code, said = await run("rclone", "check", "--download", str(here), ":sftp:/", *remote)
    assert code == 0, said
