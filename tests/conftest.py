"""Fixtures that more than one test file uses."""

import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import filelock
import hypothesis
import pytest

ROOT = Path(__file__).resolve().parents[1]

# Slow machines make no example wrong.
UNHURRIED = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("unhurried", deadline=None, suppress_health_check=UNHURRIED)
hypothesis.settings.load_profile("unhurried")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow are, besides the marked ones, all in tests/slow/ and all that read the real data."""
    for item in items:
        apart = item.path.is_relative_to(ROOT / "tests" / "slow")
        if apart or "fer2013" in getattr(item, "fixturenames", ()):
            item.add_marker("slow")


@pytest.fixture(scope="session")
def fer2013() -> Path:
    """The real FER2013 data: where FER2013 points, or a data/fer2013 beside the project."""
    beside = sorted(ROOT.parent.glob("*/data/fer2013"))
    named = os.environ.get("FER2013")
    path = Path(named) if named else next(iter(beside), None)
    if path is None or not path.exists():
        pytest.skip("no real data: set FER2013 to where it lies")
    return path


os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # no restarts
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # bit for bit is promised there
# Tests compile much and compute little: unoptimized they take half of the time.
QUICK = ["--xla_backend_optimization_level=0"]
if int(version("jax").split(".")[1]) < 11:  # newer ones have no other way to emit fusions
    QUICK.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(QUICK))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


@pytest.fixture(scope="session", autouse=True)
def shared_compilations(request: pytest.FixtureRequest) -> None:
    """One cache of compiled steps for all tests and the processes they start; kept between runs."""
    import jax

    folder = request.config.cache.mkdir("jax")
    jax.config.update("jax_compilation_cache_dir", str(folder))


@pytest.fixture(scope="session", autouse=True)
def blank_pictures() -> Iterator[None]:
    """Drawing takes most of the time of a report; those who look at pictures draw them."""
    from support import pictures

    with pictures(drawn=False):
        yield


@pytest.fixture
def drawn_pictures() -> Iterator[None]:
    from support import pictures

    with pictures(drawn=True):
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this session's that all its workers see."""
    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    place.mkdir(exist_ok=True)
    return place


@pytest.fixture(scope="session")
def small_csv(shared_folder: Path) -> Path:
    """fer2013.csv of a few images in each role; to be read only."""
    from support import write_small_csv

    with filelock.FileLock(shared_folder / "csv.lock"):
        path = shared_folder / "fer2013.csv"
        return path if path.exists() else write_small_csv(shared_folder)


@pytest.fixture(scope="session")
def finished_run(small_csv: Path, shared_folder: Path) -> Path:
    """The workdir of a run from start to end, of SMALL on `small_csv`; to be read only.

    The first worker that needs it makes it.
    """
    from support import call, small_run

    workdir = shared_folder / "run"
    with filelock.FileLock(shared_folder / "run.lock"):
        if not workdir.with_suffix(".err").exists():
            outcome = call("main", small_run(small_csv, workdir))
            assert outcome.status == 0, outcome.err
            workdir.with_suffix(".out").write_text(outcome.out)
            workdir.with_suffix(".err").write_text(outcome.err)
    return workdir
