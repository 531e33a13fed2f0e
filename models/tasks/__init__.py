"""What models do. Each task is one contract, and stands once in this list.

Everything else that a task has is found by its name; see parts.py.
"""

from typing import Any

from models.tasks import chat, embeddings, images, styles, upscaling
from models.tasks.task import Task

TASKS: tuple[Task[Any], ...] = (chat.TASK, embeddings.TASK, images.TASK, upscaling.TASK, styles.TASK)

BY_NAME = {task.name: task for task in TASKS}
