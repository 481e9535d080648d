"""What every test has: a cache of its own, no folder of given files, and the real texts where they are to be had."""

import os
from pathlib import Path

# One thread for each process, set before torch is imported: the tests run side by side, one process a core, and
# threads that wait for one another while another process has their core take many times as long.
os.environ["OMP_NUM_THREADS"] = "1"

import hypothesis
import pytest

GIVEN = os.environ.get("GPTLAB_DATA")  # read before the fixture below takes it away
SHARED = Path(GIVEN).expanduser() if GIVEN else Path(__file__).parents[2] / "shared"

# No test is about time. Continuous integration tries the same examples each time, a developer new ones.
hypothesis.settings.register_profile(
    "gptlab",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize="CI" in os.environ,
)
hypothesis.settings.load_profile("gptlab")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests run when they are asked for with -m."""
    if "slow" not in config.option.markexpr:
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="slow: run with -m slow"))


@pytest.fixture(autouse=True)
def hermetic(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees another's cache, or a folder that the environment names; but kernels are compiled once for all."""
    cache, compiled = tmp_path_factory.mktemp("cache"), tmp_path_factory.getbasetemp().parent / "gptlab-native"
    compiled.mkdir(exist_ok=True)
    (cache / "native").symlink_to(compiled, target_is_directory=True)
    monkeypatch.setenv("GPTLAB_CACHE", str(cache))
    monkeypatch.delenv("GPTLAB_DATA", raising=False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with corpora/, tokenizers/ and reference/; where there is none, the test is skipped."""
    if not (SHARED / "corpora").is_dir():
        pytest.skip(f"needs the real texts: no folder corpora in {SHARED} (GPTLAB_DATA names another)")
    return SHARED
