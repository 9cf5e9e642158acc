"""One line per request, as JSON or as text."""

import logging
import sys
import time
from typing import Any

import orjson

__all__: list[str] = []

LOGGER = "neuros_sourceweigher.service"


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, message and the fields of the record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, Any] = {
            "time": _utc(record.created),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
        }
        entry |= getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(entry, default=str).decode()


class TextLines(logging.Formatter):
    """The same fields as plain text."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields = getattr(record, "fields", {})
        pairs = "".join(f" {name}={value}" for name, value in fields.items())
        level = record.levelname.lower()
        line = f"{_utc(record.created)} {level} {record.getMessage()}{pairs}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _utc(seconds: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"


def configure(*, log_json: bool) -> None:
    """Send the log of a server process to its standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if log_json else TextLines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
