"""Whom a request may be for: no page in a browser reaches a cluster on its reader's machine under a name of its own."""

import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse

from deployments.router.application import create_application
from deployments.router.services import Services
from deployments.settings import RouterArgs
from models.catalog import load_catalog

LOCAL = ("localhost", "*.localhost")


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8000",
        "localhost.",
        "app.localhost:8000",
        "127.0.0.1",
        "127.0.0.1:8000",
        "[::1]",
        "[::1]:8000",
        "10.1.2.3:80",
        "192.168.0.7",
    ],
)
async def test_local_names_and_addresses_are_answered(router, host):
    async with router(allowed_hosts=LOCAL) as http:
        assert (await http.get("/healthz", headers={"host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "evillocalhost",
        "127.0.0.1.nip.io",
        "127.0.0.1@evil.example",
        "[::1].evil.example",
        "localhost:80@evil.example",
        "::1",
        "0x7f.1.example",
        "\xff",
        "a b",
        "-",
    ],
)
@pytest.mark.parametrize("path", ["/healthz", "/v1/chat/completions", "/nothing"])
async def test_other_names_are_refused_whatever_is_asked(router, assert_error, host, path):
    async with router(allowed_hosts=LOCAL) as http:
        for method in ("GET", "POST", "OPTIONS"):
            response = await http.request(method, path, headers={"host": host.encode("latin-1")})
            assert "allowed_hosts" in assert_error(response, 421, "wrong_host")["message"]


async def test_by_default_every_name_is_answered(http):
    assert (await http.get("/healthz", headers={"host": "medley.example.com"})).status_code == 200


async def test_names_below_a_domain(router):
    async with router(allowed_hosts=("*.example.com", "api.example.org")) as http:
        for host, status in [
            ("a.b.example.com", 200),
            ("example.com", 421),
            ("api.example.org:443", 200),
            ("org", 421),
            ("localhost", 421),
        ]:
            assert (await http.get("/healthz", headers={"host": host})).status_code == status


def test_a_websocket_for_another_host_is_denied(services):
    application = create_application(Services(load_catalog(), services.dispatcher, allowed_hosts=LOCAL))
    with pytest.raises(WebSocketDenialResponse) as caught, TestClient(application).websocket_connect("/any"):
        pass
    assert caught.value.status_code == 421


@pytest.mark.parametrize("name", ["http://a", "a:80", "", "*", "a/b", "a b", "**.a"])
def test_what_is_no_name_is_refused_in_the_config(name):
    with pytest.raises(ValueError, match="allowed_hosts"):
        RouterArgs(allowed_hosts=(name,))
