"""Whatever happens to a photo, its mask and its rows between runs, in any order."""

import itertools
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from model_build.data.labels import VOC
from pipeline.images.masks import Origin, encode_mask, find_traces, histogram
from pipeline.outputs.folder import OutputFolder
from pipeline.records import ImageRef, ProductFile, Reject, Row, Stamp, Task, hash_of
from pipeline.segmentation.tasks import plan_group
from pipeline.segmentation.up_to_date import (
    State,
    count_edits,
    keep_masks,
    state_of,
)
from tests.pipeline.segmentation.earlier_masks import (
    DISCARD,
    EDITS,
    FILES,
    OPTIONS,
    OTHER_RECIPE,
    RECIPE,
    VERIFY,
    class_map,
    foreign,
    photo,
)

PHOTOS = (photo("red"), photo("blue"))
RUNS = {
    "run": OPTIONS,
    "discard edits": DISCARD,
    "verify": VERIFY,
    "run with the other recipe": replace(OPTIONS, recipe=OTHER_RECIPE),
}
BY_HAND = {
    "edit as palette": EDITS["palette"],
    "edit as RGB": EDITS["RGB"],
    "edit as grey": EDITS["grey ids"],
    "edit but not its text": EDITS["with the text"],
    "foreign mask": foreign(),
    "notes": b"notes on a.jpg",
}
EVENTS = (
    *("photo 0", "photo 1", "touch photo", "touch mask", "lose rows", "remove mask"),
    *("cut mask", "rot", "kill the next run at its end"),
    *BY_HAND,
    *RUNS,
)


def made(photo, recipe):
    """The mask that a run makes of a photo, and its pixels."""
    class_id = 1 + PHOTOS.index(photo) + 2 * (recipe == RECIPE)
    pixels = histogram(class_map(class_id), VOC)
    origin = Origin("a.jpg", hash_of(photo), recipe, pixels)
    return encode_mask(class_map(class_id), VOC, origin), pixels


class World:
    """A photo and its mask in a store that gives each writing a version of its own."""

    def __init__(self):
        self.out = OutputFolder("memory://world/out", FILES)
        self.clock = itertools.count()
        self.rows = []
        self.killed = False
        self.rotten = False  # bytes have changed, and the store's version has not
        self.by_hand = False  # a person's work is in the mask's place
        self.mask = self.written = None
        self.set_photo(PHOTOS[0])
        self.run(OPTIONS)

    def stamp(self, data):
        return Stamp(len(data), str(next(self.clock)))

    def set_photo(self, data):
        self.photo, self.source = data, self.stamp(data)
        FILES.write("memory://world/in/a.jpg", data)

    def set_mask(self, data, by_hand=False):
        FILES.write("memory://world/out/masks/a.png", data)
        self.mask, self.written, self.rotten = data, self.stamp(data), False
        self.by_hand = by_hand

    def happen(self, event):
        has_mask = self.mask is not None
        if event.startswith("photo"):
            self.set_photo(PHOTOS[int(event[-1])])
        elif event == "touch photo":
            self.set_photo(self.photo)
        elif event == "lose rows":
            self.rows = []
        elif event in RUNS:
            self.run(RUNS[event])
        elif event in BY_HAND:
            self.set_mask(BY_HAND[event], by_hand=True)
        elif event == "kill the next run at its end":
            self.killed = True
        elif event == "touch mask" and has_mask:
            self.set_mask(self.mask, self.by_hand)
        elif event == "cut mask" and has_mask:
            cut = self.mask[: 9 * len(self.mask) // 10]
            self.set_mask(cut, self.is_by_hand(cut))
        elif event == "rot" and self.mask:
            at = len(self.mask) // 2
            changed = (self.mask[at] + 1) % 256  # another time does not bring it back
            self.mask = self.mask[:at] + bytes([changed]) + self.mask[at + 1 :]
            self.by_hand, self.rotten = self.is_by_hand(self.mask), True
            FILES.write("memory://world/out/masks/a.png", self.mask)
        elif event == "remove mask":
            FILES.delete("memory://world/out/masks/a.png")
            self.mask = self.written = None
            self.by_hand = self.rotten = False

    def is_by_hand(self, damaged):
        """Whether a damaged file is the work of a person still, of which anything is left."""
        return self.by_hand and not find_traces(damaged).ruined

    def look(self, options):
        """The task, and what it comes to."""
        image = ImageRef("memory://world/in/a.jpg", "a.jpg", self.source)
        found = {
            "images": [image],
            "products": [ProductFile("masks", "a.png", self.written)] if self.written else [],
            "rows": self.rows,
        }
        (task,) = plan_group(found, self.out)
        (found,) = keep_masks([task], options, self.out)
        return task, found

    def run(self, options):
        """Predicts the outcome of a run; rows of a finished one take the place of earlier ones."""
        task, found = self.look(options)
        if isinstance(found, Task):
            data, pixels = made(self.photo, options.recipe)
            self.set_mask(data)
            found = Row(
                *(task.image.path, "masks/a.png", 6, 4, pixels),
                source=self.source,
                hash=hash_of(self.photo),
                written=self.written,
                mask_hash=hash_of(data),
                recipe=options.recipe,
            )
        row = found if isinstance(found, Row) else found.row
        earlier = self.rows if self.killed else []
        self.rows = [*([row] if row else []), *earlier]
        self.killed = False


def after(events):
    world = World()
    for event in events:
        world.happen(event)
    return world


events = st.lists(st.sampled_from(EVENTS), max_size=8)


@given(events, st.sampled_from([*RUNS.values()]))
def test_a_mask_that_holds_is_never_redone_and_no_other_is_kept_silently(events, options):
    world = after(events)
    expected = made(world.photo, options.recipe)[0]
    task, found = world.look(options)
    blind = world.rotten and not options.verify  # what no stamp tells is found by --verify alone
    if world.by_hand:
        if isinstance(found, Task):
            assert options.discard_edits
            assert count_edits([task], options, world.out) == 1
        elif isinstance(found, Reject):
            assert found.error in ("ForeignMask", "EditedMask")
        elif not blind:
            assert (found.recipe, found.hash) == (None, hash_of(world.photo))
            assert found.pixels == {"cat": 24}
            assert (found.source, found.written) == (world.source, world.written)
    elif isinstance(found, Task):
        assert found._replace(row=None) == task._replace(row=None)
        assert world.mask != expected
    elif not blind:
        assert isinstance(found, Row)
        assert world.mask == expected
        assert (found.source, found.written) == (world.source, world.written)
        assert (found.recipe, found.hash) == (options.recipe, hash_of(world.photo))


@given(events, st.sampled_from([*RUNS]), st.sampled_from([*BY_HAND]))
def test_only_discarding_edits_replaces_the_work_of_a_person(events, run, by_hand):
    world = after(events)
    world.happen(by_hand)
    data = world.mask
    edits = count_edits([world.look(OPTIONS)[0]], DISCARD, world.out)
    world.happen(run)
    assert (world.mask == data) == (run != "discard edits" or edits == 0)
    if by_hand in ("foreign mask", "notes"):
        assert edits == 0


@given(events, st.booleans())
def test_an_edit_is_known_for_one_for_as_long_as_its_row_is_not_lost(events, finished):
    world = after([*events, "remove mask", "run", "edit as RGB"])
    for event in ("photo 0", "run", "photo 1", *["verify"] * finished, "touch mask", "run"):
        world.happen(event)
    assert world.mask == EDITS["RGB"]
    assert count_edits([world.look(DISCARD)[0]], DISCARD, world.out) == 1
    world.happen("discard edits")
    assert world.mask == made(world.photo, RECIPE)[0]


@given(events, st.sampled_from([OPTIONS, DISCARD]))
def test_what_a_run_has_decided_the_next_one_finds_without_reading(events, options):
    world = after(events)
    world.run(options)
    task, first = world.look(options)
    if isinstance(first, Reject):
        return
    assert state_of(task, options) is State.DONE
    assert first == task.row
