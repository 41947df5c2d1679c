"""The options of a request, made from the fields of `Request`: one place says what can be asked for."""

from __future__ import annotations

import inspect
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from gridcloud.errors import InvalidRequest
from gridcloud.instances.model import Kind, Request

__all__ = ["collect", "parameters"]


def parameters() -> list[inspect.Parameter]:
    """Return an option for each field; all but flags are text here, for `Request` itself reads them."""
    return [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(name, field)
        )
        for name, field in Request.model_fields.items()
    ]


def collect(values: dict[str, Any]) -> Request:
    """Take the request's options out of ``values`` and return the request. Raises InvalidRequest."""
    given = {name: values.pop(name) for name in Request.model_fields}
    try:
        return Request.model_validate({name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        told = [
            f"{_flag(str(fault['loc'][0]))}: {fault['msg'].removeprefix('Value error, ')}."
            for fault in error.errors(include_url=False)
        ]
        raise InvalidRequest(" ".join(told), remedy="Options are explained by --help.") from None


def _annotation(name: str, field: FieldInfo) -> Any:
    switch = field.annotation is bool
    option = typer.Option(
        _flag(name),
        help=_sentence(field.description or name),
        metavar=None if switch else name.rpartition("_")[2].upper(),
        autocompletion=_completions.get(name),
        rich_help_panel="What is asked for",
    )
    return Annotated[bool | None if switch else str | None, option]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _kinds() -> list[str]:
    return [str(kind) for kind in Kind]


def _providers() -> list[str]:
    from gridcloud.cli.completion import providers

    return providers()


_completions: dict[str, Any] = {"kind": _kinds, "on": _providers}
