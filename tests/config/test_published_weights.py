"""Which weights a configuration takes instead of fine-tuning them, and mistakes in saying so."""

import json

import pytest
import yaml

from task_arithmetic.config import settings
from task_arithmetic.config.reading import ROOT, read_config
from task_arithmetic.config.recipes import recipes_of
from task_arithmetic.config.view import view_of
from task_arithmetic.errors import UserError
from task_arithmetic.planning.work import jobs
from task_arithmetic.report.page import about, recipes

SMALL = "embedded-small"


def experiment(text="{}", **more):
    return read_config("config/nano.yaml", {"published": yaml.safe_load(text), **more})


def test_what_is_published_is_taken_and_the_rest_is_trained():
    found = experiment(
        "{embedded-small: {nonlinear: {textures: me/textures},"
        " ntk: {textures: {hub: me/b, revision: a/b}}}}"
    )
    assert list(found.checkpoints) == [(SMALL, "nonlinear", "textures"), (SMALL, "ntk", "textures")]
    part = found.part("vision")
    assert len(found.trained(part)) == 2 * 4 - 2
    counts = {s: [j.task for j in jobs(found) if j.stage == s] for s in ("finetune", "published")}
    assert len(counts["finetune"]) == 6 and counts["published"] == ["textures"] * 2
    downloads = [job.output for job in jobs(found) if job.stage == "download"]
    folder = "results/shared/downloads/checkpoints"
    assert downloads == [f"{folder}/me--textures.json", f"{folder}/me--b@a--b.json"]
    assert settings.published_files(found, SMALL, "ntk", "textures") == downloads[1:]
    used = [(row.modes, row.tasks) for row in recipes_of(part, found.trained(part))]
    assert used == [
        (("nonlinear", "ntk"), ("landcover",)),
        (("attention", "attention_bias"), "all"),
    ]


def test_the_configuration_goes_over_the_encoders_definition(tmp_path, monkeypatch):
    """Key by key; null, at any level, fine-tunes."""
    project = tmp_path / "project"
    (project / "config").mkdir(parents=True)
    for name in ("modes", "tasks"):
        (project / "config" / name).symlink_to(ROOT / "config" / name)
    (project / "config.yaml").symlink_to(ROOT / "config.yaml")
    (project / "src").symlink_to(ROOT / "src")
    definition = yaml.safe_load((ROOT / f"config/encoders/{SMALL}.yaml").read_text())
    (project / "config/encoders").mkdir()
    (project / "tuned").write_bytes(b"")

    def read(own, over):
        content = {**definition, "published": own}
        (project / f"config/encoders/{SMALL}.yaml").write_text(yaml.safe_dump(content))
        overlay = {"published": over}
        return read_config(ROOT / "config/nano.yaml", overlay, basedir=project)

    monkeypatch.chdir(tmp_path)
    own = {"nonlinear": {"textures": "me/a", "landcover": {"path": "tuned"}, "letters": "me/c"}}
    hubs = {k[2]: each.hub or each.path for k, each in read(own, {}).checkpoints.items()}
    assert hubs == {"textures": "me/a", "landcover": "project/tuned"}
    found = read(own, {SMALL: {"nonlinear": {"textures": "me/b"}}}).checkpoints
    assert [each.hub for each in found.values()] == ["me/b", None]
    null = read(own, {SMALL: {"nonlinear": {"textures": None}}}).checkpoints
    assert [task for _, _, task in null] == ["landcover"]
    for over in ({SMALL: None}, {SMALL: {"nonlinear": None}}):
        assert not read(own, over).checkpoints
    assert len(read({"nonlinear": None}, {SMALL: {"ntk": {"textures": "me/b"}}}).checkpoints) == 1
    for wrong, words in (
        ({"nonlinaer": {}}, "'nonlinear'"),
        ({"nonlinear": {"texture": "me/a"}}, "'textures'"),
        ({"nonlinear": {"textures": {"path": "none"}}}, "There is no project/none"),
    ):
        with pytest.raises(UserError) as error:
            read(wrong, {})
        assert words in str(error.value) and f"config/encoders/{SMALL}.yaml" in str(error.value)


@pytest.mark.parametrize(
    "text, words",
    [
        ("{embeded-small: {}}", ["not among encoders", "'embedded-small'"]),
        ("{embedded-small: {nonlinaer: {}}}", ["no mode of embedded-small", "'nonlinear'"]),
        ("{embedded-small: {ntk: {texture: me/a}}}", ["not among tasks", "'textures'"]),
        ("{embedded-small: {ntk: {textures: me}}}", ["owner/name"]),
        ("{embedded-small: {ntk: {textures: {}}}}", ["exactly one of hub and path"]),
        ("{embedded-small: {ntk: {textures: {hub: a/b, path: x}}}}", ["exactly one of"]),
        ("{embedded-small: {ntk: {textures: {path: x, revision: y}}}}", ["revision", "remove"]),
        ("{embedded-small: {ntk: {textures: {path: none}}}}", ["There is no", "none"]),
        ("{embedded-small: {ntk: {textures: {path: config}}}}", ["neither of config.json"]),
    ],
)
def test_a_mistake_is_one_sentence(text, words):
    with pytest.raises(UserError) as error:
        experiment(text)
    assert all(word in str(error.value) for word in words), error.value
    assert str(error.value).endswith(".")


def test_a_hubs_name_that_lies_here_too_is_asked_about(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "me/model").mkdir(parents=True)
    found = {"published": {SMALL: {"nonlinear": {"textures": "me/model"}}}}
    with pytest.raises(UserError, match="lies here as well: write {path: me/model} or {hub:"):
        read_config(ROOT / "config/nano.yaml", found, basedir=ROOT)


def test_the_report_says_who_fine_tuned():
    """What stands in for fine-tuning, and that modes may differ by how they were trained."""
    own = experiment("{embedded-small: {nonlinear: {textures: {hub: me/a, revision: b}}}}")
    (note,) = [
        note for note in about(view_of(json.loads(settings.report_settings(own)))).notes
        if "published" in note
    ]  # fmt: skip
    assert "embedded-small: others have fine-tuned" in note and "textures (me/a@b)" in note
    plain = about(view_of(json.loads(settings.report_settings(experiment()))))
    assert not any("others have" in note for note in plain.notes)


def test_the_report_of_a_run_that_trained_nothing_has_no_recipes():
    shipped = read_config("config/published.yaml")
    assert recipes(view_of(json.loads(settings.report_settings(shipped)))) == {}


def test_published_weights_have_no_seeds():
    text = "{embedded-small: {ntk: {textures: me/a}}}"
    with pytest.raises(UserError, match="one seed, or set published.embedded-small to null"):
        experiment(text, seeds=[0, 1])
    assert experiment("{embedded-small: {ntk: {textures: null}}}", seeds=[0, 1])
    assert experiment(text, seeds=[3])


def test_the_shipped_collection_trains_nothing():
    found = read_config("config/published.yaml")
    assert len(found.checkpoints) == 8 and not found.trained(found.part("vision"))
    assert {each.hub for each in found.checkpoints.values()} == {
        f"tanganke/clip-vit-base-patch32_{name}"
        for name in "stanford-cars dtd eurosat gtsrb mnist resisc45 sun397 svhn".split()
    }
    stages = {job.stage for job in jobs(found)}
    assert "published" in stages and not {"finetune", "vector"} & stages
