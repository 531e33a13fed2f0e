"""One router in front of a model of every task, each a real server on its task's fake engine."""

import pytest
from clients import http_client, official_client
from fastapi import FastAPI
from local_dispatcher import LocalDispatcher
from replicas import at_once, started
from small_models import small_model

from deployments.metering import MemoryMeter
from deployments.router.application import create_application
from deployments.router.media_store import FolderStore
from deployments.router.services import Services
from models.catalog import Catalog
from models.tasks import TASKS


@pytest.fixture(scope="session")
def servers():
    models = [small_model(task) for task in TASKS]
    return {model.id: at_once(started(model)) for model in models}


@pytest.fixture(scope="session")
def everything(servers, tmp_path_factory) -> FastAPI:
    """The router. What is asked here changes nothing in it."""
    catalog = Catalog(small_model(task) for task in TASKS)
    media = FolderStore(tmp_path_factory.mktemp("media"), 60, 1 << 20)
    return create_application(Services(catalog, LocalDispatcher(servers), MemoryMeter(), media=media))


@pytest.fixture
async def http(everything):
    async with http_client(everything) as client:
        yield client


@pytest.fixture
async def client(everything):
    """The official client, as the judge of the API. Paths are whole."""
    async with official_client(everything, "") as client:
        yield client
