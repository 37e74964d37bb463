"""Logging set-up: structlog in front of the standard library, so that uvicorn's lines come out in the same form.

Nothing of an input is logged. What is written on purpose has none; the messages of exceptions may quote what they
failed on, so inside a request they are left out, unless the level is "debug".
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import structlog
from opentelemetry import trace
from structlog.typing import EventDict, Processor

from prefixrack_server.config import ServerConfig, describe
from prefixrack_server.request_context import REQUEST_ID


def set_up_logging(level: str, log_format: str) -> None:
    """Configure the process's logging once, at start. `log_format` is "text" or "json"; lines go to stderr."""
    shared: list[Processor] = [
        add_request_id,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(shared, log_format, shows_messages=level == "debug"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)  # ten lines at every start that say nothing new


def log_config(config: ServerConfig) -> None:
    """Once per server: what it really runs with."""
    structlog.stdlib.get_logger("prefixrack.serve").info("configuration", **describe(config))


def add_request_id(_: Any, __: str, event: EventDict) -> EventDict:
    """Which request a line is about, and its trace where there is one."""
    request_id = REQUEST_ID.get()
    if request_id:
        event.setdefault("request_id", request_id)
        context = trace.get_current_span().get_span_context()
        if context.is_valid:
            event["trace_id"] = trace.format_trace_id(context.trace_id)
    return event


def withhold_messages(_: Any, __: str, event: EventDict) -> EventDict:
    """Inside a request, an exception is its types and places: a message may quote an input."""
    info = event.get("exc_info")
    if not info or not event.get("request_id"):
        return event
    error = info if isinstance(info, BaseException) else (info if isinstance(info, tuple) else sys.exc_info())[1]
    if error is not None:
        event["exc_info"] = None
        event["exception"] = "\n".join(_without_message(one) for one in _chain(error))
    return event


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The first cause first, as Python prints them."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None:
        yield from _chain(before)
    yield error


def _without_message(error: BaseException) -> str:
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    places = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    return f"{kind} (its message is shown with http.log_level debug)\n{places}"


def _formatter(shared: list[Processor], log_format: str, shows_messages: bool) -> logging.Formatter:
    last: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if log_format == "json"
        # rich's tracebacks take a second each, on the event loop's thread
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *([] if shows_messages else [withhold_messages]),
            *last,
        ],
    )
