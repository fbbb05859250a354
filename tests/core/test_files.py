import hashlib
import pickle
from pathlib import Path

import pytest

from ssleval.core.files import DAMAGED_PICKLE, file_sha256


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 5000)
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "absent")


@pytest.mark.parametrize("length", range(40))
def test_reading_a_truncated_pickle_raises_an_error_of_the_list(length: int) -> None:
    content = pickle.dumps({"name": [1.5, (2, "text"), b"bytes"], "other": {3: None}})
    with pytest.raises(DAMAGED_PICKLE):
        pickle.loads(content[:length])
