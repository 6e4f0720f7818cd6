"""The shape of the code: who may import whom, how large things may grow, what is never used.

IO: reads the source files of this repository.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A file imports only files above it in its package. A folder's files are listed as folder/file.
ORDER = {
    "ledger": """
        errors codec values keys merkle notes certificates receipt stages spec entries rounds logrules rules
        references genesis tiles quorum proof evidence terms
        fold/balances fold/effects fold/log fold/accounting fold/fold fold/history
        store/file store/database store/logs store/forks store/reader store/accuser store/own store/tenure store/store
        witness
        replica/values replica/state replica/book replica/work replica/machine replica/store
        archive/exporting archive/folders archive/importing
        live
        verify/report verify/tasks verify/check verify/accused verify/roots verify/survey verify/frames verify/workers
        verify/verify verify/compare
        describe
        exported/weights exported/card exported/check
        cli/base cli/progress cli/find cli/read cli/money cli/files cli/exported cli/proofs cli/accuse
        cli/peers cli/verify cli/recover cli/main
    """.split(),
    "p2p_llm_forge": """
        errors settings settings_pipeline settings_experts specfile config blobs finite
        data/corpus data/tokenize data/shards data/sampler
        schedule model memory state flat
        codec/update codec/dense codec/grouped codec/topk codec/codec
        stages/shrink stages/anatomy stages/cut stages/skeleton stages/stubs stages/split stages/costs stages/fit
        stages/tied stages/parity stages/whole stages/initial stages/timing stages/start
        outer ahead microbatch inner kept
        protocol carry channel answer recent
        stages/activations stages/seeds stages/shelf stages/tags stages/passes stages/work stages/step stages/held
        stages/replica stages/requests stages/window stages/desk produce
        stages/experts/groups stages/experts/fused stages/experts/pieces stages/experts/gate stages/experts/call
        stages/experts/wire stages/experts/remote stages/experts/manifest stages/experts/passes stages/experts/records
        stages/experts/updates stages/experts/shard stages/experts/trunk stages/experts/parity stages/experts/initial
        stages/experts/start stages/experts/requests stages/experts/desk stages/experts/shard_desk
        stages/experts/trunk_desk stages/exporting stages/front
        engine isolation measure prepare beside worker
    """.split(),
    "peer": """
        errors absence files addressbook config peerkey identity resources wire messages records
        network/limits network/shaper network/traffic network/p2pd network/link network/rpc network/bootstrap
        network/contacts network/hello network/clock network/uplink network/validator network/network
        blobs/chunks blobs/plan blobs/pieces blobs/spread blobs/partial blobs/pins blobs/store blobs/serving
        blobs/wanted blobs/fetcher
        supervisor tensors
        ledger/messages ledger/errands ledger/storage ledger/cosigning ledger/appending ledger/ownheads
        ledger/unreferenced ledger/witnessing ledger/comparing ledger/terms ledger/bidding ledger/logs
        ledger/answers ledger/replication ledger/credits
        rounds/log rounds/cut rounds/messages rounds/pace rounds/plan rounds/tail rounds/pause rounds/ahead
        rounds/delivery rounds/follow rounds/treatment rounds/roster rounds/backoff rounds/attendance
        rounds/copies rounds/norms rounds/speed rounds/desk rounds/heldout rounds/opening rounds/refusals rounds/lead
        stages/manifest stages/plan stages/slots stages/messages stages/refusals stages/tasks stages/routing
        stages/jobs stages/drive stages/drive_trunk stages/patience stages/work stages/holding stages/serve
        stages/reconcile stages/placement stages/tally stages/opening stages/course stages/lead
        runs/journal runs/uncertified runs/stopwatch runs/figures runs/run runs/lag runs/joined runs/whereabouts
        runs/roletasks
        runs/push runs/bulletin runs/heart runs/prefetch runs/shards runs/hardware runs/files runs/history
        runs/process runs/keeping runs/worker runs/wish runs/verdicts runs/unfit runs/disk runs/standing runs/receipts
        runs/following runs/offenders runs/past runs/checking runs/ahead runs/member runs/offer runs/leading
        runs/staged/loads runs/staged/messages runs/staged/bodies runs/staged/parcels runs/staged/promises
        runs/staged/passed runs/staged/records runs/staged/failover runs/staged/worker runs/staged/expert_messages
        runs/staged/expert_worker runs/staged/whole runs/provenance runs/staged/passes runs/staged/serving
        runs/staged/expert_serving runs/staged/driving runs/staged/expert_driving runs/staged/looking
        runs/staged/expert_looking
        runs/staged/steps runs/staged/member runs/staged/leader runs/evaluating runs/leader directory runs/roles
        runs/presence runs/departures runs/calls runs/candidate runs/matcher runs/submission runs/host node
        audit/live audit/replay
        gateway/address gateway/events gateway/routes gateway/app
        daemon
        cli/client cli/staged cli/view cli/screen
        demo/peers demo/plan demo/story demo/proof demo/main
        cli/base cli/network cli/start cli/presence cli/runs cli/main
    """.split(),
}

LEDGER_MAY_USE = {"cryptography", "aiosqlite", "click"}
NO_NETWORK = set("asyncio socket socketserver ssl http urllib requests httpx aiohttp hivemind uvicorn".split())
NO_PICKLE = set("pickle _pickle cPickle dill cloudpickle joblib shelve marshal".split())
MAY_CATCH_ALL = {"peer/supervisor.py", "peer/daemon.py"}
MAX_FILE_LINES = 299
MAX_FUNCTION_LINES = 59


def sources(*folders: str) -> list[Path]:
    """The Python files below the folders, sorted."""
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def short(path: Path) -> str:
    """The path as it is spoken of."""
    return path.relative_to(ROOT).as_posix()


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Every imported module as (line, absolute dotted name), also those inside functions."""
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                below = ROOT.joinpath(*module.split("."), alias.name)
                is_module = below.is_dir() or below.with_suffix(".py").is_file()
                yield node.lineno, f"{module}.{alias.name}" if is_module else module


def place(package: str, module: str) -> int | None:
    """Where a dotted module of a package stands in its order; a folder stands where its last file does."""
    name = "/".join(module.split(".")[1:])
    places = [i for i, entry in enumerate(ORDER[package]) if entry == name or entry.startswith(name + "/")]
    return max(places) if name and places else None


PACKAGES = sources(*ORDER)
EVERYTHING = PACKAGES + sources("tests", "data", "scripts")
named = pytest.mark.parametrize("path", PACKAGES, ids=short)


@named
def test_a_file_imports_only_what_stands_above_it(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    if path.name == "__main__.py":
        return
    own = path.relative_to(ROOT).with_suffix("").parts
    own = own[:-1] if own[-1] == "__init__" else own
    here = place(package, ".".join(own))
    if len(own) == 1:
        here = len(ORDER[package])  # the public face of the package may show all of it
    elif len(path.read_text("utf-8").strip().splitlines()) <= 1:
        return  # a folder's empty face
    assert here is not None, f"{short(path)} has no place in ORDER of tests/test_architecture.py; give it one"
    for line, module in imports(path):
        if module.split(".")[0] != package or module == package:
            continue
        there = place(package, module)
        inside_own_face = path.name == "__init__.py" and module.startswith(".".join(own) + ".")
        assert there is not None, f"{short(path)}:{line}: imports {module}, which has no place in ORDER"
        assert there < here or inside_own_face, f"{short(path)}:{line}: imports {module}, which stands below it"


@named
def test_packages_depend_only_downwards(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    for line, module in imports(path):
        top = module.split(".")[0]
        where = f"{short(path)}:{line}: imports {module}"
        if package == "ledger":
            allowed = top in sys.stdlib_module_names or top in LEDGER_MAY_USE or top == "ledger"
            assert allowed, f"{where}, which ledger may not use"
        elif package == "p2p_llm_forge":
            assert top not in {"ledger", "peer"}, f"{where}, another package"
            assert top not in NO_NETWORK, f"{where}, but the engine has no network and no event loop"
            in_local = "local" in path.relative_to(ROOT).parts
            assert in_local or not module.startswith("torch.distributed"), f"{where}, allowed in local/ only"
        else:
            assert top != "torch", f"{where}: tensors belong to p2p_llm_forge"
        assert top not in NO_PICKLE, f"{where}: never pickle"


def arguments_that_run_code(tree: ast.AST) -> Iterator[int]:
    """Lines of calls that could unpickle or run a model's own code."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func) in {"torch.load", "np.load", "numpy.load"}:
            yield node.lineno
        for keyword in node.keywords:
            if keyword.arg == "trust_remote_code" and ast.unparse(keyword.value) != "False":
                yield node.lineno


@named
def test_nothing_is_unpickled_and_no_remote_code_is_trusted(path: Path) -> None:
    assert list(arguments_that_run_code(ast.parse(path.read_text("utf-8")))) == []


@named
def test_a_module_says_what_it_is_and_whether_it_is_pure(path: Path) -> None:
    text = path.read_text("utf-8")
    docstring = ast.get_docstring(ast.parse(text)) or ""
    if path.name == "__init__.py" and len(ast.parse(text).body) <= 1:
        return
    ending = docstring.strip().split("\n\n")[-1].splitlines()
    said = any(line.startswith(("Pure:", "IO:")) for line in ending)
    assert said, f"{short(path)}: its docstring does not end in a line that starts with Pure: or IO:"


@named
def test_only_the_supervisor_catches_everything(path: Path) -> None:
    if short(path) in MAY_CATCH_ALL:
        return
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ExceptHandler):
            caught = ast.unparse(node.type) if node.type else "everything"
            assert caught not in {"everything", "Exception"}, f"{short(path)}:{node.lineno}: catches {caught}"


@pytest.mark.parametrize("path", EVERYTHING, ids=short)
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text("utf-8")
    lines = text.count("\n")
    assert lines <= MAX_FILE_LINES, f"{short(path)} has {lines} lines, at most {MAX_FILE_LINES} wanted"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{short(path)}:{node.lineno}: {node.name} has {length} lines"


def test_every_listed_file_exists() -> None:
    for package, names in ORDER.items():
        missing = [name for name in names if not (ROOT / package / f"{name}.py").is_file()]
        assert missing == [], f"{package}: in ORDER but not there: {missing}"


def test_the_repository_names_no_package_host() -> None:
    """Installing goes through what pip is configured with; one public fallback is named in scripts/setup."""
    hosts = ("pypi." + "org", "pythonhosted." + "org", "--index" + "-url http")
    files = [*EVERYTHING, ROOT / "pyproject.toml", ROOT / "constraints.txt", *(ROOT / "scripts").iterdir()]
    for path in files:
        if path.is_file():
            text = path.read_text("utf-8")
            assert not [host for host in hosts if host in text], f"{short(path)} names a package host"
