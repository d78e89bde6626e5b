"""A server on loopback that speaks the Hugging Face Hub's protocol to the real `huggingface_hub` client.

    with HubServer() as server:
        revision = server.add_repo("org/name", {"model.safetensors": b"…"})
        server.fail(r"/cdn/", drop_after=1000, times=1)

Repositories lie in memory; faults come on request. The client's Xet transfer is off, unless `xet` names a server of it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LFS_ABOVE = 100_000
"""Bytes above which any file goes to git LFS, as binary formats always do."""

LFS_SUFFIXES = (".safetensors", ".png", ".bin", ".pt", ".h5")


@dataclass
class Commit:
    """One commit: its files by path."""

    revision: str
    files: dict[str, bytes]
    message: str = ""


@dataclass
class Repo:
    """A repository: its commits, oldest first, and its tags."""

    private: bool = False
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    def add(self, files: dict[str, bytes], message: str = "") -> Commit:
        """Make a commit with these files; its name follows from its content and its parent."""
        digest = hashlib.sha1(message.encode())
        digest.update(self.commits[-1].revision.encode() if self.commits else b"")
        for path, content in sorted(files.items()):
            digest.update(path.encode() + b"\0" + content)
        self.commits.append(Commit(digest.hexdigest(), dict(files), message))
        return self.head

    def find(self, revision: str) -> Commit | None:
        name = self.tags.get(revision, self.head.revision if revision == "main" else revision)
        return next((commit for commit in self.commits if commit.revision == name), None)


@dataclass
class Fault:
    """What goes wrong with the next `times` requests whose `METHOD /path` matches."""

    pattern: str
    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    drop_after: int | None = None
    """Close the connection after so many bytes of the body."""
    bytes_per_second: int | None = None
    flip: bool = False
    """Serve the content with one bit changed; of a commit, keep it so."""
    etag: str | None = None
    """State this digest instead of the right one."""


@dataclass(frozen=True)
class Request:
    """One request that was answered."""

    method: str
    path: str
    range: str | None
    status: int


def is_lfs(path: str, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or size > LFS_ABOVE


def flipped(content: bytes) -> bytes:
    """Return `content` with one bit changed, in the middle."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def git_sha1(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer:
    """The server; a context manager. `tokens` opens private repositories: name by token."""

    def __init__(self, *, tokens: dict[str, str] | None = None, part_size: int | None = None) -> None:
        self.tokens = tokens or {"hf_right": "org"}
        self.read_only = {"hf_reader": "reader"}
        self.part_size = part_size
        self.xet: str | None = None
        """Where the client is sent for the content of large files, if its Xet transfer is on."""
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        self.lock = threading.RLock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_address[1]}"
        # Another host, as on the Hub: the client follows redirects to the same one, and sends it the token.
        self.cdn = self.address.replace("127.0.0.1", "localhost")

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def add_repo(self, name: str, files: dict[str, bytes], *, private: bool = False, gated: bool = False) -> str:
        """Put a commit with exactly these files into a repository, made if need be; return the commit."""
        with self.lock:
            repo = self.repos.setdefault(name, Repo(private=private, gated=gated))
            for content in files.values():
                self.blobs[hashlib.sha256(content).hexdigest()] = content
            return repo.add(files).revision

    def fail(self, pattern: str, *, times: int = 1, **fault: Any) -> None:
        """Let the next `times` requests whose `METHOD /path` matches go wrong, see `Fault`."""
        self.faults.append(Fault(pattern, times, **fault))

    def count(self, pattern: str) -> int:
        """Return how many requests `METHOD /path` matched."""
        return sum(re.search(pattern, f"{request.method} {request.path}") is not None for request in self.requests)

    def environment(self, home: object, *, token: str | None = None) -> dict[str, str]:
        """Return the variables under which a client in another process talks to this server."""
        return {
            "HF_ENDPOINT": self.address,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        } | ({} if token is None else {"HF_TOKEN": token})


class _Handler(BaseHTTPRequestHandler):
    """Answers one request after the other of one connection."""

    protocol_version = "HTTP/1.1"
    hub: HubServer
    fault: Fault | None

    ROUTES = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate_card"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>.+)", "preupload"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>.+)", "commit"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/tag/(?P<revision>.+)", "tag"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/refs", "refs"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)", "tree"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/xet-read-token/(?P<revision>.+)", "xet_token"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<revision>.+)", "paths_info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/revision/(?P<revision>.+)", "info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)", "info"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})(?:/(?P<part>\d+))?", "lfs_put"),
        ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/complete", "lfs_complete"),
        ("POST", r"/lfs/(?P<oid>[0-9a-f]{64})/verify", "lfs_verify"),
        ("GET|HEAD", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
        ("GET|HEAD", r"/cdn/(?P<oid>[0-9a-f]{64})", "cdn"),
    )  # fmt: skip

    def log_message(self, format: str, *args: object) -> None:  # the name is the standard library's
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 (the standard library's names)

    def answer(self) -> None:
        """Find the route and the fault of this request, and follow them."""
        size = int(self.headers.get("Content-Length") or 0)
        self.body = self._chunks() if "chunked" in self.headers.get("Transfer-Encoding", "") else self.rfile.read(size)
        url = urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.fault = self._next_fault(url.path)
        if self.fault is not None and self.fault.status is not None:
            return self.send(self.fault.status, {"error": "as asked for"}, self.fault.headers)
        for methods, pattern, name in self.ROUTES:
            match = re.fullmatch(pattern, url.path)
            if match is not None and self.command in methods.split("|"):
                with self.hub.lock:
                    ready = getattr(self, name)(
                        **{key: unquote(value or "") for key, value in match.groupdict().items()}
                    )
                return ready() if callable(ready) else None
        return self.send(404, {"error": f"no route for {self.command} {url.path}"})

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _next_fault(self, path: str) -> Fault | None:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.times > 0 and re.search(fault.pattern, f"{self.command} {path}"):
                    fault.times -= 1
                    return fault
        return None

    def send(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        """Answer with JSON."""
        self.send_bytes(status, json.dumps(document).encode(), {"Content-Type": "application/json", **(headers or {})})

    def send_bytes(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        """Answer with bytes; this is where connections drop or are slow."""
        self.hub.requests.append(Request(self.command, urlsplit(self.path).path, self.headers.get("Range"), status))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        fault = self.fault
        end = len(content) if fault is None or fault.drop_after is None else fault.drop_after
        speed = None if fault is None else fault.bytes_per_second
        step = len(content) + 1 if speed is None else max(1, speed // 20)
        for begin in range(0, end, step):
            self.wfile.write(content[begin : min(end, begin + step)])
            self.wfile.flush()
            if speed is not None:
                time.sleep(step / speed)
        if end < len(content):
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

    def error(self, status: int, code: str, text: str = "") -> None:
        self.send(status, {"error": text or code}, {"X-Error-Code": code, "X-Error-Message": text or code})

    def user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        return (self.hub.tokens | self.hub.read_only).get(token)

    def may_write(self) -> bool:
        """Whether the token allows it; otherwise that is answered."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token in self.hub.tokens:
            return True
        known = token in self.hub.read_only
        self.send(403 if known else 401, {"error": "You don't have the rights"}, {"X-Error-Message": "Forbidden"})
        return False

    def open_repo(self, name: str) -> Repo | None:
        """Return the repository if the user may see it; otherwise that is answered."""
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and self.user() is None):
            # The Hub does not tell a stranger whether a repository exists.
            self.error(401 if self.user() is None else 404, "RepoNotFound", "Repository not found")
            return None
        if repo.gated and self.command in ("GET", "HEAD") and "/resolve/" in self.path:
            self.error(403, "GatedRepo", "Access to this model is restricted")
            return None
        return repo

    def open_commit(self, name: str, revision: str) -> Commit | None:
        repo = self.open_repo(name)
        if repo is None:
            return None
        commit = repo.find(revision) if repo.commits else None
        if commit is None:
            self.error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    def whoami(self) -> None:
        name = self.user()
        if name is None:
            return self.send(
                401, {"error": "Invalid token"}, {"X-Error-Message": "Invalid credentials in Authorization header"}
            )
        return self.send(
            200, {"type": "user", "name": name, "orgs": [{"name": "org"}], "auth": {"type": "access_token"}}
        )

    def create(self) -> None:
        if not self.may_write():
            return None
        wanted = json.loads(self.body)
        name = f"{wanted.get('organization') or self.user()}/{wanted['name']}"
        url = f"{self.hub.address}/{name}"
        if name in self.hub.repos:
            return self.send(409, {"error": "You already created this model repo", "url": url})
        private = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        self.hub.repos[name] = Repo(private=private)
        self.hub.repos[name].add({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return self.send(200, {"url": url, "name": name})

    def validate_card(self) -> None:
        """Check the metadata of a card by the part of the Hub's rules that its client knows."""
        content = json.loads(self.body)["content"]
        data = yaml.safe_load(content.split("---")[1])
        unknown = not re.fullmatch(r"[a-z0-9.-]+", data.get("license", "")) or not isinstance(data.get("tags"), list)
        errors = [{"message": '"license" or "tags" must be as the Hub has them'}] if unknown else []
        return self.send(400 if errors else 200, {"errors": errors, "warnings": []})

    def preupload(self, repo: str, revision: str) -> None:
        found = self.open_repo(repo)
        if found is None or not self.may_write():
            return None
        commit = found.find(revision)
        files = []
        for item in json.loads(self.body)["files"]:
            held = None if commit is None else commit.files.get(item["path"])
            lfs = is_lfs(item["path"], item["size"])
            oid = None if held is None else (hashlib.sha256(held).hexdigest() if lfs else git_sha1(held))
            files.append(
                {"path": item["path"], "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False, "oid": oid}
            )
        return self.send(200, {"files": files, "commitOid": found.head.revision})

    def lfs_batch(self, repo: str) -> None:
        if self.open_repo(repo) is None or not self.may_write():
            return None
        objects = []
        transfer = "basic"
        for item in json.loads(self.body)["objects"]:
            oid, size = item["oid"], item["size"]
            answer: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in self.hub.blobs:
                place = f"{self.hub.address}/lfs/{oid}"
                upload: dict[str, Any] = {"href": place, "header": {}}
                if self.hub.part_size is not None and size > self.hub.part_size:
                    transfer = "multipart"
                    count = -(-size // self.hub.part_size)
                    urls = {f"{part:05d}": f"{place}/{part}" for part in range(1, count + 1)}
                    upload = {"href": f"{place}/complete", "header": {"chunk_size": str(self.hub.part_size), **urls}}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{place}/verify"}}
            objects.append(answer)
        return self.send(200, {"transfer": transfer, "objects": objects})

    def lfs_put(self, oid: str, part: str) -> None:
        if part:
            self.hub.parts.setdefault(oid, {})[int(part)] = self.body
            return self.send_bytes(200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'})
        return self._keep(oid, self.body)

    def lfs_complete(self, oid: str) -> None:
        parts = self.hub.parts.pop(oid)
        stated = [part["partNumber"] for part in json.loads(self.body)["parts"]]
        return self._keep(oid, b"".join(parts[number] for number in stated))

    def _keep(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            return self.send(400, {"error": "the content does not have this digest"})
        self.hub.blobs[oid] = content
        return self.send(200, {})

    def lfs_verify(self, oid: str) -> None:
        return self.send(200 if oid in self.hub.blobs else 404, {})

    def commit(self, repo: str, revision: str) -> None:
        found = self.open_repo(repo)
        if found is None or not self.may_write():
            return None
        lines = [json.loads(line) for line in self.body.splitlines() if line.strip()]
        header = next(line["value"] for line in lines if line["key"] == "header")
        if header.get("parentCommit") not in (None, found.head.revision):
            return self.send(412, {"error": "A commit has happened since. Please refresh and try again."})
        files = dict(found.head.files)
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    return self.send(400, {"error": f"the LFS object {value['oid']} was not uploaded"})
                content = self.hub.blobs[value["oid"]]
                files[value["path"]] = flipped(content) if self.fault is not None and self.fault.flip else content
            elif line["key"] == "deletedFile":
                files.pop(value["path"], None)
        made = found.add(files, header["summary"])
        url = f"{self.hub.address}/{repo}/commit/{made.revision}"
        return self.send(200, {"success": True, "commitOid": made.revision, "commitUrl": url, "hookOutput": ""})

    def tag(self, repo: str, revision: str) -> None:
        commit = self.open_commit(repo, revision)
        if commit is None or not self.may_write():
            return None
        name = json.loads(self.body)["tag"]
        tags = self.hub.repos[repo].tags
        if name in tags:
            return self.send(409, {"error": f"Tag {name} already exists"})
        tags[name] = commit.revision
        return self.send(200, {})

    def refs(self, repo: str) -> None:
        found = self.open_repo(repo)
        if found is None:
            return None
        tags = [{"name": name, "ref": f"refs/tags/{name}", "targetCommit": rev} for name, rev in found.tags.items()]
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": found.head.revision}
        return self.send(200, {"branches": [main], "tags": tags, "converts": []})

    def info(self, repo: str, revision: str = "main") -> None:
        commit = self.open_commit(repo, revision)
        if commit is None:
            return None
        siblings = []
        for path, content in commit.files.items():
            item: dict[str, Any] = {"rfilename": path}
            if "blobs" in self.query:
                item |= {"size": len(content), "blobId": git_sha1(content)}
                if is_lfs(path, len(content)):
                    item["lfs"] = {
                        "sha256": hashlib.sha256(content).hexdigest(),
                        "size": len(content),
                        "pointerSize": 134,
                    }
            siblings.append(item)
        found = self.hub.repos[repo]
        return self.send(
            200,
            {"id": repo, "modelId": repo, "sha": commit.revision, "private": found.private, "gated": found.gated,
             "disabled": False, "tags": [], "downloads": 0, "likes": 0, "siblings": siblings},
        )  # fmt: skip

    def tree(self, repo: str, revision: str) -> None:
        commit = self.open_commit(repo, revision)
        if commit is not None:
            self.send(200, [self._entry(path, content) for path, content in commit.files.items()])

    def paths_info(self, repo: str, revision: str) -> None:
        commit = self.open_commit(repo, revision)
        if commit is None:
            return
        text = self.body.decode()
        wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
        self.send(200, [self._entry(path, commit.files[path]) for path in wanted if path in commit.files])

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_sha1(content)}
        if is_lfs(path, len(content)):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def resolve(self, repo: str, revision: str, path: str) -> Any:
        commit = self.open_commit(repo, revision)
        if commit is None:
            return None
        stated = {"X-Repo-Commit": commit.revision, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            return self.send(404, {"error": "Entry not found"}, {**stated, "X-Error-Code": "EntryNotFound"})
        content = commit.files[path]
        lie = None if self.fault is None else self.fault.etag
        if is_lfs(path, len(content)):
            oid = hashlib.sha256(content).hexdigest()
            headers = {
                **stated,
                "X-Linked-ETag": f'"{lie or oid}"',
                "X-Linked-Size": str(len(content)),
                "Location": f"{self.hub.cdn}/cdn/{oid}",
            }
            if self.hub.xet is not None:
                route = f"{self.hub.address}/api/models/{repo}/xet-read-token/{revision}"
                headers |= {"X-Xet-Hash": "ab" * 32, "X-Xet-Refresh-Route": route}
            return self.send_bytes(302, b"", headers)
        return lambda: self.serve(content, {**stated, "ETag": f'"{lie or git_sha1(content)}"'})

    def xet_token(self, repo: str, revision: str) -> None:
        if self.open_commit(repo, revision) is not None:
            expires = str(int(time.time()) + 3600)
            token = {"X-Xet-Access-Token": "token", "X-Xet-Token-Expiration": expires}
            self.send(200, {}, {"X-Xet-Cas-Url": str(self.hub.xet), **token})

    def cdn(self, oid: str) -> Any:
        content = self.hub.blobs.get(oid)
        if content is None:
            return self.send(404, {"error": "no such object"})
        return lambda: self.serve(content, {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"})

    def serve(self, content: bytes, headers: dict[str, str]) -> None:
        """Answer with a file, or the part of it that was asked for; without the lock, since it may be slow."""
        if self.fault is not None and self.fault.flip:
            content = flipped(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked is None:
            return self.send_bytes(200, content, headers)
        begin = int(asked[1])
        end = min(int(asked[2]) + 1 if asked[2] else len(content), len(content))
        if begin >= len(content):
            return self.send_bytes(416, b"", {**headers, "Content-Range": f"bytes */{len(content)}"})
        stated = {**headers, "Content-Range": f"bytes {begin}-{end - 1}/{len(content)}"}
        return self.send_bytes(206, content[begin:end], stated)
