"""Two people in one results folder that their group may write to."""

import fcntl
import os
import stat
import traceback

import pytest

from task_arithmetic.config.reading import ROOT, read_config
from task_arithmetic.files.hashes import write_sha256
from task_arithmetic.files.paths import atomic_path, write_json
from task_arithmetic.pipeline import locks, store
from task_arithmetic.pipeline.run import start

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes two other users")
ALICE, BOB, GROUP = 61001, 61002, 61003
EXPERIMENT = read_config(ROOT / "config/nano.yaml")


def as_user(user: int, action, umask=0o002):
    """action() in a process of a user of the group; what it returned, as text."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(user)
            os.umask(umask)
            os.write(write, repr(action()).encode())
        except BaseException as error:
            said = error.code if isinstance(error, SystemExit) else traceback.format_exc()
            os.write(write, str(said).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as said:
        text = said.read()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def results(tmp_path):
    """A folder of the group, below folders that everybody may pass."""
    for folder in (tmp_path, *tmp_path.parents[:3]):
        folder.chmod(folder.stat().st_mode | 0o011)
    folder = tmp_path / "results"
    folder.mkdir()
    os.chown(folder, ALICE, GROUP)
    folder.chmod(0o2775)
    return folder


def lock(path):
    def action():
        fd = locks.try_lock(path)
        return "held" if fd is None else "taken"

    return action


@pytest.mark.parametrize("umask", [0o002, 0o022])
def test_a_lock_of_one_user_excludes_the_other_and_is_free_afterwards(results, umask):
    path = results / ".lock"
    assert as_user(ALICE, lock(path), umask) == "'taken'"
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert as_user(BOB, lock(path)) == "'taken'"
    fd = os.open(path, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert as_user(BOB, lock(path)) == "'held'"
    os.close(fd)


def test_a_lock_is_taken_in_folders_that_open_only_ones_own_for_writing(results):
    """Sticky ones, as /tmp and many scratch folders are."""
    results.chmod(0o3777)
    assert as_user(ALICE, lock(results / ".lock"), 0o000) == "'taken'"
    assert as_user(BOB, lock(results / ".lock")) == "'taken'"

    def job():
        with locks.locked(results / ".lock", "x") as waited:
            return waited

    assert as_user(BOB, job) == "False"
    assert (results / ".lock").exists()  # it is not Bob's to remove


def controller(results, code="c", run="mine"):
    """Start a run of one shared job."""

    class Params(dict):
        def __getattr__(self, name):
            return self[name]

    class Job:
        log = [f"{results}/shared/logs/data/x.log"]
        output = [f"{results}/shared/data/x/manifest.json"]
        params = Params(code=code, settings="{}")

    class Dag:
        jobs = [Job]

        @staticmethod
        def needrun(job):
            return True

    def action():
        start(results / run, Dag, EXPERIMENT)
        return "started"

    return action


@pytest.mark.parametrize("run", ["mine", "other"])
def test_a_controllers_lock_that_nobody_else_may_open_is_a_sentence(results, run):
    """As an earlier version made it: under the same run's name, and under another's that shares
    data of another definition."""
    assert as_user(ALICE, controller(results)) == "'started'"
    (results / "mine/.lock").chmod(0o600)
    said = as_user(BOB, controller(results, code="d", run=run))
    assert f"{results}/mine/.lock cannot be read or written (Permission denied): ask " in said
    assert f"`chmod g+rwX {results}/mine/.lock`" in said and "Traceback" not in said


def test_one_controller_goes_on_after_the_others(results):
    assert as_user(ALICE, controller(results)) == "'started'"
    assert as_user(BOB, controller(results)) == "'started'"
    fd = locks.try_lock(results / "mine/.lock")
    assert "Another snakemake works on" in as_user(ALICE, controller(results))
    other = as_user(ALICE, controller(results, code="d", run="other"))
    assert f"The run in {results}/mine is going on" in other
    os.close(fd)


def test_a_folder_that_only_another_may_write_to_is_a_sentence(results):
    results.chmod(0o755)
    said = as_user(BOB, controller(results))
    assert f"{results}/mine cannot be read or written (Permission denied): ask " in said
    assert f"(`chmod g+rwX {results}`)" in said and "Traceback" not in said


def finished(results, user, name):
    """Files of a fine-tuning, with their hashes."""

    def action():
        folder = results / "finetuned"
        folder.mkdir(exist_ok=True)
        files = [folder / f"{name}.safetensors", folder / f"{name}.csv"]
        for file in files:
            with atomic_path(file) as temporary:
                temporary.write_bytes(b"content" + file.suffix.encode())
        write_sha256(files)
        store.put(results / "store", "finetune", "aa", files, 1e9)
        return files

    assert "PosixPath" in as_user(user, action)
    return [results / "finetuned" / f"{name}.{suffix}" for suffix in ("safetensors", "csv")]


@pytest.mark.parametrize("mode", [0o664, 0o644, 0o600])
def test_results_are_taken_from_anothers_entries_or_made_again(results, mode):
    for file in finished(results, ALICE, "0"):
        file.chmod(mode)  # and that of the entry: they are one file
    files = [results / "finetuned" / f"1.{suffix}" for suffix in ("safetensors", "csv")]
    taken = as_user(BOB, lambda: store.take(results / "store", "finetune", "aa", files))
    assert taken == str(mode != 0o600)
    if mode != 0o600:
        assert files[0].read_bytes() == b"content.safetensors"
        assert {file.stat().st_uid for file in files} == {BOB}


def test_a_store_of_anothers_entries_fails_no_job(results):
    """In a folder where only owners remove."""
    finished(results, ALICE, "0")
    (results / "finetuned/0.csv").unlink()
    (results / "finetuned/0.safetensors").unlink()
    (results / "store/finetune").chmod(0o3775)
    assert as_user(BOB, lambda: store.collect(results / "store", 0)) == "(0, 0)"
    assert len(list((results / "store/finetune").iterdir())) == 3


def test_a_result_of_one_is_replaced_by_the_other(results):
    as_user(ALICE, lambda: write_json(results / "a.json", 1))
    assert as_user(BOB, lambda: write_json(results / "a.json", 2)) == "None"
    assert (results / "a.json").read_text() == "2\n"
    assert stat.S_IMODE((results / "a.json").stat().st_mode) == 0o664
