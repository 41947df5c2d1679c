"""Hours of the week in which a machine may be used, as its owner writes them: ``Mon-Fri 18:00-08:00, Sat-Sun``."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

__all__ = ["Hours"]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY = 24 * 60
WEEK = 7 * DAY


class Hours(BaseModel):
    """Spans of the week in minutes since Monday 0:00, each (begin, end); none: always. One may pass the week's end."""

    model_config = ConfigDict(frozen=True)

    text: str = ""
    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Hours:
        """Read hours; an end that is not later than its begin is on the next day. Raises ValueError."""
        text = " ".join(text.split())
        if len(text) > 300:
            raise ValueError("hours have 300 characters at most")
        spans: list[tuple[int, int]] = []
        for part in filter(None, (part.strip() for part in text.split(","))):
            spans += _read(part)
        return cls(text=text, spans=tuple(spans))

    def is_open(self, at: datetime) -> bool:
        """Whether a moment of the machine's own time is within."""
        return not self.spans or any((_minute(at) - begin) % WEEK < end - begin for begin, end in self.spans)

    def closes(self, at: datetime) -> datetime | None:
        """Return when the hours that a moment is in end; None where they never do, or are over."""
        if not self.spans or not self.is_open(at):
            return None
        moment = at.replace(second=0, microsecond=0)
        for _ in range(len(self.spans) + 1):  # one span may go on in the next
            ends = [
                end - begin - (_minute(moment) - begin) % WEEK
                for begin, end in self.spans
                if (_minute(moment) - begin) % WEEK < end - begin
            ]
            if not ends:
                return moment
            moment += timedelta(minutes=max(ends))
            if moment - at >= timedelta(days=7):
                return None
        return moment


def _minute(at: datetime) -> int:
    return at.weekday() * DAY + at.hour * 60 + at.minute


def _read(part: str) -> list[tuple[int, int]]:
    match = re.fullmatch(
        r"(?i)([a-z]{3})?(?:\s*-\s*([a-z]{3}))?\s*(?:(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d))?", part
    )
    if not match or (match[2] and not match[1]):
        raise ValueError(f"{part!r} are no hours; write for example Mon-Fri 18:00-08:00, Sat-Sun")
    try:
        first = DAYS.index((match[1] or "mon").lower())
        last = DAYS.index((match[2] or match[1] or "sun").lower())
    except ValueError:
        raise ValueError(f"{part!r} names no days of the week: write Mon, Tue, …, Sun") from None
    begin, end = 0, DAY
    if match[3]:
        begin, end = int(match[3]) * 60 + int(match[4]), int(match[5]) * 60 + int(match[6])
        if begin > DAY or end > DAY or int(match[4]) > 59 or int(match[6]) > 59:
            raise ValueError(f"{part!r}: a time is 0:00 to 24:00")
        if end <= begin:
            end += DAY
    days = range(first, last + 1 if last >= first else last + 8)
    return [(day % 7 * DAY + begin, day % 7 * DAY + end) for day in days]
