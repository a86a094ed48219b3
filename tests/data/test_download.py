"""A file in the cache is whole and the right one, or there is none and the message helps."""

from __future__ import annotations

import hashlib
import json
import os
import traceback

import numpy as np
import pytest

from vaeppl.data import DownloadError, Remote, cache_dir
from vaeppl.data.download import Files, fetch, is_cached

pytest.importorskip("pooch")
BODY = bytes(range(256)) * 800


def _sum(algorithm, body=BODY):
    return f"{algorithm}:{hashlib.new(algorithm, body).hexdigest()}"


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_file_is_downloaded_once(server, cache, algorithm):
    remote = Remote("file.bin", server.put("/f", BODY), _sum(algorithm))
    assert not is_cached("set", remote)
    assert fetch("set", remote).read_bytes() == BODY
    assert fetch("set", remote) == cache / "set" / "file.bin"
    assert server.asked == ["/f"] and is_cached("set", remote)
    assert os.listdir(cache / "set") == ["file.bin"]


def test_a_tampered_download_leaves_nothing(server, cache):
    remote = Remote("file.bin", server.put("/f", b"evil"), _sum("sha256"))
    with pytest.raises(DownloadError) as error:
        fetch("set", remote)
    for part in (remote.url, remote.checksum, _sum("sha256", b"evil"), "try again"):
        assert part in str(error.value)
    assert os.listdir(cache / "set") == []


@pytest.mark.parametrize("checksum", [None, _sum("md5")])
def test_a_download_cut_short_leaves_nothing(server, cache, checksum):
    remote = Remote("file.bin", server.put("/f", BODY), checksum)
    server.cut.add("/f")
    with pytest.raises(DownloadError, match="/f"):
        fetch("set", remote)
    assert os.listdir(cache / "set") == []
    server.cut.clear()
    assert fetch("set", remote).read_bytes() == BODY


@pytest.mark.parametrize("url", ["missing", "dead"])
def test_what_cannot_be_downloaded_says_where_to_put_it(server, cache, url):
    address = server.url("/none") if url == "missing" else "http://127.0.0.1:9/none"
    with pytest.raises(DownloadError) as error:
        fetch("set", Remote("file.bin", address, _sum("md5")))
    for part in (address, "'file.bin'", str(cache / "set" / "file.bin"), "by hand"):
        assert part in str(error.value)
    shown = "".join(traceback.format_exception(error.value))
    assert shown.count("Traceback") == 1  # the message says the cause


def test_a_file_that_nobody_offers_says_where_to_put_it(cache):
    with pytest.raises(DownloadError, match="not offered") as error:
        fetch("set", Remote("file.bin"))
    assert str(cache / "set" / "file.bin") in str(error.value)
    (cache / "set").mkdir(parents=True)
    (cache / "set" / "file.bin").write_bytes(BODY)
    assert fetch("set", Remote("file.bin", None, _sum("md5"))).read_bytes() == BODY


def test_a_damaged_file_in_the_cache_is_found(server, cache):
    remote = Remote("file.bin", server.put("/f", BODY), _sum("md5"))
    path = fetch("set", remote)
    path.write_bytes(BODY[:-1])
    with pytest.raises(DownloadError, match=f"delete {path}"):
        fetch("set", remote)
    path.unlink()
    assert fetch("set", remote).read_bytes() == BODY


def test_without_a_published_checksum_the_first_one_is_kept(server, cache):
    remote = Remote("file.bin", server.put("/f", BODY))
    path = fetch("set", remote)
    record = path.with_name("file.bin.sha256.json")
    assert json.loads(record.read_text())["checksum"] == _sum("sha256")
    path.write_bytes(b"other")
    with pytest.raises(DownloadError, match="delete"):
        fetch("set", remote)
    path.unlink()
    server.put("/f", b"another version")
    with pytest.raises(DownloadError, match="sha256"):
        fetch("set", remote)
    record.write_text("{")
    with pytest.raises(DownloadError, match="cannot read the checksum"):
        fetch("set", remote)


def test_a_cache_folder_that_cannot_be_made(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VAEPPL_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="VAEPPL_DATA_DIR"):
        fetch("set", Remote("file.bin", server.put("/f", BODY)))


def test_the_second_start_reads_the_parsed_form(cache):
    made = []

    def parse():
        made.append(1)
        return {"a": np.arange(3)}

    for _ in range(2):
        assert Files("set").parsed("a.npz", parse)["a"].tolist() == [0, 1, 2]
    assert len(made) == 1 and os.listdir(cache / "set") == ["a.npz"]
    (cache / "set" / "a.npz").write_bytes(b"PK")
    with pytest.raises(DownloadError, match="delete it"):
        Files("set").parsed("a.npz", parse)


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VAEPPL_DATA_DIR", str(tmp_path / "file"))
    assert Files("set").parsed("a.npz", lambda: {"a": np.ones(1)})["a"].tolist() == [1]


def test_the_cache_without_a_wish_is_the_users(monkeypatch):
    monkeypatch.delenv("VAEPPL_DATA_DIR", raising=False)
    assert "vaeppl" in str(cache_dir())
