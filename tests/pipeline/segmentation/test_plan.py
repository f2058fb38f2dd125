"""From a request to a plan: what is looked into, what is refused, what is written (nothing)."""

import json
import shutil
from dataclasses import fields, replace

import pytest

from model_build import artifact
from model_build.common.errors import JobError, UserError
from pipeline.images.decode import MAX_PIXELS, DecodeOptions
from pipeline.network import models, precision, threads
from pipeline.network.handler import EngineOptions
from pipeline.outputs import run_json
from pipeline.outputs.products import MASKS, OVERLAYS, PRODUCTS
from pipeline.outputs.run_json import EarlierRuns, Recipe
from pipeline.records import Source
from pipeline.segmentation.plan import Request, as_text, plan
from pipeline.segmentation.up_to_date import KeepOptions
from pipeline.segmentation.windows import WriteOptions
from pipeline.storage import Files
from tests.networks import DECIDING

FILES = Files()


@pytest.fixture
def ask(tmp_path, tiny_model, touch):
    """A request for a photo that nobody will look at, into ``out``, unless told otherwise."""
    touch(tmp_path, "photos/a.jpg")

    def make(*inputs, out="out", **options):
        return Request(
            inputs=list(map(str, inputs or [tmp_path / "photos"])),
            output=out if "://" in out else str(tmp_path / out),
            **{"model": tiny_model} | options,
        )

    return make


@pytest.fixture(autouse=True)
def without_bfloat16(monkeypatch):
    """The machine's CPU has only what every CPU has."""
    monkeypatch.setattr(precision, "supports_bfloat16", lambda: False)


@pytest.fixture
def claim(ask):
    """Leaves in OUT what a run leaves there that has just begun: ``run.json``."""

    def make(request=None, **recipe):
        planned = plan(request or ask())
        out = replace(planned.out, run="r1")
        FILES.make_folder(out.path)
        made_by = replace(planned.recipe, **recipe)
        run_json.claim(out, made_by, planned.listing.root, (), {})
        return made_by

    return make


@pytest.fixture
def other_model(tiny_model, tmp_path):
    """A copy of the model that says it is another one."""
    shutil.copytree(tiny_model, tmp_path / "other")
    file = tmp_path / "other" / artifact.DESCRIPTION
    file.write_text(json.dumps(json.loads(file.read_text()) | {"fingerprint": "f" * 64}))
    return str(tmp_path / "other")


def tree(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


# What each room gets


def test_a_plan_gives_each_room_its_own(ask, tiny_model, tmp_path):
    planned = plan(
        ask(
            overlays=True,
            long_side=64,
            all_files=True,
            limit=3,
            max_pixels=1000,
            engine="xla",
            batch_size=4,
            workers=2,
        )
    )
    model = models.describe(tiny_model, FILES)
    assert planned.sources == (Source("folder", f"{tmp_path}/photos", f"{tmp_path}/photos"),)
    assert planned.decode == DecodeOptions(64, 1000)
    assert planned.engine == EngineOptions(tiny_model, "xla", 4, long_side=64)
    assert (planned.out.path, planned.out.run) == (f"{tmp_path}/out", "")
    assert planned.out.products == (OVERLAYS,)
    assert planned.recorded["overlays"]
    assert not plan(ask()).recorded["overlays"]
    assert (planned.listing.root, planned.listing.limit) == (f"{tmp_path}/photos", 3)
    assert planned.listing.all_files
    assert planned.listing.exclude == planned.out.written()
    assert not planned.listing.overlap
    assert planned.recipe == Recipe(model.fingerprint, 64, "xla", planned.engine.precision, 4)
    assert planned.keep == KeepOptions(planned.recipe.id, model.labels, False, False)
    assert planned.write == WriteOptions(model.labels, planned.recipe.id, planned.out)
    assert (planned.local, planned.workers, planned.since) == (True, 2, None)


def test_several_inputs_may_overlap(ask, tmp_path):
    photos = f"{tmp_path}/photos"
    assert plan(replace(ask(), inputs=[photos, photos])).listing.overlap


def test_a_plan_keeps_what_is_to_be_kept_as_it_is_asked(ask):
    for asked in ({"discard_edits": True}, {"verify": True}):
        keep = plan(ask(**asked)).keep
        assert {name: getattr(keep, name) for name in asked} == asked


def test_what_is_not_asked_for_has_the_requests_default(ask, tiny_model):
    planned = plan(ask())
    model = models.describe(tiny_model, FILES)
    assert planned.decode == DecodeOptions(model.long_side, MAX_PIXELS)
    assert not planned.overwrite
    assert not planned.moved
    assert planned.earlier_runs == EarlierRuns()


def test_what_summary_json_keeps_of_a_plan_can_be_written_as_json(ask, tmp_path):
    recorded = plan(ask(limit=2)).recorded
    assert json.loads(json.dumps(recorded)) == recorded
    assert (recorded["out"], recorded["limit"]) == (f"{tmp_path}/out", 2)
    # What decides a mask is in the recipe, and not twice.
    assert not {"engine", "batch_size", "long_side", "precision"} & recorded.keys()


def test_tiles_reach_engine_and_recipe(ask):
    planned = plan(ask(tile=True))
    assert planned.decode.long_side is planned.recipe.long_side is None
    assert planned.engine.tile == planned.recipe.tile == 256
    planned = plan(ask(tile=True, long_side=640))
    assert (planned.decode.long_side, planned.recipe.tile) == (640, 256)


def test_masks_in_tiles_are_gone_on_with_in_tiles_alone(ask, claim):
    noted = claim(ask(tile=True))
    assert plan(ask(tile=True)).recipe == noted
    with pytest.raises(UserError, match="made with tile 256, not none; add --overwrite"):
        plan(ask())


def test_a_plan_writes_nothing(ask, claim, tmp_path):
    before = tree(tmp_path)
    plan(ask())
    assert tree(tmp_path) == before
    claim()
    before = tree(tmp_path)
    plan(ask(overwrite=True, verify=True, moved=True))
    assert tree(tmp_path) == before


@pytest.mark.parametrize("value", [0, -1, "3", 1.5, float("nan"), []])
@pytest.mark.parametrize("name", ["limit", "max_pixels", "batch_size", "workers"])
def test_a_count_that_is_none_is_refused_by_its_name(ask, name, value):
    with pytest.raises(UserError) as refused:
        plan(ask(**{name: value}))
    assert str(refused.value) == f"{name}={value!r}: must be a whole number of 1 or more"


@pytest.mark.parametrize("side", [0, -1, "0", "abc", "", "²", 1.5, float("inf"), [], b"64", True])
def test_a_long_side_that_is_none_is_refused(ask, side):
    with pytest.raises(UserError, match=r"long_side=.*: must be a number of pixels or 'nat"):
        plan(ask(long_side=side))


@pytest.mark.parametrize("path", [b"out", 5, None, ["out"]])
def test_what_is_neither_text_nor_a_path_is_refused_by_its_name(path, tmp_path):
    with pytest.raises(UserError) as refused:
        as_text("output", path)
    assert str(refused.value) == f"output={path!r}: must be a string or a path"
    assert as_text("output", tmp_path) == as_text("output", str(tmp_path)) == str(tmp_path)


def test_a_plan_needs_an_input(ask):
    with pytest.raises(UserError, match="no INPUT; name a folder"):
        plan(replace(ask(), inputs=[]))


def test_an_output_that_cannot_be_looked_at_ends_the_job(ask, tmp_path, claim):
    claim()
    (tmp_path / "out/run.json").unlink()
    (tmp_path / "out/run.json").symlink_to("run.json")  # to itself
    with pytest.raises(JobError, match=r"run\.json: .*cannot read the output folder"):
        plan(ask())


# "auto": resolved, and as OUT's masks were made


def test_nothing_in_a_recipe_is_auto(ask, monkeypatch):
    monkeypatch.setattr(threads, "has_accelerator", lambda: False)
    recipe = plan(ask()).recipe
    assert (recipe.engine, recipe.batch_size, recipe.long_side) == ("graph", 1, 96)
    monkeypatch.setattr(threads, "has_accelerator", lambda: True)
    recipe = plan(ask()).recipe
    assert (recipe.engine, recipe.batch_size) == ("xla", 8)


@pytest.mark.parametrize("has_it", [False, True])
def test_a_precision_that_is_left_open_is_the_machines_or_that_of_run_json(
    ask, claim, monkeypatch, has_it
):
    monkeypatch.setattr(threads, "has_accelerator", lambda: False)
    monkeypatch.setattr(precision, "supports_bfloat16", lambda: has_it)
    assert plan(ask()).recipe.precision == ("bfloat16" if has_it else "float32")
    claim(engine="graph", precision="float32")
    assert plan(ask()).recipe.precision == "float32"


def test_masks_in_a_precision_that_this_machine_lacks_are_not_gone_on_with(ask, claim, monkeypatch):
    claim(engine="graph", precision="bfloat16")
    monkeypatch.setattr(precision, "supports_bfloat16", lambda: False)
    for asked in (ask(), ask(precision="bfloat16")):
        with pytest.raises(UserError) as raised:
            plan(asked)
        assert str(raised.value) == (
            f"{asked.output}: contains masks made in bfloat16, which this CPU does not support (no "
            "avx512_bf16 or amx_bf16); continue on a machine that does, add --precision float32 "
            "--overwrite to redo them, or choose another --output"
        )
    with pytest.raises(UserError, match="made with precision bfloat16, not float32; add --over"):
        plan(ask(precision="float32"))
    assert plan(ask(precision="float32", overwrite=True)).recipe.precision == "float32"
    # Another engine takes the precision that it has.
    assert plan(ask(engine="xla", overwrite=True)).recipe.precision == "float32"


def test_an_engine_that_is_no_more_is_not_gone_on_with(ask, claim, monkeypatch):
    monkeypatch.setattr(threads, "has_accelerator", lambda: False)
    claim(engine="xla-head", precision="bfloat16", batch_size=2)
    with pytest.raises(UserError, match="made with engine xla-head, not graph; add --overwrite"):
        plan(ask(precision="float32"))
    recipe = plan(ask(overwrite=True)).recipe
    assert (recipe.engine, recipe.precision, recipe.batch_size) == ("graph", "float32", 2)


@pytest.mark.parametrize("accelerator", [False, True])
@pytest.mark.parametrize("made_by", [("graph", 1), ("xla", 8), ("graph", 3)])
def test_auto_means_what_run_json_says(ask, claim, monkeypatch, accelerator, made_by):
    noted = claim(engine=made_by[0], batch_size=made_by[1])
    monkeypatch.setattr(threads, "has_accelerator", lambda: accelerator)
    planned = plan(ask())
    assert planned.recipe == noted
    assert (planned.engine.engine, planned.engine.batch_size) == made_by


def test_what_is_named_is_not_auto_even_where_run_json_says_otherwise(ask, claim):
    claim(engine="xla", batch_size=8)
    with pytest.raises(UserError, match=r"made with engine xla, not graph; add --overwrite"):
        plan(ask(engine="graph"))
    planned = plan(ask(engine="graph", batch_size=2, overwrite=True))
    assert (planned.recipe.engine, planned.recipe.batch_size) == ("graph", 2)


def test_options_left_open_stay_as_they_were_where_others_are_overwritten(ask, claim):
    claim(engine="xla", batch_size=8)
    recipe = plan(ask(long_side=64, overwrite=True)).recipe
    assert (recipe.engine, recipe.batch_size, recipe.long_side) == ("xla", 8, 64)


def test_the_side_that_a_model_was_trained_at_is_the_models_and_not_run_jsons(ask, claim):
    claim(ask(long_side=64))
    with pytest.raises(UserError, match="made with long side 64, not 96"):
        plan(ask())


# What is refused


@pytest.mark.parametrize(
    ("asked", "difference"),
    [
        ({"long_side": 64}, "long side 96, not 64"),
        ({"long_side": "native"}, "long side 96, not native"),
        ({"tile": True}, "tile none, not 256"),
        ({"engine": "xla"}, "engine graph, not xla"),
        ({"batch_size": 2}, "batch size 1, not 2"),
    ],
)
def test_another_recipe_is_refused_with_the_difference_named(
    ask, claim, monkeypatch, asked, difference
):
    monkeypatch.setattr(threads, "has_accelerator", lambda: False)
    claim()
    with pytest.raises(UserError) as refused:
        plan(ask(**asked))
    assert f"/out: contains masks made with {difference}; " in str(refused.value)
    assert "add --overwrite to redo them, or choose another --output" in str(refused.value)
    assert "\n" not in str(refused.value)
    accepted = plan(ask(**asked, overwrite=True))
    assert accepted.overwrite
    assert accepted.keep.recipe == accepted.recipe.id != plan(ask()).recipe.id


def test_another_model_is_refused_by_its_fingerprint(ask, claim, tiny_model, other_model):
    claim()
    mine = models.describe(tiny_model, FILES).fingerprint[:12]
    with pytest.raises(UserError, match=f"made with model {mine}, not ffffffffffff; add --over"):
        plan(ask(model=other_model))
    assert plan(ask(model=other_model, overwrite=True)).recipe.model == "f" * 64


@pytest.mark.parametrize("name", sorted(DECIDING))
def test_a_model_that_makes_other_pixels_is_another_model(ask, claim, tiny_model, tmp_path, name):
    """Each field of model.json that reaches a pixel, changed and written anew."""
    claim()
    changed = shutil.copytree(tiny_model, tmp_path / "changed")
    before = artifact.describe(changed)
    after = artifact.write_description(changed, DECIDING[name](before))
    assert after != before
    with pytest.raises(UserError) as refused:
        plan(ask(model=str(changed)))
    models_named = f"model {before.fingerprint[:12]}, not {after.fingerprint[:12]}"
    assert f"/out: contains masks made with {models_named}; add --overwrite" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_copy_of_the_model_is_the_same_model(ask, claim, tiny_model, tmp_path):
    noted = claim()
    shutil.copytree(tiny_model, tmp_path / "copy")
    assert plan(ask(model=str(tmp_path / "copy"))).recipe == noted


def test_masks_of_a_version_that_made_other_pixels_are_refused(ask, claim):
    claim(pixels=0)
    with pytest.raises(UserError, match=r"made with mask version 0, not \d+"):
        plan(ask())
    assert plan(ask(overwrite=True))


NO_RECIPE = {"limit": 1, "all_files": True, "max_pixels": 10, "workers": 1} | {
    product.name: True for product in PRODUCTS if product is not MASKS
}


def test_options_that_decide_no_mask_are_none_of_the_recipe(ask, claim):
    noted = claim()
    for name, value in NO_RECIPE.items():
        assert plan(ask(**{name: value})).recipe == noted, name


def test_every_option_either_decides_masks_or_is_known_not_to():
    """Whoever adds an option says which: a resumed run must never mix masks of two kinds."""
    deciding = {"model", "long_side", "tile", "engine", "precision", "batch_size"}
    places = {"inputs", "output", "storage_options", "beam_options", "shared_disk"}
    keeping = {"overwrite", "discard_edits", "moved", "verify"}
    known = deciding | places | keeping | NO_RECIPE.keys()
    assert {field.name for field in fields(Request)} == known


def test_another_root_is_refused_unless_the_archive_has_moved(ask, claim, tmp_path):
    claim()
    shutil.copytree(tmp_path / "photos", tmp_path / "elsewhere")
    with pytest.raises(UserError) as refused:
        plan(ask(tmp_path / "elsewhere"))
    assert f"in {tmp_path}/photos, not {tmp_path}/elsewhere" in str(refused.value)
    assert "add --moved" in str(refused.value)
    with pytest.raises(UserError, match="add --moved"):
        plan(ask(tmp_path / "elsewhere", overwrite=True))
    assert plan(ask(tmp_path / "elsewhere", moved=True)).moved


def test_a_link_to_the_archive_is_another_place(ask, claim, tmp_path):
    (tmp_path / "link").symlink_to("photos")
    claim(ask(f"{tmp_path}/link/"))
    assert plan(ask(tmp_path / "link")).listing.root == f"{tmp_path}/link"
    with pytest.raises(UserError, match=r"images in .*/link, not .*/photos; .* add --moved"):
        plan(ask(f"{tmp_path}/photos/"))
    assert plan(ask(tmp_path / "photos", moved=True)).moved


def test_a_moved_archive_may_not_change_its_recipe_as_well(ask, claim, tmp_path):
    claim()
    shutil.copytree(tmp_path / "photos", tmp_path / "elsewhere")
    with pytest.raises(UserError, match="long side 96, not 64"):
        plan(ask(tmp_path / "elsewhere", moved=True, long_side=64))
    assert plan(ask(tmp_path / "elsewhere", moved=True, long_side=64, overwrite=True))


@pytest.mark.parametrize("noted", [None, '{"options": {}, "started": 1.5}', ""])
def test_masks_of_the_version_before_are_refused_with_the_remedy(ask, tmp_path, touch, noted):
    touch(tmp_path, "out/masks/a.png")
    if noted is not None:
        (tmp_path / "out/run.json").write_text(noted)
    with pytest.raises(UserError) as refused:
        plan(ask())
    assert "/out/masks: contains files, but no run.json of this version says" in str(refused.value)
    assert str(refused.value).endswith("how they were made; choose another --output")
    with pytest.raises(UserError, match=r"choose another --output$"):
        plan(ask(overwrite=True, discard_edits=True))


def test_a_run_file_that_cannot_be_understood_is_refused_with_the_remedy(ask, claim, tmp_path):
    claim()
    file = tmp_path / "out/run.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"recipe": {"model": "x"}}))
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"run\.json: is damaged; .*--overwrite"):
            plan(ask(overwrite=overwrite))
    file.unlink()
    assert plan(ask(overwrite=True))


# Runners elsewhere, whose graphs are planned and never run here

FLINK = ("--runner", "FlinkRunner")
OUT = "memory://bucket/out"


@pytest.fixture
def remote(ask, memory, tmp_path):
    """A request whose photos, list and OUT lie in a store, for Flink."""
    FILES.write("memory://bucket/in/a.jpg", b"a photo")
    (tmp_path / "list.txt").write_text("memory://bucket/in/a.jpg\n")

    def make(*inputs, out=OUT, **options):
        options = {"beam_options": FLINK} | options
        return ask(*(inputs or ["memory://bucket/in"]), out=out, **options)

    return make


def test_a_remote_run_keeps_its_runner(remote):
    planned = plan(remote())
    assert not planned.local
    found = planned.beam_options.get_all_options(drop_default=True)
    assert found == {"runner": "FlinkRunner", "save_main_session": False}  # the latter is Beam's
    assert planned.listing.spread  # many workers list


def test_what_workers_elsewhere_have_is_not_known_here(remote, monkeypatch):
    def refuse():
        raise AssertionError("this machine's devices are asked for")

    monkeypatch.setattr(threads, "has_accelerator", refuse)
    recipe = plan(remote()).recipe
    assert (recipe.engine, recipe.batch_size) == ("graph", 1)


def test_local_files_are_refused_for_a_remote_runner(remote, tmp_path):
    photos = tmp_path / "photos"
    mixed = tmp_path / "mixed.txt"
    mixed.write_text(f"memory://bucket/in/a.jpg\n{photos}/a.jpg\n")
    cases = [
        (remote(photos), f"{photos}: workers on other machines cannot read it"),
        (remote(f"{photos}/*.jpg"), "workers on other machines cannot read it"),
        (remote(f"{photos}/a.jpg"), "a.jpg: workers on other machines cannot read it"),
        (
            remote("memory://bucket/in", photos),
            f"{photos}: workers on other machines cannot read it",
        ),
        (remote(f"@{mixed}"), f"{photos}/a.jpg: workers on other machines cannot read it"),
        (
            remote(out="out"),
            f"--output {tmp_path}/out: workers on other machines cannot write there",
        ),
    ]
    for request, message in cases:
        with pytest.raises(UserError) as refused:
            plan(request)
        assert message in str(refused.value)
        assert "use a bucket, or add --shared-disk" in str(refused.value)
        assert "\n" not in str(refused.value)
        assert not plan(replace(request, shared_disk=True)).local
        assert plan(replace(request, beam_options=())).local
    assert not (tmp_path / "out").exists()


SECRETS = ["s3.secret", "s3.key", "gs.token", "az.connection_string", "az.sas_token"]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("shared_disk", [False, True])
def test_a_secret_is_not_sent_to_workers_elsewhere(remote, name, shared_disk):
    request = remote(storage_options={name: "hush"}, shared_disk=shared_disk)
    with pytest.raises(UserError, match=rf"--storage-option {name}: secrets are not sent") as told:
        plan(request)
    assert "hush" not in str(told.value)
    plan(remote(storage_options={"s3.anon": "true", "gs.token": "anon"}))


def test_masks_in_a_store_are_refused_as_those_on_a_disk_are(ask, claim, memory):
    claim(ask(out=OUT))
    with pytest.raises(UserError, match=f"{OUT}: contains masks made with long side 96, not 64"):
        plan(ask(out=OUT, long_side=64))
