"""Photo, mask and overlay side by side: the picture in the README.

make run-local INPUT=examples/ ARGS=--overlays && .venv/bin/python docs/make_picture.py out/
"""

import sys
from pathlib import Path

from PIL import Image

HEIGHT = 220
GAP = 6


def main(out: str) -> None:
    rows = []
    for mask_path in sorted(Path(out).glob("masks/*.png")):
        name = mask_path.stem
        pictures = [
            Image.open(path).convert("RGB")
            for path in (f"examples/{name}.jpg", mask_path, f"{out}/overlays/{name}.jpg")
        ]
        width = round(HEIGHT * pictures[0].width / pictures[0].height)
        rows.append([picture.resize((width, HEIGHT)) for picture in pictures])
    widths = [sum(picture.width + GAP for picture in row) - GAP for row in rows]
    height = len(rows) * (HEIGHT + GAP) - GAP
    sheet = Image.new("RGB", (max(widths), height), "white")
    for index, row in enumerate(rows):
        x = 0
        for picture in row:
            sheet.paste(picture, (x, index * (HEIGHT + GAP)))
            x += picture.width + GAP
    sheet.save(Path(__file__).parent / "example.jpg", quality=88)


if __name__ == "__main__":
    main(sys.argv[1])
