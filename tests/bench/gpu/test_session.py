"""``bench/gpu/session.py`` without a GPU: its plan, and its parts in their processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench.gpu import quick, right, session

ROOT = Path(__file__).parents[3]
SCRIPT = str(ROOT / "bench" / "gpu" / "session.py")


# --- the plan -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [None, *session.GROUPS])
def test_the_session_runs_dry_and_names_what_it_skips(group: str | None, tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "--dry-run", "--out", str(tmp_path), *(["--group", group] if group else [])]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = tmp_path.iterdir()
    assert file.name == ("gpu-session.json" if group is None else f"gpu-session-{group}.json")
    record = json.loads(file.read_text())
    assert list(record["parts"]) == [part.name for part in session.PARTS if group in (None, part.group)]
    for name, result in record["parts"].items():
        assert (result["outcome"], bool(result.get("reason"))) == (
            ("ok", False) if name == "doctor" else ("SKIPPED", True)
        )


@pytest.mark.parametrize("group", session.GROUPS)
def test_a_group_fits_into_nine_minutes_whatever_its_parts_take(group: str) -> None:
    parts = [part for part in session.PARTS if part.group == group]
    assert sum(part.seconds for part in parts) <= session.BUDGET_S < 540
    if group == "right":
        assert [part.name for part in parts[:2]] == ["doctor", "tests"]


def test_every_part_is_there() -> None:
    for part in session.PARTS:
        if part.argv is None:
            assert callable(getattr(right, part.name, None) or getattr(quick, part.name))
    assert len({part.name for part in session.PARTS}) == len(session.PARTS)


def test_what_is_measured_is_kept(tmp_path: Path) -> None:
    """The curves, fits and pictures of the crossover lie beside the session's own file."""
    (part,) = (part for part in session.PARTS if part.name == "crossover")
    small = ["--devices", "cpu", "--layers", "6,5,3", "--batch-sizes", "1,4", "--seconds", "0.02", "--threads", "1"]
    result = session.run_part(part._replace(argv=[*(part.argv or []), *small]), 100, tmp_path)
    assert result["outcome"] == "ok", result
    found = json.loads((tmp_path / "bench.json").read_text())
    assert {"fits", "crossovers"} <= found.keys()


# --- parts in their processes ---------------------------------------------------------------------------------


def part(code: str, **expected: Any) -> session.Part:
    return session.Part("x", "right", 1, "", ["-c", code], **expected)


def test_a_part_that_fails_or_hangs_costs_only_itself(tmp_path: Path) -> None:
    late = tmp_path / "late"
    child = f"import time; time.sleep(3.5); open({str(late)!r}, 'w')"
    codes = {
        "fails": "raise SystemExit('no')",
        "hangs": f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)",
        "bad": "print('{\"ok\": false}')",
    }
    outcomes, started = {}, time.perf_counter()
    for name, code in codes.items():
        result = session.run_part(part(code), 1.5 if name == "hangs" else 20)
        outcomes[name] = result["outcome"]
        assert isinstance(session.headline(name, result), str)
    assert outcomes == {"fails": "FAILED", "hangs": "TIMED OUT", "bad": "FAILED"}
    assert time.perf_counter() - started < 30
    time.sleep(4)
    assert not late.exists(), "what a part started ends with it"


SAYS = "import sys; print('error: no GPU', file=sys.stderr); {}sys.exit({})"


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        (SAYS.format("", 3), "ok"),
        (SAYS.format("", 0), "FAILED"),
        (SAYS.format("print('more', file=sys.stderr); ", 3), "FAILED"),
        (SAYS.format("open(sys.argv[1] + '/m.safetensors', 'w'); ", 3), "FAILED"),
        ("import sys; print('error: else', file=sys.stderr); sys.exit(3)", "FAILED"),
    ],
)
def test_a_fault_is_one_line_its_code_and_nothing_written(code: str, outcome: str) -> None:
    fault = part(code, exit=3, says="no GPU")
    assert fault.argv is not None
    assert session.run_part(fault._replace(argv=[*fault.argv, "{tmp}"]), 20)["outcome"] == outcome


@pytest.mark.parametrize("name", ["no_such_gpu", "no_gpu"])
def test_the_planted_faults_end_as_they_must(name: str) -> None:
    """Here there is no GPU at all, which is said in other words; everything else of the part is as it must be."""
    (fault,) = (part for part in session.PARTS if part.name == name)
    result = session.run_part(fault._replace(says="the GPU cannot be used: "), 60)
    assert result["outcome"] == "ok", result


@pytest.mark.parametrize("group", session.GROUPS)
def test_the_results_are_written_after_every_part(group: str, tmp_path: Path) -> None:
    """A session that is told to end, in its second part, leaves the first one's result, and no process."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from bench.gpu import session as s\n"
        "from twostroke.backend.cuda import probe; probe.probe_cuda = lambda: probe.Probe(True, 'A GPU (none)')\n"
        'slow = \'import os, time; print(os.getpid(), file=open(os.environ["OUT"] + "/pid", "w"), flush=True);\'\n'
        f"s.PARTS[:] = [s.Part('one', '{group}', 9, '', ['-c', 'print(1)']),\n"
        f"              s.Part('two', '{group}', 60, '', ['-c', slow + 'time.sleep(60)'])]\n"
        "sys.exit(s.main(['--out', sys.argv[2]]))"
    )
    running = subprocess.Popen([sys.executable, "-c", code, str(ROOT), str(tmp_path)], stdout=subprocess.DEVNULL)
    try:
        pid = tmp_path / "pid"
        for _ in range(600):
            if pid.exists() and pid.read_text().endswith("\n") and (tmp_path / "gpu-session.json").exists():
                break
            time.sleep(0.05)
        record = json.loads((tmp_path / "gpu-session.json").read_text())
        assert {name: result["outcome"] for name, result in record["parts"].items()} == {"one": "ok"}
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 143
    finally:
        running.kill()
        running.wait()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
