"""What may import what: `worker` `jobs` and `vllm_mlx`, `jobs` light modules of `vllm_mlx`,
`vllm_mlx` neither of them. And what works on a machine without MLX."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CommandLine = Callable[..., subprocess.CompletedProcess[str]]
OURS = {"vllm_mlx", "jobs", "worker"}
MLX = ["mlx", "mlx_lm", "mlx_vlm", "transformers"]
HEAVY = [*MLX, "numpy", "PIL", "av", "scipy", "decord"]  # what the extras bring
# Python imports `sitecustomize` first, in processes that it starts as well.
WITHOUT_HEAVY = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Absent())
"""
LIGHT = {
    "vllm_mlx.adapter",
    "vllm_mlx.content",
    "vllm_mlx.contradictions",
    "vllm_mlx.messages",
    "vllm_mlx.media.names",
    "vllm_mlx.parameters",
    "vllm_mlx.sampling_params",
    "vllm_mlx.sampling_types",
    "vllm_mlx.structured_outputs",
    "vllm_mlx.video_params",
    "vllm_mlx.json_record",
    "vllm_mlx.outputs",
    "vllm_mlx.errors",
    "vllm_mlx.foreign",
    "vllm_mlx.model_files",
}


def modules_of(package: str) -> dict[str, Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    return {module_name(file): file for file in files}


def module_name(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(file: Path) -> Iterator[str]:
    """Every module that is imported anywhere in the file, `if TYPE_CHECKING` included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            assert node.module
            for alias in node.names:
                module = f"{node.module}.{alias.name}"
                is_module = (ROOT / Path(*module.split("."))).with_suffix(".py").exists()
                yield module if is_module else node.module


def our_imports(package: str) -> set[tuple[str, str]]:
    return {
        (name, imported)
        for name, file in modules_of(package).items()
        for imported in imports_of(file)
        if imported.partition(".")[0] in OURS - {package}
    }


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_the_inference_library_stands_alone() -> None:
    assert our_imports("vllm_mlx") == set()


def test_jobs_look_at_the_light_modules_of_the_library_only() -> None:
    assert {imported for _, imported in our_imports("jobs")} == LIGHT


def test_the_architecture_page_has_every_folder_and_the_light_modules() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()

    for package in (file.parent for each in OURS for file in modules_of(each).values()):
        name = f"{package.relative_to(ROOT)}/"
        assert f"`{name}`" in page or f"`{package.name}/`" in page, name
    names = ", ".join(f"`{name.partition('.')[2]}`" for name in sorted(LIGHT))
    assert f"of `vllm_mlx` only {names} |" in page


def test_nothing_imports_the_worker() -> None:
    both = our_imports("jobs") | our_imports("vllm_mlx")
    assert not [pair for pair in both if pair[1].startswith("worker")]


def room_of(module: str) -> str:
    """The folder of a package that a module lies in; a module of the package itself is its own."""
    parts = module.split(".")
    is_folder = ROOT.joinpath(*parts).is_dir()
    return module if len(parts) == 2 and not is_folder else ".".join(parts[:2])


@pytest.mark.parametrize("place_of", [str, room_of], ids=["files", "folders"])
def test_no_import_runs_in_a_circle(place_of: Callable[[str], str]) -> None:
    below: dict[str, set[str]] = {}
    for package in OURS:
        for name, file in modules_of(package).items():
            found = {place_of(each) for each in imports_of(file) if each.partition(".")[0] in OURS}
            if name != package:  # whose __init__ exports what the folders hold
                below.setdefault(place_of(name), set()).update(found - {place_of(name)})
    assert {"vllm_mlx.errors", "worker.cli.app", "worker.cli"} & below.keys()
    TopologicalSorter(below).prepare()  # raises CycleError, which names the circle


def test_rq_is_imported_in_two_folders_only() -> None:
    touching = {
        name
        for package in OURS
        for name, file in modules_of(package).items()
        if any(imported.partition(".")[0] == "rq" for imported in imports_of(file))
    }
    assert touching
    assert not {
        name for name in touching if not f"{name}.".startswith(("jobs.queue.", "worker.rq."))
    }


def test_each_private_name_of_rq_is_used_once() -> None:
    """An upgrade that renames one is mended in one place."""
    trees = [
        ast.parse(file.read_text())
        for package in ("jobs", "worker")
        for file in modules_of(package).values()
    ]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    ours = {node.name for node in nodes if isinstance(node, ast.FunctionDef)}
    ours |= {each.id for each in nodes if isinstance(each, ast.Name)} | {"_exit"}
    attributes = [node for node in nodes if isinstance(node, ast.Attribute)]
    ours |= {each.attr for each in attributes if isinstance(each.ctx, ast.Store)}
    used = Counter(
        each.attr for each in attributes if re.match("_[a-z]", each.attr) and each.attr not in ours
    )
    assert used["_enqueue_job"] == 1
    assert set(used.values()) == {1}, used


def test_a_producer_needs_no_mlx() -> None:
    modules = ", ".join([*modules_of("jobs"), *sorted(LIGHT)])
    code = f"import json, sys, {modules}; print(json.dumps(sorted(sys.modules)))"
    result = python(WITHOUT_HEAVY + code)  # pyarrow loads numpy where there is one
    assert result.returncode == 0, result.stderr

    assert "worker" not in {name.partition(".")[0] for name in json.loads(result.stdout)}


def test_commands_begin_without_what_few_of_them_need() -> None:
    """A typo of the model's name and `--help` are answered within a second."""
    slow = {"pandas", "pyarrow.dataset", "huggingface_hub", "PIL", "altair", "vl_convert", "psutil"}
    slow |= {"mlx.core", *MLX[1:], "worker.batch_worker", "worker.report.writing"}
    words = [str(Path(__file__)), "--model", "smolm2", "--out", "out"]
    code = f"""
import json, sys
from worker.cli.app import main
for words in (["--help"], ["run", *{words}], ["enqueue", *{words}, "-u", "redis://0"]):
    try:
        main(words)
    except SystemExit as end:
        print(end.code, file=sys.stderr)
print("modules", json.dumps(sorted(sys.modules)))
"""

    result = python(code)

    assert result.stderr.count("did you mean smollm2-135m?") == 2, result.stderr
    assert not slow & set(json.loads(result.stdout.partition("modules ")[2]))


def test_a_workers_own_process_needs_no_mlx() -> None:
    modules = "worker.batch_worker, worker.cli.app, worker.engine.supervisor"
    result = python(f"{WITHOUT_HEAVY}import {modules}")
    assert result.returncode == 0, result.stderr


def test_reading_media_needs_no_mlx() -> None:
    modules = ", ".join(name for name in modules_of("vllm_mlx") if ".media" in name)
    result = python(f"import json, sys, {modules}; print(json.dumps(sorted(sys.modules)))")
    assert result.returncode == 0, result.stderr

    assert not {name.partition(".")[0] for name in json.loads(result.stdout)} & set(MLX)


@pytest.fixture
def without_mlx(tmp_path: Path) -> CommandLine:
    """Runs `mlx-batch` on a machine that has none of the packages a model needs."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(WITHOUT_HEAVY)
    path = os.pathsep.join(filter(None, [str(hidden), os.environ.get("PYTHONPATH")]))
    code = "import sys, worker.cli.app; sys.argv[0] = 'mlx-batch'; worker.cli.app.main()"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", code, *words],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": path},
        )

    return run


@pytest.mark.parametrize("command", ["run", "enqueue", "worker", "status", "verify"])
def test_the_command_line_explains_itself_without_mlx(
    command: str, without_mlx: CommandLine
) -> None:
    result = without_mlx(command, "--help")

    assert result.returncode == 0, result.stderr
    assert f"mlx-batch {command}" in result.stdout


INSTALL = "install mlx-batch's wheel with [metal], [cpu] or [cuda13]: see docs/install.md"


def test_a_worker_without_mlx_says_what_to_install(
    redis_url: str, without_mlx: CommandLine
) -> None:
    result = without_mlx("worker", "--model", "m", "-u", redis_url)

    assert result.returncode == 8, "1 would say that rows are in error"
    assert INSTALL in result.stderr
    assert "Traceback" not in result.stderr


def test_a_run_without_mlx_says_it_before_anything_starts(
    tmp_path: Path, without_mlx: CommandLine
) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("hello\n")

    result = without_mlx("run", str(prompts), "--model", "m", "--out", str(tmp_path / "out"))

    assert result.returncode == 8
    assert result.stderr.startswith("mlx-batch: a worker needs MLX (No module named 'mlx')")
    assert INSTALL in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_producer_without_mlx_enqueues_and_looks(
    redis_url: str, tmp_path: Path, without_mlx: CommandLine
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "hello"}\n')
    words = ["enqueue", str(prompts), "--model", "m", "--out", str(tmp_path / "out")]

    enqueued = without_mlx(*words, "-u", redis_url)
    assert enqueued.returncode == 0, enqueued.stderr

    status = without_mlx("status", "-u", redis_url, "--json")
    assert json.loads(status.stdout)["run_id"] == enqueued.stdout.strip()
