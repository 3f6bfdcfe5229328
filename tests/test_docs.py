"""What the documentation shows works: code runs and prints what it says, links lead somewhere, results are cited.

How a page is run, and the comments that change it, are told in ``documentation.py``.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import documentation
from tests.support.documentation import blocks, prose
from tests.support.pages import CHINESE, ENGLISH, PAGES, ROOT, environment, name, python, tool

# --- pages run ---------------------------------------------------------------------------------------------------


# What every environment has: the package, and what it requires.
BROUGHT = {"twostroke", "numpy", "scipy", "threadpoolctl", "safetensors", "typer", "rich", "PIL"}

# Its recipes need a package each, so they are run one by one.
LOGS = ROOT / "docs" / "logs.md"

# The Chinese page has the English one's blocks: a test below compares them.
RUNNING = [
    page
    for page in PAGES
    if page not in (CHINESE, LOGS)
    and any(block.runs for block in blocks(page) if block.language == "python" or block.commands)
]


def needs(page: Path) -> set[str]:
    """The optional modules that the page declares: ``<!-- needs: sklearn -->``."""
    notes = [block.note for block in blocks(page) if block.note.startswith("needs:")]
    return {module for note in notes for module in note.removeprefix("needs:").split()}


def imported(page: Path) -> set[str]:
    """The modules that its Python imports, and those that the rooms of this package cannot be imported without."""
    code = "".join(block.text for block in blocks(page) if block.language == "python" and block.runs)
    found = set()
    for node in ast.walk(ast.parse(code)):
        dotted = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        dotted += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found |= {module.split(".")[0] for module in dotted}
        found |= {"sklearn"} if "twostroke.sklearn" in dotted else set()
    return found


@pytest.mark.parametrize("page", [*RUNNING, *([LOGS] if LOGS.exists() else [])], ids=name)
def test_a_page_declares_what_it_needs(page: Path) -> None:
    """Without this a page fails where only the extra ``test`` is installed."""
    missing = imported(page) - sys.stdlib_module_names - BROUGHT - needs(page)
    assert not missing, f"{name(page)}: write above its block: <!-- needs: {' '.join(sorted(missing))} -->"


@pytest.mark.parametrize("page", RUNNING, ids=name)
def test_a_page_runs(page: Path, tmp_path: Path) -> None:
    """From top to bottom, in an empty folder, warnings as errors: no error, and what is printed is what it says."""
    for module in needs(page):
        pytest.importorskip(module, reason=f"{name(page)} needs {module}")
    run = python(str(ROOT / "tests" / "support" / "documentation.py"), str(page), folder=tmp_path)
    assert run.returncode == 0, run.stderr
    assert not run.stderr


READ_TENSORBOARD = """
import struct
from pathlib import Path
from tensorboardX.proto.event_pb2 import Event
(file,) = Path("runs/tensorboard").iterdir()
data = file.read_bytes()
while data:  # a record: its length, a checksum, the event, a checksum
    (length,) = struct.unpack("<Q", data[:8])
    event, data = Event.FromString(data[12 : 12 + length]), data[16 + length :]
    for value in event.summary.value:
        if value.tag == "test_accuracy":
            print(event.step, value.simple_value)
"""
READ_MLFLOW = """
import mlflow
client = mlflow.MlflowClient("sqlite:///mlflow.db")
(run,) = client.search_runs([client.get_experiment_by_name("mnist").experiment_id])
assert run.data.params["epochs"] == "2"
for metric in client.get_metric_history(run.info.run_id, "test_accuracy"):
    print(metric.step, metric.value)
"""
READ_WANDB = """
import json
import struct
from pathlib import Path
from wandb.proto.wandb_internal_pb2 import Record
(file,) = Path("wandb").glob("offline-run-*/*.wandb")
data, at, parts = file.read_bytes(), 7, b""
while at + 7 <= len(data):  # LevelDB's log: a checksum, a length, whether the record ends here; blocks of 32 KiB
    if (left := 32768 - at % 32768) < 7:
        at += left
        continue
    _, length, kind = struct.unpack_from("<IHB", data, at)
    parts, at = parts + data[at + 7 : at + 7 + length], at + 7 + length
    if kind in (1, 4):
        items, parts = Record.FromString(parts).history.item, b""
        row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
        if row:
            print(row["epoch"], row["test_accuracy"])
"""
READ_PANDAS = """
import pandas
for epoch, row in pandas.read_csv("runs/logged/epochs.csv", index_col="epoch").iterrows():
    print(epoch, row["test_accuracy"])
"""
READ_BACK = {
    "TensorBoard": READ_TENSORBOARD,
    "MLflow": READ_MLFLOW,
    "Weights & Biases": READ_WANDB,
    "pandas": READ_PANDAS,
}


def recipes() -> dict[str, str]:
    """The sections of the page on logs that hold blocks, by heading."""
    sections = LOGS.read_text(encoding="utf-8").split("\n## ")[1:] if LOGS.exists() else []
    return {section.partition("\n")[0]: section for section in sections}


def test_every_recipe_is_read_back() -> None:
    if not LOGS.exists():
        pytest.skip("this copy of the project has no docs/")
    assert recipes().keys() == READ_BACK.keys()


@pytest.mark.parametrize("recipe", recipes())
def test_a_recipe_of_the_page_on_logs_logs(recipe: str, tmp_path: Path) -> None:
    """Run alone, in an empty folder: what the package itself reads back has both epochs."""
    page = tmp_path / "recipe.md"
    page.write_text(recipes()[recipe], encoding="utf-8")
    for module in needs(page):
        pytest.importorskip(module, reason=f"the recipe for {recipe} needs {module}")
    plain = ["-W", "default"]  # the packages' own warnings are not ours
    run = python(*plain, str(ROOT / "tests" / "support" / "documentation.py"), str(page), folder=tmp_path)
    assert run.returncode == 0, run.stderr
    read = python(*plain, "-c", READ_BACK[recipe], folder=tmp_path)
    assert read.returncode == 0, read.stderr
    assert re.fullmatch(r"1 0\.9\d+\n2 0\.9\d+\n", read.stdout), read.stdout


def test_the_readme_s_python_does_what_it_says(tmp_path: Path) -> None:
    """Its first block: one epoch of MNIST, five predictions beside their labels, and a file."""
    first = next(block.text for block in blocks(ENGLISH) if block.language == "python")
    run = python("-c", f"{first}\nprint(net)\n", folder=tmp_path)
    epoch, answers, net = run.stdout.splitlines()
    number, loss, accuracy = epoch.split()
    assert number == "1"
    assert 0 < float(loss) < 0.5
    assert float(accuracy) > 0.95
    predicted, labels = re.findall(r"\[([\d ]+)\]", answers)
    assert labels.split() == ["7", "2", "1", "0", "4"]
    assert len(predicted.split()) == 5
    assert net.startswith("MLP(784-128-10, relu")
    assert [path.name for path in tmp_path.iterdir()] == ["digits.safetensors"]


KERNEL = r"""
import os, sys
os.environ |= dict.fromkeys(("IPYTHONDIR", "JUPYTER_RUNTIME_DIR"), os.getcwd())
import nbclient, nbformat
cell = nbformat.v4.new_code_cell(sys.stdin.read())
notebook = nbformat.v4.new_notebook(cells=[cell])
nbclient.NotebookClient(notebook, kernel_name="python3", timeout=120, store_widget_state=True).execute()
print(*((output.get("text") or output["data"]["text/plain"]).strip() for output in cell.outputs), sep="\n")
state = notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
print(*(output["data"]["text/plain"] for model in state.values() for output in model["state"].get("outputs", [])))
"""


def test_the_notebook_s_bar_is_drawn_in_jupyter(tmp_path: Path) -> None:
    """The page's own lines in a kernel: both epochs are printed, and the live bar ends at 100 %."""
    for module in ("nbclient", "ipykernel", "ipywidgets"):
        pytest.importorskip(module, reason=f"a notebook needs {module} (extra docs)")
    page = ROOT / "docs" / "automate-a-run.md"
    (code,) = (block.text for block in blocks(page) if "rich.progress" in block.text)
    run = subprocess.run(
        [sys.executable, "-c", KERNEL],
        input=code,
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=environment() | {"PYTHONWARNINGS": "default"},  # the kernel's own are not ours
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"^1 0\.9\d+\n2 0\.9\d+$", run.stdout, re.MULTILINE), run.stdout
    assert re.search(r"^training .*━.*100%", run.stdout, re.MULTILINE), run.stdout
    assert "Warning" not in run.stdout


QUOTED = [(page, block) for page in PAGES for block in blocks(page) if block.note.startswith("source:")]


@pytest.mark.parametrize(("page", "block"), QUOTED, ids=[block.note for _, block in QUOTED])
def test_a_quoted_source_is_the_source(page: Path, block: documentation.Block) -> None:
    update = f"python tests/support/documentation.py --update {name(page)}"
    assert block.text == documentation.source_of(block.note), f"the code has changed: {update}"


def test_every_comment_above_a_block_is_understood() -> None:
    notes = {block.note for page in PAGES for block in blocks(page)} - {""}
    assert all(re.fullmatch(r"not run: .{5,}|needs: [\w ]+|source: [\w.]+", note) for note in notes), notes


FAULTS = {
    "raises": "```python\n1 / 0\n```\n",
    "prints something else": "```python\nprint(2)\n```\n\n```text\n3\n```\n",
    "uses what comes later": "```python\nprint(x)\n```\n```python\nx = 1\n```\n",
    "a command that fails": "```sh\ntwostroke evaluate no-such-file.safetensors\n```\n",
    "an option that is none": "```sh\n.venv/bin/twostroke doctor --no-such-option\n```\n",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_on_a_page_is_found(fault: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# A page\n\n{FAULTS[fault]}", encoding="utf-8")
    run = python(str(ROOT / "tests" / "support" / "documentation.py"), str(page), folder=tmp_path)
    assert run.returncode == 1
    assert "page.md" in run.stderr


def test_a_sound_page_passes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 1\nprint(x)\n```\n\n```text\n1\n```\n\n<!-- not run: it fails -->\n```python\n1 / 0\n```\n"
        "```sh\n$ twostroke --version > version  # into a file\nno-such-program\n```\n"
        "```python\nassert open('version').read().startswith('twostroke'), x\n```\n",
        encoding="utf-8",
    )
    run = python("-W", "ignore", str(ROOT / "tests" / "support" / "documentation.py"), str(page), folder=tmp_path)
    assert run.returncode == 0, run.stderr


# --- links, languages, figures -----------------------------------------------------------------------------------


def links(page: Path) -> list[str]:
    """Where the page's links and pictures lead, those to the web left out."""
    return [to for to in re.findall(r"\]\(([^)\s]+)", prose(page)) if not re.match(r"[a-z]+:", to)]


def anchors(page: Path) -> set[str]:
    """The names that a forge gives to the page's headings."""
    headings = re.findall(r"^#+ +(.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), f"{name(page)}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{name(page)}: {link}"


def test_every_result_is_cited_by_a_page() -> None:
    """``bench/results`` holds what the pages' figures come from, file by file, and nothing else."""
    kept = {path for path in (ROOT / "bench" / "results").rglob("*") if path.is_file()}
    if not kept:
        pytest.skip("this copy of the project has no results")
    cited = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)}
    uncited = sorted(str(path.relative_to(ROOT)) for path in kept - cited)
    assert not uncited, "link these from the page that has their figures, or delete them"


def test_the_index_leads_to_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    if not index.exists():
        pytest.skip("this copy of the project has no docs/")
    named = {(index.parent / link.partition("#")[0]).resolve() for link in links(index)}
    assert {page for page in PAGES if page.parent == index.parent} - {index} <= named


# Each Chinese page, and the English one that it says the same as.
TRANSLATED = {page: page.with_name(page.name.replace(".zh-CN", "")) for page in PAGES if ".zh-CN." in page.name}


def said(block: documentation.Block) -> tuple[str, str, str]:
    """A block without what may be in the page's language: the comments and docstrings of its Python."""
    if block.language != "python" or block.note.startswith("source:"):
        return block.language, block.note, block.text
    tree = ast.parse(block.text)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and ast.get_docstring(node):
            del node.body[0]
    return block.language, block.note, ast.unparse(tree)


def test_the_chinese_pages_are_there() -> None:
    if not CHINESE.exists():
        pytest.skip("this copy of the project has one README")
    english = {ENGLISH, ROOT / "docs" / "claims.md", ROOT / "docs" / "tutorial.md"}
    english |= {page for page in PAGES if page.parent.name == "tutorial" and page not in TRANSLATED}
    assert set(TRANSLATED.values()) == english


@pytest.mark.parametrize("chinese", TRANSLATED, ids=name)
def test_both_languages_say_the_same(chinese: Path) -> None:
    """The same headings, blocks, links, rows and, section by section, figures; each page leads to the other."""
    english = TRANSLATED[chinese]
    texts = [page.read_text(encoding="utf-8") for page in (english, chinese)]
    levels = [re.findall(r"^#+", prose(page), re.MULTILINE) for page in (english, chinese)]
    assert levels[0] == levels[1]
    code = [[said(block) for block in blocks(page)] for page in (english, chinese)]
    assert code[0] == code[1]
    assert chinese.name in links(english)
    assert english.name in links(chinese)
    targets = [
        sorted({re.sub(r"#.*", "", link.replace(".zh-CN", "")) for link in links(page)}) for page in (english, chinese)
    ]
    assert targets[0] == targets[1]
    figures = [
        [sorted(re.findall(r"\d[\d,.]*\d|\d", section)) for section in re.split(r"^#+ .*$", text, flags=re.MULTILINE)]
        for text in texts
    ]
    assert figures[0] == figures[1]
    tables = [len(re.findall(r"^\|", text, re.MULTILINE)) for text in texts]
    assert tables[0] == tables[1]


def table(page: Path, header: str) -> dict[str, list[str]]:
    """The rows of the page's table whose header line begins so, by their first cell; the header's own is ""."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(header))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start : lines.index("", start)]]
    return {"": rows[0]} | {row[0]: row for row in rows[2:]}


def test_the_readme_s_table_of_others_is_that_of_the_benchmarks() -> None:
    """Each ratio, with its ~; bold where it is below 1; and a loss that the sources have at these sizes is there."""
    if not (ROOT / "docs" / "benchmarks.md").exists():
        pytest.skip("this copy of the project has no docs/")
    benchmarks, gpu = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "gpu.md"
    scan, others = table(benchmarks, "| network, batch | two threads"), table(benchmarks, "| network, batch | PyTorch")
    onnx, device = table(benchmarks, "| images | one thread"), table(gpu, "| ours / peer")

    def ratio(rows: dict[str, list[str]], row: str, column: str) -> str:
        cell = rows[row][rows[""].index(column)].replace("**", "")
        return cell.split(" ")[0]

    def cpu(rows: dict[str, list[str]], column: str) -> list[str]:
        return [*(ratio(rows, f"784-128-10, {size}", column) for size in (1, 128, 1024)), "-"]

    def gpu_row(row: str, *last: str) -> list[str]:
        found = [ratio(device, f"H100: {row}", f"batch {size}") for size in (128, 1024, 4096)]
        return ["-", *found[:2], *(f"{found[2]}{after}" for after in last or ("",))]

    def images(column: str) -> list[str]:
        found = [ratio(onnx, size, f"two threads, `{column}`") for size in ("1", "128", "1,024", "10,000")]
        return [*found[:3], f"{found[3]} (10,000)"]

    wanted = [
        cpu(scan, "two threads"),
        cpu(scan, "without zeros"),
        cpu(others, "PyTorch eager"),
        cpu(others, "`torch.compile`"),
        cpu(others, "scikit-learn"),
        gpu_row("JAX, `lax.scan` over prepared batches", " (4,096)"),
        gpu_row("PyTorch, 64 steps as one CUDA graph"),
        images("uint8"),
        images("float32"),
    ]
    shown = [row[1:] for row in table(ENGLISH, "| 784-128-10 |").values()][1:]
    assert [[cell.replace("**", "") for cell in row] for row in shown] == wanted
    for cell in (cell for row in shown for cell in row if cell != "-"):
        loses = float(re.findall(r"[\d.]+", cell)[0]) < 1
        assert cell.startswith("**") is loses, cell


def test_the_tutorial_s_figures_are_drawn_by_the_command_it_names(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason='matplotlib draws the figures: pip install -e ".[docs]"')
    figures = tool("figures.py")
    chapters = [page for page in PAGES if page.parent.name == "tutorial"]
    shown = {Path(link).name for page in chapters for link in links(page) if link.startswith("../images/")}
    run = python(str(ROOT / "docs" / "figures.py"), "--out", str(tmp_path), folder=tmp_path)
    assert run.returncode == 0, run.stderr
    drawn = {path.name for path in tmp_path.iterdir()}
    assert shown == drawn == {f"tutorial-{figure}.png" for figure in figures.FIGURES}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())


def test_the_benchmarks_open_with_the_loop_against_the_matrix_form() -> None:
    """The first table, and the claim's line, are what the raw result says."""
    if not (ROOT / "bench" / "results").exists():
        pytest.skip("this copy of the project has no results")
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    first = re.search(r"^## (.*)$", text, re.MULTILINE)
    assert first
    assert first[1] == "The loop and the matrix"
    table = re.search(r"^\| network, batch \| matrix form / loop \|\n\|---\|---\|\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table
    newest = tool("figures.py").loop_duel()["rows"]
    rows = []
    for row in newest:
        noisy, (low, high) = "" if row["status"] == "ok" else "~", row["interval"]
        network = "-".join(map(str, row["layers"]))
        rows.append(f"| {network}, {row['batch_size']} | {noisy}{row['ratio']:.2f} [{low:.2f}, {high:.2f}] |")
    assert table[1].splitlines() == rows
    ratios = {row["batch_size"]: row["ratio"] for row in newest if row["layers"] == [784, 128, 10]}
    claims = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    assert f"| {ratios[16]:.0f} times at batch 16, {ratios[128]:.0f} times at 128 |" in claims


MOST_README_LINES = 120


@pytest.mark.parametrize("page", [ENGLISH, CHINESE], ids=name)
def test_a_readme_is_short_and_shows_the_pages(page: Path) -> None:
    if not page.exists():
        pytest.skip(f"this copy of the project has no {page.name}")
    text = page.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MOST_README_LINES
    pictures = re.findall(r"^!\[(.+?)\]\((.+?)\)$", text, re.MULTILINE)
    assert [to for _, to in pictures] == ["docs/images/draw.png", "docs/images/report.png"]
    assert all(len(words) > 20 for words, _ in pictures)


@pytest.mark.usefixtures("browser")  # where there is none the test is skipped with the reason
def test_the_pictures_of_the_pages_are_taken_by_their_command(tmp_path: Path) -> None:
    for module in ("waitress", "matplotlib", "jinja2"):
        pytest.importorskip(module, reason=f"the pages need {module}: pip install -e '.[browser]'")
    tool("screenshots.py")  # skips where there is no docs/
    run = python(str(ROOT / "docs" / "screenshots.py"), "--out", str(tmp_path), folder=tmp_path)
    assert run.returncode == 0, run.stderr
    assert re.search(r"^draw: \w with [\d.]+ %", run.stdout, re.MULTILINE), run.stdout
    for shot in ("draw.png", "report.png"):
        assert (tmp_path / shot).read_bytes().startswith(b"\x89PNG")


def test_pictures_are_small() -> None:
    pictures = [*(ROOT / "docs" / "images").iterdir()] if (ROOT / "docs").exists() else []
    assert not [path.name for path in pictures if path.stat().st_size > 150_000]
