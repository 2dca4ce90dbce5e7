"""The store of finished outputs."""

import os
import time

import pytest

from task_arithmetic.files.hashes import write_sha256
from task_arithmetic.pipeline import store


@pytest.fixture
def results(tmp_path):
    """make(name, content) → a finished fine-tuning's files, and its hashes beside them."""

    def make(name, content):
        folder = tmp_path / "finetuned"
        folder.mkdir(exist_ok=True)
        files = [folder / f"{name}.safetensors", folder / f"{name}.csv"]
        for file in files:
            file.unlink(missing_ok=True)
            file.write_bytes(content + file.suffix.encode())
        write_sha256(files)
        return files

    return make


def entries(folder):
    return sorted({path.name.split(".")[0] for path in folder.glob("*/*")})


def test_what_was_put_is_taken_with_equal_bytes(results, tmp_path):
    files = results("0", b"first")
    before = [file.read_bytes() for file in files]
    store.put(tmp_path / "s", "finetune", "aa", files, 1e9)
    results("0", b"second")
    assert store.take(tmp_path / "s", "finetune", "aa", files)
    assert [file.read_bytes() for file in files] == before
    assert not store.take(tmp_path / "s", "finetune", "bb", files)
    assert not store.take(tmp_path / "s", "head", "aa", files)


def test_an_entry_costs_no_space_while_the_results_hold_it(results, tmp_path):
    files = results("0", b"x" * 2**21)
    store.put(tmp_path / "s", "finetune", "aa", files, 1)
    assert all(file.stat().st_nlink == 2 for file in files)
    assert store.collect(tmp_path / "s", 0) == (0, 0)
    files[0].unlink()
    assert store.collect(tmp_path / "s", 0) == (1, 2**21 + len(".safetensors"))
    assert entries(tmp_path / "s") == []


def test_taking_again_does_not_change_the_entry_when_the_result_is_replaced(results, tmp_path):
    files = results("0", b"first")
    store.put(tmp_path / "s", "finetune", "aa", files, 1e9)
    for _ in range(2):
        assert store.take(tmp_path / "s", "finetune", "aa", files)
        results("0", b"other")
    assert store.take(tmp_path / "s", "finetune", "aa", files)
    assert files[0].read_bytes() == b"first.safetensors"


@pytest.mark.parametrize("damage", ["altered", "cut", "missing", "hashes cut"])
def test_a_damaged_entry_is_removed_and_not_taken(damage, results, tmp_path):
    files = results("0", b"first")
    store.put(tmp_path / "s", "finetune", "aa", files, 1e9)
    files[0].unlink()
    kept = tmp_path / "s" / "finetune" / "aa.safetensors"
    if damage == "altered":
        kept.write_bytes(b"First.safetensors")
    elif damage == "cut":
        kept.write_bytes(b"fir")
    elif damage == "missing":
        kept.unlink()
    else:
        (tmp_path / "s" / "finetune" / "aa.sha256").write_text("")
    assert not store.take(tmp_path / "s", "finetune", "aa", files)
    assert not files[0].exists()
    assert entries(tmp_path / "s") == []


def test_the_longest_unused_entries_make_place(results, tmp_path):
    now = time.time()
    for place, name in enumerate(["aa", "bb", "cc"]):
        store.put(tmp_path / "s", "finetune", name, results(name, b"x" * 1000), 1e9)
        mark = tmp_path / "s" / "finetune" / f"{name}.sha256"
        os.utime(mark, (now - 100 + place, now - 100 + place))
    again = results("aa", b"other")
    assert store.take(tmp_path / "s", "finetune", "aa", again)  # used now: not the oldest any more
    for name in ("aa", "bb", "cc"):
        results(name, b"other")  # the results hold none of them
    removed, freed = store.collect(tmp_path / "s", 4500)
    assert (removed, freed) == (1, 2 * 1000 + len(".safetensors") + len(".csv"))
    assert entries(tmp_path / "s") == ["aa", "cc"]


def test_a_limit_of_zero_keeps_nothing(results, tmp_path):
    store.put(tmp_path / "s", "finetune", "aa", results("0", b"first"), 0)
    assert not (tmp_path / "s").exists()


def test_without_hard_links_files_are_copied(results, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    files = results("0", b"first")
    store.put(tmp_path / "s", "finetune", "aa", files, 1e9)
    results("0", b"other")
    assert store.take(tmp_path / "s", "finetune", "aa", files)
    assert files[1].read_bytes() == b"first.csv" and files[1].stat().st_nlink == 1
