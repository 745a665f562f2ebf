"""Writers of annotation files in the formats of tools, by their published descriptions, independent of the readers."""

import base64
import io
import json
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image

SIZE = (40, 56)
CLASSES = ["background", "cat", "dog"]


def rectangle(top, left, bottom, right):
    """A rectangle of whole pixels as a polygon, and its mask."""
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return [[left, top], [right, top], [right, bottom], [left, bottom]], mask


def regions(rng, count=3):
    """Random rectangles (label, points, mask); they may overlap."""
    found = []
    for _ in range(count):
        top, left = rng.integers(0, SIZE[0] - 12), rng.integers(0, SIZE[1] - 12)
        height, width = rng.integers(3, 12, 2)
        points, mask = rectangle(*map(int, (top, left, top + height, left + width)))
        found.append((str(rng.choice(CLASSES[1:])), points, mask))
    return found


def truth(listed):
    """What regions mean: for each class the union."""
    masks = np.zeros((*SIZE, len(CLASSES) - 1), np.uint8)
    for label, _, mask in listed:
        masks[mask, CLASSES.index(label) - 1] = 1
    return masks


def image(path, rng):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(path)


def labelme(folder, name, listed, as_mask=False):
    shapes = []
    for label, points, mask in listed:
        shape = {"label": label, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}}
        if as_mask:
            rows, columns = np.nonzero(mask)
            top, left, bottom, right = (
                int(v) for v in (rows.min(), columns.min(), rows.max(), columns.max())
            )
            content = io.BytesIO()
            Image.fromarray(mask[top : bottom + 1, left : right + 1].astype(np.uint8) * 255).save(
                content, "PNG"
            )
            shape |= {"shape_type": "mask", "points": [[left, top], [right, bottom]]}
            shape["mask"] = base64.b64encode(content.getvalue()).decode()
        shapes.append(shape)
    contents = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": f"{name}.png",
        "imageData": None,
    }
    contents |= {"imageHeight": SIZE[0], "imageWidth": SIZE[1]}
    (folder / f"{name}.json").write_text(json.dumps(contents))


def yolo(path, listed):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for label, points, _ in listed:
        values = [v for x, y in points for v in (x / SIZE[1], y / SIZE[0])]
        lines.append(" ".join([str(CLASSES.index(label) - 1), *(f"{v:.8f}" for v in values)]))
    path.write_text("\n".join(lines) + "\n")


def cvat(path, images):
    """Write {name: regions}; polygons and masks in turn."""
    parts = ['<?xml version="1.0" encoding="utf-8"?>', "<annotations><version>1.1</version>"]
    for number, (name, listed) in enumerate(images.items()):
        parts.append(f'<image id="{number}" name={quoteattr(name)} width="{SIZE[1]}" height="{SIZE[0]}">')
        for place, (label, points, mask) in enumerate(listed):
            common = f'label={quoteattr(label)} source="manual" occluded="0" z_order="{place}"'
            if place % 2:
                rows, columns = np.nonzero(mask)
                top, left = rows.min(), columns.min()
                inside = mask[top : rows.max() + 1, left : columns.max() + 1]
                runs = ", ".join(map(str, run_lengths(inside.ravel())))
                shape = f'rle="{runs}" left="{left}" top="{top}" width="{inside.shape[1]}" height="{inside.shape[0]}"'
                parts.append(f"<mask {common} {shape}></mask>")
            else:
                text = ";".join(f"{x:.2f},{y:.2f}" for x, y in points)
                parts.append(f'<polygon {common} points="{text}"></polygon>')
        parts.append("</image>")
    path.write_text("\n".join([*parts, "</annotations>"]))


def run_lengths(values):
    """Alternating runs, the first of False, possibly of length 0."""
    runs, current, length = [], False, 0
    for value in values.tolist():
        if value == current:
            length += 1
        else:
            runs.append(length)
            current, length = value, 1
    return [*runs, length]


def brush(mask):
    """Encode a mask as Label Studio's brush: bits of thi.ng's rle-pack of RGBA, runs and literals mixed."""
    values = np.repeat(mask.ravel().astype(np.uint8) * 255, 4)
    bits = [f"{len(values):032b}", f"{7:05b}", *(f"{size - 1:04b}" for size in (3, 4, 8, 16))]
    at = 0
    while at < len(values):
        end = at
        while end < len(values) and values[end] == values[at] and end - at < 65536:
            end += 1
        if end - at < 4 and len(values) - at > 8:  # a literal of eight values
            bits += ["0", f"{0:02b}", f"{7:03b}", *(f"{v:08b}" for v in values[at : at + 8])]
            at += 8
            continue
        slot, size = next((i, s) for i, s in enumerate((3, 4, 8, 16)) if end - at <= 1 << s)
        bits += ["1", f"{slot:02b}", f"{end - at - 1:0{size}b}", f"{values[at]:08b}"]
        at = end
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]


def label_studio(path, images):
    """Write {address: regions}; polygons and brushes in turn."""
    tasks = []
    for number, (address, listed) in enumerate(images.items(), start=1):
        results = []
        for place, (label, points, mask) in enumerate(listed):
            kind = "brushlabels" if place % 2 else "polygonlabels"
            value = {"points": [[100 * x / SIZE[1], 100 * y / SIZE[0]] for x, y in points], "closed": True}
            if place % 2:
                value = {"format": "rle", "rle": brush(mask)}
            results.append(
                {
                    "id": f"r{place}",
                    "type": kind,
                    "from_name": "label",
                    "to_name": "image",
                    "image_rotation": 0,
                }
                | {"original_width": SIZE[1], "original_height": SIZE[0], "value": value | {kind: [label]}}
            )
        annotation = {"id": number, "was_cancelled": False, "result": results}
        tasks.append(
            {"id": number, "data": {"image": address}, "annotations": [annotation], "predictions": []}
        )
    path.write_text(json.dumps(tasks))


def coco(path, images):
    """Write {file name: regions}, as Roboflow does: with a category 0 that nothing is of."""
    categories = [{"id": 0, "name": "animals", "supercategory": "none"}]
    categories += [{"id": i, "name": n, "supercategory": "animals"} for i, n in enumerate(CLASSES) if i]
    contents = {"info": {}, "categories": categories, "images": [], "annotations": []}
    for number, (name, listed) in enumerate(images.items()):
        contents["images"].append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        for label, points, mask in listed:
            (left, top), (right, bottom) = points[0], points[2]
            contents["annotations"].append(
                {"id": len(contents["annotations"]), "image_id": number, "category_id": CLASSES.index(label)}
                | {"bbox": [left, top, right - left, bottom - top], "area": int(mask.sum()), "iscrowd": 0}
                | {"segmentation": [[v for point in points for v in point]]}
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))
