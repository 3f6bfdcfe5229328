"""The images' structure, without building one; ``docker/check.sh`` builds and runs them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
DOCKERFILES = ("Dockerfile.cpu", "Dockerfile.cuda")
LOCKS = ("requirements-build.txt", "requirements-cpu.txt", "requirements-cuda.txt", "requirements-test.txt")
HOST = re.compile(r"https?://|(?<![=.\d])(?:\d{1,3}\.){3}\d{1,3}\b|--(?:extra-)?index-url|--find-links|--trusted-host")

pytestmark = pytest.mark.skipif(
    not (ROOT / ".dockerignore").exists(), reason="this copy of the project builds no images"
)

Instruction = tuple[str, str]


def instructions(text: str) -> list[Instruction]:
    """(name, arguments) of each instruction, comments dropped and continued lines joined."""
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    found = [line.split(None, 1) for line in joined.splitlines()]
    return [(name.upper(), rest.strip()) for name, rest in found]


def stages(text: str) -> dict[str, list[Instruction]]:
    """The instructions of each stage by its name, those of the stages it is made from first; "" is the final one."""
    found: dict[str, list[Instruction]] = {}
    current: list[Instruction] = []
    for name, rest in instructions(text):
        if name == "FROM":
            words = rest.split()
            label = words[2] if len(words) > 2 else ""
            current = list(found.get(words[0], []))
            found[label] = current
        else:
            current.append((name, rest))
    return found


def last(stage: list[Instruction], name: str) -> str:
    return [rest for found, rest in stage if found == name][-1]


@pytest.fixture(params=DOCKERFILES)
def dockerfile(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return (DOCKER / name).read_text(encoding="utf-8")


def test_stages_are_read() -> None:
    found = stages("ARG BASE\nFROM $BASE AS a\nRUN one \\\n  two\nFROM a AS b\nUSER 5\nFROM b\n")
    assert found == {
        "a": [("RUN", "one two")],
        "b": [("RUN", "one two"), ("USER", "5")],
        "": [("RUN", "one two"), ("USER", "5")],
    }


def test_the_base_is_a_slim_python_that_can_be_changed(dockerfile: str) -> None:
    name, default = instructions(dockerfile)[0]
    assert name == "ARG"
    assert re.fullmatch(r"BASE_IMAGE=python:3\.\d+-slim-\w+", default)
    bases = {rest.split()[0] for name, rest in instructions(dockerfile) if name == "FROM"}
    assert bases <= {"${BASE_IMAGE}", *stages(dockerfile)}


def test_there_are_stages_and_the_default_has_no_tests(dockerfile: str) -> None:
    assert list(stages(dockerfile)) == ["dependencies", "build", "runtime", "test", ""]
    assert stages(dockerfile)[""] == stages(dockerfile)["runtime"]
    assert not [rest for name, rest in stages(dockerfile)[""] if "tests" in rest]


@pytest.mark.parametrize("stage", ["runtime", "test", ""])
def test_the_user_is_a_number_and_not_root(dockerfile: str, stage: str) -> None:
    user = last(stages(dockerfile)[stage], "USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)


def test_dependencies_come_before_any_source(dockerfile: str) -> None:
    copied = [rest for name, rest in stages(dockerfile)["dependencies"] if name in ("COPY", "ADD")]
    assert len(copied) == 1
    assert copied[0].split()[0] in {"docker/requirements-cpu.txt", "docker/requirements-cuda.txt"}


def test_everything_installed_is_locked_or_local(dockerfile: str) -> None:
    commands = [
        rest for name, rest in instructions(dockerfile) if name == "RUN" and "pip" in rest.split("pip_conf")[-1]
    ]
    installs = [part for rest in commands for part in re.findall(r"pip (?:--python \S+ )?(?:install|wheel)[^&]*", rest)]
    assert len(installs) == 5
    for install in installs:
        assert "--require-hashes" in install or {"--no-index", "--no-deps"} <= set(shlex.split(install)), install


def test_the_c_library_is_built_and_no_compiler_is_left(dockerfile: str) -> None:
    """In the build stage a missing library is an error; no other stage has a compiler."""
    for name, stage in stages(dockerfile).items():
        runs = [rest for kind, rest in stage if kind == "RUN"]
        assert any(re.search(r"apt-get install .*\bgcc\b", rest) for rest in runs) == (name == "build")
        assert any('TWOSTROKE_LIBRARY="$(test ' in rest and "pip wheel" in rest for rest in runs) == (name == "build")
    copied = [rest.split() for kind, rest in stages(dockerfile)["build"] if kind == "COPY"]
    assert any({"hatch_build.py", "pyproject.toml"} <= set(words) for words in copied)
    assert any(words[0] == "src" for words in copied)


def test_libraries_of_the_host_are_not_sent_to_a_build() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert {"**/*.so", "**/built.json"} <= set(lines)


def test_no_host_and_no_secret_is_named(dockerfile: str) -> None:
    code = "\n".join(f"{name} {rest}" for name, rest in instructions(dockerfile))
    assert not HOST.search(code)
    assert not re.search(r"^(?:ARG|ENV) .*(?:PIP_INDEX|PIP_CERT|TOKEN|PASSWORD|SSL_CERT|PROXY)", code, re.M | re.I)
    for name, rest in instructions(dockerfile):
        if name == "RUN" and "--require-hashes" in rest:
            assert rest.count("--mount=type=secret,") == 2


def test_nothing_is_fetched_or_copied_whole(dockerfile: str) -> None:
    assert "ADD" not in {name for name, _ in instructions(dockerfile)}
    for name, rest in instructions(dockerfile):
        if name == "COPY":
            assert not {".", "./"} & set(rest.split()[:-1]), rest


def test_the_cuda_image_is_ready_for_the_toolkit() -> None:
    stage = stages((DOCKER / "Dockerfile.cuda").read_text(encoding="utf-8"))[""]
    variables = dict(
        word.split("=", 1) for name, rest in stage if name == "ENV" for word in shlex.split(rest) if "=" in word
    )
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert variables["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    cache = variables["CUPY_CACHE_DIR"]
    assert any(name == "RUN" and re.search(rf"install -d -m 1777 {cache}\b", rest) for name, rest in stage)


# --- what is locked, what is sent -------------------------------------------------------------------------------


def locked(lock: str) -> dict[str, list[str]]:
    """The versions of each package in a lock."""
    found: dict[str, list[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", (DOCKER / lock).read_text(encoding="utf-8"), re.M):
        found.setdefault(name, []).append(version)
    return found


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_and_no_host(lock: str) -> None:
    text = (DOCKER / lock).read_text(encoding="utf-8")
    assert not HOST.search(text)
    assert "file:" not in text
    entries = re.split(r"^(?=[a-z])", text, flags=re.M)[1:]
    assert entries
    for entry in entries:
        assert re.match(r"[\w.-]+==[\w.]+ ", entry), entry
        assert "--hash=sha256:" in entry, entry.splitlines()[0]


def test_the_locks_agree() -> None:
    cpu, cuda, test = locked("requirements-cpu.txt"), locked("requirements-cuda.txt"), locked("requirements-test.txt")
    assert cpu.items() <= cuda.items()
    assert cpu.items() <= test.items()
    assert "cupy-cuda12x" in cuda
    assert "nvidia-cuda-nvrtc-cu12" in cuda
    assert "pytest" in test
    assert not [name for name in cpu if name.startswith(("cupy", "nvidia", "pytest"))]


def test_only_what_is_named_is_sent_to_a_build() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] not in "#"]
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    assert not [name for name in sent if name.startswith(".") or not list(ROOT.glob(name))]
    assert lines[-1] == "**/.*"
    copied = {
        source
        for name in DOCKERFILES
        for kind, rest in instructions((DOCKER / name).read_text(encoding="utf-8"))
        if kind == "COPY" and not rest.startswith("--from=")
        for source in rest.split()[:-1]
    }
    assert {name.split("/")[0] for name in copied} == sent


def test_the_check_has_all_levels_and_no_silent_pass() -> None:
    script = (DOCKER / "check.sh").read_text(encoding="utf-8")
    assert re.findall(r"^level_(\d)\(\)", script, re.M) == list("01234")
    assert "--require=" in script
    assert (DOCKER / "check.sh").stat().st_mode & 0o111
