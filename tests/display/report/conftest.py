from collections.abc import Iterator

import pytest

from tests.display.report.browser import Browser, installed


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests of the page."""
    program = installed()
    assert program is not None
    started = Browser(program, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()
