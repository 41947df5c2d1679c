"""From what was asked to what is run: the words and files of one job, and the digest of its work. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from gridcloud.errors import InvalidRequest
from gridcloud.jobs.model import Cause, Command, Job, NotebookRun, Order, Work
from gridcloud.settings.request import Request

__all__ = [
    "PARAMETERS",
    "RESULT",
    "UPLOAD",
    "digest_of",
    "environment_of",
    "parameters_of",
    "request_of",
    "words_of",
]

PARAMETERS, RESULT = "parameters.json", "result.json"
"""Files of a job's folder: its parameters, and what it writes itself."""
UPLOAD = "upload:"
"""What a source begins with that was handed over: the SHA-256 of its content follows."""

_PLACEHOLDER = re.compile(r"\{([^\W\d]\w{0,99})\}")


def parameters_of(order: Order, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a job: those of the work, with its own row's over them."""
    return {**order.work.parameters, **row}


def words_of(order: Order, row: Mapping[str, Any], *, resume: bool = False) -> list[str]:
    """Return the words to run. ``{name}`` in a word stands for the parameter of that name; any other braces stay.

    ``resume``: it is not the first attempt.
    """
    run, values = order.work.run, parameters_of(order, row)
    if isinstance(run, NotebookRun):
        # Where the scheduler knows which Python has gridcloud, that one is meant.
        program = ["sh", "-c", 'exec "${GRIDCLOUD_PYTHON:-python3}" "$@"', "sh"]
        program += ["-m", "gridcloud.jobs.execution", run.path, "-o", run.path]
        program += ["--parameters", f"../{PARAMETERS}"]
        every = ["--every"] if run.which == "all" else []
        return [*program, *every, *(["--resume"] if run.resume and resume else [])]

    def fill(found: re.Match[str]) -> str:
        return _spell(values[found[1]]) if found[1] in values else found[0]

    return [_PLACEHOLDER.sub(fill, word) for word in run.words]


def environment_of(order: Order, row: Mapping[str, Any], folder_of_array: str, index: int) -> dict[str, str]:
    """Return the variables of a job's own."""
    told = {"GRIDCLOUD_PARAMETERS": f"../{PARAMETERS}", "GRIDCLOUD_RESULT": RESULT}
    if folder_of_array:
        told |= {"GRIDCLOUD_ARRAY": folder_of_array, "GRIDCLOUD_INDEX": str(index)}
    return {**told, **order.work.environment}


def request_of(order: Order, job: Job) -> Request:
    """Return what a job needs now: twice the memory for each time that it had too little."""
    request = order.request
    return request.model_copy(update={"memory": request.memory << min(job.spent.get(Cause.MEMORY, 0), 20)})


def digest_of(order: Order, row: Mapping[str, Any]) -> str:
    """Return one digest of all that a job's results depend on; empty where an input's content is not known."""
    work: Work = order.work.model_copy(update={"parameters": parameters_of(order, row)})
    if any(not one.source.startswith(UPLOAD) for one in work.inputs):
        return ""
    body = work.model_dump(mode="json")
    if isinstance(work.run, Command):
        body["run"]["words"] = words_of(order, row)
    body["inputs"] = sorted([one.path, one.source] for one in work.inputs)
    text = json.dumps(body, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _spell(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return repr(value)
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"The parameter's value {value!r:.60} can be in no word.") from error
