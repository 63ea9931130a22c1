"""Why a vLLM engine failed, in one line; its processes tell only their log."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SILENT = "CRITICAL"
"""The level of vLLM's log unless the user chose one."""
CONFIGURED = "VLLM_LOGGING_CONFIG_PATH"


@contextmanager
def errors_in(log: Path) -> Iterator[None]:
    """Processes that vLLM starts meanwhile write their errors to a file, if nobody listens.

    A forked one has its handler from here, a spawned one reads the configuration.
    """
    if os.environ.get("VLLM_LOGGING_LEVEL") != SILENT or CONFIGURED in os.environ:
        yield
        return
    logger, handler = logging.getLogger("vllm"), logging.FileHandler(log)
    level = logger.level
    config = log.with_suffix(".json")
    config.write_text(
        json.dumps(
            {
                "version": 1,
                "disable_existing_loggers": False,
                "handlers": {"file": {"class": "logging.FileHandler", "filename": str(log)}},
                "loggers": {"vllm": {"handlers": ["file"], "level": "ERROR", "propagate": False}},
            }
        )
    )
    os.environ[CONFIGURED] = str(config)
    logger.setLevel(logging.ERROR)
    logger.addHandler(handler)
    try:
        yield
    finally:
        del os.environ[CONFIGURED]
        logger.setLevel(level)
        logger.removeHandler(handler)
        handler.close()


def cause(log: Path) -> str:
    """The first error in a log of tracebacks: the others follow from it. "": none."""
    text = log.read_text(errors="replace") if log.is_file() else ""
    found = re.search(r"^[\w.]*(?:Error|Exception): .+", text, re.MULTILINE)
    return f"{found[0].strip().rstrip('.')}." if found else ""


def last_line(error: Exception) -> str:
    """An exception's kind and the last line of what it says, without pydantic's advice."""
    lines = [line.split(" [type=")[0].strip().rstrip(".") for line in str(error).splitlines()]
    said = [line for line in lines if line and not line.startswith("For further information")]
    return f"{type(error).__name__}: {said[-1] if said else 'no message'}."
