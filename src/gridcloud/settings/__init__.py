"""One strict configuration file; environment variables and the reference are generated from its models."""

from __future__ import annotations

from gridcloud.settings.budgets import BudgetSettings
from gridcloud.settings.edit import add_provider, remove_provider
from gridcloud.settings.grid import GridSettings
from gridcloud.settings.lending import LendingSettings, LentLimit, LentRoom
from gridcloud.settings.model import (
    DefaultSettings,
    HubSettings,
    LimitSettings,
    ProviderSettings,
    ServiceSettings,
    SessionSettings,
    Settings,
    StoreSettings,
)
from gridcloud.settings.paths import config_path, data_folder, short_folder, socket_path
from gridcloud.settings.reading import SettingsFile, parse_settings, provider_settings
from gridcloud.settings.reference import reference
from gridcloud.settings.values import Duration, Size, format_size, parse_duration, parse_size

__all__ = [
    "BudgetSettings",
    "DefaultSettings",
    "Duration",
    "GridSettings",
    "HubSettings",
    "LendingSettings",
    "LentLimit",
    "LentRoom",
    "LimitSettings",
    "ProviderSettings",
    "ServiceSettings",
    "SessionSettings",
    "Settings",
    "SettingsFile",
    "Size",
    "StoreSettings",
    "add_provider",
    "config_path",
    "data_folder",
    "format_size",
    "parse_duration",
    "parse_settings",
    "parse_size",
    "provider_settings",
    "reference",
    "remove_provider",
    "short_folder",
    "socket_path",
]
