"""What HTTP makes equal: HEAD and GET, with and without a slash at the end."""

import pytest

CHAT = "smollm2-135m-instruct"
PAGES = [
    "/healthz",
    "/readyz",
    "/v1/models",
    f"/v1/models/{CHAT}",
    "/docs",
    "/openapi.json",
    "/nothing",
    "/v1/models/no",
]
POSTS = {
    "/v1/chat/completions": {"model": CHAT, "messages": [{"role": "user", "content": "one"}]},
    "/v1/completions": {"model": CHAT, "prompt": "one"},
    "/v1/embeddings": {"model": "all-minilm-l6-v2", "input": "one"},
    "/tokenize": {"model": CHAT, "prompt": "one"},
    "/v1/estimate": {"model": CHAT},
}


@pytest.fixture
def application(shared_application):
    return shared_application


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("slash", ["", "/"])
async def test_head_is_get_without_a_body(http, path, slash):
    head, get = await http.head(path + slash), await http.get(path)
    assert head.content == b""
    assert head.status_code == get.status_code
    same = ("content-length", "content-type", "allow", "cache-control")
    assert [head.headers.get(name) for name in same] == [get.headers.get(name) for name in same]
    assert head.headers["content-length"] == str(len(get.content))


async def test_head_of_a_link_to_a_file(images, image_client):
    made = await image_client.images.generate(model="painter", prompt="a red circle", response_format="url")
    head, get = await images.head(made.data[0].url), await images.get(made.data[0].url)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"] == "image/png"
    assert head.headers["content-length"] == str(len(get.content))


@pytest.mark.parametrize("path", POSTS)
async def test_a_slash_at_the_end_changes_nothing(http, path):
    with_slash = await http.post(path + "/", json=POSTS[path])
    assert with_slash.status_code == 200, with_slash.text
    assert with_slash.json().keys() == (await http.post(path, json=POSTS[path])).json().keys()


@pytest.mark.parametrize("path", ["/v1/models//", "//", "/v1//models", "/v1/chat/completions//", "//evil.example/"])
async def test_nothing_is_ever_a_redirect(http, assert_error, path):
    assert_error(await http.get("http://medley" + path, follow_redirects=False), 404)


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "PATCH", "FOO"])
async def test_another_method_is_405_and_says_which_is_allowed(http, assert_error, path, method):
    response = await http.request(method, path)
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    if method != "HEAD":
        assert_error(response, 405)
    assert (await http.post("/healthz")).headers["allow"] == "GET, HEAD"
