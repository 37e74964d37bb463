"""Logging set-up: structlog in front of the standard library, so that uvicorn's lines come out in the same form."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import Processor

from prefixrack_server.config import ServerConfig, describe


def set_up_logging(level: str, log_format: str) -> None:
    """Configure the process's logging once, at start. `log_format` is "text" or "json"; lines go to stderr."""
    shared: list[Processor] = [
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
    handler.setFormatter(_formatter(shared, log_format))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)  # ten lines at every start that say nothing new


def log_config(config: ServerConfig) -> None:
    """Once per server: what it really runs with."""
    structlog.stdlib.get_logger("prefixrack.serve").info("configuration", **describe(config))


def _formatter(shared: list[Processor], log_format: str) -> logging.Formatter:
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
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
