"""What a release promises: one version, stated bounds, files that travel with it. Nothing is built here."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import twostroke

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OURS = "twostroke"


def read(name: str) -> str:
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"this copy of the project has no {name}")
    return path.read_text(encoding="utf-8")


def bounds() -> dict[str, str]:
    """Each requirement of the package and of its extras, by name: the rest of its line."""
    project = PROJECT["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    pairs = (re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?(.*)", line) for line in lines)
    return {pair[1]: pair[2] for pair in pairs if pair is not None and pair[1] != OURS}


# --- the version --------------------------------------------------------------------------------------------------


def test_the_version_is_in_one_place() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert "version" not in PROJECT["project"]
    assert PROJECT["tool"]["hatch"]["version"]["path"] == "src/twostroke/version.py"


def test_the_version_is_that_of_the_installed_distribution() -> None:
    try:
        installed = metadata.version(OURS)
    except metadata.PackageNotFoundError:
        pytest.skip("twostroke runs from its sources, without being installed")
    assert twostroke.__version__ == installed


def test_the_version_is_semantic() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(?:(?:a|b|rc|\.dev)\d+)?", twostroke.__version__)


def test_the_citation_names_the_version_and_the_licence() -> None:
    lines = dict(re.findall(r"^([a-z-]+): *(.*)$", read("CITATION.cff"), re.M))
    assert lines["cff-version"] == "1.2.0"
    assert lines["version"] == twostroke.__version__
    assert lines["license"] == "MIT"  # of the code
    assert PROJECT["project"]["license"] == "MIT AND CC-BY-SA-3.0"  # and of MNIST, which is in the package
    assert "https://creativecommons.org/licenses/by-sa/3.0/" in read("LICENSE")
    assert lines["title"]
    assert "authors" in lines


def test_the_changelog_has_a_place_for_what_comes() -> None:
    headings = re.findall(r"^## (.*)$", read("CHANGELOG.md"), re.M)
    assert headings[0] == "[Unreleased]"
    for heading in headings[1:]:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading)


# --- requirements -------------------------------------------------------------------------------------------------


def test_every_requirement_has_a_lower_bound_and_no_upper_one() -> None:
    """An upper bound breaks other people's environments; what is known to be bad is excluded by name.

    The linters are pinned: a new formatter must not close the gate, and no user installs them.
    """
    linters = {re.split(r"[~>=]", line)[0] for line in PROJECT["project"]["optional-dependencies"]["lint"]}
    for name, rest in bounds().items():
        allowed = r"~=[\d.]+" if name in linters else r">=[\d.]+(?:,!=[\d.]+)*"
        assert re.fullmatch(allowed, rest), f"{name}{rest}"


def test_what_is_installed_is_within_the_bounds() -> None:
    def number(version: str) -> tuple[int, ...]:
        return tuple(int(part) for part in re.findall(r"\d+", version))[:3]

    for line in PROJECT["project"]["dependencies"]:
        name, lowest = re.split(r">=", line.partition(",")[0])
        assert number(metadata.version(name)) >= number(lowest), line


def test_the_extras_are_those_of_the_documentation() -> None:
    extras = set(PROJECT["project"]["optional-dependencies"])
    assert {"cuda12", "cuda13", "test", "lint", "bench"} <= extras
    named = {word for text in re.findall(r'"\.\[([\w,]+)\]"', read("README.md")) for word in text.split(",")}
    assert named <= extras


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_readmes_name_the_extras_that_commands_need_and_what_all_is(page: str) -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    for_developers = {"test", "test-all", "lint", "docs", "browser", "bench", "peers"}
    need_a_gpu, need_mpi = {"cuda12", "cuda13", "nccl"}, {"mpi", "mpi-local"}
    line = next(line for line in read(page).splitlines() if "`mpi-local`" in line)
    named = set(re.findall(r"`([\w-]+)`", line)) - {"all"}
    assert named == set(extras) - for_developers - {"all", "cuda12", "cuda13"}
    (everything,) = extras["all"]
    assert set(re.findall(r"[\w-]+", everything)) - {OURS} == named - need_a_gpu - need_mpi


# --- files --------------------------------------------------------------------------------------------------------


def test_the_package_carries_its_data_its_types_and_its_licences() -> None:
    package = Path(twostroke.__file__).parent
    assert (package / "py.typed").exists()
    names = {path.name for path in (package / "data" / "mnist").iterdir()}
    assert "README.md" in names
    assert len([name for name in names if name.endswith("-ubyte.gz")]) == 4
    for name in PROJECT["project"]["license-files"]:
        read(name)


def test_security_says_what_is_promised_of_files() -> None:
    text = read("SECURITY.md")
    for word in ("safetensors", "SHA-256", "pickle", "IDX", "npz", "Pillow"):
        assert word in text


def test_the_workflow_runs_the_gate_and_nothing_else() -> None:
    """The forge and a developer's machine run the same steps."""
    text = read(".github/workflows/ci.yml")
    assert ".ci/run" in text
    for version in ("3.11", "3.12", "3.13"):
        assert f'"{version}"' in text
    assert "upload-artifact" in text
    named = {step for words in re.findall(r"run: \.ci/run (.*)", text) for step in words.split()}
    there = re.findall(r"^step_([\w-]+)\(\)", read(".ci/run"), re.M)
    assert named <= set(there), "the gate has no such step"


def test_the_workflows_pin_their_actions_and_only_one_job_may_upload() -> None:
    publish = read(".github/workflows/publish.yml")
    used = re.findall(r"uses: (.*)", read(".github/workflows/ci.yml") + publish)
    assert len(used) > 10
    assert not [action for action in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v[\d.]+", action)]
    assert publish.count("id-token: write") == 1
    assert "id-token: write" in publish.partition("\n  publish:\n")[2]


# --- the index ----------------------------------------------------------------------------------------------------


def test_the_pythons_are_those_that_the_workflow_runs() -> None:
    found = re.search(r"python: \[(.*)\]", read(".github/workflows/ci.yml"))
    assert found
    prefix = "Programming Language :: Python :: "
    stated = {name.removeprefix(prefix) for name in PROJECT["project"]["classifiers"] if name.startswith(prefix)}
    assert stated - {"3"} == set(re.findall(r'"([\d.]+)"', found[1]))


def test_the_address_of_the_repository_is_one() -> None:
    address = PROJECT["project"]["urls"]["Repository"]
    assert all(url.startswith(address) for url in PROJECT["project"]["urls"].values())
    host = address.split("/")[2]
    for name in ("pyproject.toml", "recipe/recipe.yaml"):
        text = read(name)
        assert text.count(host) == text.count(address)


def test_the_readme_of_the_metadata_has_no_relative_link() -> None:
    """An index shows README.md without the repository beside it."""
    text = read("README.md") + "\n![a](docs/a.png) [![b](b.png)](b.md) [c](#set-up) [d](https://example.org)"
    for rule in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    assert not [link for link in re.findall(r"\]\(([^)\s]+)", text) if not re.match(r"https://|#", link)]
    address = PROJECT["project"]["urls"]["Repository"]
    raw, blob = (f"{address}/{kind}/v$HFPR_VERSION" for kind in ("raw", "blob"))
    assert f"![a]({raw}/docs/a.png) [![b]({raw}/b.png)]({blob}/b.md) [c](#set-up) [d](https://example.org)" in text
    assert f"]({blob}/docs/tutorial.md)" in text


def test_the_recipe_is_of_this_version_and_requires_what_the_package_requires() -> None:
    assert f'version: "{twostroke.__version__}"' in read("recipe/recipe.yaml")
    required = [line for line in PROJECT["project"]["dependencies"] if "win32" not in line]
    for line in (*required, *PROJECT["build-system"]["requires"]):
        name, bound = line.split(">=")
        assert f"    - {name} >={bound}\n" in read("recipe/recipe.yaml"), line


def test_make_runs_what_the_pages_say() -> None:
    """`make test` is README's last line, and `make quick` runs the folders that CONTRIBUTING names."""
    make = read("Makefile")
    for _ in range(2):  # variables that hold variables
        for name, value in re.findall(r"^(\w+) \??= (.*)$", make, re.M):
            make = make.replace(f"$({name})", value)
    recipes = dict(re.findall(r"^(\w+): .*\n\t(.*)$", make, re.M))
    for page in ("README.md", "README.zh-CN.md"):
        assert f"{recipes['test']}\n" in read(page)
    named = re.search(r"`make quick` takes.*?\n\n", read("CONTRIBUTING.md"), re.DOTALL)
    assert named
    folders = set(re.findall(r"`(tests/[\w/.]+)`", named[0]))
    assert set(recipes["quick"].split()) - set(recipes["test"].split()) == folders
