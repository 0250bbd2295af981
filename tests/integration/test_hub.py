"""`--push-to-hub` against a small local server that speaks the Hub's upload protocol, and without one."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from helpers import raises_exactly
from huggingface_hub import HfApi

from apt_peft import AptError
from apt_peft.training import hub
from apt_peft.training.train import train


class Hub(BaseHTTPRequestHandler):
    """Just the calls that an upload makes; what arrives is kept in `server.files`."""

    def do_GET(self) -> None:
        if self.path.endswith("/api/whoami-v2"):
            known = self.headers.get("Authorization") == "Bearer hf_good"
            self.answer({"name": "me", "type": "user"} if known else {"error": "Invalid token"}, 200 if known else 401)
        else:
            self.answer({"error": "not found"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/api/repos/create":
            name = json.loads(body)["name"]
            if name == "locked":
                self.answer({"error": "You have no right to this."}, 403)
            else:
                self.answer({"url": f"{self.server.address}/me/{name}", "id": f"me/{name}"})
        elif "/preupload/" in self.path:
            names = [file["path"] for file in json.loads(body)["files"]]
            plain = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            self.answer({"files": plain})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                value = json.loads(line)
                if value["key"] == "file":
                    self.server.files[value["value"]["path"]] = base64.b64decode(value["value"]["content"])
            self.answer({"commitUrl": f"{self.server.address}/me/x/commit/1", "commitOid": "1", "success": True})
        else:
            self.answer({}, 200)

    def answer(self, value: dict, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address, server.files = f"http://127.0.0.1:{server.server_port}", {}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def reason_of(call, *args) -> str:
    """The first line of what huggingface_hub says where a call of it fails."""
    with pytest.raises((OSError, ValueError)) as told:
        call(*args)
    return str(told.value).strip().split("\n")[0]


def test_an_adapter_is_uploaded_with_its_card_and_numbers_and_nothing_else(server, quick):
    result = train(quick(push_to_hub="me/first", epochs=1))
    assert set(server.files) == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "evaluation/confusion.csv",
        "evaluation/confusion.png",
        "evaluation/mistakes.csv",
        "evaluation/per_class.csv",
        "evaluation/result.json",
        "preprocessor_config.json",
        "run.json",
    }
    for name, content in server.files.items():
        assert content == (result.out / name).read_bytes()
    server.files.clear()
    train(quick(push_to_hub="me/first", epochs=1, resume=True))
    assert "adapter_model.safetensors" in server.files


def test_a_wrong_token_stops_before_training(server, quick, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_bad")
    with raises_exactly(
        AptError,
        f"push_to_hub (me/first) must find the Hub and a user who is logged in, but: {reason_of(HfApi().whoami)} "
        "Run: hf auth login",
    ):
        train(quick(push_to_hub="me/first"))
    assert not (tmp_path / "run").exists()


def test_a_repository_that_is_not_ours_leaves_the_adapter(server, tmp_path):
    with raises_exactly(
        AptError,
        f"push_to_hub (me/locked) must be a repository that you may write to; the adapter is in {tmp_path}, but: "
        f"{reason_of(HfApi().create_repo, 'me/locked')} Run: hf auth login",
    ):
        hub.push(tmp_path, "me/locked")


def test_no_network(quick, monkeypatch, tmp_path):
    # conftest.py switches the Hub off for all tests: what huggingface_hub says then is the reason given.
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    with raises_exactly(
        AptError,
        f"push_to_hub (me/first) must find the Hub and a user who is logged in, but: {reason_of(HfApi().whoami)} "
        "Run: hf auth login",
    ):
        train(quick(push_to_hub="me/first"))
    assert not (tmp_path / "run").exists()
