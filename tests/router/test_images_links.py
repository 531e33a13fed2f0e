"""Links to files: they work for a while, for who has them, and for nobody else."""

import asyncio
import base64
import errno
import io
import os
import stat
import time
import wave
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from deployments.router import media_store
from deployments.router.endpoint import Content, Example, endpoint
from deployments.router.files import Delivery, File, WithFiles
from deployments.router.media_store import FolderStore, LinkInvalid, MediaNotFound, folder_store
from deployments.settings import RouterArgs
from models.media.formats import MEDIA_TYPES
from models.media.samples import GREY
from models.tasks.upscaling import TASK, UPSCALE, UpscaleRequest

BODY = {"model": "painter", "prompt": "a", "response_format": "url"}


def parts(link: str) -> tuple[str, str, str]:
    """Name, expiry and signature of a link."""
    split = urlsplit(link)
    query = parse_qs(split.query)
    return split.path.rpartition("/")[2], query["expires"][0], query["signature"][0]


async def test_a_link_leads_to_the_picture(image_client, images):
    options = {"model": "painter", "prompt": "a", "extra_body": {"seed": 1}, "output_format": "webp"}
    answer = await image_client.images.generate(**options, response_format="url", n=2)
    inline = await image_client.images.generate(**options, n=2)
    assert [item.b64_json for item in answer.data] == [None, None]
    for item, other in zip(answer.data, inline.data, strict=True):
        response = await images.get(item.url)
        assert response.status_code == 200
        assert response.content == base64.b64decode(other.b64_json)
        assert response.headers["content-type"] == "image/webp"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"].startswith("private, max-age=")
        assert response.headers["content-disposition"].startswith("inline; filename=")
        assert "sandbox" in response.headers["content-security-policy"]


async def test_every_endpoint_gives_links(images, png):
    for path, data in [
        ("/v1/images/edits", {"prompt": "a"}),
        ("/v1/images/variations", {}),
        ("/v1/images/upscales", {}),
        ("/v1/images/styles", {"style": "negative"}),
    ]:
        answer = await images.post(path, data=data | {"response_format": "url"}, files={"image": png()})
        assert (await images.get(answer.json()["data"][0]["url"])).status_code == 200


async def test_a_link_is_below_the_address_that_was_called(images):
    response = await images.post("/v1/images/generations", json=BODY, headers={"host": "pictures.example:8443"})
    assert response.json()["data"][0]["url"].startswith("http://pictures.example:8443/v1/media/")


async def test_a_link_that_was_changed_is_forbidden(images, assert_error):
    answer = (await images.post("/v1/images/generations", json=BODY)).json()
    link = answer["data"][0]["url"]
    name, expires, signature = parts(link)
    later = str(int(expires) + 1000)
    other, forged = (("A" if text[0] != "A" else "B") + text[1:] for text in (name, signature))
    for changed in [
        link.replace(expires, later),
        link.replace(signature, forged),
        link.replace(name, other),
        link.partition("?")[0],
        f"/v1/media/{name}?expires={expires}&signature=",
        f"/v1/media/{name}?expires={expires}&signature=é",
        f"/v1/media/{name}?expires=é%00&signature={signature}",
        f"/v1/media/..%2f.key?expires={expires}&signature={signature}",
        f"/v1/media/.key?expires={expires}&signature={signature}",
    ]:
        response = await images.get(changed)
        if response.status_code != 404:  # a path that is not one of ours at all
            assert_error(response, 403, "invalid_signature")
        assert b"PNG" not in response.content[:8]


async def test_a_link_expires(image_router, open_http, tmp_path, assert_error):
    now = [1_000_000.0]
    store = FolderStore(tmp_path / "a", 60, 1 << 20, clock=lambda: now[0])
    async with open_http(image_router(media=store)) as http:
        link = (await http.post("/v1/images/generations", json=BODY)).json()["data"][0]["url"]
        now[0] += 59
        response = await http.get(link)
        assert response.status_code == 200
        assert response.headers["cache-control"] == "private, max-age=1"
        now[0] += 1
        assert_error(await http.get(link), 404, "not_found")


@pytest.mark.parametrize("path", ["generations", "variations", "upscales"])
async def test_without_a_store_links_are_refused_before_any_work(
    *, image_router, open_http, painter, upscaler, assert_error, png, path
):
    body = {"response_format": "url"}
    body |= {"prompt": "a"} if path == "generations" else {"image": base64.b64encode(png()).decode()}
    async with open_http(image_router(media=None)) as http:
        error = assert_error(await http.post(f"/v1/images/{path}", json=body), 400)
        assert error["param"] == "response_format"
        assert "b64_json" in error["message"]
        assert painter.requests == upscaler.requests == []
        assert_error(await http.get("/v1/media/a.png?expires=1&signature=a"), 404)


def silence() -> bytes:
    """A tenth of a second, as a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setparams((1, 2, 8000, 800, "NONE", ""))
        sound.writeframes(bytes(1600))
    return file.getvalue()


class SoundBody(Delivery):
    model: str | None = None
    raw: bool = False


@pytest.fixture
async def sounds(image_app, open_http):
    """HTTP to a router with an endpoint whose answers are sounds."""

    def to_answer(result, body, spec):
        if body.raw:
            return Content(silence(), "audio/wav", {"x-seconds": "0.1"})
        return WithFiles([File(silence(), "wav", {"seconds": 0.1})], {"model": spec.id})

    image_app.include_router(
        endpoint(
            Example("/v1/sounds", {}),
            TASK,
            UPSCALE,
            SoundBody,
            to_request=lambda body, spec: UpscaleRequest(GREY),
            to_answer=to_answer,
            tag="Sounds",
            summary="Be silent",
        )
    )
    async with open_http(image_app) as client:
        yield client


async def test_a_sound_is_answered_as_it_is_as_base64_or_as_a_link(sounds):
    raw = await sounds.post("/v1/sounds", json={"raw": True})
    assert (raw.content, raw.headers["content-type"], raw.headers["x-seconds"]) == (silence(), "audio/wav", "0.1")
    inline = (await sounds.post("/v1/sounds", json={})).json()
    assert inline["data"] == [{"b64_json": base64.b64encode(silence()).decode(), "seconds": 0.1}]
    assert inline["model"] == "upscaler"
    linked = (await sounds.post("/v1/sounds", json={"response_format": "url"})).json()
    (item,) = linked["data"]
    assert item["seconds"] == 0.1
    response = await sounds.get(item["url"])
    assert (response.status_code, response.content) == (200, silence())
    assert response.headers["content-type"] == "audio/wav"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert parts(item["url"])[0].endswith(".wav")


@pytest.mark.parametrize(("kind", "media_type"), MEDIA_TYPES.items())
async def test_every_format_has_links_of_its_own_type(image_router, open_http, tmp_path, kind, media_type):
    store = FolderStore(tmp_path / "a", 60, 1 << 20)
    async with open_http(image_router(media=store)) as http:
        response = await http.get(await store.put(b"data", kind))
    assert (response.content, response.headers["content-type"]) == (b"data", media_type)


# The store


async def test_expired_files_are_removed(tmp_path):
    store = FolderStore(tmp_path, 60, 1 << 20)
    name = parts(await store.put(b"old", "png"))[0]
    os.utime(tmp_path / name, (time.time() - 61, time.time() - 61))
    store._swept = 0
    new = parts(await store.put(b"new", "png"))[0]
    assert {path.name for path in tmp_path.iterdir()} == {".key", ".usage", new}


async def test_the_oldest_go_when_there_is_no_room(tmp_path):
    store = FolderStore(tmp_path, 3600, 1000)
    links = []
    for age in range(10):
        store._swept = 0
        links.append(parts(await store.put(b"x" * 300, "png")))
        written = time.time() - 100 + age
        os.utime(tmp_path / links[-1][0], (written, written))
    assert sum(path.stat().st_size for path in tmp_path.glob("*.png")) <= 1000
    assert (await store.get(*links[-1]))[0] == b"x" * 300
    with pytest.raises(MediaNotFound):
        await store.get(*links[0])


async def test_the_limit_holds_between_looks_and_for_routers_together(tmp_path):
    now = time.time()
    stores = [FolderStore(tmp_path, 3600, 1000, clock=lambda: now) for _ in range(3)]
    sizes = []
    for _ in range(8):
        links = await asyncio.gather(*[store.put(b"x" * 190, "png") for store in stores])
        sizes.append(sum(path.stat().st_size for path in tmp_path.glob("*.png")))
        assert (await stores[0].get(*parts(links[-1])))[0] == b"x" * 190
    assert max(sizes) == 950


def unwritable(store, monkeypatch):
    store.folder.rename(store.folder.with_name("gone"))


def full(store, monkeypatch):
    def fail(_):
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", fail)


def too_small(store, monkeypatch):
    store.limit = 10


def read_only(store, monkeypatch):
    real = os.open

    def refuse(path, flags, *mode, **options):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "read-only")
        return real(path, flags, *mode, **options)

    monkeypatch.setattr(os, "open", refuse)


@pytest.mark.parametrize("broken", [unwritable, full, too_small, read_only])
async def test_a_picture_that_cannot_be_kept_is_in_the_answer(image_router, open_http, tmp_path, monkeypatch, broken):
    store = FolderStore(tmp_path / "a", 3600, 1 << 20)
    async with open_http(image_router(media=store)) as http:
        kept = (await http.post("/v1/images/generations", json=BODY | {"seed": 1})).json()["data"][0]
        broken(store, monkeypatch)
        answer = await http.post("/v1/images/generations", json=BODY | {"seed": 1, "n": 2})
        monkeypatch.undo()
        assert answer.status_code == 200
        assert [set(item) for item in answer.json()["data"]] == [{"b64_json", "seed"}] * 2
        assert str(tmp_path) not in answer.text
    left = {path.name for folder in tmp_path.iterdir() for path in folder.iterdir()}
    assert left == {".key", ".usage", parts(kept["url"])[0]}
    file = next(tmp_path.glob(f"*/{parts(kept['url'])[0]}"))
    assert base64.b64decode(answer.json()["data"][0]["b64_json"]) == file.read_bytes()


async def test_what_a_router_that_died_left_unfinished_is_removed(tmp_path):
    store = FolderStore(tmp_path, 60, 1000)
    for age, name in [(0, "a"), (media_store.PART_S + 1, "b")]:
        part = tmp_path / f".{name * 24}.png.part"
        part.write_bytes(b"x" * 400)
        os.utime(part, (time.time() - age, time.time() - age))
    for _ in range(3):
        await store.put(b"x" * 500, "png")
    assert sorted(path.stat().st_size for path in tmp_path.glob("[!.]*.png")) == [500]
    assert [path.name for path in tmp_path.glob("*.part")] == [f".{'a' * 24}.png.part"], "it may be being written"


@pytest.mark.parametrize("written", ["", "nonsense", "-5", f"{1 << 60}"])
async def test_a_wrong_count_is_counted_again(tmp_path, written):
    store = FolderStore(tmp_path, 3600, 1000)
    (tmp_path / media_store.USAGE).write_text(written)
    for _ in range(3):
        await store.put(b"x" * 400, "png")
    assert sum(path.stat().st_size for path in tmp_path.glob("*.png")) == 800


@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_a_key_that_others_can_read_costs_the_links(tmp_path, mode):
    folder_store(RouterArgs(media_folder=tmp_path))
    (tmp_path / ".key").chmod(mode)
    assert folder_store(RouterArgs(media_folder=tmp_path)) is None


async def test_what_is_not_ours_in_the_folder_stays(tmp_path):
    (tmp_path / "notes.png").write_bytes(b"x" * 5000)
    store = FolderStore(tmp_path, 60, 100)
    await store.put(b"x" * 90, "png")
    assert (tmp_path / "notes.png").exists()


async def test_another_router_serves_what_this_one_made(tmp_path):
    link = parts(await FolderStore(tmp_path, 60, 1000).put(b"data", "jpeg"))
    assert (await FolderStore(tmp_path, 60, 1000).get(*link))[0] == b"data"
    assert link[0].endswith(".jpeg")


async def test_a_link_of_another_cluster_is_forbidden(tmp_path):
    link = parts(await FolderStore(tmp_path / "a", 60, 1000).put(b"data", "png"))
    with pytest.raises(LinkInvalid):
        await FolderStore(tmp_path / "b", 60, 1000).get(*link)


async def test_the_secret_of_the_environment_is_used_and_not_written(tmp_path, monkeypatch):
    monkeypatch.setenv(media_store.SECRET_VARIABLE, "one")
    store = FolderStore(tmp_path, 60, 1000)
    link = parts(await store.put(b"data", "png"))
    assert not (tmp_path / ".key").exists()
    monkeypatch.setenv(media_store.SECRET_VARIABLE, "two")
    with pytest.raises(LinkInvalid):
        await FolderStore(tmp_path, 60, 1000).get(*link)


async def test_files_are_their_owners_alone(tmp_path):
    folder = tmp_path / "media"
    store = FolderStore(folder, 60, 1000)
    name = parts(await store.put(b"data", "png"))[0]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (folder, folder / ".key", folder / name)]
    assert modes == [0o700, 0o600, 0o600]
    assert len((folder / ".key").read_bytes()) == 64


async def test_names_are_not_guessable(tmp_path):
    store = FolderStore(tmp_path, 60, 1 << 20)
    names = {parts(await store.put(b"a", "png"))[0] for _ in range(50)}
    assert len(names) == 50
    assert {len(name) for name in names} == {28}


def test_the_settings_make_the_store(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path / "home"))
    store = folder_store(RouterArgs())
    assert store is not None
    assert store.folder == tmp_path / "home" / "media"
    assert (store.ttl_s, store.limit) == (3600, 1 << 30)
    own = folder_store(RouterArgs(media_folder=tmp_path / "own", media_ttl_s=5, media_limit_mib=1))
    assert own is not None
    assert (own.folder, own.ttl_s, own.limit) == (tmp_path / "own", 5, 1 << 20)
    assert folder_store(RouterArgs(media_links=False)) is None


def test_a_folder_that_cannot_be_used_costs_the_links_not_the_router(tmp_path):
    (tmp_path / "file").write_text("")
    assert folder_store(RouterArgs(media_folder=Path(tmp_path / "file" / "media"))) is None
