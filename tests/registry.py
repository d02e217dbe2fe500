"""Images of a test's own in the registry of a rehearsal, and what leaves that registry."""

import gzip
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import urllib.request

from boards import docker

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


class Registry:
    """The registry at an address, in the container `container`."""

    def __init__(self, address: str, container: str) -> None:
        self.url, self.container = f"http://{address}:5000", container

    def publish(self, name: str, layers: int, size: int, architecture: str = "amd64") -> tuple[str, int]:
        """Push an image with so many layers of so many random bytes; return its digest and its bytes."""
        repository, _, tag = name.partition(":")
        content = [_layer(f"file-{number}", os.urandom(size)) for number in range(layers)]
        config = json.dumps({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["/none"]},
            "rootfs": {"type": "layers", "diff_ids": [_digest(gzip.decompress(each)) for each in content]},
        }).encode()  # fmt: skip
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.docker.container.image.v1+json", **self._push(repository, config)},
            "layers": [{"mediaType": LAYER, **self._push(repository, each)} for each in content],
        }).encode()  # fmt: skip
        self._send("PUT", f"{self.url}/v2/{repository}/manifests/{tag}", manifest, MANIFEST)
        return _digest(manifest), sum(map(len, content))

    def sent(self) -> int:
        """Return the bytes of layers that have left the registry."""
        lines = [line for line in docker("logs", self.container) if '"GET /v2/' in line and "/blobs/" in line]
        return sum(int(re.search(r'HTTP/1\.1" \d+ (\d+)', line)[1]) for line in lines)

    def die(self) -> None:
        """Stop answering at once; let it be noticed where we are root, for lost connections hang for minutes."""
        if os.geteuid() == 0:
            [process] = docker("inspect", "--format", "{{.State.Pid}}", self.container)
            docker("pause", self.container)
            reset = ["nsenter", "--net", "--target", process, "ss", "--kill", "sport", "=", ":5000"]
            subprocess.run(reset, check=True, capture_output=True)
        docker("stop", "--time=0", self.container)

    def _push(self, repository: str, blob: bytes) -> dict[str, str | int]:
        digest = _digest(blob)
        place = self._send("POST", f"{self.url}/v2/{repository}/blobs/uploads/", b"", None)
        self._send("PUT", f"{place}&digest={digest}", blob, "application/octet-stream")
        return {"digest": digest, "size": len(blob)}

    @staticmethod
    def _send(method: str, url: str, body: bytes, kind: str | None) -> str:
        headers = {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.headers["Location"]


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _layer(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()
