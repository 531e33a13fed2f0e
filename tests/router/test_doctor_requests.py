"""The example of a task, which `medley doctor` and load tests send, is one that its endpoint answers."""

import pytest

from deployments.router.routes import example_of
from models.tasks import TASKS


@pytest.mark.parametrize("model", ["painter", "upscaler", "styler"])
async def test_the_endpoints_of_pictures_answer_it(image_app, open_http, model):
    spec = image_app.state.services.catalog[model]
    example = example_of(spec.task)
    async with open_http(image_app) as http:
        answer = await http.post(example.path, json=example.for_model(model))
    assert answer.status_code == 200, answer.text


def test_every_task_has_one():
    assert [task.name for task in TASKS if example_of(task) is None] == []
