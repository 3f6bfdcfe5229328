"""Everything that needs a GPU, checked and measured in two calls of less than nine minutes each:

    python bench/gpu/session.py --group right     # is it right? the test suite, parity, resume, faults, bits
    python bench/gpu/session.py --group quick     # is it quick? traces, waterfall, duels, time to accuracy

Each part runs in a process of its own with a time limit, so that a fault or a hang in one costs only that one. The
parts of ``right`` time nothing and run side by side, those of ``quick`` one after the other. The raw results go to one
JSON file a group, written after every part, in $OUT or in bench/results/MACHINE; a short table is printed last. Needs
no network. Launches are counted at the calls into CuPy and cuBLAS (a product may be more than one launch inside
cuBLAS), and by PyTorch's profiler where that sees them; host time is the clock around steps that nobody waits for.
``--dry-run`` lists what would run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.gpu import quick, right
from bench.processes import TIMED_OUT, end_all, run

ROOT: Final = Path(__file__).resolve().parents[2]
BUDGET_S: Final = 520.0  # for all parts of a group together
GROUPS: Final = ("right", "quick")


class Part(NamedTuple):
    """What to run and for how long at most; ``argv`` None: the function of that name in this file's two neighbours.

    Right is exit code ``exit``, and where that is none a line of ``says``, nothing more, on stderr and no model left.
    """

    name: str
    group: str
    seconds: float
    what: str
    argv: list[str] | None = None
    environment: dict[str, str] | None = None
    exit: int = 0
    says: str = ""


def _twostroke(*words: str) -> list[str]:
    return ["-m", "twostroke", *words]


def _verify(name: str) -> list[str]:
    return _twostroke("verify", name, "--device", "cuda", "--json")


def _script(name: str, *words: str) -> list[str]:
    return [str(ROOT / "bench" / name), *words]


def _fault(name: str, what: str, says: str, device: str, *words: str, **environment: str) -> Part:
    """A training that must end with exit code 3."""
    command = _twostroke("train", "--device", device, *words, "-q", "--out", "{tmp}")
    return Part(name, "right", 20, what, command, environment, 3, says)


MEMORY: Final = {"CUPY_GPU_MEMORY_LIMIT": str(256 << 20)}
CALL_BY_CALL: Final = {"TWOSTROKE_CAPTURE": "0"}
# Those that compile come last: the part may run out of time.
GPU_PEERS: Final = (
    "jax-scan", "torch-graph", "torch-eager", "jax-step", "torch-manual", "torch-compile", "torch-autotune",
)  # fmt: skip
DUELS: Final = (
    "--device", "cuda", "--threads", "4", "--blocks", "8", "--settle-ms", "5", "--no-save", "--limit", "95",
    "--row-limit", "40", "--json", "{out}/duel-cuda.json", "--peer", *GPU_PEERS,
)  # fmt: skip
BY_BATCH: Final = (
    *DUELS[: DUELS.index("--limit")], "--limit", "95", "--row-limit", "40", "--json", "{out}/duel-cuda-batches.json",
    "--peer", "jax-scan", "torch-graph", "--batch-size", "16", "1024", "4096",
)  # fmt: skip
TO_98: Final = ("--device", "cuda", "--seeds", "100", "--no-save")
WORKERS: Final = str(min(8, os.cpu_count() or 1))
# Warnings of the packages that happen to be there are no failures here.
SUITE: Final = [
    "-m", "pytest", "tests", "--require-gpu", "-m", "gpu", "-q", "-n", WORKERS, "-p", "no:cacheprovider",
    "-W", "default",
]  # fmt: skip
PARTS: Final = [
    Part("doctor", "right", 20, "what the machine has", _twostroke("doctor", "--json")),
    Part("tests", "right", 100, "the test suite's GPU tests", SUITE),
    Part("verify_grad", "right", 50, "the four equations on the GPU", _verify("grad")),
    Part("verify_parity", "right", 25, "CPU and GPU agree", _verify("parity")),
    Part("verify_resume", "right", 30, "resume is exact on the GPU", _verify("resume")),
    Part("tf32_fails_parity", "right", 25, "TF32 must fail the float32 limits"),
    Part("captured", "right", 40, "compiled steps end in the same bits however they are launched"),
    Part("repeat", "right", 30, "ten runs, bit for bit"),
    Part("accuracy", "right", 40, "the same seed on both devices"),
    Part("sanitizer", "right", 70, "what NVIDIA's compute-sanitizer finds"),
    Part("memory", "right", 30, "out of memory, then a smaller batch", None, MEMORY),
    _fault(
        "memory_command", "the command line out of memory", "out of GPU memory", "cuda",
        "--batch-size", "full", "--layers", "784,4096,10", **MEMORY,
    ),
    _fault("no_such_gpu", "cuda:7 where there is none", "there is no cuda:7, this machine has cuda:0", "cuda:7"),
    _fault("no_gpu", "a driver, and no GPU to be seen", "no CUDA GPU found", "cuda", CUDA_VISIBLE_DEVICES=""),
    Part("step", "quick", 30, "launches, allocations and host time of a step call by call", None, CALL_BY_CALL),
    Part("trace", "quick", 25, "a profiler's trace of an epoch: kernels, copies, waits"),
    Part("waterfall", "quick", 25, "time of a step, way by way, and the floors"),
    Part("first_run", "quick", 20, "a first training run with an empty cache, and a second"),
    Part("inference", "quick", 20, "prediction and evaluation, call by call and compiled"),
    Part("large", "quick", 40, "784-4096-4096-10 at batch 8192 against its GEMMs"),
    Part("duels", "quick", 105, "against PyTorch and JAX", _script("duel.py", *DUELS)),
    Part("duels_by_batch", "quick", 100, "against JAX's scan and PyTorch's graph, batch by batch",
         _script("duel.py", *BY_BATCH)),
    Part(
        "time_to_accuracy", "quick", 65, "100 seeds to 98 %, three clocks",
        _script("time_to_accuracy.py", *TO_98, "--limit", "35", "--cold", "3"),
    ),
    Part(
        "time_to_accuracy_again", "quick", 25, "the same, in the graphs of the first seed, a launch an epoch",
        _script("time_to_accuracy.py", *TO_98, "--limit", "20", "--cold", "0", "--reuse"),
        {"TWOSTROKE_CAPTURE": "epoch"},
    ),
    Part(
        "crossover", "quick", 50, "CPU against GPU",
        _twostroke("bench", "--json", "--seconds", "8", "--out", "{out}"),
    ),
]  # fmt: skip


# --- running them --------------------------------------------------------------------------------------------


def run_part(part: Part, seconds: float, results: Path | None = None) -> dict[str, Any]:
    """One part in its own process. Never raises."""
    started = time.perf_counter()
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = (
        os.environ | {"PYTHONPATH": path.rstrip(os.pathsep), "PYTHONUNBUFFERED": "1"} | (part.environment or {})
    )
    with tempfile.TemporaryDirectory(prefix="gpu-session-") as folder:
        words = part.argv or [str(Path(__file__).resolve()), "--part", part.name]
        places = {"{tmp}": folder, "{out}": str(results or folder)}
        for place, name in places.items():
            words = [word.replace(place, name) for word in words]
        if results is not None:
            environment["OUT"] = str(results)
        code, out, err = run([sys.executable, *words], seconds, environment=environment, cwd=ROOT)
        left = sorted(path.name for path in Path(folder).rglob("*.safetensors"))
    result: dict[str, Any] = {"exit": code, "seconds": time.perf_counter() - started}
    try:
        found = json.loads(out.strip().splitlines()[-1])
        result["found"] = found
    except (ValueError, IndexError):
        found, result["output"] = {}, out[-6000:]
    if err.strip():
        result["stderr"] = err[-3000:]
    ok = code == part.exit and (not isinstance(found, dict) or found.get("ok", True))
    if part.says:
        ok = ok and part.says in err and err.count("\n") == 1 and not left
    result["outcome"] = "TIMED OUT" if code == TIMED_OUT else "ok" if ok else "FAILED"
    return result


def outcomes(parts: list[Part], run: Callable[[Part], dict[str, Any]]) -> Iterator[tuple[Part, dict[str, Any]]]:
    """The parts with their results: those of ``right`` side by side, then the others one after the other."""
    together = [part for part in parts if part.group == "right"]
    with ThreadPoolExecutor(min(len(together), os.cpu_count() or 1) or 1) as pool:
        running = {pool.submit(run, part): part for part in together}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        except BaseException:  # told to end
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise
    for part in parts:
        if part.group != "right":
            yield part, run(part)


def headline(name: str, result: dict[str, Any]) -> str:
    """The figure of a part that a reader wants first."""
    try:
        if name in HEADLINES and "found" in result:
            return HEADLINES[name](result["found"])
        if name.startswith("verify_") and "found" in result:
            checks = result["found"]["checks"]
            return f"{len(checks)} checks, worst {max(check['error'] or 0.0 for check in checks):.2g}"
    except (KeyError, TypeError, IndexError):
        return "unreadable: see the JSON"
    lines = (result.get("output") or result.get("stderr") or "").strip().splitlines()
    return lines[-1][:110] if lines else ""


def _step_headline(found: Any) -> str:
    entry = found["steps"]["batch 128"]
    return (
        f"{entry['calls_per_step']} calls, {entry['pool_allocations']} allocations,"
        f" {entry['host_us_per_step']:.0f} us host, {entry['synchronised_us_per_step']:.0f} us in all"
    )


def _large_headline(found: Any) -> str:
    kinds = ((kind, found[kind]["sgd"]["fraction_of_roofline"], found[kind]["roofline_tflops"]) for kind in TYPES)
    return ", ".join(f"{kind} {fraction:.0%} of {rate:.1f} TFLOP/s" for kind, fraction, rate in kinds)


def _captured_headline(found: Any) -> str:
    bits = "the same bits" if all(found["same_bits"].values()) else "OTHER BITS"
    return f"{bits}; from call by call at most {max(found['from_call_by_call'].values()):.1g}"


def _waterfall_headline(found: Any) -> str:
    steps = found["waterfall"]["batch 128"]["us_per_step"]
    return ", ".join(f"{name} {us:.0f} us" for name, us in steps.items())


def _trace_headline(found: Any) -> str:
    def of(entry: Any) -> str:
        counts = entry.get("profile", {})
        if not entry["seen"]:
            return str(entry["reason"])
        up, down, waits = (counts.get(kind, 0) for kind in ("copies up", "copies down", "waits"))
        return f"{entry['kernels_per_step']:.0f} kernels a step, {up} up, {down} down, {waits} waits"

    return "; ".join(f"{name}: {of(entry)}" for name, entry in found["ways"].items())


def _duels_headline(found: Any) -> str:
    rows = [row for row in found["rows"] if row["status"] == "ok"]
    return ", ".join(f"{row['peer']} at {row['batch_size']}: {row['ratio']:.2f}" for row in rows)


def _to_98_headline(found: Any) -> str:
    accuracy, clock, p = found["accuracy"], found["clocks"]["resident_seconds"], found["accuracy"]["p_one_sided"]
    sure = "" if p is None else f" (p {p:.1e})"
    return (
        f"{accuracy['seeds']} seeds, mean {accuracy['mean']:.3%}{sure}, resident clock {1e3 * clock['median']:.1f} ms"
    )


TYPES: Final = ("float32", "tf32")
HEADLINES: Final[dict[str, Callable[[Any], str]]] = {
    "doctor": lambda found: f"{found['device']}: {found['reason']}, {found['gemm_gflops']:,.0f} GFLOP/s",
    "tf32_fails_parity": lambda found: f"worst {found['worst']['float32']:.2g}, {len(found['failed'])} tensors over it",
    "repeat": lambda found: f"{found['runs']} runs, {found['different']} different result(s)",
    "accuracy": lambda found: f"difference {found['difference']:.4f}",
    "step": _step_headline,
    "captured": _captured_headline,
    "trace": _trace_headline,
    "waterfall": _waterfall_headline,
    "duels": _duels_headline,
    "duels_by_batch": _duels_headline,
    "sanitizer": lambda found: "all right" if found["seen"] else str(found["reason"]),
    "first_run": lambda found: (
        f"{found['first']['nvrtc_calls']} NVRTC calls, {found['first']['nvrtc_seconds']:.2f} s;"
        f" the whole run {found['first']['seconds']:.2f} s, again {found['again']['seconds']:.2f} s"
    ),
    "inference": lambda found: ", ".join(f"{name} {us:.0f} us" for name, us in found["us"]["compiled"].items()),
    "time_to_accuracy": _to_98_headline,
    "time_to_accuracy_again": _to_98_headline,
    "large": _large_headline,
    "memory": lambda found: f"{found['bytes_still_held']:,} bytes held after it",
}


def folder_of(gpu: str) -> Path:
    """$OUT, or bench/results/MACHINE."""
    if os.environ.get("OUT"):
        return Path(os.environ["OUT"])
    return ROOT / "bench" / "results" / (re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") or "gpu")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="run nothing that needs a GPU: list it, with the reason")
    parser.add_argument("--group", choices=GROUPS, help="a half of it, in less than nine minutes")
    parser.add_argument("--only", help="names of parts, separated by commas")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("--seconds", type=float, help="for all parts together, instead of 520 a group")
    parser.add_argument("--patience", type=float, default=1.0, help="multiplies the time limits: for an emulated GPU")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.part:
        function = getattr(right, options.part, None) or getattr(quick, options.part)
        print(json.dumps(function()), flush=True)
        return 0
    wanted = options.only.split(",") if options.only else [part.name for part in PARTS]
    unknown = set(wanted) - {part.name for part in PARTS}
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    parts = [part for part in PARTS if part.name in wanted and options.group in (None, part.group)]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a part's processes are ended on the way out

    from twostroke.backend.cuda.probe import probe_cuda
    from twostroke.files.atomic_file import write_atomically
    from twostroke.provenance import versions

    probe = probe_cuda()
    reason = "--dry-run" if options.dry_run and probe.usable else "" if probe.usable else probe.reason
    started = time.perf_counter()
    results: dict[str, Any] = {}
    record: dict[str, Any] = {"gpu": probe.reason, "versions": versions(), "parts": {}}
    out = options.out or folder_of(probe.reason.partition(" (")[0] if probe.usable else "no gpu")
    file = out / f"gpu-session{f'-{options.group}' if options.group else ''}.json"
    kept = bool(options.out) or not reason
    if kept:
        out.mkdir(parents=True, exist_ok=True)
    limit = started + (options.seconds or options.patience * BUDGET_S * len({part.group for part in parts}))

    def outcome(part: Part) -> dict[str, Any]:
        remaining = limit - time.perf_counter()
        if part.name != "doctor" and reason:
            return {"outcome": "SKIPPED", "reason": reason}
        if remaining < 10:
            return {"outcome": "SKIPPED", "reason": "no time left"}
        print(f"{part.name}: {part.what} ...", flush=True)
        return run_part(part, min(options.patience * part.seconds, remaining), out.resolve())

    for part, result in outcomes(parts, outcome):
        results[part.name] = result
        record["seconds"] = time.perf_counter() - started
        record["parts"] = {part.name: results[part.name] for part in parts if part.name in results}
        if kept:
            write_atomically(file, f"{json.dumps(record, indent=1)}\n".encode())
    if kept:
        print(f"raw results: {file}")
    for name in (part.name for part in parts):
        result = results[name]
        tail = result["reason"] if "reason" in result else headline(name, result)
        print(f"{name:22} {result['outcome']:9} {result.get('seconds', 0):5.0f} s  {tail}")
    if reason and not options.dry_run:
        print(f"no GPU was measured: {reason}", file=sys.stderr)
        return 3
    return int(any(result["outcome"] in ("FAILED", "TIMED OUT") for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
