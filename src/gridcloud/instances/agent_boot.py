"""The part of a machine's first boot that starts an agent: how a machine that nobody reaches from outside is reached.

The agent runs as the account of the machine's owner, as a service of systemd. Its token is worth nothing once it has
joined, and its file is gone then: nobody is on the machine before, for the agent is the way in.
"""

from __future__ import annotations

import shlex

from gridcloud.instances.bootstraps import AgentBoot

__all__ = ["render_agent"]

PLACE = "/var/lib/gridcloud-agent"
START = "/usr/local/sbin/gridcloud-agent"
TOKEN = f"{PLACE}/token"
AUTHORITIES = f"{PLACE}/ca.pem"
STATE = f"{PLACE}/state"


def render_agent(agent: AgentBoot, user: str) -> tuple[list[tuple[str, str, str]], str]:
    """Return files (path, content, permissions) that root owns, and a shell line to run as root, once ``user`` is."""
    files = [
        (TOKEN, agent.token.reveal() + "\n", "0600"),
        (START, _render_start(agent), "0755"),
        ("/etc/systemd/system/gridcloud-agent.service", _render_service(user), "0644"),
    ]
    if agent.authorities:
        files.append((AUTHORITIES, agent.authorities.decode(errors="replace"), "0644"))
    run = (
        f"chown {user} {PLACE} {TOKEN} && chmod 700 {PLACE} && "
        "systemctl daemon-reload && systemctl enable --now gridcloud-agent.service"
    )
    return files, run


def _render_start(agent: AgentBoot) -> str:
    door = agent.door
    words = [*door.command, "agent", "bootstrap", door.url, "--token-file", TOKEN, "--state", STATE]
    words += ["--home", "HOME", "--stay"]
    words += ["--ca", AUTHORITIES] if agent.authorities else []
    words += ["--proxy", door.proxy] if door.proxy else []
    line = shlex.join(words).replace("--home HOME", '--home "$HOME"')
    return f"#!/bin/sh\n# This machine is an instance of gridcloud; it is reached by what this begins.\nexec {line}\n"


def _render_service(user: str) -> str:
    # An agent that was told to end has left its service: then the machine goes as well. One that is only stopped, as
    # when the machine is started anew, goes on afterwards.
    left = f'[ "$SERVICE_RESULT" != success ] || [ -e {STATE}/membership.json ] || systemctl poweroff'
    return f"""\
[Unit]
Description=The way in to this machine, which it opens itself
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0
[Service]
User={user}
WorkingDirectory=~
ExecStart={START}
ExecStopPost=+/bin/sh -c '{left}'
Restart=on-failure
RestartSec=5
KillMode=mixed
OOMPolicy=continue
TasksMax=infinity
[Install]
WantedBy=multi-user.target
"""
