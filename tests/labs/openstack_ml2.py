"""What binds every port at once, for neutron without a network behind it: a mechanism driver of its ML2 plugin.

Loaded by neutron from the OpenStack lab's own environment, never by the tests.
"""

from typing import Any

from neutron_lib import constants  # type: ignore[import-not-found]
from neutron_lib.plugins.ml2 import api  # type: ignore[import-not-found]

__all__ = ["BindEverything"]


class BindEverything(api.MechanismDriver):
    """Say of every port that it is plugged."""

    def initialize(self) -> None:
        """Nothing is needed."""

    def bind_port(self, context: Any) -> None:
        """Take the first segment, whatever it is."""
        segment = context.segments_to_bind[0]
        context.set_binding(
            segment[api.ID], "ovs", {"port_filter": False}, status=constants.PORT_STATUS_ACTIVE
        )
