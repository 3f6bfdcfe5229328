"""Duels: what is checked before a clock starts, limits, refusals, the peers' step; our side on a GPU."""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench import duel, processes
from bench.peers import ON_CUDA, PEERS, Peer, PeerUnavailableError, Problem, Resident, load_peer, make_problem
from twostroke.backend import Backend
from twostroke.backend.cuda.probe import probe_cuda

LAYERS, BATCH, BATCHES = (6, 5, 3), 4, 3


def problem(device: str) -> Problem:
    rng = np.random.default_rng(0)
    weights = [rng.standard_normal(shape).astype("float32") for shape in ((6, 5), (5,), (5, 3), (3,))]
    batches = [(rng.random((BATCH, 6), "float32"), rng.integers(0, 3, BATCH)) for _ in range(BATCHES)]
    return Problem(LAYERS, weights, batches, 0.1, 1, device)


def weights_after(side: Any, steps: Sequence[int]) -> Any:
    with side.active():
        for count in steps:
            side.run(count)
    return np.concatenate([array.ravel() for array in side.weights()])


def test_our_side_runs_steps_as_training_does(cuda: Backend) -> None:
    """In rounds, in single steps and in both, as on the CPU: a launch a step, as ``auto`` does it."""
    ours = load_peer("ours")
    side: Any = ours.make(problem("cuda"))
    assert side.granularity == BATCHES
    found = weights_after(side, [2 * BATCHES])
    launched = side.describe()["graphs"]["launches"]
    weights_after(side, [2 * BATCHES])
    assert side.describe()["graphs"]["launches"] == launched + 2 * BATCHES
    expected = weights_after(ours.make(problem("cpu")), [2 * BATCHES])
    assert np.linalg.norm(found - expected) <= 5e-6 * np.linalg.norm(expected)
    mixed = weights_after(ours.make(problem("cuda")), [BATCHES, 2])
    expected = weights_after(ours.make(problem("cpu")), [BATCHES + 2])
    assert np.linalg.norm(mixed - expected) <= 5e-6 * np.linalg.norm(expected)


def test_a_peer_of_the_cpu_is_not_timed_on_a_gpu() -> None:
    for name in set(PEERS) - ON_CUDA:
        row = duel.Row(name, list(LAYERS), BATCH, 1, "cuda")
        duel.duel(row, 2, 0.001, 0)
        assert (row.status, row.reason) == ("unavailable", "knows the CPU only")


@pytest.mark.parametrize("batch", [2, 32])
def test_all_blocks_have_the_same_steps(batch: int) -> None:
    row = duel.Row("numpy-out", [6, 5, 3], batch, 1, form="prepared")
    duel.duel(row, 2, 0.002, 0)
    assert row.status in ("ok", "noisy"), row.reason
    assert row.steps["ours"] == row.steps["control"] == -(-row.steps["peer"] // 64) * 64


GATHERING = ["torch-eager", "torch-manual", "jax-step", "jax-scan", "numpy-out", "sklearn", "thinc", "seed-loop"]


def small_resident(batch: int, steps: int, round_steps: int) -> Problem:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(0, 256, (11, 6), dtype=np.uint8), rng.integers(0, 3, 11)
    order = rng.integers(0, 11, (steps, batch))
    return problem("cpu")._replace(batches=[], resident=Resident(pixels, labels, order, round_steps))


@pytest.mark.parametrize("name", GATHERING)
def test_a_peer_gathers_the_samples_that_we_gather(name: str) -> None:
    """From uint8 pixels here, from float32 there, in one order; over the end of it too, and from within a round."""
    try:
        peer = load_peer(name)
    except ImportError:
        pytest.skip(f"{name} is not installed")
    given = small_resident(BATCH, 6, 3)
    ours: Any = load_peer("ours").make(given)
    other: Any = peer.make(given)
    assert given.batch_size == BATCH
    assert (ours.granularity, given.round_steps) == (3, 3)
    for steps in ([10], [6, 3], [1, 2]):
        found, expected = weights_after(other, steps), weights_after(ours, steps)
        assert np.linalg.norm(found - expected) <= 5e-6 * np.linalg.norm(expected)


def test_our_gathered_steps_are_those_of_prepared_batches() -> None:
    given = small_resident(BATCH, 6, 3)
    assert given.resident is not None
    samples, labels = given.resident.floats(), given.resident.labels
    batches = [(samples[rows], labels[rows]) for rows in given.resident.order]
    expected = weights_after(load_peer("ours").make(given._replace(batches=batches, resident=None)), [6])
    found = weights_after(load_peer("ours").make(given), [6])
    assert np.linalg.norm(found - expected) <= 5e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize(("layers", "batch", "steps"), [([784, 128, 10], 1, 256), ([9, 4, 3], 7000, 8)])
def test_the_resident_form(layers: list[int], batch: int, steps: int) -> None:
    """Whole rounds, at least one epoch, every sample as often as any other within an epoch, and no zero in noise."""
    resident = make_problem(layers, batch, 1, noise=True, form="resident").resident
    assert resident is not None
    assert resident.pixels.shape == (60_000, layers[0])
    assert resident.pixels.min() > 0
    assert resident.round_steps == steps
    assert len(resident.order) % steps == 0
    assert resident.order.shape[1] == batch
    assert (np.sort(resident.order.ravel()[:60_000]) == np.arange(60_000)).all()


def test_the_grid_has_mnist_with_its_zeros_and_without() -> None:
    rows = duel.rows_of(duel.parse(["--grid", "--peer", "jax-scan", "--threads", "1"]))
    assert len(rows) == 3 * 4 * 2 + 4
    assert {row.form for row in rows} == {"resident"}
    assert [row.noise for row in rows[:2]] == [False, True]
    assert duel.parse(["--device", "cuda"]).form == "prepared"


def test_a_row_says_how_near_its_limit_it_is() -> None:
    """Without zeros, which our products skip."""
    row = duel.Row("numpy-out", [20, 5, 3], 4, 1)
    duel.duel(row, 40, 0.002, 0, 0.0)
    assert row.status in ("ok", "noisy"), row.reason
    assert row.form == "resident"
    assert len(row.pairs) == 2 * duel.LEAST_ROUNDS
    assert row.limit["limit"] in ("product", "memory")
    assert row.limit["text"] in duel.line(row)


def test_a_round_of_large_steps_is_a_short_one() -> None:
    assert [len(make_problem([8, 4, 2], batch, 1).batches) for batch in (1, 16)] == [64, 64]
    assert len(make_problem([1024, 2048, 2048, 1024], 1024, 1).batches) == 8


def test_without_a_gpu_a_duel_says_so() -> None:
    if probe_cuda().usable:
        pytest.skip("this machine has a GPU")
    with pytest.raises(PeerUnavailableError, match="the GPU cannot be used"):
        load_peer("ours").make(problem("cuda"))


@pytest.mark.parametrize("name", ["torch-eager", "torch-manual", "torch-compile", "torch-autotune", "torch-graph"])
def test_a_pytorch_peer_without_a_gpu_says_so(name: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: its peers cannot be asked")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(PeerUnavailableError, match="finds no GPU"):
        load_peer(name).make(problem("cuda"))


@pytest.mark.parametrize("name", ["torch-eager", "torch-manual", "jax-step", "jax-scan"])
def test_a_peer_learns_what_we_learn(name: str) -> None:
    """On the CPU: the step that a GPU is given is the same code."""
    pytest.importorskip(name.partition("-")[0], reason="the peer is not installed")
    row = duel.Row(name, list(LAYERS), BATCH, 1)
    ours, peer, given = load_peer("ours"), load_peer(name), problem("cpu")
    assert duel.check_agreement(row, ours, peer, given), row.reason
    assert duel.check_round(row, ours.make(given), peer.make(given), given), row.reason
    assert row.round_steps == BATCHES


def test_compiled_steps_know_that_the_weights_stay_where_they_are() -> None:
    """Inductor makes no CUDA graph of a step that writes into inputs that may be elsewhere next time."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = importlib.import_module("bench.peers.torch_compile")
    still: list[bool] = []

    def look(graph: Any, inputs: list[Any]) -> Any:
        for node in graph.graph.find_nodes(op="placeholder"):
            still.append(bool(node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type")))
        return graph.forward

    given = problem("cpu")
    side = module.TorchCompile(given, backend=look)
    assert sorted(still) == [False] * 2 + [True] * 4, "two inputs that change, four weights"
    assert [np.array_equal(a, b) for a, b in zip(side.weights(), given.weights, strict=True)] == [True] * 4
    before = [parameter.data_ptr() for parameter in side.parameters]
    side.run(2)
    assert [parameter.data_ptr() for parameter in side.parameters] == before
    assert not torch.equal(side.parameters[0], torch.from_numpy(given.weights[0]))


def test_pytorchs_graph_is_captured_in_peace(monkeypatch: pytest.MonkeyPatch) -> None:
    """No garbage is collected meanwhile; afterwards the weights are what they were. PyTorch's parts are planted."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = importlib.import_module("bench.peers.torch_graph")
    collecting, replays = [], []

    @contextlib.contextmanager
    def capture(graph: Any) -> Iterator[None]:
        collecting.append(gc.isenabled())
        yield

    streams = SimpleNamespace(wait_stream=lambda _: None)
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(
        Stream=lambda: streams, current_stream=lambda: streams, stream=contextlib.nullcontext, graph=capture,
        CUDAGraph=lambda: SimpleNamespace(replay=lambda: replays.append(1)), synchronize=lambda: None,
    ))  # fmt: skip
    monkeypatch.setattr("bench.peers.torch_manual.put", lambda _, array: torch.tensor(array))
    for name in ("torch_common", "torch_graph"):
        monkeypatch.setattr(f"bench.peers.{name}.batches", lambda given: [
            (torch.tensor(X), torch.tensor(y)) for X, y in given.batches
        ])  # fmt: skip
    given = problem("cuda")
    side = module.make(given)
    assert (collecting, gc.isenabled()) == ([False], True)
    assert all(np.array_equal(a, b) for a, b in zip(side.weights(), given.weights, strict=True))
    side.run(2 * BATCHES)
    assert len(replays) == 2


def test_jax_leaves_us_memory_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    common = importlib.import_module("bench.peers.jax_common")
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")  # so that it is put back
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE")
    found = []

    def devices(backend: str) -> Any:
        found.append(os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE"))
        raise RuntimeError("no GPU\nhere")

    monkeypatch.setattr(jax, "local_devices", devices)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    with pytest.raises(PeerUnavailableError, match="this JAX finds no GPU: no GPU"):
        common.device_of(problem("cuda"))
    assert found == ["false"]


# --- what is checked before a clock starts ------------------------------------------------------------------------


class FakeSide:
    """Counts steps; the whole rounds of ``wrong`` learn something else."""

    mode = "fake"

    def __init__(self, granularity: int, wrong: bool = False) -> None:
        self.granularity, self.wrong = granularity, wrong
        self.runs: list[int] = []
        self.value = 1.0

    def active(self) -> Any:
        return contextlib.nullcontext()

    def run(self, n_steps: int) -> None:
        self.runs.append(n_steps)
        rounds, rest = divmod(n_steps, self.granularity) if self.granularity > 1 else (0, n_steps)
        self.value += 0.01 * rest + rounds * self.granularity * (0.02 if self.wrong else 0.01)

    def weights(self) -> list[Any]:
        return [np.full(3, self.value)]


def fake_problem(device: str = "cpu") -> Any:
    return Problem((3,), [np.ones(3)], [(np.ones((1, 3)), np.zeros(1))], 0.1, 1, device)


@pytest.mark.parametrize(("ours", "peer", "steps"), [(64, 1, 64), (1, 64, 64), (64, 64, 64), (4, 6, 12), (1, 1, None)])
def test_a_whole_round_of_what_is_timed_is_checked(ours: int, peer: int, steps: int | None) -> None:
    row = duel.Row("fake", [3], 1, 1)
    sides = FakeSide(ours), FakeSide(peer)
    assert duel.check_round(row, *sides, fake_problem())
    assert row.round_steps == steps
    assert [side.runs for side in sides] == [[] if steps is None else [steps]] * 2


def test_a_peer_whose_rounds_learn_something_else_disagrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though its single steps, the ten of the first check, are right; no clock starts."""
    peers = {"ours": FakeSide, "torch-graph": lambda granularity: FakeSide(granularity, wrong=True)}
    monkeypatch.setattr(duel, "load_peer", lambda name: Peer(name, "1", lambda _: peers[name](64)))
    monkeypatch.setattr(duel, "make_problem", lambda *_, **__: fake_problem())
    monkeypatch.setattr(duel, "Fighter", None)
    row = duel.Row("torch-graph", [3], 1, 1)
    duel.duel(row, 2, 0.001, 0)
    assert (row.status, row.ratio) == ("disagrees", None)
    assert row.reason.startswith("after 64 steps: weights ")
    assert row.update_error == 0


def test_an_error_that_is_no_number_does_not_pass() -> None:
    row = duel.Row("fake", [3], 1, 1)
    assert not duel.agrees(row, 10, float("nan"), 0.0, 1.0)
    assert row.status == "disagrees"


@pytest.mark.parametrize(
    ("error", "ten_pass", "round_passes"), [(9e-4, True, True), (2e-3, False, True), (8e-3, False, False)]
)
def test_rounds_have_a_limit_of_their_own(
    monkeypatch: pytest.MonkeyPatch, error: float, ten_pass: bool, round_passes: bool
) -> None:
    """Between the worst of right peers and the least of mistakes."""
    monkeypatch.setattr(duel, "errors_after", lambda *_: (1e-5, error))
    peer = Peer("fake", "1", lambda _: FakeSide(64))
    row = duel.Row("fake", [3], 1, 1)
    assert duel.check_agreement(row, peer, peer, fake_problem()) is ten_pass
    assert duel.check_round(row, FakeSide(1), FakeSide(64), fake_problem()) is round_passes


# --- rows that end early ------------------------------------------------------------------------------------------


def test_the_document_is_whole_after_every_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What ends the run in its third row costs only that."""
    file = tmp_path / "new" / "duel.json"
    seen = []

    def one(row: duel.Row, arguments: Any, seconds: float) -> duel.Row:
        seen.append([row["peer"] for row in json.loads(file.read_text())["rows"]] if file.exists() else [])
        if len(seen) == 3:
            raise KeyboardInterrupt
        row.status, row.reason = "noisy", "for this test"
        return row

    monkeypatch.setattr(duel, "duel_in_own_process", one)
    monkeypatch.setattr(duel, "bind", lambda threads: [0])
    with pytest.raises(KeyboardInterrupt):
        duel.main(["--no-save", "--json", str(file), "--peer", "torch-eager", "thinc", "sklearn"])
    assert seen == [[], ["torch-eager"], ["torch-eager", "thinc"]]
    document = json.loads(file.read_text())
    assert (document["rows_asked"], len(document["rows"])) == (3, 2)


def test_a_row_has_a_time_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It ends with what it started; when no time is left none is begun."""
    arguments = duel.parse(["--no-save"])
    late = tmp_path / "late"
    script = tmp_path / "slow.py"
    child = f"import time; time.sleep(3); open({str(late)!r}, 'w')"
    script.write_text(
        f"import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)\n"
    )
    monkeypatch.setattr(duel, "__file__", str(script))
    monkeypatch.setattr(duel, "LEAST_ROW_SECONDS", 1.0)
    row = duel.duel_in_own_process(duel.Row("thinc", [3, 2], 1, 1), arguments, 1.2)
    assert (row.status, row.reason) == ("failed", "timed out after 1 s")
    row = duel.duel_in_own_process(duel.Row("thinc", [3, 2], 1, 1), arguments, 0.9)
    assert (row.status, row.reason) == ("not run", "no time left")
    time.sleep(2.5)
    assert not late.exists()


def test_a_command_that_ends_leaves_nobody_behind(tmp_path: Path) -> None:
    """And is not waited for longer than it runs, though its child holds its output."""
    child = "import time; time.sleep(30)"
    code = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {child!r}]).pid); sys.exit(5)"
    started = time.perf_counter()
    done = processes.run([sys.executable, "-c", code], 20)
    assert time.perf_counter() - started < 15
    assert (done.code, done.why) == (5, "exit code 5: no output")
    pid = int(done.out)
    for _ in range(100):
        if not alive(pid):
            return
        time.sleep(0.05)
    pytest.fail("the child is still there")


def alive(pid: int) -> bool:
    """Whether a process runs: one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False
