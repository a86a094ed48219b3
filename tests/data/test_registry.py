"""The registry: sets by name, their options, and sets that users add."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vaeppl.data import (
    Data,
    DataError,
    DataSet,
    Remote,
    as_data,
    available,
    describe_sets,
    info,
    load,
    register,
    registry,
)


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(registry, "_sets", dict(registry._sets))

    def parse(files, *, scale: float = 1.0):
        return Data({"x": [[0.0], [scale]]})

    return register(DataSet("toy", "Two points", "2 x 1", "CC0", "made up", parse))


def test_users_add_sets(toy):
    assert "toy" in available() and info("toy") is toy and toy.options == ("scale",)
    assert load("toy", scale=3)["x"].flatten().tolist() == [0, 3]
    assert as_data("toy").name == "toy"


def test_unknown_names_and_options(toy):
    with pytest.raises(DataError, match=r"did you mean 'toy'.*'digits'"):
        load("toyy")
    with pytest.raises(DataError, match="no option 'scal'; did you mean 'scale'"):
        load("toy", scal=3)
    with pytest.raises(DataError, match="takes none"):
        load("digits", scale=3)


def test_the_table_of_sets_tells_what_is_cached(cache):
    table = describe_sets().set_index("name")
    assert list(table.index) == available()
    assert table.loc["digits", "cached"] and not table.loc["digits", "needs download"]
    assert not table.loc["mnist", "cached"] and table.loc["mnist", "needs download"]
    (cache / "binarized_mnist").mkdir(parents=True)
    (cache / "binarized_mnist" / info("binarized_mnist").parsed).write_bytes(b"")
    assert info("binarized_mnist").cached


@pytest.mark.parametrize("name", available())
def test_every_entry_says_where_it_comes_from(name):
    entry = info(name)
    assert entry.title and entry.licence and entry.source and "x" in entry.shape
    for remote in entry.files:
        assert isinstance(remote, Remote)
        assert remote.url is None or remote.url.startswith("http")
        assert remote.checksum or remote.url


def test_importing_is_light():
    heavy = "pandas anndata sklearn pooch scipy h5py"
    code = (
        "import sys, vaeppl.data.registry as r; "
        f"before = [m for m in '{heavy}'.split() if m in sys.modules]; print(before)"
    )
    # A stub in place of the package's front door, which imports all of vaeppl.
    stub = (
        "import sys, types, importlib.util as u; "
        "m = types.ModuleType('vaeppl'); "
        "m.__path__ = list(u.find_spec('vaeppl').submodule_search_locations); "
        "sys.modules['vaeppl'] = m; "
    )
    done = subprocess.run([sys.executable, "-c", stub + code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
