"""Which images a device lacks, who gives them, and the mirror against a stand-in for a registry that wants tokens."""

import gzip
import hashlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

import fleet

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles" / "device_image"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


images = load(ROOT / "plugins" / "filter" / "device_image.py")
DIGEST = "sha256:" + "1" * 64


@pytest.mark.parametrize(
    ("name", "as_docker_lists_it", "public"),
    [
        ("me/rpi:1.4", "me/rpi:1.4", True), ("debian", "debian:latest", True), ("library/debian:1", "debian:1", True),
        ("docker.io/me/rpi:2", "me/rpi:2", True), (f"me/rpi:2@{DIGEST}", f"me/rpi@{DIGEST}", True),
        ("example.org/me/rpi:2", "example.org/me/rpi:2", False), ("example:5000/rpi", "example:5000/rpi:latest", False),
        ("localhost/rpi:1", "localhost/rpi:1", False),
    ],
)  # fmt: skip
def test_a_name_is_read_as_docker_does(name, as_docker_lists_it, public):
    assert images.familiar(name) == as_docker_lists_it and images.is_public(name) == public


@pytest.mark.parametrize("name", ["Me/rpi:1", "me/rpi:", "", "me//rpi", "me/rpi@sha256:12", "me rpi"])
def test_what_is_no_name(name):
    assert images.wrong(images.missing([name], {})) == [name]


def test_what_is_missing():
    assert images.missing(["a:1", "b", "b:latest", f"c:1@{DIGEST}"], {"a:1": "id", "b:1": "id"}) == [
        "b:latest", f"c@{DIGEST}"
    ]  # fmt: skip


def host(machine: str, lacking: list[str], **have: str) -> dict:
    return {"board_found": {"machine": machine, "docker": {"images": have}}, "device_image_lacking": lacking}


def shared(hosts: dict, mirrored: bool = False, known: dict | None = None) -> list[tuple]:
    found = images.shares(hosts, list(hosts), mirrored, known)
    return [(share["image"], share["giver"], share["takers"]) for share in found]


def test_the_first_that_lacks_an_image_gives_it_unless_another_has_it():
    hosts = {name: host("aarch64", ["a:1"]) for name in ("rpi-1", "rpi-2", "rpi-3")}
    assert shared(hosts) == [("a:1", "rpi-1", ["rpi-2", "rpi-3"])]
    hosts["rpi-2"] = host("aarch64", [], **{"a:1": "id"})
    assert shared(hosts) == [("a:1", "rpi-2", ["rpi-1", "rpi-3"])]
    hosts["rpi-1"] = host("armv7l", ["a:1"])
    assert shared(hosts) == [("a:1", "rpi-2", ["rpi-3"])]


def test_a_mirror_has_the_public_registrys_images_only():
    hosts = {name: host("aarch64", ["a:1", "example.org/b:1"]) for name in ("rpi-1", "rpi-2")}
    assert shared(hosts, mirrored=True) == [("example.org/b:1", "rpi-1", ["rpi-2"])]


def test_only_what_the_server_knows_is_shared_and_by_a_device_that_has_it():
    hosts = {name: host("aarch64", ["a:1"]) for name in ("rpi-1", "rpi-2", "rpi-3")}
    hosts["rpi-2"] = host("aarch64", [], **{"a:1": "another"})
    assert shared(hosts, known={}) == shared(hosts, known={"a:1": {"x86_64": ["id"]}}) == []
    assert shared(hosts, known={"a:1": {"": ["id"]}}) == [("a:1", "rpi-1", ["rpi-3"])]
    hosts["rpi-2"] = host("aarch64", [], **{"a:1": "id"})
    assert shared(hosts, known={"a:1": {"aarch64": ["digest", "id"]}}) == [("a:1", "rpi-2", ["rpi-1", "rpi-3"])]
    assert images.shares(hosts, list(hosts), False, {"a:1": {"": ["id"]}})[0]["ids"] == ["id"]


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Answers:
    """A registry's manifests, by repository and reference."""

    def __init__(self, **manifests: bytes) -> None:
        self.manifests = {digest(content): content for content in manifests.values()} | manifests

    def open(self, repository: str, path: str, headers: dict) -> io.BytesIO:
        assert repository == "me/rpi" and "vnd.oci.image.index.v1+json" in headers["Accept"]
        return io.BytesIO(self.manifests[path.removeprefix("manifests/")])


def test_what_a_registry_says_an_image_is():
    known = load(ROOT / "plugins" / "action" / "device_image_known.py")
    one = json.dumps({"config": {"digest": "sha256:c"}}).encode()
    assert known.ask(Answers(latest=one), "me/rpi", "latest") == {"": ["sha256:c", digest(one)]}
    entries = [{"digest": digest(one), "platform": {"architecture": name}} for name in ("arm64", "unknown")]
    index = json.dumps({"manifests": entries}).encode()
    found = known.ask(Answers(one=one, latest=index), "me/rpi", "latest")
    assert found == {"aarch64": [digest(index), "sha256:c", digest(one)]}
    registry = Answers(one=one)
    registry.manifests[digest(one)] = one + b" "
    with pytest.raises(ValueError, match="something else"):
        known.ask(registry, "me/rpi", digest(one))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("me/rpi:2", ("https://index.docker.io", "me/rpi", "2")),
        ("rpi", ("https://index.docker.io", "library/rpi", "latest")),
        (f"me/rpi@{DIGEST}", ("https://index.docker.io", "me/rpi", DIGEST)),
        ("localhost:5000/rpi:1", ("https://localhost:5000", "rpi", "1")),
    ],
)  # fmt: skip
def test_where_an_image_is_asked_for(name, place):
    known = load(ROOT / "plugins" / "action" / "device_image_known.py")
    assert known.where(name, "") == place
    assert known.where("me/rpi:2", "http://10.0.0.1:5000")[0] == "http://10.0.0.1:5000"


CONFIG, EVIL = b'{"rootfs": {"diff_ids": ["sha256:1"]}}', b'{"rootfs": {"diff_ids": ["sha256:2"]}}'


def archive(path: Path, **extra: bytes) -> Path:
    """Write what docker save writes, and more."""
    files = {
        "a/layer.tar": b"layer", "config.json": CONFIG,
        "manifest.json": b'[{"Config": "config.json", "RepoTags": ["me/rpi:2"], "Layers": ["a/layer.tar"]}]',
    }  # fmt: skip
    with tarfile.open(path, "w:gz") as packed:
        for name, content in [*files.items(), *((name.replace("__", "."), extra[name]) for name in extra)]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return path


def test_what_a_device_gives_is_made_an_archive_of_that_image_alone(tmp_path):
    carry = load(ROOT / "plugins" / "action" / "device_image.py")
    id = digest(CONFIG)
    both = [
        {"Config": "evil.json", "RepoTags": ["flwr/supernode:1"], "Layers": ["a/layer.tar"]},
        {"Config": "config.json", "RepoTags": ["me/rpi:2", "other:1"], "Layers": ["a/layer.tar"]},
    ]
    source = archive(
        tmp_path / "given", evil__json=EVIL, index__json=b"{}", repositories=b"{}",
        manifest__json=json.dumps(both).encode(),
    )  # fmt: skip
    assert carry.vet(source, tmp_path / "checked", "me/rpi:2", [id]) == id
    with tarfile.open(tmp_path / "checked") as checked:
        (image,) = json.load(checked.extractfile("manifest.json"))
        assert not {"index.json", "repositories"} & {*checked.getnames()}
        assert image["RepoTags"] == ["me/rpi:2"] and checked.extractfile(image["Config"]).read() == CONFIG
        assert checked.extractfile(image["Layers"][0]).read() == b"layer"
    carry.vet(source, tmp_path / "checked", f"me/rpi@{DIGEST}", [id])
    with tarfile.open(tmp_path / "checked") as checked:
        assert json.load(checked.extractfile("manifest.json"))[0]["RepoTags"] is None


def test_another_image_than_the_registrys_is_not_handed_on(tmp_path):
    carry = load(ROOT / "plugins" / "action" / "device_image.py")
    problem = carry._check(
        archive(tmp_path / "given", config__json=EVIL), tmp_path / "out", "me/rpi:2", [digest(CONFIG)]
    )
    assert f"has another image as me/rpi:2 than the registry ({digest(EVIL)}, not {digest(CONFIG)})" in problem
    (tmp_path / "none").write_bytes(b"no archive")
    (tmp_path / "empty").write_bytes(gzip.compress(b""))
    for name in ("none", "empty"):
        assert "what is no archive of an image" in carry._check(tmp_path / name, tmp_path / "out", "me/rpi:2", ["id"])
    assert list(tmp_path.iterdir()) == []


MANIFEST = b'{"schemaVersion": 2}'


class PublicRegistry(BaseHTTPRequestHandler):
    """Stands for the public registry: wants a token, and sends those who ask for layers to another address."""

    layer = os.urandom(3_000_000)
    breaks: list[int] = []  # after how many bytes an answer breaks off
    says_length = True
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        token, place = self.headers["Authorization"], f"http://127.0.0.1:{self.server.server_port}"
        if self.path.startswith("/token?"):
            assert "scope=repository%3Ame%2Frpi%3Apull" in self.path and "service=public" in self.path
            return self._answer(200, json.dumps({"token": "open"}).encode())
        if self.path.startswith("/storage/"):
            start = int((self.headers["Range"] or "bytes=0-")[6:-1])
            if start >= len(self.layer):
                return self._answer(416, b"")
            if token:
                return self._answer(400, b"a token is not for here")
            return self._answer(206 if start else 200, self.layer[start:])
        if token != "Bearer open":
            challenge = f'Bearer realm="{place}/token",service="public",scope="repository:me/rpi:pull"'
            return self._answer(401, b"", {"WWW-Authenticate": challenge})
        if "/blobs/" in self.path:
            return self._answer(307, b"", {"Location": f"{place}/storage/layer"})
        if self.path.endswith("/manifests/2") or "/manifests/sha256:" in self.path:
            return self._answer(200, MANIFEST, {"Content-Type": "application/json"})
        return self._answer(404, b"")

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        length = {"Content-Length": str(len(content))} if self.says_length else {}
        for name, value in {**(headers or {}), **length}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content[: self.breaks.pop() if self.breaks and len(content) > 1000 else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path) -> Iterator[str]:
    """The address of a mirror of a PublicRegistry."""
    PublicRegistry.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), PublicRegistry) as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        port = fleet.free_port()
        parent = subprocess.Popen(["sleep", "600"])
        command = [sys.executable, ROLE / "files" / "mirror.py", "127.0.0.1", str(port)]
        command += [f"http://127.0.0.1:{upstream.server_port}", tmp_path, str(parent.pid)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert process.stdout.readline() == b"ready\n"
            yield f"http://127.0.0.1:{port}/v2/"
        finally:
            parent.kill()
            parent.wait()
            assert process.wait(fleet.PATIENCE) == 0  # with its parent
            upstream.shutdown()


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=fleet.PATIENCE) as answer:
        return answer.read()


LAYER = f"me/rpi/blobs/sha256:{hashlib.sha256(PublicRegistry.layer).hexdigest()}"


def test_the_mirror_fetches_a_layer_once_for_all_who_ask(mirror):
    with ThreadPoolExecutor(8) as pool:
        assert all(content == PublicRegistry.layer for content in pool.map(get, [mirror + LAYER] * 8))
    assert get(mirror + LAYER) == PublicRegistry.layer
    assert PublicRegistry.asked.count("/storage/layer") == 1
    assert get(mirror + "me/rpi/manifests/2") == MANIFEST


def test_a_registry_that_does_not_say_how_long_its_answers_are(mirror, monkeypatch):
    monkeypatch.setattr(PublicRegistry, "says_length", False)
    assert get(mirror + LAYER) == PublicRegistry.layer and get(mirror + LAYER) == PublicRegistry.layer
    assert PublicRegistry.asked.count("/storage/layer") == 1


def test_a_manifest_that_comes_damaged_is_not_kept(mirror):
    with pytest.raises(urllib.error.HTTPError, match="502"):
        get(mirror + f"me/rpi/manifests/{DIGEST}")
    assert get(mirror + f"me/rpi/manifests/sha256:{hashlib.sha256(MANIFEST).hexdigest()}") == MANIFEST


def test_a_download_that_ends_while_it_is_looked_for_is_not_begun_again(tmp_path, monkeypatch):
    may_come, exists = threading.Event(), Path.exists

    class Answer(io.BytesIO):
        status, headers = 200, {"Content-Length": "5"}

    class Upstream:
        asked = 0

        def open(self, *_: object) -> Answer:
            self.asked += 1
            assert may_come.wait(fleet.PATIENCE)
            return Answer(b"layer")

    def exists_before_the_download_ends(path: Path) -> bool:
        found = exists(path)
        if threading.current_thread() is threading.main_thread():
            may_come.set()
            first.join(fleet.PATIENCE)
        return found

    upstream, digest = Upstream(), f"sha256:{hashlib.sha256(b'layer').hexdigest()}"
    source = load(ROLE / "files" / "mirror.py").Mirror(upstream, tmp_path)
    first = source.blob("me/rpi", digest)
    monkeypatch.setattr(Path, "exists", exists_before_the_download_ends)
    second = source.blob("me/rpi", digest)
    may_come.set()
    assert b"".join(second.pieces(0)) == b"layer" and upstream.asked == 1


def test_a_download_that_breaks_off_goes_on(mirror):
    PublicRegistry.breaks[:] = [1_000_000]
    assert get(mirror + LAYER) == PublicRegistry.layer
    assert PublicRegistry.asked.count("/storage/layer") == 2 and not PublicRegistry.breaks


@pytest.mark.parametrize("there", [PublicRegistry.layer[:1_000_000], PublicRegistry.layer])
def test_a_download_of_an_earlier_mirror_goes_on(mirror, tmp_path, there):
    (tmp_path / LAYER.rpartition("/")[2].replace(":", "-")).with_suffix(".part").write_bytes(there)
    assert get(mirror + LAYER) == PublicRegistry.layer


@pytest.mark.parametrize("path", ["me/rpi/manifests/3", "../etc/passwd", "me/rpi/blobs/../../x", "_catalog"])
def test_what_the_registry_does_not_have_the_mirror_does_not_have(mirror, path):
    with pytest.raises(urllib.error.HTTPError, match="404"):
        get(mirror + path)


def test_a_layer_that_comes_damaged_is_not_kept(mirror, tmp_path):
    assert get(mirror + "me/rpi/blobs/" + DIGEST) == PublicRegistry.layer  # which the engine finds out
    fleet.wait_until(lambda: not list(tmp_path.glob("sha256-*")), fleet.PATIENCE, "the layer to be gone")
