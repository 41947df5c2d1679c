"""Volumes that hold nothing, for cinder without storage behind it: a volume driver.

Loaded by cinder from the OpenStack lab's own environment, never by the tests.
"""

from typing import Any

from cinder import interface  # type: ignore[import-not-found]
from cinder.volume import driver  # type: ignore[import-not-found]

__all__ = ["KeepNothing"]


@interface.volumedriver
class KeepNothing(driver.VolumeDriver):
    """Say of every volume that it is there."""

    VERSION = "1"

    def check_for_setup_error(self) -> None:
        """Nothing can be wrong."""

    def get_volume_stats(self, refresh: bool = False) -> dict[str, Any]:
        """Return that there is room without end."""
        return {
            "volume_backend_name": "lab",
            "vendor_name": "gridcloud",
            "driver_version": self.VERSION,
            "storage_protocol": "iscsi",
            "total_capacity_gb": "infinite",
            "free_capacity_gb": "infinite",
            "reserved_percentage": 0,
        }

    def clone_image(self, *_: Any) -> tuple[None, bool]:
        """Return that the image is in the volume: nothing has to be copied."""
        return None, True

    def create_volume(self, volume: Any) -> None:
        """Nothing is made."""

    def delete_volume(self, volume: Any) -> None:
        """Nothing is removed."""

    def ensure_export(self, context: Any, volume: Any) -> None:
        """Nothing is shown."""

    def create_export(self, context: Any, volume: Any, connector: Any) -> None:
        """Nothing is shown."""

    def remove_export(self, context: Any, volume: Any) -> None:
        """Nothing was shown."""

    def initialize_connection(self, volume: Any, connector: Any) -> dict[str, Any]:
        """Return what the hypervisor, which plugs nothing, takes."""
        return {"driver_volume_type": "fake_volume", "data": {}}

    def terminate_connection(self, volume: Any, connector: Any, **_: Any) -> None:
        """Nothing was plugged."""
