import hashlib
import os
import signal
import subprocess
import sys

import pytest

from detaux_pl.artifacts.errors import ArtifactError, UserError
from detaux_pl.artifacts.files import (
    read_json,
    read_kind,
    replacing,
    sha256_file,
    sha256_json,
    write_json,
    write_text,
)


def test_the_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        assert temporary.suffix == ".txt"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")

    def write():
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError("half-way")

    with pytest.raises(RuntimeError, match="half-way"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    write_text(path, "old")
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from detaux_pl.artifacts.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('ne'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_files_are_readable_for_others(tmp_path):
    write_text(tmp_path / "file", "")
    assert os.stat(tmp_path / "file").st_mode & 0o777 == 0o644


def test_json_survives_the_disk(tmp_path):
    value = {"name": "Cramér", "list": [1, 2.5, None], "nested": {"b": True}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "Cramér" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_refuses_missing_and_damaged_json(tmp_path):
    with pytest.raises(ArtifactError, match="is missing: run the stage"):
        read_json(tmp_path / "a.json")
    for content in (b"{", b"", b"[" * 100_000):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(UserError, match=r"is not readable JSON .*: mend it\.$"):
            read_json(tmp_path / "a.json")
        with pytest.raises(UserError, match=r"is not readable JSON .*: run the stage again\.$"):
            read_kind(tmp_path / "a.json", dict[str, int], "run the stage again")
    (tmp_path / "a.json").write_bytes(b'{"street": "stra\xdfe"}')
    with pytest.raises(UserError, match=r"a\.json is no text in UTF-8 \(byte 0xdf at 16\): save"):
        read_json(tmp_path / "a.json")


def test_digests(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    assert sha256_json({"a": 1, "b": [2]}) == sha256_json({"b": [2], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 1.5})
    assert sha256_json([1, 2]) != sha256_json([2, 1])
