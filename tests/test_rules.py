"""The rules that hold the house together, checked on the source itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from dallebaby_cli.app import app

PACKAGE = Path(__file__).parent.parent / "dallebaby_cli"
ROOT = PACKAGE.parent
MODULES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text()) for path in MODULES}
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]

# room → the rooms of this package it may import from; everyone may import from EVERYWHERE
EVERYWHERE = {
    *("", "config", "config_models", "settings", "errors", "progress", "files", "interrupt")
}
METRICS = {"metrics", "metrics_pretrained"}
CALL_SIBLINGS = {"stages/demo.py", "stages/doctor.py"}  # they are about the others
MAY_IMPORT = {
    "__init__": set(),
    "__main__": {"app"},
    "app": {"commands", "training"},  # training.distributed alone: what torchrun starts
    "commands": {"commands", "stages", "models", "data"},
    "stages": {
        "training",
        "sampler",
        "captioner",
        "metrics",
        "metrics_pretrained",
        "models",
        "data",
    },
    "training": {"training", "metrics", "models", "data"},
    "sampler": {"models", "data", "metrics", "training"},
    "captioner": {"models"},
    "metrics": set(),
    "metrics_pretrained": set(),
    "models": {"models"},
    "data": {"data"},
    "config": set(),
    "config_models": set(),
    "settings": set(),
    "errors": set(),
    "interrupt": set(),
    "progress": set(),
    "files": set(),
}


def name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> list[str]:
    """Every module named in an import statement below `tree`, `from a import b` as a.b."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def at_import(tree: ast.Module) -> list[str]:
    """What importing the module imports: not what its functions or a type checker do later."""
    found = []
    for node in tree.body:
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) and not for_types:
            found += imports(node)
    return found


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_go_one_way(path: Path) -> None:
    allowed = MAY_IMPORT[room(path)] | EVERYWHERE
    if name(path) in CALL_SIBLINGS:
        allowed = allowed | {"stages"}
    for module in imports(TREES[path]):
        if module.startswith("dallebaby_cli."):
            target = module.split(".")[1]
            assert target in allowed or target == "__version__", f"{name(path)} imports {module}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_heavy_libraries_stay_in_their_rooms(path: Path) -> None:
    tops = {module.split(".")[0] for module in imports(TREES[path])}
    assert "click" not in tops, "import from typer: it carries its own click"
    if room(path) == "data":
        assert not tops & {"torch", "torchvision"}
    if room(path) == "models":
        assert tops - set(sys.stdlib_module_names) <= {"torch", "dallebaby_cli"}
    if name(path) in (
        "config.py",
        "config_models.py",
        "settings.py",
        "errors.py",
        "progress.py",
        "files.py",
    ):
        assert tops - set(sys.stdlib_module_names) <= {"yaml", "dallebaby_cli"}
    if name(path) != "data/torrent.py":
        assert "libtorrent" not in tops
    if room(path) == "commands":
        light = {"typer", "rich", "dallebaby_cli"} | set(sys.stdlib_module_names)
        for module in at_import(TREES[path]):
            assert module.split(".")[0] in light, f"{name(path)} imports {module} at its top"
            assert not re.match(r"dallebaby_cli\.(stages|models|data)", module), module


def test_stages_meet_on_disk_only() -> None:
    for path, tree in TREES.items():
        if room(path) == "stages" and name(path) not in CALL_SIBLINGS:
            assert not [m for m in imports(tree) if m.startswith("dallebaby_cli.stages")], path


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_the_skin_talks_and_only_the_edge_reads_the_environment(path: Path) -> None:
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print" or room(path) == "commands", f"line {node.lineno}"
            assert node.func.id not in ("eval", "exec", "quit"), f"line {node.lineno}"
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv"):
            assert name(path) in ("app.py", "training/distributed.py"), f"line {node.lineno}"
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in line {node.lineno}"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_files_and_functions_fit_in_a_sitting(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400
    assert path.stem not in ("utils", "common", "helpers", "misc")
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.FunctionDef) and name(path) != "training/loop.py":
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_every_module_and_public_thing_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(TREES[path]), "no docstring"
    for node in TREES[path].body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            is_help_only = room(path) == "app"
            assert ast.get_docstring(node) or is_help_only, f"{node.name} has no docstring"


FLAGS = {
    "": "config debug device help home json quiet set version",
    "datasets": "help",
    "fetch": "files help list name peer timeout verify",
    "prep": "help limit name on px workers",
    "caption": "each help on with",
    "train-vae": "from help minutes preset run seed steps",
    "encode": "help vae",
    "train": "from help minutes preset run seed steps",
    "generate": "best file guidance help image keep model n out progressive seed show temperature "
    "top-k top-p",
    "evaluate": "help model pictures seed",
    "demo": "help minutes",
    "doctor": "help preset",
    "status": "help",
}


def flags(command: object) -> str:
    options = [p.opts[0].lstrip("-") for p in command.params if p.opts[0].startswith("-")]  # type: ignore[attr-defined]
    return " ".join(sorted({*options, "help"}))


def test_no_flag_comes_or_goes_unnoticed() -> None:
    found = {"": flags(typer.main.get_command(app))}
    found |= {command: flags(about) for command, about in COMMANDS.items()}
    assert found == FLAGS


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_an_example_and_a_row_in_the_readme(command: str) -> None:
    about = COMMANDS[command]
    assert about.help and len(about.help) > 20
    assert about.epilog and f"Example: dallebaby {command}" in about.epilog
    assert re.search(rf"^\| `dallebaby {command}\b", (ROOT / "README.md").read_text(), re.M)


@pytest.mark.parametrize("arguments", [["--help"], ["datasets"]])
def test_quick_commands_load_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from dallebaby_cli.app import main\n"
        f"try: main({['--home', str(tmp_path), *arguments]!r})\n"
        "except SystemExit: pass\n"
        "print({'torch', 'libtorrent', 'torchvision', 'pyarrow', 'numpy'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.rstrip().endswith("set()"), ran.stdout[-200:]


@pytest.mark.parametrize("stage", ["fetch", "prep"])
def test_stages_before_training_do_not_load_torch(stage: str) -> None:
    code = f"import sys, dallebaby_cli.stages.{stage}; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_importing_the_package_loads_neither_torch_nor_libtorrent() -> None:
    code = "import sys, dallebaby_cli; print({'torch', 'libtorrent', 'typer'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


def test_public_names_resolve() -> None:
    import dallebaby_cli

    for public in dallebaby_cli.__all__:
        assert getattr(dallebaby_cli, public)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = dallebaby_cli.nonsense
