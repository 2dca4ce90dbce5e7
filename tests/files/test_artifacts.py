"""Artifacts appear complete or not at all, and damaged ones are refused in one sentence."""

import errno
import json
import os
import pickle
import shutil
import struct
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from task_arithmetic.errors import UserError, is_disk_full
from task_arithmetic.files.hashes import canonical, sha256_of, sha256_of_file
from task_arithmetic.files.paths import (
    atomic_path,
    place_of_log,
    read_json,
    remove_partial,
    write_json,
)
from task_arithmetic.files.tensors import check_tensors, read_made_by, read_tensors, write_tensors

# --- Atomic writing ------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failed_write_leaves_nothing_behind(tmp_path, kind, failure):
    with pytest.raises(failure), atomic_path(tmp_path / "artifact") as temporary:
        if kind == "folder":
            temporary.mkdir()
            (temporary / "part").write_text("half")
        else:
            temporary.write_text("half")
        raise failure
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_failed_write_keeps_the_earlier_artifact(tmp_path, kind):
    path = tmp_path / "artifact"
    kept = path
    if kind == "folder":
        path.mkdir()
        kept = path / "part"
    kept.write_text("earlier")
    with pytest.raises(ValueError), atomic_path(path) as temporary:
        if kind == "folder":
            temporary.mkdir()
        else:
            temporary.write_text("half")
        raise ValueError
    assert kept.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("place", ["file/artifact", "file/deeper/artifact"])
def test_a_folder_that_is_a_file_is_one_sentence(tmp_path, place):
    (tmp_path / "file").write_text("a user's")
    with pytest.raises(UserError, match=f"{place} cannot be written, as .* lies where a file is"):
        write_json(tmp_path / place, {})
    assert (tmp_path / "file").read_text() == "a user's"


def test_the_final_name_does_not_exist_while_writing(tmp_path):
    path = tmp_path / "new" / "artifact"
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
        assert temporary.parent == path.parent  # a rename within one file system is atomic
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_a_written_folder_replaces_its_entries_and_keeps_the_others(tmp_path):
    """Heads lie in the encoder's folder: making the encoder again must not lose them."""
    path = tmp_path / "encoder"
    (path / "heads").mkdir(parents=True)
    for content in ("old", "new"):
        with atomic_path(path) as temporary:
            temporary.mkdir()
            (temporary / "tower").write_text(content)
    assert sorted(p.name for p in path.iterdir()) == ["heads", "tower"]
    assert (path / "tower").read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_gets_its_description_last(tmp_path, monkeypatch):
    """Whoever finds the JSON of a folder finds the rest of it too, and all of it on the disk."""
    done, replace, fsync = [], os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(Path(b).name), replace(a, b)))
    monkeypatch.setattr(os, "fsync", lambda file: (done.append("flush"), fsync(file)))
    with atomic_path(tmp_path / "folder") as temporary:
        temporary.mkdir()
        for name in ("a.json", "b.npy", "z.npy"):
            (temporary / name).write_text(name)
    assert done == ["flush", "b.npy", "flush", "z.npy", "flush", "a.json"]


NATIVE = (
    'Error while serializing: IoError(Os { code: 28, kind: StorageFull, message: "No space left '
    'on device" })'
)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        safetensors.SafetensorError(NATIVE),
    ],
    ids=["full", "quota", "native"],
)
def test_a_full_disk_is_one_sentence_and_keeps_the_earlier_tensors(tmp_path, monkeypatch, error):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(3)}, {})

    def write_half(tensors, to, header):
        to.write_bytes(b"half")
        raise error

    monkeypatch.setattr(safetensors.torch, "save_file", write_half)
    with pytest.raises(UserError, match=r"disk is full while writing .*a\.safetensors"):
        write_tensors(path, {"a": torch.zeros(3)}, {})
    assert torch.equal(read_tensors(path)["a"], torch.ones(3))
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_are_not_taken_for_a_full_disk():
    assert not is_disk_full(OSError(errno.EACCES, "Permission denied"))
    assert not is_disk_full(ValueError("a shape is wrong"))


@pytest.mark.parametrize(
    "log, place",
    [
        ("results/logs/logs/data/logs.log", ("results", "data/logs")),
        (
            "/x/results/r.1/logs/finetune/e/m/results/0.log",
            ("/x/results", "finetune/e/m/results/0"),
        ),
        ("results/r/logs/data/v1.5.log", ("results", "data/v1.5")),
        ("elsewhere/a.log", None),
    ],
)
def test_a_logs_path_says_where_it_belongs_whatever_runs_and_tasks_are_called(log, place):
    assert place_of_log(log) == (place and (Path(place[0]), place[1]))


def test_what_another_output_is_written_to_is_not_removed_as_left_behind(tmp_path):
    """Names may have dots, so that one begins like another."""
    left = [".v1.5.77.partial", "..v1.5.77.partial.77.partial"]
    others = [
        ".v1.6.78.partial",
        ".v1.78.partial",
        ".v1.5.b.78.partial",
        ".a.b.safetensors.7.partial",
    ]
    for name in [*left, *others]:
        (tmp_path / name).mkdir()
    remove_partial(tmp_path / "v1.5")
    remove_partial(tmp_path / "a.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {*others}


def test_a_used_up_quota_is_called_that(tmp_path):
    with (
        pytest.raises(UserError, match="as far as your quota goes"),
        atomic_path(tmp_path / "a"),
    ):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")


@contextmanager
def disk(folder, options):
    """A small file system at a folder, for as long as the block lasts."""
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_without_inodes_is_not_called_full(tmp_path):
    with disk(tmp_path, "size=1m,nr_inodes=3"), pytest.raises(UserError) as caught:
        for number in range(4):
            write_json(tmp_path / f"{number}.json", number)
    assert "whose inodes are used up" in str(caught.value) and "full" not in str(caught.value)
    assert f"(`df -i {tmp_path}`)" in str(caught.value)


def test_only_results_are_to_be_deleted_and_the_command_that_makes_them_again_is_said(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for path in ("results/mine/a b.json", "my clip/open_clip_model.safetensors", "other.json"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(b"{")
        for given in (path, tmp_path / path):
            with pytest.raises(UserError) as caught:
                (read_json if path.endswith(".json") else read_tensors)(given)
            said = str(caught.value)
            if path.startswith("results"):
                assert f"`rm '{given}'`" in said and f"`snakemake '{given}'`" in said
            else:
                assert (
                    said.endswith("put a whole one in its place and run again.")
                    and "delete" not in said
                )


def test_a_really_full_disk_leaves_the_earlier_artifact_and_no_other(tmp_path):
    with disk(tmp_path, "size=64k"):
        tensors, words = tmp_path / "a.safetensors", tmp_path / "a.json"
        write_tensors(tensors, {"a": torch.ones(3)}, {})
        write_json(words, "earlier")
        with pytest.raises(UserError, match="disk is full"):
            write_tensors(tensors, {"a": torch.zeros(100_000)}, {})
        with pytest.raises(UserError, match="disk is full"):
            write_json(words, ["word"] * 100_000)
        with pytest.raises(UserError, match="disk is full"), atomic_path(tmp_path / "b") as folder:
            folder.mkdir()
            np.save(folder / "b.npy", np.zeros(100_000))
        assert torch.equal(read_tensors(tensors)["a"], torch.ones(3))
        assert read_json(words) == "earlier"
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.safetensors"]


# --- Tensors -------------------------------------------------------------------------------------


def test_tensors_come_back_bit_for_bit_with_what_made_them(tmp_path):
    tensors = {
        "float": torch.randn(3, 4).T,  # not contiguous
        "zero": torch.tensor(-0.0),
        "int": torch.arange(5),
        "leaf": torch.ones(2, requires_grad=True),
        "row": torch.randn(4, 4)[1:2],  # shares memory
    }
    made_by = {"seed": 3, "settings": {"b": [1.5, None], "a": "é"}}
    write_tensors(tmp_path / "a.safetensors", tensors, made_by)
    back = read_tensors(tmp_path / "a.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        assert back[name].numpy().tobytes() == tensor.detach().contiguous().numpy().tobytes()
    assert read_made_by(tmp_path / "a.safetensors") == made_by
    as_numpy = read_tensors(tmp_path / "a.safetensors", framework="np")
    assert np.array_equal(as_numpy["float"], tensors["float"].numpy())


def test_the_same_tensors_always_make_the_same_file(tmp_path):
    one, two = {"a": torch.ones(2), "b": torch.zeros(3)}, {"b": torch.zeros(3), "a": torch.ones(2)}
    hashes = set()
    for i in range(10):
        write_tensors(tmp_path / f"1{i}", one, {"x": 1, "y": 2})
        write_tensors(tmp_path / f"2{i}", two, {"y": 2, "x": 1})
        hashes |= {sha256_of_file(tmp_path / f"{k}{i}") for k in (1, 2)}
    assert len(hashes) == 1


def test_a_file_is_read_whatever_the_length_of_its_header(tmp_path):
    """The first bytes of a safetensors file are its header's length, and can look like anything."""
    path, lengths = tmp_path / "a.safetensors", set()
    for padding in [*range(0, 512, 8), 19280 - 88, 19280 - 80, 19280 - 72, 19280 - 64]:
        safetensors.torch.save_file(
            {"a": torch.ones(2)}, path, {"made_by": "{" + " " * padding + "}"}
        )
        lengths.add(struct.unpack("<Q", path.read_bytes()[:8])[0])
        assert torch.equal(read_tensors(path)["a"], torch.ones(2))
    assert {n % 256 for n in lengths} == set(range(0, 256, 8))


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("writer", ["zip", "legacy", "pickle2", "pickle5"])
def test_a_pickled_file_is_refused_and_never_opened(tmp_path, writer):
    path, trap = tmp_path / "model.safetensors", tmp_path / "trap"
    content = {"a": torch.ones(2), "trap": Payload(trap)}
    if writer.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, protocol=int(writer[-1])))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=writer == "zip")
    for read in (read_tensors, read_made_by):
        with pytest.raises(UserError, match=r"model\.safetensors is a pickled PyTorch file"):
            read(path)
    assert not trap.exists()


@pytest.mark.parametrize("damage", ["empty", "text", "header cut", "data cut", "longer", "folder"])
def test_a_damaged_tensor_file_is_refused_in_one_sentence(tmp_path, damage):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(100)}, {})
    whole = path.read_bytes()
    damaged = {
        "empty": b"",
        "text": b"not tensors at all",
        "header cut": whole[:20],
        "data cut": whole[:-7],
        "longer": whole + b"\0" * 9,
    }
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(damaged[damage])
    with pytest.raises(UserError, match=r"a\.safetensors .*run") as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)


def test_a_missing_artifact_says_which_and_what_to_do(tmp_path):
    for read in (read_tensors, read_made_by, read_json):
        with pytest.raises(UserError, match=r"none does not exist: run the stage"):
            read(tmp_path / "none")


@pytest.mark.parametrize(
    "found, says",
    [
        ({"a": (2,), "b": (3,)}, None),
        ({"a": (2,)}, r"x misses b:"),
        ({"a": (2,), "b": (3,), "c": (1,)}, r"x has unexpected c:"),
        ({"a": (2,), "b": (4,)}, r"x has b of shape \(4,\), not \(3,\)"),
        ({"c": (1,)}, r"x misses a, b and has unexpected c"),
        ({"b": (3, 1)}, r"x misses a and has b of shape \(3, 1\), not \(3,\)"),
        ({n: (1,) for n in "abcdefg"}, r"unexpected c, d, e and 2 more"),
    ],
)
def test_tensors_that_do_not_fit_are_named(found, says):
    found = {name: np.zeros(shape) for name, shape in found.items()}
    expected = {"a": (2,), "b": (3,)}
    if says is None:
        check_tensors("x", found, expected)
    else:
        with pytest.raises(UserError, match=says):
            check_tensors("x", found, expected)


# --- JSON, hashes, signals -----------------------------------------------------------------------


def test_json_comes_back_and_damaged_json_is_refused(tmp_path):
    content = {"b": [1, 2.5, None], "a": {"é": True}}
    write_json(tmp_path / "a.json", content)
    assert read_json(tmp_path / "a.json") == content
    (tmp_path / "a.json").write_text('{"half": ')
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json")


def test_equal_settings_have_equal_text_and_hash():
    one, two = {"a": 1, "b": {"d": 2, "c": [3]}}, {"b": {"c": [3], "d": 2}, "a": 1}
    assert (
        canonical(one) == canonical(two) == json.dumps(one, sort_keys=True, separators=(",", ":"))
    )
    assert sha256_of(one) == sha256_of(two) != sha256_of({**one, "a": 2})
    # SHA-256 of "abc", from the standard (FIPS 180-4)
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_of("abc") == sha256_of(b"abc") == abc
