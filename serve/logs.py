"""Log lines with the id of the request they belong to: text for people, or one JSON object a line for collectors.

The id travels in a context variable, so whatever is logged while a request is worked on carries it, also in tasks
that it started. Lines never hold prompts, answers or people's ids. Knows no HTTP.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

from serve.config import LogConfig

ROOT = "palate"
FIELDS = "fields"  # name of the record's own values: logger.info("…", extra={FIELDS: {…}})

current_request_id: ContextVar[str] = ContextVar("palate_request_id", default="")


def configure_logs(config: LogConfig, stream: TextIO | None = None) -> None:
    """Send everything below `palate` to a stream, standard error by default. Calling it again replaces what was set."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonLines() if config.format == "json" else _Text())
    logger = logging.getLogger(ROOT)
    logger.handlers = [handler]
    logger.setLevel(config.level.upper())
    logger.propagate = False


class _Text(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        begin = f"{_time(record)} {record.levelname} {record.name}"
        request_id = current_request_id.get()
        text = f"{begin} {request_id or '-'} {record.getMessage()}"
        fields = " ".join(f"{name}={value}" for name, value in getattr(record, FIELDS, {}).items())
        lines = [text + (f" {fields}" if fields else "")]
        if record.exc_info:
            lines.append(self.formatException(record.exc_info))
        return "\n".join(lines)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request_id = current_request_id.get()
        if request_id:
            line["request_id"] = request_id
        line |= getattr(record, FIELDS, {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
