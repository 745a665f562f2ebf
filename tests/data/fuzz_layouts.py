"""Random variants of the published data sets' own layouts, tiny, with known pixels: read exactly, or refused.

`python -m tests.data.fuzz_layouts [COUNT] [SEED]` makes COUNT variants of COCO (instances, panoptic, stuff), Hugging
Face (where the package datasets is), ISBI, Cityscapes, ADE20K, Penn-Fudan, Oxford-IIIT Pet and CamVid's original files.
"""

import importlib.util
import json

import numpy as np
from PIL import Image

from lightning_seg.data.datasets.ade20k import ADE20K
from lightning_seg.data.datasets.camvid import GROUPS, CamVidOriginal
from lightning_seg.data.datasets.cityscapes import IDS, Cityscapes
from lightning_seg.data.datasets.coco import COCO, THING_IDS
from lightning_seg.data.datasets.hugging_face import HuggingFace
from lightning_seg.data.datasets.isbi import ISBI
from lightning_seg.data.datasets.oxford_pet import OxfordPet
from lightning_seg.data.datasets.pennfudan import PennFudan
from lightning_seg.errors import UserError
from tests.data.fuzz_readers import EXIF, SIZE, TURNS, main, save, tally

ARGUMENTS = {"batch_size": 1, "crop_size": (4, 4)}
VOID = 255


def image(rng, path, turn=True):
    """Write an image, sometimes grey, sometimes turned by EXIF; return its upright RGB pixels."""
    pixels = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    if rng.random() < 0.2:
        pixels = np.repeat(pixels[..., :1], 3, -1)
    options = {"format": "JPEG" if path.suffix.lower() == ".jpg" else "PNG"}
    orientation = int(rng.integers(1, 9)) if turn and rng.random() < 0.3 else 1
    if orientation > 1:
        exif = Image.Exif()
        exif[EXIF] = orientation
        options["exif"] = exif
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = options["format"] == "PNG" and (pixels[..., :1] == pixels).all() and rng.random() < 0.5
    save(path, pixels[..., 0] if grey else pixels, **options)
    with Image.open(path) as stored:
        return TURNS[orientation](np.array(stored.convert("RGB")))


def mask(rng, path, labels):
    """Write a mask of numbers in one of the ways that mean the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    how = int(rng.integers(4))
    picture = Image.fromarray(labels)
    if how == 1:
        picture.putpalette([i * 7 % 256 for i in range(768)])
    elif how == 2:
        picture = Image.fromarray(np.dstack([labels] * 3))
    elif how == 3:
        picture = Image.fromarray(labels.astype(np.uint16))
    picture.save(path)


def spoil(rng, files):
    """Plant a fault in one mask; the name of the fault."""
    kind = str(rng.choice(["gone", "turned", "lossy", "transparent", "cut"]))
    path = files[int(rng.integers(len(files)))]
    with Image.open(path) as stored:
        labels = np.array(stored.convert("L") if stored.mode == "P" else stored)
    labels = labels.astype(np.uint8)
    if kind == "gone":
        path.unlink()
    elif kind == "turned":
        exif = Image.Exif()
        exif[EXIF] = 3
        save(path, labels, exif=exif)
    elif kind == "lossy":
        save(path, labels, format="JPEG")
    elif kind == "transparent":
        rgb = labels if labels.ndim == 3 else np.dstack([labels] * 3)
        save(path, np.dstack([rgb[..., :3], np.zeros(labels.shape[:2], np.uint8)]))
    else:
        path.write_bytes(path.read_bytes()[:-20])
    return kind


def litter(rng, folder, name):
    """Add a hidden file beside the images."""
    if rng.random() < 0.5:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"._{name}").write_bytes(b"mac")


def ending(rng, usual):
    return usual.upper() if rng.random() < 0.2 else usual


def pairs_of(rng, place, labels, classes_of):
    """Write four pairs; `place` names the files of a number. Return truth by image file, and the masks."""
    truth, masks = {}, []
    for number in range(4):
        picture, target = place(number)
        pixels = image(rng, picture)
        numbers = rng.choice(np.array(labels, np.uint8), pixels.shape[:2])
        mask(rng, target, numbers)
        truth[picture] = (pixels, np.vectorize(classes_of)(numbers).astype(np.uint8))
        masks.append(target)
    litter(rng, next(iter(truth)).parent, next(iter(truth)).name)
    return truth, masks


def isbi(rng, root):
    end = ending(rng, ".png")
    place = lambda i: (root / f"image/{i}{end}", root / f"label/{i}{end}")  # noqa: E731
    return ISBI(str(root), **ARGUMENTS), "all", *pairs_of(rng, place, [0, 255], lambda n: n > 0)


def cityscapes(rng, root):
    def place(i):
        name, city = f"ulm_{i:06d}_000019", "ulm" if i % 2 else "aachen"
        folder = f"train/{city}/{name}"
        return root / f"leftImg8bit/{folder}_leftImg8bit.png", root / f"gtFine/{folder}_gtFine_labelIds.png"

    classes = lambda n: IDS.index(n) if n in IDS else VOID  # noqa: E731
    return Cityscapes(str(root), **ARGUMENTS), "train", *pairs_of(rng, place, range(34), classes)


def ade20k(rng, root):
    base, end = root / "ADEChallengeData2016", ending(rng, ".jpg")
    place = lambda i: (base / f"images/training/A_{i}{end}", base / f"annotations/training/A_{i}.png")  # noqa: E731
    classes = lambda n: n - 1 if n else VOID  # noqa: E731
    return ADE20K(str(root), **ARGUMENTS), "train", *pairs_of(rng, place, range(151), classes)


def penn_fudan(rng, root):
    end = ending(rng, ".png")
    place = lambda i: (root / f"PNGImages/F_{i}{end}", root / f"PedMasks/F_{i}_mask.png")  # noqa: E731
    return PennFudan(str(root), **ARGUMENTS), "all", *pairs_of(rng, place, range(4), lambda n: n > 0)


def oxford_pet(rng, root):
    place = lambda i: (root / f"images/cat_{i}.jpg", root / f"annotations/trimaps/cat_{i}.png")  # noqa: E731
    found = pairs_of(rng, place, [1, 2, 3], lambda n: {1: 1, 2: 0, 3: VOID}[int(n)])
    lines = str(rng.choice(["\n", "\r\n"])).join(f"cat_{i} 1 1 1" for i in range(4))
    listing = root / "annotations/trainval.txt"
    listing.write_bytes(lines.encode(str(rng.choice(["utf-8", "utf-8-sig", "utf-16"]))))
    return OxfordPet(str(root), **ARGUMENTS), "trainval", *found


def camvid_original(rng, root):
    colors = [color for group in GROUPS.values() for color in group.values()]
    merged = [label for label, group in enumerate(GROUPS.values()) for _ in group]
    merge, truth, masks = bool(rng.random() < 0.5), {}, []
    for i in range(4):
        picture = root / f"701_StillsRaw_full/0006R0_f0{i:04d}.png"
        target = root / f"LabeledApproved_full/0006R0_f0{i:04d}_L.png"
        pixels = image(rng, picture)
        numbers = rng.integers(0, len(colors) + 1, pixels.shape[:2])
        target.parent.mkdir(parents=True, exist_ok=True)
        save(target, np.array([*colors, (0, 0, 0)], np.uint8)[numbers])
        table = np.array([*(merged if merge else range(len(colors))), VOID], np.uint8)
        truth[picture] = (pixels, table[numbers])
        masks.append(target)
    return CamVidOriginal(str(root), merge=merge, **ARGUMENTS), "train", truth, masks


def coco_instances(rng, root):
    """Run lengths or polygons of rectangles, ids of all kinds, some crowds, images with and without a size."""
    ids = [int(i) for i in np.sort(rng.choice(np.arange(1, 900), 3, replace=False))]
    kind = [lambda n: n, lambda n: str(n), lambda n: float(n)][int(rng.integers(3))]
    truth = {}
    for split in ("train", "val"):
        images, annotations, place = [], [], root / f"{split}2017"
        for i in range(2):
            pixels = image(rng, place / f"{i}.jpg", turn=False)
            classes = np.zeros(SIZE, np.uint8)
            entry = {"id": kind(i + 1), "file_name": f"{'./' if rng.random() < 0.3 else ''}{i}.jpg"}
            images.append(entry | ({"height": SIZE[0], "width": SIZE[1]} if rng.random() < 0.8 else {}))
            for k, left in enumerate((0, 3, 6)):  # side by side, so that none hides another
                top, crowd = int(rng.integers(0, 3)), bool(rng.random() < 0.2)
                area = np.zeros(SIZE, np.uint8)
                area[top : top + 3, left : left + 2] = 1
                classes[area > 0] = VOID if crowd else k + 1
                column = area.ravel(order="F")
                changes = np.flatnonzero(np.diff(column)) + 1
                runs = np.diff([0, *changes, column.size]).tolist()
                runs = [0, *runs] if column[0] else runs
                corners = [left, top, left + 2, top, left + 2, top + 3, left, top + 3]
                shape = {"counts": runs, "size": list(SIZE)} if crowd or rng.random() < 0.5 else [corners]
                if shape == [corners] and rng.random() < 0.3:
                    shape = corners
                one = {
                    "id": 10 * i + k + 1,
                    "image_id": entry["id"],
                    "category_id": kind(ids[k]),
                    "segmentation": shape,
                }
                if crowd or rng.random() < 0.6:
                    one["iscrowd"] = int(crowd)
                if rng.random() < 0.6:
                    one |= {"area": float(rng.choice([6, 6.0])), "bbox": [left, top, 2, 3]}
                annotations.append(one)
            truth[place / f"{i}.jpg"] = (pixels, classes)
        categories = [{"id": kind(n), "name": f"thing {n}"} for n in ids]
        if rng.random() < 0.3:
            categories = [{"id": kind(0), "name": "all"}, *categories[::-1]]
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        listing = root / f"annotations/instances_{split}2017.json"
        listing.parent.mkdir(exist_ok=True)
        listing.write_text(text, encoding=str(rng.choice(["utf-8", "utf-8-sig"])))
    faults = []
    if rng.random() < 0.3:
        listing = root / "annotations/instances_train2017.json"
        contents = json.loads(listing.read_text(encoding="utf-8-sig"))
        first, last = contents["annotations"][0], contents["annotations"][-1]
        fault = str(rng.choice(["cut", "image", "category", "size", "points", "twice", "name"]))
        if fault == "cut":
            listing.write_text(json.dumps(contents)[:-9])
        else:
            {
                "image": lambda: first.update(image_id=77), "category": lambda: first.update(category_id=999),
                "size": lambda: first.update(segmentation={"counts": [3, 4, 47], "size": [9, 6]}),
                "points": lambda: first.update(segmentation=[[1, 2, 3, 4]]), "twice": lambda: last.update(id=1),
                "name": lambda: contents["images"][0].update(file_name="1.jpg"),
            }[fault]()  # fmt: skip
            listing.write_text(json.dumps(contents))
        faults = [fault]
    try:
        return COCO(str(root), **ARGUMENTS), "train+val", truth, faults
    except UserError as error:
        return error, "", truth, faults


def coco_stuff(rng, root):
    place = lambda i: (  # noqa: E731
        root / f"train2017/{i:012d}.jpg", root / f"annotations/stuffthingmaps/train2017/{i:012d}.png"
    )  # fmt: skip
    numbers = [*THING_IDS, *range(92, 183)]
    classes = lambda n: numbers.index(n + 1) if n + 1 in numbers else VOID  # noqa: E731
    truth, masks = pairs_of(rng, place, [*range(182), 255], classes)
    litter(rng, masks[0].parent, masks[0].name)
    return COCO(str(root), labels="stuff", **ARGUMENTS), "train", truth, masks


def coco_panoptic(rng, root):
    ids = [n for n in THING_IDS if rng.random() < 0.2] or [1]
    truth, entries, images = {}, [], []
    masks = root / "annotations/panoptic_train2017"
    masks.mkdir(parents=True)
    for i in range(3):
        pixels = image(rng, root / f"train2017/{i}.jpg", turn=False)
        segments = [(int(rng.integers(1, 1 << 24)), int(rng.choice(ids))) for _ in range(4)]
        which = rng.integers(0, 5, SIZE)
        numbers = np.array([0, *(number for number, _ in segments)])[which]
        save(
            masks / f"{i}.png",
            np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16], -1).astype(np.uint8),
        )
        classes = np.array([VOID, *(THING_IDS.index(c) for _, c in segments)], np.uint8)[which]
        truth[root / f"train2017/{i}.jpg"] = (pixels, classes)
        images.append({"id": i, "file_name": f"{i}.jpg"})
        info = [{"id": number, "category_id": c} for number, c in segments]
        entries.append({"image_id": i, "file_name": f"{i}.png", "segments_info": info})
    faults = []
    if rng.random() < 0.3 and (fault := str(rng.choice(["unlisted", "category"]))):
        if fault == "unlisted":
            number = entries[0]["segments_info"].pop()["id"]
            stored = np.asarray(Image.open(masks / "0.png")).astype(int) @ [1, 256, 65536]
            faults = [fault] if (stored == number).any() else []
        else:
            entries[0]["segments_info"][0]["category_id"] = 300
            faults = [fault]
    (root / "annotations/panoptic_train2017.json").write_text(
        json.dumps({"images": images, "annotations": entries})
    )
    return COCO(str(root), labels="panoptic", **ARGUMENTS), "train", truth, faults


def hugging_face(rng, root):
    import datasets

    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = str(root / "cache")
    place = lambda i: (root / f"{i}.png", root / f"{i}_mask.png")  # noqa: E731
    truth, masks = pairs_of(rng, place, [0, 1, 2, 255], lambda n: n)
    fault = spoil(rng, masks) if rng.random() < 0.3 else ""
    columns = {"image": [*truth], "label": masks}
    rows = {
        name: [
            {"bytes": path.read_bytes() if path.exists() else b"none", "path": path.name} for path in paths
        ]
        for name, paths in columns.items()
    }
    kinds = datasets.Features({name: datasets.Image() for name in rows})
    (root / "set").mkdir()
    datasets.Dataset.from_dict(rows, features=kinds).to_parquet(str(root / "set/train-0-of-1.parquet"))
    return (
        HuggingFace(str(root / "set"), ["a", "b", "c"], **ARGUMENTS),
        "train",
        truth,
        [fault] if fault else [],
    )


LAYOUTS = [
    isbi, cityscapes, ade20k, penn_fudan, oxford_pet, camvid_original, coco_instances, coco_instances, coco_stuff,
    coco_panoptic,
]  # fmt: skip
if importlib.util.find_spec("datasets"):
    LAYOUTS.append(hugging_face)


def outcome(rng, root, layout):
    """Tell what became of a variant: "right", "refused", or what is wrong."""
    data, split, truth, masks = layout(rng, root)
    fault = " ".join(part for part in masks if isinstance(part, str))
    if masks and not fault and rng.random() < 0.3:
        fault = spoil(rng, masks)
    try:
        if isinstance(data, UserError):
            raise data
        samples = [sample for part in split.split("+") for sample in data.list_samples(part)]
        read = [data.read(sample) for sample in samples]
    except UserError as error:
        return f"refused {layout.__name__} {fault or 'sound'}: {error}"
    except Exception as error:
        return f"WRONG {layout.__name__} {fault}: {type(error).__name__}: {error}"
    known = [*truth.values()]
    if len(read) != len(known):
        return f"WRONG {layout.__name__} {fault}: {len(read)} samples of {len(known)}"
    for pixels, classes in read:
        same = [k for k in known if k[0].shape == pixels.shape and np.array_equal(k[0], pixels)]
        if not any(np.array_equal(k[1], classes) for k in same):
            return f"WRONG {layout.__name__} {fault}: read otherwise than written"
    return f"right {layout.__name__}" if not fault else f"right {layout.__name__} in spite of {fault}"


def run(count, seed=0):
    """Make and read variants; return how many came out how, and the faulty ones."""
    return tally(
        count,
        seed,
        lambda i, rng, root: outcome(rng, root, LAYOUTS[i % len(LAYOUTS)]),
        lambda told: told.startswith("WRONG") or " sound:" in told or " in spite of " in told,
    )


if __name__ == "__main__":
    main(run)
