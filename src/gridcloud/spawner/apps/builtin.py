"""The applications that need no entry: a desktop, VS Code, RStudio, and the way to Dask's dashboards."""

from __future__ import annotations

from functools import cache

from gridcloud.settings.apps import AppSettings

__all__ = ["DASK_LINK", "built_in"]

DASK_LINK = "DASK_DISTRIBUTED__DASHBOARD__LINK"
"""The variable by which Dask says where its dashboards are reached."""


def _drawn(shapes: str) -> str:
    """Return a picture of 24 by 24 in one colour that light and dark pages both show."""
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="#5c7fa3" stroke-width="2">'
    return f"{head}{shapes}</svg>"


@cache
def built_in() -> dict[str, AppSettings]:
    """Return them by name, in the order of their cards."""
    return {
        "desktop": AppSettings(
            title="Desktop",
            icon=_drawn('<rect x="2" y="4" width="20" height="13" rx="1"/><path d="M8 21h8M12 17v4"/>'),
            command=("{python}", "{files}/desktop.py", "{socket}", "{stream}"),
            install="Have these Debian packages, or their like, installed there: tigervnc-standalone-server, novnc, "
            "dbus, and xfce4 (or icewm, which is small).",
        ),
        "code": AppSettings(
            title="VS Code",
            icon=_drawn('<path d="M9 6l-6 6 6 6M15 6l6 6-6 6"/>'),
            command=(
                "code-server",
                *("--socket", "{socket}", "--socket-mode", "600", "--auth", "none"),
                *("--disable-telemetry", "--disable-update-check", "--ignore-last-opened"),
            ),
            ready="/healthz",
            install="Have code-server installed there: it comes as a Debian package from its own project, or from npm.",
        ),
        "rstudio": AppSettings(
            title="RStudio",
            icon=_drawn('<circle cx="12" cy="12" r="9"/><path d="M9 17V7h4a2.5 2.5 0 0 1 0 5H9m4 0l3 5"/>'),
            command=("{python}", "{files}/rstudio.py", "{socket}", "{base_url}"),
            install="Have RStudio Server of 2024.12 or later installed there, and R.",
        ),
        "dask": AppSettings(
            title="Dask dashboard",
            icon=_drawn('<path d="M3 20V10M9 20V4M15 20v-8M21 20V7"/>'),
            command=("{python}", "{files}/dashboards.py", "{socket}"),
            ready="/ready",
            is_use=False,
        ),
    }
