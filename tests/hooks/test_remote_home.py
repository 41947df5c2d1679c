"""What a login brings becomes a mount, or a refusal; the mount itself is tried with the spawner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gridcloud.drivers.hooks.remote_home import RemoteHomeHook
from gridcloud.errors import GridcloudError, InvalidRequest
from gridcloud.hooks.driver import Hook
from gridcloud.hooks.model import Context
from gridcloud.testing.hooks import HookContract

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nhidden\n-----END OPENSSH PRIVATE KEY-----"
LOGIN = {
    "mount": {"PRIVATEKEY": KEY, "CERTIFICATE": "ssh-ed25519-cert-v01@openssh.com AAAA", "USERNAME": "ada1"}
}


def hook(**changes: Any) -> RemoteHomeHook:
    known = {
        "host": "files.example.org",
        "host_keys": "ssh-ed25519 AAAA",
        "account": "{auth_state.mount.USERNAME}",
        "folder": "/home/{JUPYTERHUB_USER}",
        "key": "{auth_state.mount.PRIVATEKEY}",
        "certificate": "{auth_state.mount.CERTIFICATE}",
        "life": "8h",
    }
    return RemoteHomeHook(RemoteHomeHook.Settings.model_validate(known | changes), Path())


class TestRemoteHome(HookContract):
    @pytest.fixture
    def works(self) -> Hook:
        return hook(optional=True)

    @pytest.fixture
    def refuses(self) -> Hook:
        return hook()


async def test_a_login_with_a_key_becomes_a_mount() -> None:
    given = await hook().run(Context("ada", auth_state=LOGIN))
    (mount,) = given.mounts
    assert (mount.host, mount.account, mount.folder, mount.at) == (
        "files.example.org",
        "ada1",
        "/home/ada",
        "remote",
    )
    assert mount.key.reveal() == KEY + "\n"
    assert mount.life == 8 * 3600
    assert "hidden" not in repr(given)


@pytest.mark.parametrize(
    ("user", "login", "changes"),
    [
        ("ada", {}, {}),
        ("../root", LOGIN, {}),
        ("ada", {"mount": {**LOGIN["mount"], "USERNAME": "-oProxyCommand=id"}}, {}),
        ("ada", {"mount": {**LOGIN["mount"], "PRIVATEKEY": "hidden"}}, {}),
        ("ada", {"mount": {**LOGIN["mount"], "CERTIFICATE": "a\nb"}}, {}),
        ("ada", LOGIN, {"key": KEY}),
        ("ada", LOGIN, {"at": "../{JUPYTERHUB_USER}"}),
    ],
)
async def test_what_is_no_mount_is_refused_and_the_key_not_told(
    user: str, login: dict[str, Any], changes: dict[str, Any]
) -> None:
    with pytest.raises(GridcloudError) as caught:
        await hook(**changes).run(Context(user, auth_state=login))
    assert "hidden" not in str(caught.value)


async def test_without_a_key_it_is_left_out_where_it_is_optional() -> None:
    assert not (await hook(optional=True).run(Context("ada"))).mounts
    with pytest.raises(InvalidRequest, match="Your login did not bring it"):
        await hook().run(Context("ada"))
