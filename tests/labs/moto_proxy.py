"""What moto does not know of EC2: that one client token starts one machine.

Amazon answers a launch whose token it has seen with the machine that it made then, and refuses the token when anything
else in the request differs: https://docs.aws.amazon.com/ec2/latest/devguide/ec2-api-idempotency.html
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from urllib.parse import parse_qsl

from tests.labs.faults import Answer, FaultyProxy

__all__ = ["MotoProxy", "refusal"]


class MotoProxy(FaultyProxy):
    """A proxy in front of moto that keeps client tokens."""

    def __init__(self, upstream: str) -> None:
        super().__init__(upstream)
        self._launched: dict[str, tuple[dict[str, str], Answer]] = {}
        self._launching = threading.Lock()

    def answer(self, request: str, forward: Callable[[], Answer]) -> Answer:
        """Pass a request on, unless it is a launch that has been made already."""
        words = dict(parse_qsl(request.partition("\n")[2]))
        token = words.get("ClientToken")
        if words.get("Action") != "RunInstances" or not token:
            return forward()
        with self._launching:
            known, answer = self._launched.get(token, (words, None))
            if known != words:
                text = "The client token was used before, with other parameters."
                return (
                    400,
                    {"Content-Type": "text/xml"},
                    refusal("IdempotentParameterMismatch", text).encode(),
                )
            if answer is None:
                answer = forward()
                if answer[0] == 200:
                    self._launched[token] = (words, answer)
            return answer


def refusal(code: str, message: str) -> str:
    """Return the body with which EC2 refuses something."""
    error = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return f"<?xml version='1.0'?><Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>"
