"""A small Hugging Face Hub on 127.0.0.1: repositories with commits, branches and LFS, users, private and gated ones, faults.

It speaks the API as far as huggingface_hub uses it for models, with a second server in the part of the content network, to
which large files are redirected and which must not see a token. Xet is not spoken.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml

TOKENS = {"hf_me": "me", "hf_guest": "guest"}
LFS = re.compile(r".*\.(safetensors|bin|pth|png|tar)")
ID = re.compile(r"[\w.-]+/[\w.-]+")


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """Commits by their id, each a whole tree; branches and tags by name."""

    private: bool = False
    members: set[str] | None = None  # of a gated one
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes | None], branch: str = "main") -> str:
        """Change a branch; None deletes a file."""
        tree = self.commits.get(self.refs.get(branch, ""), {}) | files
        tree = {path: content for path, content in tree.items() if content is not None}
        name = hashlib.sha1(repr((branch, sorted(tree.items()), len(self.commits))).encode()).hexdigest()
        self.commits[name] = tree
        self.refs[branch] = name
        return name

    def tree(self, revision: str) -> tuple[str, dict[str, bytes]] | None:
        name = self.refs.get(revision, revision)
        return (name, self.commits[name]) if name in self.commits else None


@dataclass
class Fault:
    """What goes wrong with some requests.

    Args:
        method: of the requests.
        path: an expression that their paths match from the start.
        times: how often.
        status: an error to answer with, with these headers.
        cut: part of the content after which the connection is cut.
        stall: say nothing until the server is closed.
        change: what becomes of the content.
        etag: another name of the file than its hash.
    """

    method: str
    path: str
    times: int = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "Something is wrong."
    cut: float | None = None
    stall: bool = False
    change: Callable[[bytes], bytes] = bytes
    etag: str | None = None


class Hub:
    """The two servers and what they hold."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.faults: list[Fault] = []
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self.servers = [self._server(Api), self._server(Network)]
        self.address = f"http://127.0.0.1:{self.servers[0].server_port}"
        self.network = f"http://localhost:{self.servers[1].server_port}"  # another host, by its name
        self.threads = [threading.Thread(target=s.serve_forever, kwargs={"poll_interval": 0.01}) for s in self.servers]
        for thread in self.threads:
            thread.start()

    def _server(self, handler: type) -> ThreadingHTTPServer:
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads, server.block_on_close, server.hub = True, False, self
        return server

    def close(self) -> None:
        self.closing.set()
        for server, thread in zip(self.servers, self.threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()

    def add(self, name: str, files: dict[str, bytes], **settings) -> Repository:
        repository = self.repositories.setdefault(name, Repository(**settings))
        repository.commit(files)
        return repository

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        return self.repositories[name].tree(revision)[1]

    def requests(self, method: str, path: str) -> list[tuple[str, str, dict[str, str]]]:
        return [entry for entry in self.log if entry[0] == method and re.match(path, entry[1])]

    def fault(self, method: str, path: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times > 0 and fault.method == method and re.match(fault.path, path):
                    fault.times -= 1
                    return fault
        return None


class Handler(BaseHTTPRequestHandler):
    """What both servers share: faults, the log, and answers."""

    protocol_version = "HTTP/1.1"
    wbufsize, disable_nagle_algorithm = -1, True  # an answer in one piece and at once
    broken: Fault | None = None

    @property
    def hub(self) -> Hub:
        return self.server.hub

    def handle_any(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append((self.command, path, {name.lower(): value for name, value in self.headers.items()}))
        self.broken = self.hub.fault(self.command, path)
        if self.broken is not None and self.broken.stall:
            self.hub.closing.wait(60)
            self.close_connection = True
        elif self.broken is not None and self.broken.status is not None:
            self.send({"error": self.broken.message}, self.broken.status, **self.broken.headers)
        else:
            self.answer(path)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def answer(self, path: str) -> None:
        raise NotImplementedError

    def send(self, content: bytes | dict | list, status: int = 200, **headers: str) -> None:
        """Answer, with the content cut or changed where a fault says so."""
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
            headers.setdefault("Content-Type", "application/json")
        fault = self.broken
        if fault is not None and self.command != "HEAD":
            content = fault.change(content)
        if fault is not None and fault.etag is not None:
            for name in {"X-Linked-Etag", "ETag"} & headers.keys():
                headers[name] = f'"{fault.etag}"'
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.cut is not None:
            content = content[: int(len(content) * fault.cut)]
            self.close_connection = True
        self.wfile.write(content)

    def log_message(self, *args) -> None:
        pass


class Network(Handler):
    """Large files by their hash, whole or from a byte on; and where they are uploaded to."""

    def answer(self, path: str) -> None:
        name = path.rsplit("/", 1)[-1]
        if self.command == "PUT":
            if hashlib.sha256(self.body).hexdigest() != name:
                self.send({"error": "the content has another hash"}, 400)
                return
            self.hub.objects[name] = self.body
            self.send(b"")
            return
        content = self.hub.objects[name]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked is None:
            self.send(content)
        else:
            start = int(asked[1])
            self.send(content[start:], 206, **{"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})


class Api(Handler):
    """The Hub itself."""

    def answer(self, path: str) -> None:
        for pattern, method in ROUTES:
            if found := re.fullmatch(pattern, f"{self.command} {path}"):
                getattr(self, method)(**found.groupdict())
                return
        self.send({"error": f"no such address: {path}"}, 404)

    @property
    def user(self) -> str | None:
        return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def error(self, status: int, message: str, code: str | None = None) -> None:
        headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.send({"error": message}, status, **headers)

    def repository(self, name: str) -> Repository | None:
        """The repository if it can be seen; else it is answered that it is not there."""
        if "Authorization" in self.headers and self.user is None:
            self.error(401, "Invalid credentials in Authorization header")
            return None
        found = self.hub.repositories.get(name)
        if found is None or (found.private and self.user != name.split("/")[0]):
            self.error(401 if self.user is None else 404, "Repository not found", "RepoNotFound")
            return None
        return found

    def tree(self, name: str, revision: str) -> tuple[Repository, str, dict[str, bytes]] | None:
        found = self.repository(name)
        if found is None:
            return None
        tree = found.tree(revision)
        if tree is None:
            self.error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            return None
        return found, *tree

    # ------------------------------------------------------------------------------------------------ reading

    def whoami(self) -> None:
        if self.user is None:
            self.error(401, "Invalid credentials in Authorization header")
        else:
            self.send({"name": self.user, "type": "user", "auth": {"accessToken": {"role": "write"}}})

    def info(self, name: str, revision: str = "main") -> None:
        if found := self.tree(name, revision):
            repository, commit, files = found
            siblings = [{"rfilename": path} for path in sorted(files)]
            self.send({"id": name, "sha": commit, "private": repository.private, "siblings": siblings, "tags": []})

    def listing(self, name: str, revision: str) -> None:
        if found := self.tree(name, revision):
            self.send([self.described(path, content) for path, content in sorted(found[2].items())])

    def paths(self, name: str, revision: str) -> None:
        if found := self.tree(name, revision):
            wanted = json.loads(self.body)["paths"]
            self.send([self.described(path, content) for path, content in found[2].items() if path in wanted])

    def described(self, path: str, content: bytes) -> dict:
        entry = {"type": "file", "path": path, "size": len(content), "oid": git_hash(content)}
        if LFS.fullmatch(path):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def resolve(self, name: str, revision: str, path: str) -> None:
        found = self.tree(name, revision)
        if found is None:
            return
        repository, commit, files = found
        if repository.members is not None and self.user not in repository.members:
            self.error(401 if self.user is None else 403, "Access to this model is restricted.", "GatedRepo")
            return
        if path not in files:
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found", "X-Repo-Commit": commit}
            self.send({"error": "Entry not found"}, 404, **headers)
            return
        content = files[path]
        headers = {"X-Repo-Commit": commit}
        if not LFS.fullmatch(path):
            self.send(content, ETag=f'"{git_hash(content)}"', **headers)
            return
        name = hashlib.sha256(content).hexdigest()
        self.hub.objects[name] = content
        headers |= {"X-Linked-Etag": f'"{name}"', "X-Linked-Size": str(len(content))}
        self.send(b"", 302, Location=f"{self.hub.network}/objects/{name}", **headers)

    # ------------------------------------------------------------------------------------------------ writing

    def may_write(self, name: str) -> bool:
        if self.user is None:
            self.error(401, "Invalid credentials in Authorization header")
        elif name.split("/")[0] != self.user:
            self.error(403, f'You don\'t have the rights to create a model under the namespace "{name.split("/")[0]}"')
        else:
            return True
        return False

    def create(self) -> None:
        asked = json.loads(self.body)
        name = f"{asked['organization'] or self.user}/{asked['name']}"
        if not self.may_write(name):
            return
        if name in self.hub.repositories:
            self.send({"error": "You already created this model repo", "url": f"{self.hub.address}/{name}"}, 409)
            return
        self.hub.add(
            name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=asked.get("visibility") == "private"
        )
        self.send({"url": f"{self.hub.address}/{name}", "id": name, "name": name})

    def branch(self, name: str, branch: str) -> None:
        if self.may_write(name) and (found := self.repository(name)):
            if branch in found.refs:
                self.error(409, "Reference already exists")
                return
            found.refs[branch] = found.refs["main"]
            self.send({})

    def validate(self) -> None:
        """As the Hub does it: the metadata is a table, and bases and data sets have names of repositories."""
        text = json.loads(self.body)["content"]
        block = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
        errors = []
        try:
            data = yaml.safe_load(block[1]) if block else {}
        except yaml.YAMLError as error:
            data, errors = {}, [{"message": str(error)}]
        for key in ("base_model", "datasets"):
            values = data.get(key) or []
            for value in values if isinstance(values, list) else [values]:
                if not ID.fullmatch(str(value)):
                    errors.append({"message": f'"{key}" with value "{value}" is not valid. Use a model id.'})
        warnings = [] if block else [{"message": "empty or missing yaml metadata in repo card"}]
        self.send({"errors": errors, "warnings": warnings}, 400 if errors else 200)

    def preupload(self, name: str, revision: str) -> None:
        if self.may_write(name) and (found := self.tree(name, revision)):
            files = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if LFS.fullmatch(file["path"]) else "regular",
                    "shouldIgnore": False,
                    "oid": self.oid(file["path"], found[2].get(file["path"])),
                }
                for file in json.loads(self.body)["files"]
            ]
            self.send({"files": files})

    def oid(self, path: str, content: bytes | None) -> str | None:
        """The hash of a file that is there, as the Hub names it."""
        if content is None:
            return None
        return hashlib.sha256(content).hexdigest() if LFS.fullmatch(path) else git_hash(content)

    def batch(self, name: str) -> None:
        if self.may_write(name):
            objects = []
            for wanted in json.loads(self.body)["objects"]:
                upload = {"upload": {"href": f"{self.hub.network}/objects/{wanted['oid']}"}}
                there = {} if wanted["oid"] in self.hub.objects else {"actions": upload}
                objects.append({"oid": wanted["oid"], "size": wanted["size"]} | there)
            self.send({"objects": objects, "transfer": "basic"})

    def commit(self, name: str, revision: str) -> None:
        """All of a commit or nothing: a large file that was not uploaded refuses the whole."""
        if not self.may_write(name) or not (found := self.tree(name, revision)):
            return
        files: dict[str, bytes | None] = {}
        for line in self.body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                if value["oid"] not in self.hub.objects:
                    self.error(400, f"the LFS object of {value['path']} was not uploaded")
                    return
                files[value["path"]] = self.hub.objects[value["oid"]]
            elif entry["key"] == "deletedFile":
                files[value["path"]] = None
        commit = found[0].commit(files, revision)
        self.send({"commitUrl": f"{self.hub.address}/{name}/commit/{commit}", "commitOid": commit, "success": True})


NAME, REVISION = r"(?P<name>[\w.-]+/[\w.-]+)", r"(?P<revision>.+?)"
DATASET = r"(?P<name>datasets/[\w.-]+/[\w.-]+)"
ROUTES = [
    ("GET /api/whoami-v2", "whoami"),
    ("POST /api/repos/create", "create"),
    ("POST /api/validate-yaml", "validate"),
    (f"POST /api/models/{NAME}/preupload/{REVISION}", "preupload"),
    (f"POST /api/models/{NAME}/commit/{REVISION}", "commit"),
    (f"POST /api/models/{NAME}/branch/(?P<branch>.+)", "branch"),
    (f"POST /api/models/{NAME}/paths-info/{REVISION}", "paths"),
    (f"GET /api/models/{NAME}/tree/{REVISION}", "listing"),
    (f"GET /api/models/{NAME}/revision/{REVISION}", "info"),
    (f"GET /api/models/{NAME}", "info"),
    (f"GET /api/{DATASET}/tree/{REVISION}", "listing"),
    (f"GET /api/{DATASET}/revision/{REVISION}", "info"),
    (f"GET /api/{DATASET}", "info"),
    (f"(?:GET|HEAD) /{DATASET}/resolve/{REVISION}/(?P<path>.+)", "resolve"),
    (rf"POST /{NAME}\.git/info/lfs/objects/batch", "batch"),
    (f"(?:GET|HEAD) /{NAME}/resolve/{REVISION}/(?P<path>.+)", "resolve"),
]
