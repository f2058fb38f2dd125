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
    # One block of three pictures after the other, in a single row.
    flat = [picture for row in rows for picture in row]
    sheet = Image.new("RGB", (sum(p.width + GAP for p in flat) - GAP, HEIGHT), "white")
    x = 0
    for picture in flat:
        sheet.paste(picture, (x, 0))
        x += picture.width + GAP
    sheet.save(Path(__file__).parent / "example.jpg", quality=88)


if __name__ == "__main__":
    main(sys.argv[1])
