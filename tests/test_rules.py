"""The rules that hold the house together, checked on the source itself: one test a rule, which
lists all that breaks it."""

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
MODULES = {str(p.relative_to(PACKAGE).as_posix()): p for p in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]

# room → the rooms of this package that it may import from; all may import from EVERYWHERE
EVERYWHERE = {"", "errors", "progress", "files", "interrupt", "names", "text", "__version__"}
MAY_IMPORT = {
    "__init__": set(),
    "__main__": {"app"},
    "app": {"commands", "config", "training"},  # training.engine alone: what torchrun starts
    # of training the engine alone, which starts processes
    "commands": {
        *("commands", "stages", "training", "config", "models", "store", "fetch"),
        *("quality", "serving"),  # the figures that it shows, and the other skin
    },
    "serving": {  # the other skin
        *("serving", "stages", "training", "drawing", "quality", "prep", "store", "config"),
    },
    "stages": {
        *("training", "drawing", "captioning", "quality", "models"),
        *("fetch", "prep", "scenes", "store", "config"),
    },
    "captioning": {"captioning", "models", "store", "config"},
    "quality": {"quality", "training", "scenes", "models", "store", "config"},
    "drawing": {"drawing", "models", "store", "config"},
    "training": {"training", "models", "store", "config"},
    "models": {"models", "config"},
    "fetch": {"fetch", "store", "config"},
    "prep": {"prep", "scenes", "store", "config"},
    "scenes": {"scenes", "store", "config"},
    "store": {"store", "config"},
    "config": {"config"},
    **{low: set() for low in ("errors", "progress", "files", "interrupt", "names", "text")},
}
# demo and doctor are about the others; train-vae ends with a finish; evaluate has judge_*.py
CALL_SIBLINGS = {f"stages/{name}.py" for name in ("demo", "doctor", "train_vae", "evaluate")}
TRAIN_THE_DVAE = (
    "stages/train_vae.py",
    "stages/sharpen.py",
    "training/parent.py",
)  # all others know an ImageTokenizer
NO_TORCH = ("fetch", "prep", "scenes", "store", "config")
KNOW_THE_ENVIRONMENT = ("app.py", "training/engine.py", "models/device.py")


def room(name: str) -> str:
    return name.split("/")[0].removesuffix(".py")


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


def ours(tree: ast.AST) -> list[str]:
    return [m for m in imports(tree) if m.startswith("dallebaby_cli.")]


def tops(tree: ast.AST) -> set[str]:
    return {module.split(".")[0] for module in imports(tree)}


def test_imports_go_one_way() -> None:
    offenders = []
    for name, tree in TREES.items():
        allowed = MAY_IMPORT[room(name)] | EVERYWHERE
        allowed = allowed | {"stages"} if name in CALL_SIBLINGS else allowed
        offenders += [f"{name}: {m}" for m in ours(tree) if m.split(".")[1] not in allowed]
    assert not offenders


def test_stages_meet_on_disk_only() -> None:
    assert not [
        f"{name}: {module}"
        for name, tree in TREES.items()
        for module in ours(tree)
        if room(name) == "stages" and name not in CALL_SIBLINGS and ".stages" in module
    ]


def test_nobody_asks_which_image_tokenizer_it_is() -> None:
    tokenizers = "dallebaby_cli.models.tokenizers"
    known = (tokenizers, f"{tokenizers}.ImageTokenizer")
    assert not [
        f"{name}: {module}"
        for name, tree in TREES.items()
        for module in ours(tree)
        if room(name) not in ("models", "config") and name not in TRAIN_THE_DVAE
        if "DVAEConfig" in module or (module.startswith(tokenizers) and module not in known)
    ]


def test_heavy_libraries_stay_in_their_rooms() -> None:
    offenders = []
    for name, tree in TREES.items():
        used = tops(tree) - set(sys.stdlib_module_names) - {"dallebaby_cli"}
        refused = used & {"click"}  # typer carries its own
        if room(name) in NO_TORCH and name != "store/weights.py":
            refused |= used & {"torch", "torchvision"}
        if room(name) == "models":
            refused |= used - {"torch", "torchvision", "numpy", "psutil"}
        if room(name) in ("config", "errors", "progress"):
            refused |= used - {"yaml"}
        if name != "fetch/torrent_file.py":  # torrent.py has it from there
            refused |= used & {"libtorrent"}
        if room(name) != "serving":
            refused |= used & {"starlette", "uvicorn", "python_multipart"}
        offenders += [f"{name}: {library}" for library in refused]
    assert not offenders


def test_commands_load_nothing_heavy_at_their_top() -> None:
    light = {"typer", "rich"} | set(sys.stdlib_module_names)
    ours = re.compile(r"dallebaby_cli\.(commands|config|errors|progress|files|text|__version__)\b")
    assert not [
        f"{name}: {module}"
        for name, tree in TREES.items()
        for module in at_import(tree)
        if room(name) == "commands" and module.split(".")[0] not in light and not ours.match(module)
    ]


def test_only_the_skin_talks() -> None:
    assert not [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        if (node.func.id == "print" and room(name) not in ("commands", "serving"))
        or node.func.id in ("eval", "exec", "quit")
    ]


def test_only_the_edge_reads_the_environment() -> None:
    assert not [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
        if name not in KNOW_THE_ENVIRONMENT
    ]


def test_no_error_is_swallowed_unnamed() -> None:
    assert not [
        f"{name}:{node.lineno}"
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]


def test_files_and_functions_fit_in_a_sitting() -> None:
    offenders = [
        name
        for name, path in MODULES.items()
        if path.stem in ("utils", "common", "helpers", "misc")
        or len(path.read_text(encoding="utf-8").splitlines()) > 400
    ]
    for name, tree in TREES.items():
        offenders += [
            f"{name}: {node.name} is too long"
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 60
            if name != "training/loop.py"
        ]
    assert not offenders


def test_every_module_and_public_thing_says_what_it_is() -> None:
    offenders = [name for name, tree in TREES.items() if not ast.get_docstring(tree)]
    offenders += [
        f"{name}: {node.name}"
        for name, tree in TREES.items()
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")
        if not ast.get_docstring(node) and room(name) != "app"  # there it is help alone
    ]
    assert not offenders


def test_the_tests_mirror_the_package() -> None:
    rooms = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert not sorted(rooms - {room(name) for name in MODULES})


def test_the_map_of_the_house_names_what_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    files = set(re.findall(r"`(?:dallebaby_cli/|tests/)?([a-z0-9_/]+\.(?:py|yaml))`", page))
    there = {path for folder in (PACKAGE, ROOT / "tests") for path in folder.rglob("*.*")}
    assert len(files) > 40
    assert not sorted(f for f in files - {"utils.py"} if not any(p.match(f) for p in there))
    drawn = set(re.findall(r"^[│├└─ ]*([a-z]+)/ ", page, re.M)) | {"commands"}
    rooms = {path.relative_to(PACKAGE).parts[0] for path in MODULES.values()}
    assert not sorted({room for room in rooms if not room.endswith(".py")} ^ drawn)


FLAGS = {
    "": "config debug device help home json quiet set version",
    "datasets": "help",
    "fetch": "files help list name peer timeout verify",
    "prep": "help limit name px where workers",
    "caption": "each help where with",
    "train-vae": "from help minutes preset processes run seed sharpen steps",
    "encode": "help processes vae",
    "train": "from help minutes preset processes run seed steps",
    "generate": "best file guidance help image keep mask model n out outpaint processes "
    "progressive seed show size steps temperature top-k top-p vae variations",
    "describe": "among help model top",
    "serve": "help host model open port token",
    "evaluate": "help model only-vae pictures processes seed speed vae",
    "demo": "help minutes",
    "doctor": "help preset",
    "config": "help preset",
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
        "heavy = {'torch', 'libtorrent', 'torchvision', 'pyarrow', 'numpy', 'filelock', 'psutil'}\n"
        "print(heavy & set(sys.modules))"
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
