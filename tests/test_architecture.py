"""The arrows between modules, read from the sources: who may import what, and what never happens.

Each rule is a function from sources to complaints. It is held over the packages, and shown to
complain about a source that breaks it.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

Sources = dict[str, str]  # dotted module name -> source

# Loaded inside functions only, wherever they are used: seconds and hundreds of megabytes.
HEAVY = {"sentence_transformers", "torch", "transformers", "huggingface_hub"}
NOT_IN_ROUTER = {"training", "sklearn", "scipy", "pandas", "mlflow", "pyarrow", "joblib"} | HEAVY
# Formats whose loading runs code that the file brings along.
CODE_LOADING_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "shelve", "marshal"}
CODE_LOADING_CALLS = {
    *("joblib.load", "torch.load", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("pandas.read_pickle", "pd.read_pickle", "eval", "exec"),
}
# Calls that open a file, a connection or a process; none may happen while a module is imported.
OPENING_CALLS = {
    *("open", "read_text", "read_bytes", "write_text", "write_bytes", "load", "load_file"),
    *("from_file", "from_pretrained", "urlopen", "connect", "create_connection", "socket", "run"),
    *("Popen", "system", "mkdir", "iterdir", "glob", "rglob", "listdir", "get_context"),
}
IMPORT_NAMES = {"scikit-learn": "sklearn", "google-genai": "google"}
# What the parts of the production client import where they are used.
CLIENT_EXTRAS = ["anthropic", "openai", "google", "verify"]


@dataclass(frozen=True)
class Import:
    """One imported module; ``name`` is set for ``from module import name``."""

    module: str
    name: str | None
    line: int
    in_function: bool
    for_types_only: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    @property
    def is_lazy(self) -> bool:
        return self.in_function or self.for_types_only


def imports(module: str, source: str) -> Iterator[Import]:
    """Every import in the source, ``import_module("...")`` and ``__import__("...")`` included."""

    def visit(node: ast.AST, in_function: bool, types_only: bool) -> Iterator[Import]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, None, node.lineno, in_function, types_only)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = ".".join(module.split(".")[: -node.level])
                base = f"{parent}.{base}".rstrip(".")
            for alias in node.names:
                yield Import(base, alias.name, node.lineno, in_function, types_only)
        elif isinstance(node, ast.Call) and dotted(node.func) in {
            *("import_module", "importlib.import_module", "__import__"),
        }:
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant):
                    yield Import(str(argument.value), None, node.lineno, in_function, types_only)
        if isinstance(node, ast.If) and dotted(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                yield from visit(child, in_function, True)
            for child in node.orelse:
                yield from visit(child, in_function, types_only)
            return
        inside = in_function or isinstance(
            node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        )
        for child in ast.iter_child_nodes(node):
            yield from visit(child, inside, types_only)

    yield from visit(ast.parse(source), False, False)


def dotted(node: ast.AST) -> str:
    """``a.b.c`` of a name or attribute, ``.c`` where it hangs on something else; else ''."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def all_imports(sources: Sources) -> Iterator[tuple[str, Import]]:
    for module, source in sources.items():
        for found in imports(module, source):
            yield module, found


def router_stands_alone(sources: Sources) -> list[str]:
    """The serving side needs neither training nor anything that only training needs."""
    return [
        f"{module}:{found.line} imports {found.module}"
        for module, found in all_imports(sources)
        if module.partition(".")[0] == "router"
        and found.top in NOT_IN_ROUTER
        and not (module == "router.encoder" and found.top in HEAVY and found.is_lazy)
    ]


def mlflow_in_three_places(sources: Sources) -> list[str]:
    """MLflow is written to in two modules, and read as one of several log formats in another.

    Runs and the model registry are two rooms of one store, and each fills a module of its own. An
    importer is the one place that knows its format. The registry and the importer load mlflow only
    when they are used.
    """
    writes = "training.experiment"
    lazy = {"training.registry", "training.importers.mlflow"}
    return [
        f"{module}:{found.line} imports {found.module}"
        for module, found in all_imports(sources)
        if found.top == "mlflow" and not (module == writes or (module in lazy and found.is_lazy))
    ]


def heavy_inside_functions(sources: Sources) -> list[str]:
    return [
        f"{module}:{found.line} imports {found.module} outside a function"
        for module, found in all_imports(sources)
        if found.top in HEAVY and not found.is_lazy
    ]


def no_cycles(sources: Sources) -> list[str]:
    """No module-level import leads back to where it started."""
    edges: dict[str, set[str]] = {module: set() for module in sources}
    for module, found in all_imports(sources):
        if not found.is_lazy:
            submodule = f"{found.module}.{found.name}"
            edges[module] |= {submodule if submodule in sources else found.module} & set(sources)

    cycles: set[tuple[str, ...]] = set()

    def follow(module: str, path: tuple[str, ...]) -> None:
        if module in path:
            cycle = path[path.index(module) :]
            first = cycle.index(min(cycle))
            cycles.add(cycle[first:] + cycle[:first])
        elif module not in done:
            for target in sorted(edges[module]):
                follow(target, (*path, module))
            done.add(module)

    done: set[str] = set()
    for module in sorted(edges):
        follow(module, ())
    return [" -> ".join((*cycle, cycle[0])) for cycle in sorted(cycles)]


def nothing_opened_on_import(sources: Sources) -> list[str]:
    """Importing a module reads no file, starts no process and connects to nothing."""

    def calls(node: ast.AST) -> Iterator[ast.Call]:
        if isinstance(node, ast.If) and re.search("__name__|TYPE_CHECKING", ast.dump(node.test)):
            return
        if isinstance(node, ast.Call):
            yield node
        children: list[ast.AST] = list(ast.iter_child_nodes(node))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            # The body runs later; decorators and default values run now.
            children = [
                *node.decorator_list,
                *node.args.defaults,
                *filter(None, node.args.kw_defaults),
            ]
        elif isinstance(node, ast.Lambda):
            children = []
        for child in children:
            yield from calls(child)

    return [
        f"{module}:{call.lineno} calls {dotted(call.func)} while it is imported"
        for module, source in sources.items()
        for call in calls(ast.parse(source))
        if dotted(call.func).rpartition(".")[2] in OPENING_CALLS
    ]


def no_loading_that_runs_code(sources: Sources) -> list[str]:
    """No pickle, nor what loads one."""
    complaints = [
        f"{module}:{found.line} imports {found.module}.{found.name or ''}"
        for module, found in all_imports(sources)
        if found.top in CODE_LOADING_MODULES or f"{found.module}.{found.name}" in CODE_LOADING_CALLS
    ]
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call):
                if dotted(node.func) in CODE_LOADING_CALLS:
                    complaints.append(f"{module}:{node.lineno} calls {dotted(node.func)}")
                for keyword in node.keywords:
                    allowed = (
                        isinstance(keyword.value, ast.Constant) and keyword.value.value is False
                    )
                    if keyword.arg == "allow_pickle" and not allowed:
                        complaints.append(f"{module}:{node.lineno} allows pickles")
    return complaints


def declared(project: dict[str, object], *extras: str) -> set[str]:
    """Import names of the project's dependencies, and of those of its extras."""
    optional = project["optional-dependencies"]
    assert isinstance(optional, dict)
    requirements = list(project["dependencies"])  # type: ignore[call-overload]
    for extra in extras:
        requirements += optional[extra]
    names = (re.match(r"[A-Za-z0-9._-]+", requirement)[0] for requirement in requirements)  # type: ignore[index]
    return {IMPORT_NAMES.get(name, name.replace("-", "_")) for name in names}


def only_declared_dependencies(sources: Sources, project: dict[str, object]) -> list[str]:
    """What router imports is installed with it; what training imports, with its extras."""
    complaints = []
    for module, found in all_imports(sources):
        extras = ["train", "encoder"]
        if module.partition(".")[0] == "router":
            extras = ["encoder", *CLIENT_EXTRAS, "ledger", "postgres"] if found.is_lazy else []
            if module.startswith("router.ledger"):
                extras.append("ledger")  # only loaded by those who keep one
            if module == "router.ledger.postgres":
                extras.append("postgres")  # and that one by those who keep it there
        known = {"router", "training", *sys.stdlib_module_names, *declared(project, *extras)}
        if found.top not in known:
            complaints.append(f"{module}:{found.line} imports {found.module}")
    return complaints


@pytest.fixture(scope="module")
def sources(repository: Path) -> Sources:
    found = {}
    for path in sorted([*repository.glob("router/**/*.py"), *repository.glob("training/**/*.py")]):
        parts = path.relative_to(repository).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text("utf-8")
    return found


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, object]:
    table = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]
    assert isinstance(table, dict)
    return table


RULES: list[Callable[[Sources], list[str]]] = [
    router_stands_alone,
    mlflow_in_three_places,
    heavy_inside_functions,
    no_cycles,
    nothing_opened_on_import,
    no_loading_that_runs_code,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_packages_keep_the_rule(rule: Callable[[Sources], list[str]], sources: Sources) -> None:
    assert {"router", "router.errors", "training.experiment"} <= set(sources)
    assert rule(sources) == []


def test_the_packages_import_what_is_declared(sources: Sources, project: dict[str, object]) -> None:
    assert only_declared_dependencies(sources, project) == []


BROKEN: list[tuple[Callable[[Sources], list[str]], str, str]] = [
    (router_stands_alone, "router.policy", "from training.fit import fit"),
    (router_stands_alone, "router.policy", "def f():\n    import pandas as pd"),
    (router_stands_alone, "router.policy", "def f():\n    import sentence_transformers"),
    (router_stands_alone, "router.encoder", "import torch"),
    (
        router_stands_alone,
        "router.policy",
        "import importlib\nimportlib.import_module('sklearn.svm')",
    ),
    (router_stands_alone, "router.policy", "if TYPE_CHECKING:\n    from joblib import Memory"),
    (mlflow_in_three_places, "training.pipeline", "def f():\n    import mlflow.tracking"),
    (mlflow_in_three_places, "training.importers.core", "def f():\n    import mlflow"),
    (mlflow_in_three_places, "training.importers.mlflow", "import mlflow"),
    (mlflow_in_three_places, "training.registry", "from mlflow import MlflowClient"),
    (mlflow_in_three_places, "training.gate", "def f():\n    import mlflow"),
    (heavy_inside_functions, "training.features", "from sentence_transformers import util"),
    (heavy_inside_functions, "router.encoder", "class A:\n    import torch"),
    (nothing_opened_on_import, "router.prices", "PRICES = open('prices.toml').read()"),
    (
        nothing_opened_on_import,
        "router.prices",
        "TEXT = Path(__file__).parent.joinpath('a').read_text()",
    ),
    (nothing_opened_on_import, "router.prices", "class A:\n    text = Path('a').read_bytes()"),
    (nothing_opened_on_import, "router.prices", "def f(data=Path('a').read_bytes()): ..."),
    (nothing_opened_on_import, "router.prices", "DB = sqlite3.connect('ledger.db')"),
    (nothing_opened_on_import, "router.routing", "DEFAULT = Router.load()"),
    (no_loading_that_runs_code, "router.artifact", "import pickle"),
    (no_loading_that_runs_code, "training.fit", "def f():\n    from joblib import load"),
    (no_loading_that_runs_code, "training.fit", "import joblib\nm = joblib.load('m.joblib')"),
    (no_loading_that_runs_code, "router.artifact", "np.load('a.npy', allow_pickle=True)"),
    (no_loading_that_runs_code, "router.artifact", "np.load('a.npy', allow_pickle=flag)"),
    (no_loading_that_runs_code, "router.artifact", "torch.load('a.pt')"),
    (no_loading_that_runs_code, "router.tiers", "yaml.load(text)"),
]


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    BROKEN,
    ids=[f"{r.__name__}-{i}" for i, (r, _, _) in enumerate(BROKEN)],
)
def test_a_broken_source_is_found(
    rule: Callable[[Sources], list[str]], module: str, source: str
) -> None:
    (complaint,) = rule({module: source})
    assert complaint.startswith(f"{module}:")


def test_what_is_allowed_is_not_complained_about() -> None:
    sources = {
        "router.encoder": "def f():\n    from sentence_transformers import SentenceTransformer",
        "training.experiment": "import mlflow",
        "training.importers.mlflow": "def f():\n    from mlflow import MlflowClient",
        "training.registry": "if TYPE_CHECKING:\n    from mlflow import MlflowClient",
        "training.distill": "def f():\n    encoder().eval()",
        "training.features": "from joblib import Memory\nif TYPE_CHECKING:\n    import torch",
        "router.artifact": "def f(path):\n    return np.load(path, allow_pickle=False)",
        "router.cli": "if __name__ == '__main__':\n    app.run()",
    }
    assert [complaint for rule in RULES for complaint in rule(sources)] == []


def test_cycles_are_found_and_lazy_ones_are_none() -> None:
    eager = {"router.a": "from router import b", "router.b": "import router.c", "router.c": ""}
    assert no_cycles(eager) == []
    assert no_cycles({**eager, "router.c": "from router.a import x"}) == [
        "router.a -> router.b -> router.c -> router.a"
    ]
    assert no_cycles({**eager, "router.c": "def f():\n    from router.a import x"}) == []
    assert no_cycles({**eager, "router.c": "if TYPE_CHECKING:\n    from router.a import x"}) == []
    assert no_cycles({"training.a": "from . import b", "training.b": "from .a import x"}) == [
        "training.a -> training.b -> training.a"
    ]


def test_an_undeclared_dependency_is_found(project: dict[str, object]) -> None:
    def complaints(module: str, source: str) -> list[str]:
        return only_declared_dependencies({module: source}, project)

    assert complaints("router.gateway", "import uvicorn") == ["router.gateway:1 imports uvicorn"]
    assert complaints("router.client", "import openai") == ["router.client:1 imports openai"]
    assert complaints("router.client", "def f():\n    import openai") == []
    assert complaints("router.client", "import sqlalchemy") == [
        "router.client:1 imports sqlalchemy"
    ]
    assert complaints("router.ledger.tables", "import sqlalchemy") == []
    assert complaints("router.policy", "import sklearn") == ["router.policy:1 imports sklearn"]
    assert complaints("router.policy", "import torch") == ["router.policy:1 imports torch"]
    assert complaints("training.fit", "import sklearn, numpy\nimport json, router.cps") == []
