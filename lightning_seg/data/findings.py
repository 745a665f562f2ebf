"""What can be wrong with a data set, in words: kinds of findings, what to do about each, and how they are told."""

import os
import textwrap
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of finding: its title, whether training must not start, and what to do about it."""

    title: str
    is_error: bool
    remedy: str


KINDS = {
    "split": Kind(
        "no such split",
        True,
        "Make it, or give it a larger share of split_ratios (Folder), or choose another with "
        "--data.init_args.val_split or test_split.",
    ),
    "few": Kind(
        "fewer training images than batch_size",
        True,
        "Training does not begin. Lower --data.init_args.batch_size, or give the training split more images.",
    ),
    "unpaired": Kind(
        "without a partner",
        True,
        "Add the mask or the image that is missing, or move the file away. Masks whose names go on, as x_mask.png, "
        "need --data.init_args.mask_suffix=_mask (Folder).",
    ),
    "unreadable": Kind(
        "cannot be read", True, "Do what the line says, or replace the file or take it off the list."
    ),
    "range": Kind(
        "images of more than 8 bits a channel",
        True,
        "State the values that become black and white, the same for all images: "
        "--data.init_args.value_range=[LOW,HIGH], for example [0,4095] for a camera of 12 bits.",
    ),
    "bands": Kind(
        "images of other bands",
        True,
        "Name the bands to read, the same for all images: --data.init_args.bands=[0,1,2,3].",
    ),
    "groups": Kind(
        "groups in several splits",
        True,
        "Images of one group (a patient, a place) are in both, so the score is too good. Correct the lists or "
        "folders, or take the lists away, and --data.init_args.split_ratios divides by groups (Folder).",
    ),
    "types": Kind(
        "images of 8 and of more bits",
        True,
        "What is white in one is nearly black in the other. Export all with the same type, or leave the odd ones out.",
    ),
    "size": Kind(
        "image and mask differ in size",
        True,
        "Export the mask again at the size of its image. If height and width are exchanged, the camera noted "
        "a rotation (EXIF) that the annotation tool ignored: store the image upright.",
    ),
    "labels": Kind(
        "labels that are no class",
        True,
        "Map them to classes, or to 255 (ignore_index), with --data.init_args.labels='{200: 1}' (Folder, HuggingFace) "
        "or the `table` of a data set of your own. Masks of colors need colors: [[0, 0, 0], ...].",
    ),
    "palettes": Kind(
        "palettes that differ from file to file",
        True,
        "The number of a color is another class in each file. Save all masks with one palette, or name the color of "
        "each class with --data.init_args.colors='[[0, 0, 0], [128, 0, 0]]' (Folder): then colors count, not numbers.",
    ),
    "binary": Kind(
        "masks of 0 and 255",
        True,
        "255 is ignore_index, so there is a single class. Map 255 to class 1 with --data.init_args.labels='{255: 1}', "
        "or, if 255 is the background, with '{255: 0, 0: 1}' (Folder, HuggingFace).",
    ),
    "empty": Kind(
        "nothing to learn from",
        True,
        "All pixels are 255, which is ignore_index. If 255 is a class, say which: --data.init_args.labels='{255: 1}' "
        "(Folder, HuggingFace).",
    ),
    "crowds": Kind(
        "nothing but crowds",
        True,
        "Regions with iscrowd 1 are set to ignore_index. Annotate single objects, or set iscrowd to 0 where it is one.",
    ),
    "blank": Kind(
        "nothing is left of the images",
        True,
        "data.init_args.value_range does not fit: choose --data.init_args.value_range=[LOW,HIGH] by the values in the "
        "files.",
    ),
    "shifted": Kind(
        "labels begin at 1",
        True,
        "Subtract one with --data.init_args.labels='{1: 0, 2: 1}' and so on (Folder, HuggingFace), or add a class in "
        "front if 0 is a class that is rare.",
    ),
    "leak": Kind(
        "the same image in two splits", True, "Remove one: a score on what was trained on means nothing."
    ),
    "untested": Kind(
        "no test split", False, "The scores of images that chose the checkpoint are a little too good."
    ),
    "background": Kind(
        "most pixels are 255, and class 0 never occurs",
        False,
        "255 is ignore_index. If it is the background here, say so: --data.init_args.labels='{255: 0}' (Folder, "
        "HuggingFace).",
    ),
    "void": Kind("nothing to count", False, "These masks teach and score nothing. Annotate or remove them."),
    "permuted": Kind(
        "palettes show the colors of other classes",
        False,
        "Masks are read by number. If their colors tell the classes, name the color of each class with "
        "--data.init_args.colors='[[0, 0, 0], [128, 0, 0]]' (Folder): then colors count, not numbers.",
    ),
    "clipped": Kind(
        "value_range does not fit",
        False,
        "Values are clipped, or nearly all dark to the network. Choose --data.init_args.value_range nearer to "
        "those in the files.",
    ),
    "flat": Kind(
        "a band with one value only", False, "These bands tell nothing. Look whether they are broken."
    ),
    "neighbours": Kind(
        "neighbours in two splits",
        False,
        "Images that look alike are trained on and scored, so the score is too good. Divide by whole sequences: "
        "--data.init_args.groups=folder or a regular expression, or --data.init_args.sequence=true (Folder).",
    ),
    "single": Kind(
        "one class in all masks",
        False,
        "There is nothing to tell apart. Look whether the masks are those that are meant, and whether "
        "--data.init_args.labels (Folder, HuggingFace) maps all to one class.",
    ),
    "plain": Kind("one color only", False, "These images are probably damaged. Replace or remove them."),
    "double": Kind("the same image twice", False, "It counts twice. Remove one of each pair."),
    "absent": Kind(
        "never in the training split", False, "Check the class names, their number and their order."
    ),
    "unused": Kind("in no split", False, "Add these files to a list, or ignore this."),
}
EARLY = {
    "background",
    "clipped",
    "permuted",
    "single",
    "void",
}  # warnings that are told before training, too


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    Args:
        kind: A key of `KINDS`.
        split: Name of the split.
        file: The file, or another name of the sample.
        detail: What was found.
    """

    kind: str
    split: str
    file: str
    detail: str = ""

    @property
    def is_error(self) -> bool:
        """Whether training must not start."""
        return KINDS[self.kind].is_error


def describe(findings: Sequence[Finding], files: int | None = 10) -> list[str]:
    """Render findings for people, one paragraph for each kind; equal findings of many files share a line.

    Args:
        findings: The findings.
        files: How many lines and files to tell for each kind; None tells all.
    """
    parts = []
    for key, kind in KINDS.items():
        alike: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for finding in findings:
            if finding.kind == key:
                alike[finding.split, finding.detail.replace(finding.file, "FILE")].append(finding.file)
        if not alike:
            continue
        total = sum(map(len, alike.values()))
        lines = [f"{'ERROR' if kind.is_error else 'WARNING'}: {kind.title} ({total})"]
        for (split, detail), names in [*alike.items()][:files]:
            end = f": {detail}" if detail else ""
            if len(names) == 1:
                lines.append(f"  {split}: {names[0]}" + end.replace("FILE", names[0]))
            else:
                lines += [f"  {split}: {len(names)} files{end}", _listing(names, files)]
        if files is not None and len(alike) > files:
            rest = sum(map(len, [*alike.values()][files:]))
            lines.append(f"  ... and {rest} more")
        parts.append("\n".join([*lines, f"  -> {kind.remedy}"]))
    return parts


def _listing(names: list[str], most: int | None) -> str:
    """Names of files in few lines, their common folder in front."""
    folder = os.path.commonpath([os.path.dirname(name) for name in names]) if os.path.isabs(names[0]) else ""
    shown = ", ".join(os.path.relpath(name, folder) if folder else name for name in names[:most])
    more = f" ... and {len(names) - most} more" if most is not None and len(names) > most else ""
    text = (f"in {folder}: " if folder else "") + shown + more
    return textwrap.fill(
        text,
        110,
        initial_indent="    ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )
