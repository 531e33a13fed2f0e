"""What `medley doctor` asks of a model is what its endpoint takes, for every task."""

from medley.look.diagnosis.replicas import smallest_request
from models.catalog import load_catalog
from models.tasks import BY_NAME
from models.tasks.task import Task


async def test_the_endpoints_of_pictures_answer_it(image_app, open_http):
    specs = image_app.state.services.catalog.values()
    assert {spec.task for spec in specs} == {BY_NAME["images"], BY_NAME["upscaling"], BY_NAME["styles"]}
    async with open_http(image_app) as http:
        for spec in specs:
            path, body = smallest_request(spec, spec.id)
            answer = await http.post(path, **body)
            assert answer.status_code == 200, answer.text


def test_every_model_of_the_catalog_can_be_asked():
    for spec in load_catalog().values():
        path, body = smallest_request(spec, spec.id)
        assert path.startswith("/v1/")
        assert body
    assert {spec.task for spec in load_catalog().values()} == set(Task)
