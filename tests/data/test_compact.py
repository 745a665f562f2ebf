"""Long lists in arrays: what comes out is what went in, for every process of a machine."""

import json
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lightning_seg.data import coco_file, compact, json_file
from lightning_seg.data.cache import fingerprint
from lightning_seg.data.coco_file import read_coco
from lightning_seg.data.compact import Packed, Store, Texts, pack_texts, store_once
from lightning_seg.data.datasets.coco import COCO
from lightning_seg.data.json_file import Entries, read_entries, read_json
from lightning_seg.errors import UserError


def test_texts_and_samples_come_out_as_they_went_in():
    texts = ["", "a", "Ünï", "x" * 300, "\ud800", ""]
    assert list(Texts(*pack_texts(texts))) == texts and Texts(*pack_texts([]))[:] == []
    samples = [(Path("/a/b.jpg"), Path("c.json"), number) for number in (7, "x")] + [3, None]
    packed = Packed(samples)
    assert list(packed) == samples and packed[-1] is None and packed[:2] == samples[:2]
    assert list(pickle.loads(pickle.dumps(packed))) == samples
    with pytest.raises(IndexError):
        packed[4]


def test_only_long_lists_of_plain_parts_are_packed(monkeypatch):
    monkeypatch.setattr(compact, "_FEW", 3)
    short, plain, other = [1, 2], [(Path("a"), "b", 1, None)] * 3, [(Path("a"), np.zeros(2))] * 3
    assert compact.compact(short) is short and compact.compact(other) is other
    assert isinstance(compact.compact(plain), Packed) and list(compact.compact(plain)) == plain


# Reading an entry at a time


def random_json(rng, depth=0):
    kind = rng.integers(7 if depth < 3 else 5)
    if kind == 5:
        return [random_json(rng, depth + 1) for _ in range(rng.integers(4))]
    if kind == 6:
        return {f"k{i}": random_json(rng, depth + 1) for i in range(rng.integers(4))}
    text = rng.choice(["", "é", '"\\', "\ud83d\ude00", "[{]},:"])
    return [None, True, int(rng.integers(-(10**12), 10**12)), float(rng.normal() * 1e20), str(text)][kind]


@pytest.mark.parametrize("seed", range(60))
def test_entries_are_those_that_json_reads_wherever_the_file_is_cut_into_windows(tmp_path, monkeypatch, seed):
    rng = np.random.default_rng(seed)
    monkeypatch.setattr(json_file, "_WINDOW", int(rng.integers(1, 40)))
    contents = {f"key{i}": random_json(rng) for i in range(rng.integers(3))}
    contents["images"] = [random_json(rng) for _ in range(rng.integers(6))]
    contents["annotations"] = [random_json(rng) for _ in range(rng.integers(6))] if rng.random() < 0.8 else 5
    order = rng.permutation([*contents])
    text = json.dumps(
        {key: contents[key] for key in order},
        indent=[None, 1][rng.integers(2)],
        ensure_ascii=bool(rng.integers(2)),
    )
    damage = seed % 2 and rng.integers(4)
    if damage == 1:
        text = text[: rng.integers(len(text))]
    elif damage == 2:
        at = rng.integers(len(text))
        text = text[:at] + str(rng.choice([",", "}", "]", "x", '"', "\0", ":"])) + text[at:]
    elif damage == 3:
        text = str(rng.choice(["", "[]", "null", "{}}", "[" * 100_000, '{"a": 1, "a": 2}', "{,}", '{"a" 1}']))
    file = tmp_path / "x.json"
    file.write_text(text, encoding=["utf-8", "utf-8-sig"][rng.integers(2)], errors="surrogatepass")
    lists = {"images": Entries(), "annotations": Entries()}
    try:
        expected = dict(read_json(file))
    except UserError as error:
        with pytest.raises(UserError) as caught:
            read_entries(file, lists)
        assert str(caught.value) == str(error)
        return
    found = dict(read_entries(file, lists))
    for key, entries in lists.items():
        if isinstance(expected.get(key), list):
            assert found[key] == []
            found[key] = list(entries)
    assert found == expected and [*found] == [*expected]


# The index


def write(root, images=5, objects=20, seed=0, split="train"):
    rng = np.random.default_rng(seed)
    (root / f"{split}2017").mkdir(parents=True)
    (root / "annotations").mkdir(exist_ok=True)
    listed = [{"id": 3 * i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in range(images)]
    for image in listed:
        Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(
            root / f"{split}2017" / image["file_name"]
        )
    entries = [
        {
            "id": i, "image_id": 3 * int(rng.integers(images)), "category_id": int(rng.integers(1, 4)),
            "segmentation": [rng.uniform(0, 20, 8).round(2).tolist() for _ in range(rng.integers(1, 3))],
            "area": int(rng.integers(10, 90)), "bbox": [1, 2, 3.5, 4], "iscrowd": 0,
        }
        for i in range(objects)
    ]  # fmt: skip
    categories = [{"id": i, "name": f"c{i}"} for i in (1, 2, 3)]
    file = root / f"annotations/instances_{split}2017.json"
    file.write_text(json.dumps({"annotations": entries, "images": listed, "categories": categories}))
    return file, entries


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Keep the index of every file, however small, in a cache of this test."""
    monkeypatch.setattr(compact, "_SMALL", 0)
    monkeypatch.setenv("LIGHTNING_SEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def described(file):
    return {
        number: (image.name, image.size, [(a.where, a.category, a.segmentation, a.area, a.box) for a in image.annotations])
        for number, image in file.images.items()
    }  # fmt: skip


def test_the_index_holds_what_the_file_holds_and_is_built_once(tmp_path, kept, monkeypatch):
    file, entries = write(tmp_path / "d")
    found = read_coco(file)
    seen = {number: [] for number in range(0, 15, 3)}
    for e in entries:
        where = f"{file}: annotation {e['id']} of image {e['image_id'] // 3}.png"
        seen[e["image_id"]].append((where, e["category_id"], e["segmentation"], e["area"], tuple(e["bbox"])))
    expected = {number: (f"{number // 3}.png", (20, 30), of_it) for number, of_it in seen.items()}
    assert described(found) == expected and 7 not in found.images
    assert [found.images[number].name for number in found.images] == [f"{i}.png" for i in range(5)]
    assert [p.name for p in kept.glob("index-*") if p.is_dir()] != [] and not list(kept.glob("*.building-*"))
    with monkeypatch.context() as patch:
        patch.setattr(coco_file, "_index", pytest.fail)  # nobody builds it again
        again = read_coco(file)
    assert described(again) == expected
    assert described(pickle.loads(pickle.dumps(again))) == expected  # for workers that are not forked


def test_a_changed_file_has_another_index(tmp_path, kept):
    file, entries = write(tmp_path / "d")
    before = described(read_coco(file))
    file.write_text(file.read_text().replace('"area": ', '"area": 1'))
    assert described(read_coco(file)) != before


def test_a_file_with_a_fault_is_refused_every_time_and_never_kept(tmp_path, kept):
    file, _ = write(tmp_path / "d")
    file.write_text(file.read_text().replace('"category_id": 2', '"category_id": 99'))
    for _ in range(2):
        with pytest.raises(UserError, match="annotation .* of image .* has the category 99"):
            read_coco(file)
    assert [path.suffix for path in kept.iterdir()] == [".lock"]


def test_where_nothing_can_be_written_it_works_without_the_cache(tmp_path, kept, monkeypatch):
    file, _ = write(tmp_path / "d")
    expected = described(read_coco(file))
    monkeypatch.setenv("LIGHTNING_SEG_CACHE", "/proc/nowhere")  # not even root can make a folder there
    assert described(read_coco(file)) == expected


def _build(values):
    values.write(np.arange(50.0).tobytes())
    with open(os.environ["COUNT"], "a") as file:
        file.write("built\n")
    return {"numbers": np.arange(7)}


def _ask(_):
    store = store_once("one", _build)
    return store["numbers"].tolist(), store.values(3, 4).tolist()


def test_of_several_processes_one_builds(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_SEG_CACHE", str(tmp_path))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    (tmp_path / "one.building-x").mkdir()  # what a killed process left
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert pool.map(_ask, range(8), 1) == [(list(range(7)), [3, 4, 5, 6])] * 8
    assert (tmp_path / "count").read_text() == "built\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["count", "one", "one.lock"]
    assert pickle.loads(pickle.dumps(Store(tmp_path / "one"))).values(49, 1) == 49


def test_samples_are_the_same_from_the_cache_and_from_memory(tmp_path, kept, monkeypatch):
    for split in ("train", "val"):
        write(tmp_path / "d", split=split, seed=len(split))
    arguments = {"root": str(tmp_path / "d"), "batch_size": 1, "crop_size": (8, 8), "num_workers": 0}
    one = COCO(**arguments)
    monkeypatch.setattr(compact, "_SMALL", 1 << 30)
    other = COCO(**arguments)
    for split in ("train", "val"):
        samples = one.samples(split)
        assert list(samples) == list(other.samples(split)) and samples[-1] == list(samples)[-1]
        for sample in samples:
            np.testing.assert_array_equal(one.read(sample)[1], other.read(sample)[1])
    assert one.fingerprint == other.fingerprint


def test_the_fingerprint_is_that_of_paths_from_the_root_and_sizes(tmp_path, monkeypatch):
    import hashlib

    monkeypatch.chdir(tmp_path)
    for name in ("x.png", "a/y.png", "z.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name * 3)
    samples = [(Path("x.png"), tmp_path / "z.json", 4), (tmp_path / "a/y.png", Path("a/../z.json"), 5)]
    digest = hashlib.sha256(b"train")
    for sample in samples:
        for part in sample:
            known = (
                f"{os.path.relpath(part, tmp_path)}:{part.stat().st_size}" if isinstance(part, Path) else part
            )
            digest.update(f"\0{known}".encode())
    assert fingerprint(tmp_path, {"train": samples}) == digest.hexdigest()[:16]


def write_panoptic(root, rng, count=4):
    (root / "annotations/panoptic_train2017").mkdir(parents=True)
    (root / "train2017").mkdir()
    entries, truth = [], {}
    for number in rng.permutation(count).tolist():
        colors = rng.integers(1, 2**24, 3)
        kinds = rng.choice([1, 17, 90, 92, 200], 3, replace=False).tolist()
        labels = rng.integers(0, 3, (20, 30))
        pixels = np.stack([colors[labels] >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"annotations/panoptic_train2017/{number}.png")
        Image.fromarray(pixels).save(root / f"train2017/{number}.jpg")
        infos = [{"id": int(c), "category_id": k, "iscrowd": 0} for c, k in zip(colors, kinds, strict=True)]
        entries.append({"image_id": number, "file_name": f"{number}.png", "segments_info": infos})
        truth[number] = np.array(kinds)[labels]
    images = [{"id": number, "file_name": f"{number}.jpg"} for number in range(count)]
    file = root / "annotations/panoptic_train2017.json"
    file.write_text(json.dumps({"images": images, "annotations": entries}))
    return file, truth


def test_panoptic_masks_are_the_same_from_the_cache_and_from_memory(tmp_path, kept, monkeypatch):
    file, truth = write_panoptic(tmp_path / "d", np.random.default_rng(0))
    arguments = {"batch_size": 1, "crop_size": (8, 8), "num_workers": 0, "labels": "panoptic"}
    for small in (0, 0, 1 << 30):  # built, opened, in memory
        monkeypatch.setattr(compact, "_SMALL", small)
        data = pickle.loads(pickle.dumps(COCO(str(tmp_path / "d"), **arguments)))
        samples = data.samples("train")
        assert [sample[2] for sample in samples] == [0, 1, 2, 3]
        for sample in samples:
            expected = np.vectorize(data.class_of.get)(truth[sample[2]])
            np.testing.assert_array_equal(data.read(sample)[1], expected)
    assert len([path for path in kept.glob("index-*") if path.is_dir()]) == 1
    contents = json.loads(file.read_text())
    file.write_text(json.dumps(contents | {"annotations": contents["annotations"][:1] * 2}))
    with pytest.raises(UserError, match="panoptic_train2017.json: image .*jpg has two masks"):
        COCO(str(tmp_path / "d"), **arguments).samples("train")
