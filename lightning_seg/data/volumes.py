"""Arrays and medical images: .npy, NIfTI and DICOM files, whole or slice by slice."""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np

from lightning_seg.errors import UserError

ENDINGS = (".npy", ".nii", ".nii.gz", ".dcm")


@dataclass(frozen=True, order=True)
class Slice(os.PathLike[str]):
    """One slice of a file that holds several: a page of a TIFF, a plane of a volume.

    Args:
        path: The file.
        index: Which slice, from 0.
    """

    path: Path
    index: int

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return f"{self.path}, slice {self.index}"


def part_of(text: str) -> Path | Slice:
    """The file, or the slice of a file, that a text names as `str` does."""
    found = re.fullmatch(r"(.*), slice (\d+)", text)
    if found is None or Path(text).exists():
        return Path(text)
    return Slice(Path(found[1]), int(found[2]))


def file_of(part: object) -> Path | None:
    """The file that a part of a sample is, or is a slice of; None where it is neither."""
    return part.path if isinstance(part, Slice) else part if isinstance(part, Path) else None


def parts_of(sample: object) -> Sequence[object]:
    """The files and numbers that a sample consists of: a tuple's or list's, or the sample itself."""
    return sample if isinstance(sample, tuple | list) else (sample,)


def is_array(path: str | os.PathLike[str]) -> bool:
    """Whether a file is of a kind that this module reads."""
    return os.fspath(path).lower().endswith(ENDINGS)


def count_slices(path: Path) -> int:
    """Number of slices: along the first axis of a .npy, the third of a NIfTI file, the frames of a DICOM file."""
    return _reader(path)(path, None)[0]


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a file, or a slice of it: (H, W) or (H, W, C), of the type that it has there.

    Planes of NIfTI files are turned so that the patient's right is on the left and the front is up, whatever order the
    file has. The rescaling that a NIfTI or DICOM file notes is applied, as for Hounsfield units.

    Raises:
        UserError: It is damaged, holds several slices and none is chosen, or a package is missing.
    """
    file, index = (path.path, path.index) if isinstance(path, Slice) else (Path(path), 0)
    slices, array = _reader(file)(file, index if isinstance(path, Slice) else None)
    if array is None:
        raise UserError(
            f"{file} holds {slices} slices, and one image is expected. With Folder, --data.init_args.stacks=true makes "
            "each slice a sample."
        )
    if array.ndim not in (2, 3) or not array.size:
        raise UserError(f"{path}: expected an array (H, W) or (H, W, C), got {array.shape}.")
    return array


def read_whole_numbers(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a mask of whole numbers (H, W), which a medical file may hold as floating-point ones.

    Raises:
        UserError: It has fractions or several channels; see `read_array`.
    """
    array = read_array(path)
    array = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise UserError(
            f"{path} should hold one class number per pixel, but is {array.shape} of {array.dtype}. A map for each "
            "class, (K, H, W), is read by task: MultiLabelSegmentation (Folder)."
        )
    if array.dtype.kind == "f":
        whole = array.astype(np.int64)
        if not np.array_equal(whole, array):
            raise UserError(f"{path} should hold class numbers, but has fractions or NaN.")
        return whole
    return array.astype(np.uint8) if array.dtype == bool else array


def map_array(path: Path) -> np.ndarray:
    """Map a .npy file (H, W) or (H, W, C) into memory, without reading it.

    Raises:
        UserError: It is damaged or has another shape.
    """
    with _reading(path):
        array: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim not in (2, 3):
        raise UserError(f"{path}: expected an array (H, W) or (H, W, C), got {array.shape} of {array.dtype}.")
    return array


def _reader(path: Path) -> Callable[[Path, int | None], tuple[int, np.ndarray | None]]:
    ending = path.suffix.lower()
    return {".npy": _read_npy, ".dcm": _read_dicom}.get(ending, _read_nifti)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a file into an error that names it."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"The file {path} does not exist.") from None
    except Exception as error:  # each library raises its own kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path} cannot be read ({reason}). Replace it or leave it out.") from None


def _optional(package: str, path: Path) -> ModuleType:
    try:
        return import_module(package)
    except ImportError:
        raise UserError(
            f"{path} needs the package {package}: uv pip install 'lightning-seg[medical]' (or {package})."
        ) from None


def _read_npy(path: Path, index: int | None) -> tuple[int, np.ndarray | None]:
    with _reading(path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if index is not None:
            return len(array), np.array(array[index])
    return (len(array), np.array(array)) if array.ndim < 4 else (len(array), None)


def _read_nifti(path: Path, index: int | None) -> tuple[int, np.ndarray | None]:
    nibabel = _optional("nibabel", path)
    with _reading(path):
        image = nibabel.as_closest_canonical(nibabel.load(path))
        slices = image.shape[2] if len(image.shape) > 2 else 1
        if index is None and slices > 1:
            return slices, None
        plane = np.asanyarray(image.dataobj[:, :, index or 0] if len(image.shape) > 2 else image.dataobj)
    return slices, np.ascontiguousarray(plane.swapaxes(0, 1)[::-1])


def _read_dicom(path: Path, index: int | None) -> tuple[int, np.ndarray | None]:
    pydicom = _optional("pydicom", path)
    with _reading(path):
        file = pydicom.dcmread(path)
        slices = int(file.get("NumberOfFrames", 1) or 1)
        if index is None and slices > 1:
            return slices, None
        array = file.pixel_array
        array = array[index or 0] if slices > 1 else array
        if file.PhotometricInterpretation == "MONOCHROME1":  # the largest value is black
            array = (2 ** int(file.BitsStored) - 1 - array.astype(np.int32)).astype(array.dtype)
        elif str(file.PhotometricInterpretation).startswith("YBR"):
            array = pydicom.pixels.convert_color_space(array, file.PhotometricInterpretation, "RGB")
        slope, shift = (float(file.get(name, usual)) for name, usual in _RESCALE)
        if (slope, shift) != (1, 0):
            array = array * slope + shift
            if slope.is_integer() and shift.is_integer():
                array = array.astype(np.int32)
        return slices, array


_RESCALE = (("RescaleSlope", 1), ("RescaleIntercept", 0))
