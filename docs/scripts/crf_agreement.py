"""``python docs/scripts/crf_agreement.py RUN``: does `DenseCRF` give the labels of pydensecrf2, how fast?"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

from lightning_seg.cli.postprocess import predict, predictor
from lightning_seg.postprocess.crf import DenseCRF, PydenseCRF

# Iterations, weight and standard deviation in pixels of distance; weight, pixels and colors of distance and color.
SETTINGS = {
    "of the authors' example": (10, 3.0, 3.0, 10.0, 80.0, 13.0),
    "of DeepLab": (10, 3.0, 1.0, 4.0, 67.0, 3.0),
}


def main(run: Path, settings: list[str], images: int = 20) -> None:
    """Compare on images of the validation split, evenly spaced; both take turns, so that both see the same load."""
    model, data = predictor(run, settings)
    count = len(data.samples(data.val_split))
    places = [i * count // images for i in range(min(images, count))]
    kept = list(predict(model, data, (data.val_split, places)))
    print(f"{len(kept)} images of {data.val_split}, {torch.get_num_threads()} threads of torch")
    for name, given in SETTINGS.items():
        crfs = (DenseCRF(*given), PydenseCRF(*given))
        same, changed, farthest, seconds = [], [], 0.0, []
        for probabilities, image, _ in kept:
            found = []
            for crf in crfs:
                start = time.perf_counter()
                found.append(crf(probabilities, image))
                seconds.append(time.perf_counter() - start)
            labels = [q.argmax(0) for q in found]
            same.append((labels[0] == labels[1]).mean())
            changed.append((labels[1] != probabilities.argmax(0)).mean())
            farthest = max(farthest, float(np.abs(found[0] - found[1]).max()))
        ours, theirs = np.median(np.reshape(seconds, (-1, 2)), axis=0)
        print(
            f"settings {name}: {100 * np.mean(same):.3f} % of labels agree"
            f" (the CRF changes {100 * np.mean(changed):.1f} %), probabilities differ by {farthest:.1e} at most;"
            f" {1000 * ours:.0f} ms an image, pydensecrf2 {1000 * theirs:.0f} ms, ratio {ours / theirs:.2f}"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
