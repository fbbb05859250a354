import os
from pathlib import Path

import pytest

from ssleval.core.yamlfile import read_yaml
from ssleval.errors import ConfigError, DataError

LAUGHS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9) if n else 'lol'}]" for n in range(12))


def test_aliases_and_merges_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("base: &base {k: 20}\none: {<<: *base, t: 1}\ntwo: *base\n")
    assert read_yaml(path) == {"base": {"k": 20}, "one": {"k": 20, "t": 1}, "two": {"k": 20}}
    path.write_text("# nothing\n")
    assert read_yaml(path) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LAUGHS.encode(), "more than 100,000 values"),
        (b"[" * 1500, "nested too deeply"),
        (b"&a [*a]", "nested too deeply, or an alias holds itself"),
        (b"k: 1\nk: 2\n", "'k' is there twice"),
        (b"k: " + b"9" * 5000, "no YAML"),
        (b"day: 2024-13-45", "no YAML"),
        (b"k: \xff\xfe", "no YAML"),
        (b"k: [", "no YAML"),
        (b"!!python/object/apply:os.getcwd []", "no YAML"),
    ],
)
def test_files_that_cannot_be_meant_are_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        read_yaml(path)
    assert "\n" not in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="is no file"):
        read_yaml(tmp_path / "x.yaml")


def test_messages_keep_beginning_and_end() -> None:
    message = str(DataError("a" * 10**6 + "; remove it"))
    assert len(message) < 2_100
    assert message.startswith("aaa")
    assert message.endswith("; remove it")
