"""Images with several masks each: one for each class, or one for each object."""

from collections.abc import Mapping
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lightning_seg import IGNORE_INDEX
from lightning_seg.data.datasets.annotated import Annotated
from lightning_seg.data.files import is_hidden, is_image, without_ending
from lightning_seg.data.io import read_mask
from lightning_seg.data.reader import with_void
from lightning_seg.data.regions import Region, one_class, refuse_other_size, whole
from lightning_seg.data.transforms.batch import SampleKey
from lightning_seg.errors import UserError


class MaskFiles(Annotated):
    """Images with a mask for each class, or for each object, in a file of its own.

    A mask says with 0 where the class or object is not, and with one other number, 1 or 255 or any, where it is. What
    is void is said by `void`, for the class of the file alone; with `SemanticSegmentation` a pixel that two classes
    claim is an error, with `MultiLabelSegmentation` it is not.

    Args:
        root: Folder of the data set.
        class_names: The background, then the classes.
        files: Where the masks of an image are in `root`, without ending: ``{name}`` is the image's path below `images`
            without ending, ``{class}`` the class; a ``*`` stands for any name, of several objects. Without ``{class}``
            all are of the one class beside the background.
        missing: What it means that a class has no file for an image: an `error`, the class is `absent`, or it is not
            known (`void`).
        void: The number in the masks that says that it is not known whether the class is there.
        **kwargs: As for `Annotated`.

    Raises:
        UserError: `files` has no ``{name}``, or no ``{class}`` though there is not just one class beside the
            background.

    Examples:
        >>> settings = dict(split_ratios={"train": 1}, batch_size=1, crop_size=(8, 8))
        >>> data = MaskFiles("cells", ["background", "cell"], files="masks/{name}/*", **settings)
        >>> image, mask = data.read(data.samples("train")[0])
        >>> image.shape, int(mask.sum())
        ((8, 8, 3), 4)
    """

    def __init__(
        self,
        root: str,
        class_names: list[str],
        files: str = "masks/{class}/{name}",
        missing: Literal["error", "absent", "void"] = "error",
        void: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(root, class_names, **kwargs)
        self.files, self.if_missing, self.void = files, missing, void
        if "{name}" not in files:
            raise UserError(
                f"data.init_args.files must say where {{name}} stands, the image's name; got {files!r}."
            )
        if "{class}" not in files and len(class_names) != 2:
            raise UserError(
                f"data.init_args.files, {files!r}, has no {{class}}, so there is one class beside the background; "
                f"class_names has {len(class_names)}."
            )

    def sources(self, images: Mapping[str, Path]) -> Mapping[str, tuple[object, ...]]:
        """Find the masks of each image, class by class: (class, path, path, ..., class, ...)."""
        folders: dict[Path, dict[str, list[Path]]] = {}  # files by their names without ending, of each folder
        found: dict[str, tuple[object, ...]] = {}
        for name in images:
            parts: list[str | Path] = []
            for class_name in self.class_names[1:]:
                several = "*" in self.files
                values = [escape(one) if several else one for one in (name, class_name)]
                pattern = self.files.replace("{name}", values[0]).replace("{class}", values[1])
                paths = self._matching(pattern, several, folders)
                if not paths and self.if_missing == "error":
                    raise UserError(
                        f"{images[name]} has no mask {self.root / pattern}.*. If that means that there is none of "
                        "the class, say --data.init_args.missing=absent; if it is not known, missing=void."
                    )
                parts += [class_name, *paths]
            found[name] = tuple(parts)
        if not any(isinstance(part, Path) for parts_ in found.values() for part in parts_):
            raise UserError(f"No image has a mask: {self.files!r} in {self.root} names no file.")
        return found

    def _matching(
        self, relative: str, several: bool, folders: dict[Path, dict[str, list[Path]]]
    ) -> list[Path]:
        if several:
            return _masks(self.root, f"{relative}.*")
        pattern = self.root / relative
        if pattern.parent not in folders:
            here = folders[pattern.parent] = {}
            for path in _masks(pattern.parent, "*") if pattern.parent.is_dir() else ():
                here.setdefault(without_ending(path).name, []).append(path)
        paths = folders[pattern.parent].get(pattern.name, [])
        if len(paths) > 1:
            raise UserError(f"{paths[0]} and {paths[1]} have one name, and which is meant is not certain.")
        return paths

    def regions(self, sample: tuple[Path, *tuple[str | Path, ...]], size: tuple[int, int]) -> list[Region]:
        """Read the masks of an image."""
        found: list[Region] = []
        label, files = "", 0
        for part in (*sample[1:], ""):
            if isinstance(part, Path):
                files += 1
                found += self._read(part, label, size, sample[0])
            else:
                if label and not files and self.if_missing == "void":
                    found.append(Region(str(sample[0]), label, lambda size: np.ones(size, bool), crowd=True))
                label, files = part, 0
        return found

    def _read(self, path: Path, label: str, size: tuple[int, int], image: Path) -> list[Region]:
        numbers = read_mask(path)
        # also where it is empty
        refuse_other_size(str(path), (numbers.shape[0], numbers.shape[1]), size, image)
        present = [number for number in np.unique(numbers).tolist() if number not in (0, self.void)]
        if len(present) > 1:
            number = IGNORE_INDEX if IGNORE_INDEX in present else present[-1]
            raise UserError(
                f"{path} is the mask of one class or object, of 0 and one other number, but holds {present[:6]} beside "
                f"0. If one of them is void, say --data.init_args.void={number}; "
                "a mask that numbers objects belongs to Folder with `objects`."
            )
        inside = [whole(str(path), label, numbers == present[0])] if present else []
        if self.void is not None and (void := numbers == self.void).any():
            inside.append(replace(whole(str(path), label, void), crowd=True))
        return inside

    def read(self, sample: SampleKey) -> tuple[np.ndarray, np.ndarray]:
        """Read an image and its masks as one.

        Raises:
            UserError: Two classes claim a pixel.
        """
        image, size, painted = self._painted(sample)
        claimed = np.zeros(size, np.uint8)
        for number in range(1, self.num_classes):
            masks = [mask for region, of, mask in painted if of == number and not region.crowd]
            claimed += np.any(masks, axis=0) if masks else np.zeros(size, bool)
        if (twice := int((claimed > 1).sum())) > 0:
            raise UserError(
                f"{sample[0]} has {twice} pixels that several classes claim. Train with task: MultiLabelSegmentation, "
                "for classes that overlap, or mend the masks."
            )
        return with_void(image, one_class(painted, size))


def _masks(folder: Path, pattern: str) -> list[Path]:
    """The image files that match a pattern, sorted, without hidden ones."""
    return sorted(
        path
        for path in folder.glob(pattern)
        if is_image(path) and not any(map(is_hidden, path.relative_to(folder).parts))
    )
