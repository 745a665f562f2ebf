"""Draw docs/assets/flow_settings.svg and flow_data.svg: python docs/scripts/flows.py.

The two ways through the code of docs/house.md: from a YAML line to a network, and from an image on disk to a score.
"""

from html import escape
from pathlib import Path

FLOWS = {
    "settings": [
        ("experiments/mine.yaml", "backbone: resnet50"),
        ("cli/", "finds the command, makes arguments"),
        ("experiment/", "reads the YAML once, checks every setting"),
        ("data set", "says classes and bands"),
        ("network", "decoder and head on a backbone"),
        ("run directory", "config.yaml, environment.json"),
        ("weights", "loaded when training begins"),
    ],
    "data": [
        ("files", "image and mask, as they lie on disk"),
        ("data/", "read, crop, resize; void becomes 255"),
        ("batch", "image (B, C, H, W), mask (B, H, W)"),
        ("network", "normalize, pad; logits (B, classes, H, W)"),
        ("metrics/", "one integer matrix of all pixels"),
        ("run directory", "metrics.csv, test.json, test_images.npz"),
        ("analysis/", "groups, intervals, verdicts, page"),
    ],
}
WIDTH, HEIGHT, GAP = 330, 46, 22  # of a box and between two, in pixels


def draw(boxes: list[tuple[str, str]]) -> str:
    """Return the boxes, one below the other, as an SVG whose colors suit light and dark pages."""
    total = len(boxes) * (HEIGHT + GAP) - GAP + 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 2} {total}" width="{WIDTH + 2}" '
        f'height="{total}" font-family="sans-serif" text-anchor="middle">'
    ]
    for i, (title, says) in enumerate(boxes):
        y, x = i * (HEIGHT + GAP) + 1, WIDTH / 2 + 1
        parts.append(
            f'<rect x="1" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="6" fill="#eef2fb" stroke="#4a63a8"/>'
            f'<text x="{x}" y="{y + 19}" font-size="14" font-weight="bold" fill="#1c2a52">{escape(title)}</text>'
            f'<text x="{x}" y="{y + 37}" font-size="13" fill="#1c2a52">{escape(says)}</text>'
        )
        if i + 1 < len(boxes):
            end = y + HEIGHT + GAP
            parts.append(
                f'<path d="M{x} {y + HEIGHT + 2} V{end - 6} M{x - 5} {end - 9} L{x} {end - 3} L{x + 5} {end - 9}" '
                'fill="none" stroke="#7d90c9" stroke-width="2"/>'
            )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    for name, boxes in FLOWS.items():
        Path(f"docs/assets/flow_{name}.svg").write_text(draw(boxes))
