"""A Hub on loopback: its HTTP protocol, as far as the real `huggingface_hub` client speaks it with a model repository.

    with HubServer() as hub:
        environment = hub.environment(token="hf_...")  # HF_ENDPOINT and HF_TOKEN; the client is not patched

Repositories, branches, preupload, LFS batch (one part or several), commits, resolve with etags, redirects and ranges,
tree, paths-info, model info, metadata rules of cards; and on demand (`fail`) any status, or a broken connection.
The Xet protocol is not spoken. huggingface_hub 0.36 sees that; later ones, which would always upload by it, are told
HF_HUB_DISABLE_XET.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import huggingface_hub
import yaml

#: Files from this size on go through LFS, as do all weights.
LFS_FROM = 100_000
#: Weights from this size on are sent in parts of this size.
PART = 8_000_000
_DATE = "2026-01-01T00:00:00.000Z"
_PIPELINE_TAGS = {
    "text-classification",
    "token-classification",
    "question-answering",
    "fill-mask",
    "feature-extraction",
    "sentence-similarity",
}


@dataclass
class Entry:
    """A file of a commit."""

    sha256: str
    size: int
    git: str
    lfs: bool

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git


@dataclass
class Repository:
    private: bool
    owner: str
    commits: dict[str, dict[str, Entry]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, branch: str, files: dict[str, Entry], message: str) -> str:
        state = json.dumps([branch, message, len(self.commits), sorted(files)])
        sha = hashlib.sha1(state.encode()).hexdigest()
        self.commits[sha] = files
        self.branches[branch] = sha
        self.messages.append(message)
        return sha

    def find(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


@dataclass
class Failure:
    pattern: re.Pattern[str]
    action: int | str
    times: int
    skip: int


class HubServer:
    """Start with `with`; state is in plain attributes, to be looked at by tests."""

    def __init__(self) -> None:
        self.tokens = {"hf_writer": ("me", "write"), "hf_reader": ("me", "read"), "hf_other": ("you", "write")}
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, int | str]] = []
        self.received: list[str] = []  # oids of LFS objects that arrived, once for each time they were sent
        self.failures: list[Failure] = []
        self.lock = threading.RLock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self.contents = f"http://localhost:{self._http.server_port}"  # to the client another host, as the Hub's CDN is

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def environment(self, cache: object, token: str | None = "hf_writer") -> dict[str, str]:
        known = {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0"}
        if not huggingface_hub.__version__.startswith("0."):
            known["HF_HUB_DISABLE_XET"] = "1"
        return known | ({} if token is None else {"HF_TOKEN": token})

    def fail(self, pattern: str, action: int | str, times: int = 1, skip: int = 0) -> None:
        """Answer requests whose `METHOD path` matches with a status, or with "drop" break the connection."""
        self.failures.append(Failure(re.compile(pattern), action, times, skip))

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[repo_id]
        found = repository.commits[repository.branches[revision]]
        return {path: self.blobs[entry.sha256] for path, entry in found.items()}

    def publish(self, repo_id: str, folder: str) -> None:
        """A public repository of somebody's, with the files of a folder."""
        repository = self.repositories[repo_id] = Repository(False, "somebody")
        paths = [path for path in sorted(Path(folder).rglob("*")) if path.is_file()]
        files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
        entries = {name: self.store(content, len(content) >= LFS_FROM) for name, content in files.items()}
        repository.commit("main", entries, "all files")

    def store(self, content: bytes, lfs: bool) -> Entry:
        digest = hashlib.sha256(content).hexdigest()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        self.blobs[digest] = content
        return Entry(digest, len(content), git, lfs)


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    _ROUTES = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/repos/create", "create"),
        ("POST", r"/api/validate-yaml", "validate"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<revision>[^/]+)", "branch"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/paths-info/(?P<revision>[^/]+)", "paths_info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<path>.*))?", "tree"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/refs", "refs"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?", "info"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "batch"),
        ("PUT", r"/_lfs/(?P<oid>[0-9a-f]{64})(?:/(?P<part>\d+))?", "receive"),
        ("POST", r"/_lfs/(?P<oid>[0-9a-f]{64})/complete", "complete"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/verify", "verify"),
        ("GET", r"/_cdn/(?P<oid>[0-9a-f]{64})", "cdn"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )

    # The way of a request

    def _serve(self, method: str) -> None:
        split = urlsplit(self.path)
        line = f"{method} {split.path}"
        self.query = parse_qs(split.query)
        action = self._planned(line)
        if action == "drop":
            self._drop(line)
            return
        length = int(self.headers.get("Content-Length") or 0)
        self.body = (
            self.rfile.read(length) if "chunked" not in self.headers.get("Transfer-Encoding", "") else self._chunks()
        )
        try:
            if isinstance(action, int):
                raise _Refused(action, f"as the test asked for: {action}")
            answer = self._route("GET" if method == "HEAD" else method, split.path)
        except _Refused as refusal:
            headers = {"X-Error-Message": str(refusal)} | ({"X-Error-Code": refusal.code} if refusal.code else {})
            answer = (
                refusal.status,
                json.dumps({"error": str(refusal)} | getattr(refusal, "more", {})).encode(),
                headers,
            )
        status, content, headers = answer
        with self.hub.lock:
            self.hub.requests.append((line, status))
        self._send(method, status, content, headers)

    def _route(self, method: str, path: str) -> tuple[int, bytes, dict[str, str]]:
        for wanted, pattern, name in self._ROUTES:
            found = re.fullmatch(pattern, path)
            if wanted == method and found:
                with self.hub.lock:
                    answer = getattr(self, f"_on_{name}")(
                        **{k: v and unquote(v) for k, v in found.groupdict().items()}
                    )
                return answer if isinstance(answer, tuple) else (200, json.dumps(answer).encode(), {})
        raise _Refused(404, f"nothing here: {method} {path}", "EntryNotFound")

    def _planned(self, line: str) -> int | str | None:
        with self.hub.lock:
            for failure in self.hub.failures:
                if failure.times and failure.pattern.search(line):
                    if failure.skip:
                        failure.skip -= 1
                        continue
                    failure.times -= 1
                    return failure.action
        return None

    def _drop(self, line: str) -> None:
        """Read a little of what comes, then reset the connection."""
        self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 1000))
        with self.hub.lock:
            self.hub.requests.append((line, "drop"))
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline().strip(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _send(self, method: str, status: int, content: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and status == 200 and "Accept-Ranges" in headers:
            first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
            headers |= {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            status, content = 206, content[first : last + 1]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if method != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        self._serve("GET")

    def do_HEAD(self) -> None:
        self._serve("HEAD")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_PUT(self) -> None:
        self._serve("PUT")

    def log_message(self, *args: object) -> None:
        pass

    # Who asks, and for what

    def _user(self, write: bool = False) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if not token and not write:
            return None
        if token not in self.hub.tokens:
            raise _Refused(401, "Invalid username or password.")
        user, role = self.hub.tokens[token]
        if write and role != "write":
            raise _Refused(403, "Forbidden: this token has no write access.")
        return user

    def _repository(self, repo: str, write: bool = False) -> Repository:
        user = self._user(write)
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and user != found.owner):
            raise _Refused(404 if user else 401, f"Repository {repo} was not found", "RepoNotFound")
        if write and user != found.owner:
            raise _Refused(403, "Forbidden: this is somebody else's repository.")
        return found

    def _revision(self, repo: str, revision: str | None, write: bool = False) -> tuple[Repository, str]:
        repository = self._repository(repo, write)
        sha = repository.find(revision or "main")
        if sha is None:
            raise _Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return repository, sha

    # Answers

    def _on_whoami(self) -> object:
        return {"type": "user", "name": self._user(write=False), "auth": {"type": "access_token"}}

    def _on_create(self) -> object:
        user, asked = self._user(write=True), json.loads(self.body)
        owner = asked.get("organization") or user
        if owner != user:
            raise _Refused(403, f"You don't have the rights to create a model under the namespace {owner}")
        name = f"{owner}/{asked['name']}"
        answer = {"url": f"{self.hub.url}/{name}", "name": name, "id": name}
        if name in self.hub.repositories:
            refusal = _Refused(409, "You already created this model repo")
            refusal.more = answer
            raise refusal
        private = bool(asked.get("private")) or asked.get("visibility") == "private"
        repository = self.hub.repositories[name] = Repository(private, owner)
        repository.commit(
            "main", {".gitattributes": self.hub.store(b"*.safetensors filter=lfs\n", False)}, "initial commit"
        )
        return answer

    def _on_validate(self) -> object:
        try:
            asked = json.loads(self.body)["content"]
        except ValueError:
            asked = parse_qs(self.body.decode())["content"][0]
        errors = card_errors(asked)
        answer = {"errors": [{"message": error} for error in errors], "warnings": []}
        return (400 if errors else 200), json.dumps(answer).encode(), {}

    def _on_branch(self, repo: str, revision: str) -> object:
        repository = self._repository(repo, write=True)
        if revision in repository.branches:
            raise _Refused(409, f"Reference already exists: {revision}")
        repository.branches[revision] = repository.branches["main"]
        return {}

    def _on_preupload(self, repo: str, revision: str) -> object:
        self._revision(repo, revision, write=True)
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if goes_through_lfs(file["path"], file["size"]) else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for file in json.loads(self.body)["files"]
            ]
        }

    def _on_batch(self, repo: str) -> object:
        self._repository(repo, write=True)
        objects = []
        for asked in json.loads(self.body)["objects"]:
            answer = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in self.hub.blobs:
                answer["actions"] = self._actions(repo, asked["oid"], asked["size"])
            objects.append(answer)
        return {"transfer": "basic", "objects": objects}

    def _actions(self, repo: str, oid: str, size: int) -> object:
        verify = {"href": f"{self.hub.url}/{repo}.git/info/lfs/verify"}
        if size <= PART:
            return {"upload": {"href": f"{self.hub.url}/_lfs/{oid}"}, "verify": verify}
        count = -(-size // PART)
        header = {f"{n:05d}": f"{self.hub.url}/_lfs/{oid}/{n}" for n in range(1, count + 1)}
        upload = {"href": f"{self.hub.url}/_lfs/{oid}/complete", "header": {"chunk_size": str(PART)} | header}
        return {"upload": upload, "verify": verify}

    def _on_receive(self, oid: str, part: str | None) -> object:
        if part is None:
            self._keep(oid, self.body)
        else:
            self.hub.parts.setdefault(oid, {})[int(part)] = self.body
        return 200, b"", {"ETag": f'"{hashlib.md5(self.body).hexdigest()}"'}

    def _on_complete(self, oid: str) -> object:
        parts = self.hub.parts.pop(oid)
        assert [part["partNumber"] for part in json.loads(self.body)["parts"]] == sorted(parts)
        self._keep(oid, b"".join(parts[number] for number in sorted(parts)))
        return {}

    def _keep(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise _Refused(400, f"the content is not that of {oid}")
        self.hub.received.append(oid)
        self.hub.store(content, True)

    def _on_verify(self, repo: str) -> object:
        asked = json.loads(self.body)
        if len(self.hub.blobs.get(asked["oid"], b"")) != asked["size"]:
            raise _Refused(404, "the object has not arrived")
        return {}

    def _on_commit(self, repo: str, revision: str) -> object:
        repository, parent = self._revision(repo, revision, write=True)
        files, message = dict(repository.commits[parent]), ""
        for line in self.body.decode().splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, parent):
                    raise _Refused(412, "A commit has happened since. Please refresh and try again.")
            elif operation["key"] == "file":
                files[value["path"]] = self.hub.store(base64.b64decode(value["content"]), False)
            elif operation["key"] == "lfsFile":
                if value["oid"] not in self.hub.blobs:
                    raise _Refused(400, f"LFS object {value['oid']} was never uploaded")
                files[value["path"]] = self.hub.store(self.hub.blobs[value["oid"]], True)
            else:
                del files[value["path"]]
        sha = repository.commit(revision, files, message)
        return {
            "success": True,
            "commitOid": sha,
            "commitUrl": f"{self.hub.url}/{repo}/commit/{sha}",
            "hookOutput": "",
        }

    def _on_refs(self, repo: str) -> object:
        branches = self._repository(repo).branches.items()
        named = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches]
        return {"branches": named, "converts": [], "tags": []}

    def _on_info(self, repo: str, revision: str | None) -> object:
        repository, sha = self._revision(repo, revision)
        files = repository.commits[sha]
        card = files.get("README.md")
        metadata = front_matter(self.hub.blobs[card.sha256].decode()) if card else {}
        return {
            "_id": hashlib.sha1(repo.encode()).hexdigest()[:24],
            "id": repo,
            "modelId": repo,
            "sha": sha,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": metadata.get("tags", []),
            "pipeline_tag": metadata.get("pipeline_tag"),
            "library_name": metadata.get("library_name"),
            "cardData": metadata,
            "createdAt": _DATE,
            "lastModified": _DATE,
            "siblings": [{"rfilename": path} for path in sorted(files)],
        }

    def _on_tree(self, repo: str, revision: str, path: str | None) -> object:
        repository, sha = self._revision(repo, revision)
        files = repository.commits[sha]
        found = [
            self._listed(name, files[name]) for name in sorted(files) if name.startswith(f"{path}/" if path else "")
        ]
        if path and not found:
            raise _Refused(404, f"{path} does not exist", "EntryNotFound")
        return found

    def _on_paths_info(self, repo: str, revision: str) -> object:
        repository, sha = self._revision(repo, revision)
        files = repository.commits[sha]
        try:
            paths = json.loads(self.body)["paths"]
        except ValueError:
            paths = parse_qs(self.body.decode())["paths"]
        return [self._listed(path, files[path]) for path in paths if path in files]

    def _listed(self, path: str, entry: Entry) -> dict[str, object]:
        listed = {"type": "file", "oid": entry.git, "size": entry.size, "path": path}
        return listed | ({"lfs": {"oid": entry.sha256, "size": entry.size, "pointerSize": 134}} if entry.lfs else {})

    def _on_resolve(self, repo: str, revision: str, path: str) -> object:
        repository, sha = self._revision(repo, revision)
        entry = repository.commits[sha].get(path)
        if entry is None:
            raise _Refused(404, f"Entry not found: {path}", "EntryNotFound")
        headers = {"X-Repo-Commit": sha, "ETag": f'"{entry.git}"', "Accept-Ranges": "bytes"}
        if not entry.lfs:
            return 200, self.hub.blobs[entry.sha256], headers
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
        return 302, b"", headers | {"Location": f"{self.hub.contents}/_cdn/{entry.sha256}"}

    def _on_cdn(self, oid: str) -> object:
        return 200, self.hub.blobs[oid], {"ETag": f'"{oid}"', "Accept-Ranges": "bytes"}


def goes_through_lfs(path: str, size: int) -> bool:
    return size >= LFS_FROM or path.endswith((".safetensors", ".onnx", ".bin", ".png", ".pt", ".pth", ".model"))


def front_matter(card: str) -> dict[str, object]:
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    return yaml.safe_load(found[1]) if found else {}


def card_errors(card: str) -> list[str]:
    """What the Hub would refuse in a model card's metadata."""
    try:
        data = front_matter(card)
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    errors = []
    for name in ("tags", "datasets", "language", "metrics", "base_model"):
        value = data.get(name, [])
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(one, str) and one for one in values):
            errors.append(f'"{name}" must be a string or a list of them')
    if data.get("pipeline_tag") not in (None, *_PIPELINE_TAGS):
        errors.append('"pipeline_tag" must be one of the Hub\'s tasks')
    if data.get("base_model_relation") not in (None, "finetune", "adapter", "merge", "quantized"):
        errors.append('"base_model_relation" must be finetune, adapter, merge or quantized')
    license = data.get("license")
    if license is not None and not re.fullmatch(r"[a-z0-9.\-]+", str(license)):
        errors.append('"license" must be one of the Hub\'s identifiers')
    for index, model in enumerate(data.get("model-index", [])):
        if not model.get("name"):
            errors.append(f'"model-index[{index}].name" is required')
        for number, result in enumerate(model.get("results") or [{}]):
            place = f'"model-index[{index}].results[{number}]'
            if not result.get("task", {}).get("type"):
                errors.append(f'{place}.task.type" is required')
            errors += [
                f'{place}.dataset.{n}" is required' for n in ("name", "type") if not result.get("dataset", {}).get(n)
            ]
            for metric in result.get("metrics") or [{}]:
                errors += [f'{place}.metrics.{n}" is required' for n in ("type", "value") if n not in metric]
    return errors
