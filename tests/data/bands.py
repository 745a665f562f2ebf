"""Writers of images of more than three bands."""

import numpy as np
import rasterio
from PIL import Image


def write_bands(root, count=12, size=64, splits=("train", "val"), dtype=np.uint16, **options):
    """GeoTIFFs of four bands in which only the last one shows where the class is; 12 bits where there is room."""
    rng = np.random.default_rng(0)
    most = {"uint8": 255, "float32": 1.0}.get(np.dtype(dtype).name, 4095)
    for split in splits:
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for i in range(count):
            mask = np.zeros((size, size), np.uint8)
            for _ in range(3):
                top, left = rng.integers(0, size - 20, 2)
                mask[top : top + rng.integers(8, 20), left : left + rng.integers(8, 20)] = 1
            values = rng.uniform(0, most, (4, size, size))
            values[3] = most * (0.3 + 0.4 * mask + rng.uniform(-0.05, 0.05, (size, size)))
            write_tiff(root / "images" / split / f"{i:03}.tif", values.astype(dtype), **options)
            Image.fromarray(mask).save(root / "masks" / split / f"{i:03}.png")
    return root


def write_tiff(path, values, names=(), **options):
    """Write bands (C, H, W) with a place on earth."""
    count, height, width = values.shape
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 600000, 0, -10, 5300000)}
    profile = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": values.dtype}
    with rasterio.open(path, "w", **profile, **place | options) as file:
        file.write(values)
        for number, name in enumerate(names, 1):
            file.set_band_description(number, name)
