import pytest

from detaux_pl.artifacts.errors import ArtifactError
from detaux_pl.artifacts.files import read_json
from detaux_pl.artifacts.stage import StageFolder, first_difference, redo_name, stage_key

SETTINGS = {"seed": 0, "model": {"width": 8, "depth": None}}
UPSTREAM = {"disentangle/codes": "k1"}


def complete(run_dir, name="cluster", text="labels", inputs=None):
    folder = StageFolder(run_dir, name)
    folder.begin(SETTINGS, UPSTREAM, inputs or {})
    output = folder.path / "out" / "labels.txt"
    output.parent.mkdir(exist_ok=True)
    output.write_text(text)
    folder.finish([output], seconds=1.5)
    return folder


def test_a_stage_that_never_began(tmp_path):
    folder = StageFolder(tmp_path, "cluster")
    assert folder.manifest is None
    assert not folder.complete
    folder.check(SETTINGS, UPSTREAM)
    folder.check_inputs()
    for look in (folder.verify, lambda: folder.digest):
        with pytest.raises(ArtifactError, match="is not complete: run `cluster` first"):
            look()


def test_the_manifest_of_a_stage(tmp_path):
    folder = complete(tmp_path)
    manifest = read_json(tmp_path / "cluster" / "stage.json")
    assert manifest["status"] == "complete"
    assert manifest["key"] == stage_key("cluster", SETTINGS, UPSTREAM)
    assert list(manifest["outputs"]) == ["out/labels.txt"]
    assert manifest["seconds"] == 1.5
    assert "numpy" in manifest["versions"]
    assert folder.complete
    folder.check(SETTINGS, UPSTREAM)
    folder.verify()


def test_an_interrupted_stage_is_not_complete_and_goes_on_as_the_same_run(tmp_path):
    folder = StageFolder(tmp_path, "cluster")
    folder.begin(SETTINGS, UPSTREAM, {})
    first = folder.manifest
    assert not folder.complete
    with pytest.raises(ArtifactError, match="not complete"):
        folder.verify()
    folder.begin(SETTINGS, UPSTREAM, {})
    assert folder.manifest["wandb_id"] == first["wandb_id"]
    assert len(first["wandb_id"]) == 8


def test_seconds_add_up_over_interruptions(tmp_path):
    complete(tmp_path)
    assert complete(tmp_path).manifest["seconds"] == 3.0


@pytest.mark.parametrize(
    ("settings", "upstream", "words"),
    [
        ({**SETTINGS, "seed": 1}, UPSTREAM, "seed was 0, is 1"),
        ({**SETTINGS, "model": {"width": 9, "depth": None}}, UPSTREAM, "model.width was 8, is 9"),
        ({**SETTINGS, "rule": None}, UPSTREAM, "rule was 'absent', is None"),
        ({"seed": 0, "model": {"width": 8}}, UPSTREAM, "model.depth was None, is 'absent'"),
        (SETTINGS, {"disentangle/codes": "k2"}, "a stage upstream changed"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_refuses_a_folder_of_other_settings(tmp_path, settings, upstream, words, finished):
    folder = StageFolder(tmp_path, "cluster")
    if finished:
        complete(tmp_path)
    else:
        folder.begin(SETTINGS, UPSTREAM, {})
    with pytest.raises(ArtifactError, match="made with other settings") as caught:
        folder.check(settings, upstream)
    message = str(caught.value)
    assert words in message
    assert stage_key("cluster", SETTINGS, UPSTREAM)[:12] in message
    assert stage_key("cluster", settings, upstream)[:12] in message
    assert "--run_dir" in message
    assert "--redo cluster" in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["cluster", "multitask/main/seed0"])
def test_refuses_outputs_that_changed(tmp_path, name):
    folder = complete(tmp_path, name)
    output = folder.path / "out" / "labels.txt"
    output.write_text("Labels")
    with pytest.raises(ArtifactError, match=r"labels\.txt was changed after") as caught:
        folder.verify()
    assert f"--redo {name.split('/')[0]} " in str(caught.value)
    output.unlink()
    with pytest.raises(ArtifactError, match=r"labels\.txt is gone"):
        folder.verify()


def test_pins_what_it_was_made_from(tmp_path):
    upstream = complete(tmp_path, "disentangle/codes", "codes")
    folder = complete(tmp_path, inputs={"disentangle/codes": upstream.digest})
    folder.check_inputs()
    complete(tmp_path, "disentangle/codes", "codes")
    folder.check_inputs()
    complete(tmp_path, "disentangle/codes", "other codes")
    with pytest.raises(ArtifactError, match="another result of `disentangle/codes`"):
        folder.check_inputs()
    upstream.begin(SETTINGS, UPSTREAM, {})
    with pytest.raises(ArtifactError, match="codes is not complete"):
        folder.check_inputs()


def test_refuses_to_finish_in_a_folder_that_was_removed(tmp_path):
    with pytest.raises(ArtifactError, match="was removed while its stage ran"):
        StageFolder(tmp_path, "cluster").finish([], 1.0)


def test_key_depends_on_all_that_it_is_made_of():
    keys = {
        stage_key("cluster", {"a": 1}, {}),
        stage_key("report", {"a": 1}, {}),
        stage_key("cluster", {"a": 2}, {}),
        stage_key("cluster", {"a": 1}, {"b": "k"}),
    }
    assert len(keys) == 4
    assert stage_key("s", {"a": 1, "b": 2}, {}) == stage_key("s", {"b": 2, "a": 1}, {})


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ({"a": 1}, {"a": 1}, None),
        ({"b": 1, "a": {"x": [1]}}, {"b": 2, "a": {"x": [2]}}, "a.x was [1], is [2]"),
        ({"a": {"x": 1}}, {"a": "X"}, "a was {'x': 1}, is 'X'"),
    ],
)
def test_first_difference_is_said_in_words(old, new, words):
    assert first_difference(old, new) == words


def test_redo_names_the_stage_of_the_chain():
    assert redo_name("multitask/main/seed0") == "multitask"
    assert redo_name("cluster") == "cluster"


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("devices", 1, "1"), ("devices", "0,1", [0, 1]), ("devices", "[0, 1]", ["0", "1"]),
        ("devices", "1,", [1]), ("devices", "-1", -1), ("num_nodes", 1, "1"),
        ("gradient_clip_val", 1, 1.0), ("precision", 32, "32-true"), ("precision", None, "32"),
        ("precision", "bf16", "bf16-mixed"), ("limit_train_batches", None, 1.0),
        ("limit_val_batches", 0, 0.0), ("max_time", "00:01:00:00", {"hours": 1}),
        ("max_epochs", 3, 3.0), ("callbacks", None, []), ("callbacks", [{"a": 1}], {"a": 1.0}),
        ("val_check_interval", None, 1.0),
    ],
)  # fmt: skip
def test_a_setting_that_is_spelt_otherwise_is_the_same(tmp_path, name, old, new):
    folder, after = StageFolder(tmp_path, "a"), StageFolder(tmp_path, "b")
    folder.begin({"trainer": {name: old}}, {}, {})
    key = folder.manifest["key"]
    after.begin({}, {"a": key}, {})
    folder.check({"trainer": {name: new}}, {})
    assert first_difference({"trainer": {name: old}}, {"trainer": {name: new}}) is None
    folder.begin({"trainer": {name: new}}, {}, {})  # as it goes on
    assert folder.manifest["key"] == key
    after.check({}, {"a": folder.manifest["key"]})


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("limit_train_batches", 1, 1.0), ("overfit_batches", 1, 1.0), ("devices", 1, [1]),
        ("devices", "0,1", 2), ("devices", "auto", 1), ("val_check_interval", 1, 1.0),
        ("precision", "16-mixed", "16-true"), ("max_time", "00:01:00:00", {"hours": 2}),
        ("sync_batchnorm", True, 1), ("gradient_clip_val", 1, None),
    ],
)  # fmt: skip
def test_a_setting_that_means_another_is_refused(tmp_path, name, old, new):
    folder = StageFolder(tmp_path, "a")
    folder.begin({"trainer": {name: old}}, {}, {})
    with pytest.raises(ArtifactError) as caught:
        folder.check({"trainer": {name: new}}, {})
    assert f"trainer.{name} was {old!r}, is {new!r}" in str(caught.value)
