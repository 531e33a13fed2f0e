"""vLLM's set-up of logging must not silence the replica."""

import logging
import logging.config
import logging.handlers

from deployments.servers.chat_vllm import log_handlers_kept


def test_lines_are_still_written_after_a_library_configured_logging(tmp_path):
    logger = logging.getLogger("ray.serve")
    file = logging.handlers.RotatingFileHandler(tmp_path / "replica.log")
    buffer = logging.handlers.MemoryHandler(1, target=file)
    logger.addHandler(buffer)
    try:
        with log_handlers_kept():
            logging.config.dictConfig({"version": 1, "disable_existing_loggers": False})
        logger.error("still here")
    finally:
        logger.removeHandler(buffer)
        file.close()
    assert "still here" in (tmp_path / "replica.log").read_text()
