"""Checks what a hub can do wrong, played by a server on this machine.

Each fault is refused in one line, and leaves nothing that counts as fetched.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fpt import UserError, checkpoint

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Serves the files of one folder as any repository.

    It does `wrong` to requests for `part`: the api, or a file.
    """

    daemon_threads = True

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {file.name: file.read_bytes() for file in folder.iterdir()}
        self.part, self.wrong, self.asked = None, None, []
        self.closing = threading.Event()

    def handle_error(self, request, client_address):
        """Says nothing of clients that hang up."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        """Says nothing."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.close_connection = True
        self.server.asked.append(self.path)
        part = "api" if self.path.startswith("/api/") else self.path.rpartition("/")[2]
        if self.server.part == part:
            return getattr(self, self.server.wrong)()
        if part == "api":
            files = [{"rfilename": name} for name in self.server.files]
            self.answer(json.dumps({"id": "some/body", "sha": COMMIT, "siblings": files}).encode())
        elif part in self.server.files:
            self.answer(self.server.files[part])
        else:
            self.answer(b"", 404, {"X-Error-Code": "EntryNotFound"})

    def answer(self, content, status=200, headers=None, length=None):
        self.send_response(status)
        stated = {"X-Repo-Commit": COMMIT, "ETag": f'"{len(content)}"', "Connection": "close",
                  "Content-Length": str(length or len(content))}
        for name, value in (stated | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def hang(self):
        self.server.closing.wait(20)

    def hang_up(self):
        """Answers nothing."""

    def web_page(self):
        self.answer(b"<html><body>Please accept our terms</body></html>",
                    headers={"Content-Type": "text/html"})

    def redirect_loop(self):
        self.answer(b"", 302, {"Location": self.path})

    def fail(self):
        self.answer(b"", 500)

    def refuse(self):
        self.answer(b"", 403)

    def other_json(self):
        self.answer(b'["not what was asked for"]')

    def cut_off(self):
        content = self.server.files.get(self.path.rpartition("/")[2], b"{}")
        sent = content if self.command == "HEAD" else content[: len(content) // 2]
        self.answer(sent, length=len(content))

    def too_long(self):
        content = self.server.files.get(self.path.rpartition("/")[2], b"{}")
        more = b"" if self.command == "HEAD" else b"more"
        self.answer(content + more, headers={"ETag": '"same"'})


@pytest.fixture
def hub(tiny_folder, tmp_path, monkeypatch):
    """Starts a hub that serves the tiny body, with an empty cache and without waiting."""
    from huggingface_hub import constants

    server = Hub(tiny_folder)
    serve = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    serve.start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE",
                        address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 10)
    monkeypatch.setattr("fpt.hub.ANSWER_SECONDS", 10)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    yield server
    server.closing.set()
    server.shutdown()
    server.server_close()


def test_a_body_is_fetched_once(hub, tiny_folder):
    found = checkpoint.locate("some/body")
    assert found.digest == checkpoint.open_folder(tiny_folder).digest
    asked = len(hub.asked)
    assert checkpoint.locate("some/body") == found and len(hub.asked) == asked


def test_shards_are_fetched(hub, tiny_folder):
    shard = "model-1-of-1.safetensors"
    hub.files[shard] = hub.files.pop("model.safetensors")
    index = {"weight_map": {"wpe.weight": shard}}
    hub.files["model.safetensors.index.json"] = json.dumps(index).encode()
    assert [file.name for file in checkpoint.locate("some/body").files] == [shard]


ANY = ("hang", "hang_up", "web_page", "redirect_loop", "fail")
WRONG = [(part, wrong) for part, kinds in {
    "api": (*ANY, "refuse", "other_json"), "config.json": (*ANY, "other_json"),
    "model.safetensors": (*ANY, "cut_off", "too_long")}.items() for wrong in kinds]


@pytest.mark.parametrize(("part", "wrong"), WRONG, ids=[" ".join(case) for case in WRONG])
@pytest.mark.parametrize("name", ["some/body", "gpt2"])
def test_a_hub_that_fails_is_one_line_and_leaves_no_checkpoint(
        hub, command, tmp_path, monkeypatch, name, part, wrong):
    hub.part, hub.wrong = part, wrong
    with monkeypatch.context() as patched:
        if wrong == "hang":
            patched.setattr("fpt.hub.ANSWER_SECONDS", 0.5)
            patched.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.2)
        code, _, err = command("train", "bit-xor", "--body", name, "--out", tmp_path / "runs")
    assert code == 2
    *progress, line = err.splitlines()
    assert line.startswith("error: ") and len(line) < 600, err
    # The download's bar, and nothing else.
    assert all("%" in shown or "B/s" in shown for shown in progress), progress
    assert not (tmp_path / "runs").exists()
    hub.part = None
    assert checkpoint.locate(name).geometry.width == 32  # what was left did not count as fetched


def test_a_status_is_stated(hub):
    hub.part, hub.wrong = "api", "refuse"
    said = r"no such folder, and the hub does not give it \(HTTP status 403, .*\); name a"
    with pytest.raises(UserError, match=said):
        checkpoint.locate("some/body")


def test_another_architecture_is_refused_before_its_weights_are_fetched(hub):
    hub.files["config.json"] = b'{"model_type": "bert"}'
    with pytest.raises(UserError, match="describes 'bert'"):
        checkpoint.locate("some/body")
    assert not any("model.safetensors" in path for path in hub.asked)


def test_a_damaged_file_in_the_cache_is_fetched_again(hub):
    found = checkpoint.locate("some/body")
    file, whole = found.files[0].resolve(), found.files[0].read_bytes()
    file.write_bytes(whole[:-10])
    hub.part, hub.wrong = "api", "fail"
    with pytest.raises(UserError, match=r"status 500\) \(in its cache, .* is damaged\)"):
        checkpoint.locate("some/body")
    hub.part = None
    assert checkpoint.locate("some/body") == found


@pytest.mark.parametrize("name", ["my--body", "gpt2 mini", "gpt2-mini.", "-gpt2-mini",
                                  "gpt2-mini.git", "gpt2" * 30])
def test_a_name_that_the_hub_cannot_have_is_one_line_with_the_nearest_known(name):
    said = r"^unknown body '.*'; .*gpt2.*\(no such folder, and no checkpoint on the hub can have"
    with pytest.raises(UserError, match=said):
        checkpoint.locate(name)


@pytest.mark.parametrize("name", ["x/run.git", "bodies/my--thing", "bödies/thing", "bodies/thing."])
def test_a_relative_folder_that_is_not_there_is_said_not_to_be(name):
    said = f"^no weights of '{name}': no such folder, and no checkpoint on the hub can"
    with pytest.raises(UserError, match=said):
        checkpoint.locate(name)


@pytest.mark.parametrize("name", ["a" * 300, "a/" + "b" * 300, "\0", "a/\0", "/" + "a" * 300])
def test_a_name_that_no_folder_can_have_is_one_line(name):
    with pytest.raises(UserError) as found:
        checkpoint.locate(name)
    assert "\n" not in str(found.value)


def test_a_cache_that_cannot_be_written_is_named(hub, tmp_path):
    (tmp_path / "hub").write_text("")
    with pytest.raises(UserError, match="the hub's cache cannot be used .*hub"):
        checkpoint.locate("some/body")


def test_an_endpoint_that_is_no_address_is_named(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "not an address")
    with pytest.raises(UserError, match="the hub at not an address cannot be reached"):
        checkpoint.locate("some/body")


@pytest.mark.parametrize("index", ["[]", '{"weight_map": {"a": 1}}', "[" * 100_000, "", "\x00"])
def test_an_index_that_is_none_is_named(tmp_path, tiny_folder, index):
    (tmp_path / "config.json").write_text((tiny_folder / "config.json").read_text())
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json is damaged"):
        checkpoint.locate(str(tmp_path))
