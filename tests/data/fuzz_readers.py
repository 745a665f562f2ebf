"""Random variants of a small data set whose pixels and classes are known: read exactly, or refused.

`python tests/data/fuzz_readers.py [COUNT] [SEED]` makes COUNT variants of names, nesting, lists, encodings, formats and
bit depths, some with a fault planted. A variant that reads as anything else than what was written, or ends in an error
that is not the user's, is printed, and the exit code is 1.
"""

import shutil
import struct
import sys
import tempfile
import unicodedata
import zlib
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from lightning_seg.data.datasets.camvid import CamVid
from lightning_seg.data.datasets.folder import Folder
from lightning_seg.data.datasets.voc import VOC
from lightning_seg.data.examination import refuse_faulty
from lightning_seg.errors import UserError

SIZE = (6, 9)
COLORS = [(0, 0, 0), (128, 64, 0), (0, 0, 255), (7, 200, 13)]
VOID = (255, 255, 255)
EXIF = 0x0112
TURNS = {  # what a viewer does with the stored pixels
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: np.rot90,
}


def png(path, pixels, bits):
    """Write a grey PNG of 1, 2 or 4 bits a pixel, which Pillow cannot."""
    lines = []
    for row in pixels:
        packed = np.zeros(-(-len(row) * bits // 8), np.uint8)
        for i, value in enumerate(row):
            packed[i * bits // 8] |= int(value) << (8 - bits - i * bits % 8)
        lines.append(b"\0" + packed.tobytes())

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], bits, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(lines))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)


# Images: each writer returns the ending, the pixels that must come out, and the value_range that is needed


def image_eight_bits(rng, path):
    ending = rng.choice([".png", ".PNG", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".gif", ".jpg"])
    pixels = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    orientation = int(rng.integers(1, 9)) if ending in (".png", ".tif", ".jpg") and rng.random() < 0.5 else 1
    options = {"lossless": True} if ending == ".webp" else {}
    if ending in (".tif", ".tiff"):
        options["compression"] = str(rng.choice(["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]))
    if orientation > 1:
        exif = Image.Exif()
        exif[EXIF] = orientation
        options["exif"] = exif
    path = path.with_name(path.name + ending)
    save(path, pixels, **options)
    if ending in (".gif", ".jpg"):  # lossy on the way in: what other readers see
        with Image.open(path) as stored:
            pixels = np.array(stored.convert("RGB"))
    return path, TURNS[orientation](pixels), None


def image_grey(rng, path):
    grey = rng.integers(0, 256, SIZE, np.uint8)
    how = rng.integers(5)
    if how == 0:
        save(path := path.with_name(path.name + ".png"), grey)
    elif how == 1:
        save(path := path.with_name(path.name + ".pgm"), grey)
    elif how == 2:
        path = path.with_name(path.name + ".png")
        save(path, np.dstack([grey, np.full_like(grey, 255)]))
    elif how == 3:
        grey = (grey > 127).astype(np.uint8) * 255
        save(path := path.with_name(path.name + ".png"), grey > 127)
    else:
        grey = grey // 17 * 17
        png(path := path.with_name(path.name + ".png"), grey // 17, 4)
    return path, np.stack([grey] * 3, -1), None


def image_wide(rng, path, bits):
    pixels = rng.integers(0, 1 << bits, (*SIZE, 3), np.uint16)
    ending = str(rng.choice([".png", ".tif", ".pgm"]))
    path = path.with_name(path.name + ending)
    if ending != ".pgm" and rng.random() < 0.5:
        cv2.imwrite(str(path), pixels[..., ::-1])
    else:
        pixels = np.stack([pixels[..., 0]] * 3, -1)
        kind = rng.integers(3) if ending == ".tif" else 0
        if ending == ".pgm":
            most = (1 << bits) - 1
            path.write_bytes(b"P5\n9 6\n%d\n" % most + pixels[..., 0].astype(">u2").tobytes())
        else:
            save(path, pixels[..., 0].astype([np.uint16, np.int32, np.float32][kind]))
    return path, pixels, (0, (1 << bits) - 1)


# Masks of numbers (0..15 and 255) and of colors


def mask_of_numbers(rng, path, labels):
    how = int(rng.integers(12))
    ending = {7: ".tif", 8: ".tiff", 9: ".bmp", 10: ".pgm", 11: ".webp"}.get(how, ".png")
    path = path.with_name(path.name + ending)
    if how == 0 and labels.max() < 2:
        png(path, labels, 1)
    elif how == 1 and labels.max() < 4:
        png(path, labels, 2)
    elif how in (1, 2) and labels.max() < 16:
        png(path, labels, 4)
    elif how == 3:
        picture = Image.fromarray(labels)
        picture.putpalette([*np.array(COLORS).ravel().tolist(), *[i % 256 for i in range(756)]][:768])
        picture.save(path, **({"transparency": 0} if rng.random() < 0.5 else {}))
    elif how == 4:
        save(path, np.stack([labels] * 3, -1))
    elif how == 5:
        save(path, np.dstack([labels] * 3 + [np.full_like(labels, 255)]))
    elif how == 6:
        save(path, np.dstack([labels, np.full_like(labels, 255)]))
    elif how == 7:
        save(path, labels.astype(rng.choice([np.uint8, np.uint16, np.int32])))
    elif how == 10 and labels.max() < 200:
        path.write_bytes(b"P5\n9 6\n%d\n" % max(1, labels.max()) + labels.tobytes())
    elif how == 11:
        save(path, np.stack([labels] * 3, -1), lossless=True)
    else:
        save(path, labels)
    return path


def mask_of_colors(rng, path, classes):
    pixels = np.array(COLORS)[np.where(classes == 255, 0, classes)]
    pixels[classes == 255] = VOID
    pixels = pixels.astype(np.uint8)
    how = int(rng.integers(5))
    path = path.with_name(path.name + {1: ".bmp", 2: ".tif", 3: ".webp"}.get(how, ".png"))
    if how == 4:
        pixels = np.dstack([pixels, np.full(SIZE, 255, np.uint8)])
    save(path, pixels, **({"lossless": True} if how == 3 else {}))
    return path


# Faults: each spoils one mask or image of a sound data set


def fault_transparent(rng, image, mask, labels):
    alpha = np.where(rng.random(SIZE) < 0.3, 0, 255).astype(np.uint8)
    alpha[0, 0] = 0
    save(mask.with_suffix(".png"), np.dstack([labels] * 3 + [alpha]))
    return mask.with_suffix(".png")


def fault_turned(rng, image, mask, labels):
    exif = Image.Exif()
    exif[EXIF] = int(rng.choice([3, 6, 8]))
    save(mask.with_suffix(path := str(rng.choice([".png", ".tif"]))), labels, exif=exif)
    return mask.with_suffix(path)


def fault_jpeg(rng, image, mask, labels):
    save(mask.with_suffix(".jpg"), labels, quality=95)
    return mask.with_suffix(".jpg")


def fault_pages(rng, image, mask, labels):
    more = [Image.fromarray(labels[::-1].copy())]
    save(mask.with_suffix(".tif"), labels, save_all=True, append_images=more)
    return mask.with_suffix(".tif")


def fault_large(rng, image, mask, labels):
    wide = labels.astype(np.int32)
    wide[0, 0] = rng.choice([256, -1, 70000])
    save(mask.with_suffix(".tif"), wide)
    return mask.with_suffix(".tif")


def fault_deep_colors(rng, image, mask, labels):
    cv2.imwrite(str(mask.with_suffix(".png")), np.stack([labels.astype(np.uint16)] * 3, -1))
    return mask.with_suffix(".png")


def fault_twin(rng, image, mask, labels):
    other = ".bmp" if mask.suffix != ".bmp" else ".png"
    save(mask.with_suffix(other), np.zeros(SIZE, np.uint8))
    return mask


def fault_image_pages(rng, image, mask, labels):
    pages = [Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)) for _ in range(3)]
    image.unlink()
    pages[0].save(image.with_suffix(".tif"), save_all=True, append_images=pages[1:])
    return mask


FAULTS = [
    fault_transparent, fault_turned, fault_jpeg, fault_pages, fault_large, fault_deep_colors, fault_twin,
    fault_image_pages,
]  # fmt: skip
NAMES = ["a", "frame 7", "x.y", "cam1.1", "Ünï", "été", "000", "IMG_0001", "a,b", "seq-10", "müll.v2", "p;q"]


def names(rng, count):
    """Names in folders; some names occur in several folders."""
    folders = ["", "siteA/", "siteB/", "deep/er/"] if rng.random() < 0.6 else [""]
    every = [folder + name for folder in folders for name in NAMES]
    return [every[i] for i in rng.permutation(len(every))[:count]]


def spelled(rng, root, name, image, mask):
    """A line of a list that means an image, in one of many ways."""
    how, foreign = int(rng.integers(9)), "/home/nobody/data"
    rel = image.relative_to(root / "images").as_posix()
    line = [
        name, rel, f"images/{rel}", f"images/{name}", str(image), f"{foreign}/images/{rel}", Path(name).name,
        f"images\\{rel}".replace("/", "\\"), f"./images/{rel}",
    ][how]  # fmt: skip
    if rng.random() < 0.3:
        separator = str(rng.choice([" ", "\t", ",", ", ", ";"]))
        line += (
            separator + f"{foreign if how == 5 else ''}masks/{mask.relative_to(root / 'masks').as_posix()}"
        )
        if how == 5:
            line = line.replace(foreign + "masks", foreign + "/masks")
    return unicodedata.normalize("NFD", line) if rng.random() < 0.2 else line


def variant(rng, root):
    """Write one variant of a `Folder`; return the data set, the truth of each split, and the planted fault."""
    count = int(rng.integers(4, 8))
    suffix = str(rng.choice(["", "", "_mask"]))
    colored, mapped = rng.random() < 0.25, rng.random() < 0.3
    bits = int(rng.choice([8, 8, 8, 10, 12, 16]))
    style = str(rng.choice(["lists", "lists", "folders", "ratios"]))
    classes_of = {0: 0, 1: 1, 2: 2, 3: 3, 255: 255}
    labels = (
        rng.permutation([0, 3, 9, 100, 255])[:5].tolist() if mapped and not colored else [0, 1, 2, 3, 255]
    )
    if mapped and not colored:
        classes_of = dict(zip(labels, [0, 1, 2, 3, 255], strict=True))
    truth, files, written = {}, {}, {}
    value_range = None
    for name in names(rng, count):
        split = str(rng.choice(["train", "val"])) if len(truth) > 1 else ["train", "val"][len(truth)]
        place = f"{split}/{name}" if style == "folders" else name
        apart = unicodedata.normalize("NFD", place) if rng.random() < 0.3 else place
        image, mask = root / "images" / apart, root / "masks" / f"{place}{suffix}"
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        if bits > 8:
            image, pixels, value_range = image_wide(rng, image, bits)
        else:
            image, pixels, _ = (image_eight_bits, image_grey)[int(rng.integers(2))](rng, image)
        file_labels = rng.choice(labels[: int(rng.integers(1, 6))], pixels.shape[:2]).astype(np.uint8)
        classes = np.vectorize(classes_of.get)(file_labels).astype(np.uint8)
        if colored:
            classes = file_labels
            mask = mask_of_colors(rng, mask, classes) if pixels.shape[:2] == SIZE else _plain(mask, classes)
        else:
            mask = (
                mask_of_numbers(rng, mask, file_labels)
                if pixels.shape[:2] == SIZE
                else _grey(mask, file_labels)
            )
        truth[name] = (split, pixels, classes)
        files[name], written[name] = (image, mask), file_labels
    fault = _plant(rng, colored, files, written) if rng.random() < 0.35 else ""
    _litter(rng, root)
    if style == "lists":
        fault = " and ".join(filter(None, (fault, _lists(rng, root, truth, files))))
    arguments = {"batch_size": 1, "crop_size": (4, 4), "mask_suffix": suffix, "value_range": value_range}
    if colored:
        arguments |= {"colors": COLORS, "void_colors": [VOID]}
    elif mapped:
        arguments["labels"] = classes_of
    if style == "ratios":
        arguments["split_ratios"] = {"train": 0.6, "val": 0.4}
        arguments["sequence"] = bool(rng.random() < 0.5)
    return Folder(str(root), ["a", "b", "c", "d"], test_split="val", **arguments), truth, style, fault


def _plain(path, classes):
    pixels = np.array([*COLORS, *[VOID] * 252])[classes].astype(np.uint8)
    save(path := path.with_name(path.name + ".png"), pixels)
    return path


def _grey(path, labels):
    save(path := path.with_name(path.name + ".png"), labels)
    return path


def _plant(rng, colored, files, written):
    name = list(files)[int(rng.integers(len(files)))]
    image, mask = files[name]
    if written[name].shape != SIZE:
        return ""
    fault = FAULTS[int(rng.integers(len(FAULTS)))]
    if colored and fault in (
        fault_large,
        fault_deep_colors,
        fault_turned,
        fault_jpeg,
        fault_pages,
        fault_transparent,
    ):
        return ""
    made = fault(rng, image, mask, written[name])
    if made != mask:
        mask.unlink()
        files[name] = (image, made)
    return fault.__name__


def _litter(rng, root):
    """Add what must not become a sample: hidden files, other files, samples behind a link are real ones."""
    images = [path for path in (root / "images").rglob("*") if path.is_file()]
    first = images[0]
    for place in rng.permutation(["._", ".ipynb_checkpoints/", "__MACOSX/", ".thumbs/deep/"])[:2]:
        for folder in ("images", "masks"):
            hidden = root / folder / (str(place) + first.name)
            hidden.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(first, hidden)
    (root / "images" / "notes.txt").write_text("nothing")
    for folder in ("images", "masks"):
        inner = next((p for p in sorted((root / folder).iterdir()) if p.is_dir() and p.name == "siteA"), None)
        if inner is not None:  # the folder lies elsewhere
            store = root / "store" / folder
            store.parent.mkdir(exist_ok=True)
            shutil.move(inner, store)
            inner.symlink_to(store)


def _lists(rng, root, truth, files):
    """Write the lists, in one encoding; return the name of a fault if one was planted."""
    encoding = str(rng.choice(["utf-8", "utf-8-sig", "utf-16"]))
    end = str(rng.choice(["\n", "\r\n"]))
    kind, lines = "", {"train": [], "val": []}
    for name, (image, mask) in files.items():
        lines[truth[name][0]].append(spelled(rng, root, name, image, mask))
    if rng.random() < 0.2:
        kind = str(rng.choice(["missing", "other folder", "swapped", "three columns"]))
        name, (image, mask) = next(iter(files.items()))
        rel = image.relative_to(root / "images").as_posix()
        lines["train"].append(
            {
                "missing": f"{name}.1",
                "other folder": f"images/nowhere/{rel}",
                "swapped": f"masks/{mask.relative_to(root / 'masks').as_posix()}\t{image}",
                "three columns": f"images/{rel}\tmasks/{mask.relative_to(root / 'masks').as_posix()}\t1",
            }[kind]
        )
    for split, content in lines.items():
        (root / f"{split}.txt").write_bytes(end.join([*content, ""]).encode(encoding))
    return kind


def outcome(rng, root):
    """Tell what became of a variant: "right", "refused", or what is wrong."""
    data, truth, style, fault = variant(rng, root)
    description = f"{style} {fault}".strip()
    try:
        found = {split: list(data.samples(split)) for split in ("train", "val")}
        for split, samples in found.items():
            for image, mask in samples:
                pixels, classes = data.read((image, mask))
                known = [
                    v for v in truth.values() if v[1].shape == pixels.shape and np.array_equal(v[1], pixels)
                ]
                if not any(np.array_equal(v[2], classes) for v in known):
                    return f"WRONG {description}: {image.relative_to(root)} is read otherwise than written"
                if style != "ratios" and not any(v[0] == split for v in known):
                    return f"WRONG {description}: {image.relative_to(root)} is in {split}"
        if sum(map(len, found.values())) != len(truth):
            return f"WRONG {description}: {sum(map(len, found.values()))} samples of {len(truth)}"
        refuse_faulty(data)
    except UserError as error:
        return f"refused {description or 'sound'}: {error}"
    except Exception as error:
        return f"WRONG {description}: {type(error).__name__}: {error}"
    return "right" if not fault else f"right in spite of {fault}"


def outcome_of_lists(rng, root):
    """The same for the data sets with lists of a form of their own: CamVid and VOC."""
    camvid = rng.random() < 0.5
    base = root if camvid else root / "VOCdevkit/VOC2012"
    lists = root if camvid else base / "ImageSets/Segmentation"
    places = ("train", "trainannot") if camvid else ("JPEGImages", "SegmentationClass")
    for place in (*places, *([] if camvid else ["ImageSets/Segmentation"])):
        (base / place).mkdir(parents=True)
    truth, lines = [], []
    for i in range(4):
        name = f"{'0016E5' if camvid else '2007'}_{i:06d}"
        image, mask = base / places[0] / name, base / places[1] / name
        image, pixels = _rgb(rng, image, camvid)
        classes = rng.integers(0, 11, SIZE, np.uint8)
        save(mask.with_name(f"{name}.png"), classes)
        truth.append((pixels, classes))
        prefix = str(rng.choice(["/SegNet/CamVid/", "", f"{root}/"]))
        separator = str(rng.choice([" ", "\t", ", "]))
        columns = [f"{prefix}{place}/{name}.png" for place in places]
        lines.append(separator.join(columns) if camvid else name)
    fault = str(rng.choice(["", "", "", "swapped", "one column", "extra"]))
    if fault:
        first = lines[0]
        lines[0] = {
            "swapped": " ".join(reversed(first.replace(",", " ").split())), "one column": first.split()[0],
            "extra": f"{first} 1",
        }[fault]  # fmt: skip
    encoding = str(rng.choice(["utf-8", "utf-8-sig", "utf-16"]))
    (lists / "train.txt").write_bytes(str(rng.choice(["\n", "\r\n"])).join([*lines, ""]).encode(encoding))
    data = (CamVid if camvid else VOC)(str(root), batch_size=1, crop_size=(4, 4))
    try:
        read = [data.read(sample) for sample in data.samples("train")]
    except UserError as error:
        return f"refused {fault or 'sound'}: {error}"
    except Exception as error:
        return f"WRONG {fault}: {type(error).__name__}: {error}"
    same = len(read) == 4 and all(
        np.array_equal(one[0], other[0]) and np.array_equal(one[1], other[1])
        for one, other in zip(read, truth, strict=True)
    )
    return "right" if same else f"WRONG {fault}: read otherwise than written"


def _rgb(rng, path, camvid):
    pixels = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    save(path := path.with_name(path.name + (".png" if camvid else ".jpg")), pixels)
    with Image.open(path) as stored:
        return path, np.array(stored.convert("RGB"))


def run(count, seed=0):
    """Make and read variants; return how many came out how, and the faulty ones."""
    return tally(
        count,
        seed,
        lambda i, rng, root: (outcome_of_lists if i % 5 == 4 else outcome)(rng, root),
        lambda told: told.startswith(("WRONG", "refused sound")),
    )


def tally(count, seed, outcome_of, is_wrong):
    """Count what becomes of variants, each by its number, in a folder of its own; list those that are wrong."""
    counts, wrong = Counter(), []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        root = Path(tempfile.mkdtemp())
        try:
            told = outcome_of(i, rng, root)
        finally:
            shutil.rmtree(root, ignore_errors=True)
        counts[" ".join(told.split(":")[0].split())] += 1
        if is_wrong(told):
            wrong.append(f"variant {seed}/{i}: {told}")
    return counts, wrong


def main(run):
    """Run what the command line says, and exit with 1 if something is wrong."""
    count, seed = map(int, [*sys.argv[1:], *("500", "0")[len(sys.argv) - 1 :]])
    counts, wrong = run(count, seed)
    print("\n".join(f"{number:5d}  {kind}" for kind, number in sorted(counts.items())))
    print("\n".join(wrong))
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main(run)
