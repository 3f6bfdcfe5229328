"""``twostroke draw`` without a browser: answers, refusals, and the start and end of the command."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import twostroke
from twostroke.backend import select_backend
from twostroke.cli import main
from twostroke.commands import draw as command
from twostroke.data.digit_image import prepare_digit
from twostroke.engine.mlp import MLP
from twostroke.errors import ConfigError, ModelError
from twostroke.models.model_file import save_model
from twostroke.show import drawing
from twostroke.show.drawing import SIDE, DrawingPage

NEEDS_SERVER = pytest.mark.skipif(
    util.find_spec("waitress") is None, reason="waitress is not installed: pip install 'twostroke[draw]'"
)
PORT = 8123
HERE = f"http://127.0.0.1:{PORT}"
KIND = "application/octet-stream"
DIGITS = [str(k) for k in range(10)]


def network(layers: tuple[int, ...] = (784, 12, 10), **settings: Any) -> MLP:
    return MLP(layers, backend=select_backend("cpu", 1), **settings)


def page(port: int = PORT, net: MLP | None = None) -> DrawingPage:
    return DrawingPage(net or network(), DIGITS, port, Path("digits.safetensors"))


def strokes() -> np.ndarray:
    """A drawing off centre."""
    paper = np.zeros((SIDE, SIDE), np.uint8)
    paper[20:160, 30:60] = 255
    paper[20:50, 30:110] = 180
    return paper


def ask(app: Callable[..., Any], method: str, path: str, body: bytes = b"", **environ: Any) -> Any:
    """(status, headers, body) of a request as a server passes it; headers that are None are left out."""
    request = {"REQUEST_METHOD": method, "PATH_INFO": path, "HTTP_HOST": f"127.0.0.1:{PORT}", **environ}
    request = {"wsgi.input": io.BytesIO(body)} | {key: value for key, value in request.items() if value is not None}
    answer: list[Any] = []
    content = b"".join(app(request, lambda status, headers: answer.extend([int(status[:3]), dict(headers)])))
    if method != "HEAD":
        assert answer[1]["Content-Length"] == str(len(content))
    return answer[0], answer[1], content


def read(app: Callable[..., Any], body: bytes, **environ: Any) -> Any:
    given = {"HTTP_ORIGIN": HERE, "CONTENT_TYPE": KIND, "CONTENT_LENGTH": str(len(body)), **environ}
    return ask(app, "POST", "/read", body, **given)


# --- answers ------------------------------------------------------------------------------------------------------


def test_a_drawing_is_read_as_predict_reads_its_picture(tmp_path: Path) -> None:
    net = network()
    status, headers, body = read(page(net=net), strokes().tobytes())
    Image.fromarray(255 - strokes()).save(tmp_path / "drawing.png")
    prepared = prepare_digit(tmp_path / "drawing.png")
    found = json.loads(body)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert found["image"] == prepared[0].tolist()
    assert found["outputs"] == net.predict_proba(prepared)[0].tolist()
    assert abs(sum(found["outputs"]) - 1) < 1e-5


def test_outputs_that_overflow_are_an_error() -> None:
    net = network()
    net.parameters[:] = 3e38
    status, _, body = read(page(net=net), strokes().tobytes())
    assert (status, json.loads(body)["error"][:47]) == (422, "the model's outputs overflow: digits.safetensor")


def test_the_facts_are_the_network_s() -> None:
    status, _, body = ask(page(), "GET", "/network")
    facts = json.loads(body)
    assert status == 200
    assert facts["network"] == "784-12-10"
    assert facts["parameters"] == 784 * 12 + 12 + 12 * 10 + 10
    assert (facts["classes"], facts["output"], facts["side"]) == (DIGITS, "softmax", SIDE)
    assert facts["model"] == "digits.safetensors"


def test_the_page_may_run_its_own_script_and_style_and_nothing_else() -> None:
    _, headers, body = ask(page(), "GET", "/")
    html = body.decode()
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy.pop("default-src") == policy.pop("base-uri") == policy.pop("form-action") == "'none'"
    assert policy.pop("frame-ancestors") == "'none'"
    assert (policy.pop("connect-src"), policy.pop("img-src")) == ("'self'", "data:")
    for element in ("script", "style"):
        (text,) = re.findall(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy.pop(f"{element}-src") == f"'sha256-{digest}'"
    assert not policy
    assert not re.findall(r"""https?:|//\w|url\(|@import| on\w+=|style=""", re.sub(r"//.*", "", html))


def test_every_answer_is_kept_by_nobody_and_framed_by_nobody() -> None:
    answers = [ask(page(), "GET", "/"), read(page(), strokes().tobytes()), ask(page(), "GET", "/no")]
    for _, headers, _ in answers:
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers


def test_head_is_get_without_its_body() -> None:
    status, headers, body = ask(page(), "HEAD", "/")
    assert (status, body) == (200, b"")
    assert headers["Content-Length"] == str(len(ask(page(), "GET", "/")[2]))


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", [None, "", "evil.example", f"evil.example:{PORT}", "127.0.0.1", f"127.0.0.1:{PORT + 1}", f"0.0.0.0:{PORT}"]
)
def test_another_host_is_refused(host: str | None) -> None:
    """The answer to a page after DNS rebinding."""
    assert ask(page(), "GET", "/", HTTP_HOST=host)[0] == 421
    status, _, body = read(page(), strokes().tobytes(), HTTP_HOST=host)
    assert status == 421
    assert b"outputs" not in body


@pytest.mark.parametrize("host", [f"localhost:{PORT}", f"LOCALHOST:{PORT}", f"127.0.0.1:{PORT}"])
def test_both_names_of_this_machine_are_taken(host: str) -> None:
    assert ask(page(), "GET", "/", HTTP_HOST=host)[0] == 200


def test_the_usual_port_goes_without_saying() -> None:
    assert ask(page(80), "GET", "/", HTTP_HOST="127.0.0.1")[0] == 200
    assert read(page(80), strokes().tobytes(), HTTP_HOST="localhost", HTTP_ORIGIN="http://localhost")[0] == 200


@pytest.mark.parametrize(
    "origin", [None, "null", "", "http://evil.example", f"https://127.0.0.1:{PORT}", "http://127.0.0.1:1", f"{HERE}/"]
)
def test_another_origin_is_refused(origin: str | None) -> None:
    status, _, body = read(page(), strokes().tobytes(), HTTP_ORIGIN=origin)
    assert status == 403
    assert b"outputs" not in body
    assert ask(page(), "GET", "/network", HTTP_ORIGIN=origin)[0] == (200 if origin is None else 403)


@pytest.mark.parametrize(
    "path", ["/x", "", "//", "/../pyproject.toml", "/drawing.html", "/read/", "/%2e%2e/cli.py", "*"]
)
def test_there_are_no_other_paths(path: str) -> None:
    status, _, body = ask(page(), "GET", path)
    assert (status, json.loads(body)) == (404, {"error": "there is nothing here"})


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", "/read", "POST"), ("POST", "/", "GET, HEAD"), ("PUT", "/read", "POST"), ("OPTIONS", "/read", "POST")],
)
def test_other_methods_are_refused(method: str, path: str, allow: str) -> None:
    status, headers, _ = ask(page(), method, path, HTTP_ORIGIN=HERE)
    assert (status, headers["Allow"]) == (405, allow)


class Untouchable:
    """A body that must not be read."""

    def read(self, *_: int) -> bytes:
        raise AssertionError("the body was read")


def test_a_drawing_has_one_size() -> None:
    whole = strokes().tobytes()
    for length in (str(len(whole) + 1), "9" * 30, "-1", "1e3", "٣"):
        assert read(page(), b"", CONTENT_LENGTH=length, **{"wsgi.input": Untouchable()})[0] == 413
    for body, promised in ((whole[:-1], len(whole) - 1), (whole[:-1], len(whole)), (b"", 0), (whole, 7)):
        assert read(page(), body, CONTENT_LENGTH=str(promised))[0] == 400
    assert read(page(), whole, CONTENT_LENGTH=None)[0] == 400


@pytest.mark.parametrize("kind", [None, "text/plain", "multipart/form-data", "application/x-www-form-urlencoded"])
def test_what_a_form_could_send_is_refused(kind: str | None) -> None:
    """Content types that another site may send without a preflight request."""
    assert read(page(), strokes().tobytes(), CONTENT_TYPE=kind)[0] == 415


def test_a_blank_drawing_is_told_in_one_line() -> None:
    status, _, body = read(page(), bytes(SIDE * SIDE))
    error = json.loads(body)["error"]
    assert status == 422
    assert "blank" in error
    assert "\n" not in error


def test_a_fault_is_told_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    app = page()
    monkeypatch.setattr(drawing, "prepare_grey", lambda *_: 1 / 0)
    status, _, body = read(app, strokes().tobytes())
    assert (status, json.loads(body)["error"]) == (500, "unexpected ZeroDivisionError: division by zero")


@pytest.mark.parametrize(
    ("layers", "settings", "found"),
    [
        ((64, 10), {}, "64 inputs"),
        ((784, 1), {"output": "sigmoid"}, "1 outputs"),
        ((784, 101), {}, "101 outputs"),
        ((784, 10), {"loss": "quadratic", "output": "tanh"}, "tanh outputs"),
    ],
)
def test_a_model_that_reads_no_drawings_is_refused(
    layers: tuple[int, ...], settings: dict[str, str], found: str
) -> None:
    with pytest.raises(ModelError, match=rf"cannot read drawings: m\.safetensors: found {found}, expected .*twostroke"):
        DrawingPage(network(layers, **settings), DIGITS, PORT, Path("m.safetensors"))


# --- the server ---------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model where ``train`` writes it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mnist").mkdir(parents=True)
    return save_model(network(), Path("runs/mnist/model.safetensors"))


@contextmanager
def drawn(*words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command as a process, with warnings as errors, and the address that it prints."""
    environment = os.environ | {"PYTHONPATH": str(Path(twostroke.__file__).parents[1]), "PYTHONWARNINGS": "error"}
    run = [sys.executable, "-m", "twostroke", "draw", "--no-browser", "--port", "0", *words]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert process.stdout
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        found = re.fullmatch(r"page: (http://127\.0\.0\.1:\d+/)\n", lines[1])
        assert found, lines
        yield process, found[1]
    finally:
        process.kill()
        process.communicate()


def test_it_listens_on_this_machine_s_own_address_only() -> None:
    with drawing.listen(0) as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(
            ConfigError, match=rf"^cannot listen: --port: found {port}: Address already in use.*--port 0"
        ):
            drawing.listen(port)


@NEEDS_SERVER
def test_over_http(model: Path) -> None:
    with drawn() as (_, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        headers = {"Origin": url.rstrip("/"), "Content-Type": KIND}
        connection.request("POST", "/read", strokes().tobytes(), headers)
        answer = connection.getresponse()
        assert answer.status == 200
        assert len(json.loads(answer.read())["outputs"]) == 10
        assert answer.getheader("Server") is None
        connection.request("GET", "/../../etc/passwd")
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (404, b'{"error": "there is nothing here"}')
        connection.request("GET", "/", headers={"Host": "evil.example"})
        answer = connection.getresponse()
        assert answer.status == 421
        connection.close()


@NEEDS_SERVER
def test_the_server_stops_reading_what_is_too_long(model: Path) -> None:
    with drawn() as (_, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        for words in (b"Content-Length: 999999999\r\n", b"X: " + b"x" * 2 * drawing.MOST_HEADERS + b"\r\n"):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as one:
                one.sendall(b"POST /read HTTP/1.1\r\nHost: 127.0.0.1\r\n" + words + b"\r\n")
                assert re.match(rb"HTTP/1\.[01] (413|431) ", one.recv(4096))


@NEEDS_SERVER
def test_connections_that_ask_nothing_do_not_stop_it(model: Path) -> None:
    with drawn() as (_, url), ExitStack() as held:
        port = int(url.rstrip("/").rpartition(":")[2])
        half_open = [held.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(150)]
        for one in half_open:
            one.sendall(b"POST /read HTTP/1.1\r\nHost: 127")
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/network")
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["side"]) == (200, SIDE)
        connection.close()


# --- the command --------------------------------------------------------------------------------------------------


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: Any) -> str:
    """The one line of a command that fails."""
    assert main(["draw", *map(str, words)]) == code
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@NEEDS_SERVER
def test_without_a_model_it_says_to_train_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = refused(capsys, 5)
    assert "runs/*/model.safetensors" in line
    assert "twostroke train" in line
    assert "none.safetensors" in refused(capsys, 5, "none.safetensors")


@NEEDS_SERVER
def test_wrong_arguments_are_one_line(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for port in (-1, 65536):
        assert f"--port: found {port}" in refused(capsys, 2, "--port", port)
    assert "--classes: found 'a', 'b'" in refused(capsys, 2, "--classes", "a,b")
    save_model(network((9, 3)), "other.safetensors")
    assert "9 inputs" in refused(capsys, 5, "other.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"--port: found {port}: Address already in use" in refused(capsys, 2, model, "--port", port)


def test_without_the_extra_it_says_how_to_install_it(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "waitress", None)
    line = refused(capsys, 2)
    assert "waitress" in line
    assert "pip install 'twostroke[draw]'" in line


@NEEDS_SERVER
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_leaves_nothing_behind(number: signal.Signals, code: int, model: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    with drawn("--classes", "a,b,c,d,e,f,g,h,i,j") as (process, url):
        port = int(url.rstrip("/").rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/network")
        assert json.loads(connection.getresponse().read())["classes"] == list("abcdefghij")
        headers = {"Origin": url.rstrip("/"), "Content-Type": KIND}
        connection.request("POST", "/read", strokes().tobytes(), headers)
        assert connection.getresponse().read()
        process.send_signal(number)  # with a connection still open
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (code, "", f"stopped by {number.name}\n")
        connection.close()
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
    with drawing.listen(port):
        pass


@NEEDS_SERVER
@pytest.mark.parametrize("screen", [True, False])
@pytest.mark.parametrize("wanted", [True, False])
def test_the_page_is_opened_where_there_is_a_screen(
    screen: bool, wanted: bool, model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    came = threading.Event()

    def take(url: str) -> None:
        opened.append(url)
        came.set()

    monkeypatch.setattr(webbrowser, "open", take)
    monkeypatch.setattr(command, "_until_stopped", lambda _: came.wait(2 if screen and wanted else 0.1))
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if screen:
        monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    assert main(["draw", "--port", "0", *([] if wanted else ["--no-browser"])]) == 0
    (url,) = re.findall(r"page: (.*)", capsys.readouterr().out)
    assert opened == ([url] if screen and wanted else [])
