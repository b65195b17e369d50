"""Clean the text of Jane Austen's six novels and split it into train and held-out chapters.

    r-cran-janeaustenr_*.deb (Debian)  ->  Rdata.rdb + Rdata.rdx  ->  lines of six novels
    lines  ->  chapters  ->  paragraphs on one line each
    data/austen_train.txt.xz, data/austen_heldout.txt.xz: chapters separated by <|endoftext|>

The novels are in the public domain; the Debian package carries them as R data frames made from
Project Gutenberg's texts. This script documents how the two shipped files were made. Training
needs only those files:

    apt-get download r-cran-janeaustenr && dpkg -x r-cran-janeaustenr_*.deb jane
    pip install rdata
    python data/make_austen_text.py jane/usr/lib/R/site-library/janeaustenr/data
"""

import lzma
import re
import sys
import tempfile
import zlib
from pathlib import Path

import rdata

NOVELS = ["sensesensibility", "prideprejudice", "mansfieldpark", "emma", "northangerabbey", "persuasion"]
SEPARATOR = "<|endoftext|>"
HERE = Path(__file__).parent


def read_novels(folder):
    """Return {novel: list of lines} from R's lazy-load database Rdata.rdx (index) and Rdata.rdb."""
    index = rdata.read_rds(folder / "Rdata.rdx")["variables"]
    database = (folder / "Rdata.rdb").read_bytes()
    novels = {}
    for name in NOVELS:
        offset, length = map(int, index[name])
        # An entry is a big-endian byte count followed by one zlib stream.
        with tempfile.NamedTemporaryFile(suffix=".rds") as rds:
            rds.write(zlib.decompress(database[offset + 4 : offset + length]))
            rds.flush()
            novels[name] = [str(line) for line in rdata.read_rds(rds.name)]
    return novels


def chapters(lines):
    """Split a novel's lines into chapters; title pages, headings and closing words are dropped."""
    text = "\n".join(lines)
    parts = re.split(r"^chapter +[0-9ivxlc]+ *$", text, flags=re.IGNORECASE | re.MULTILINE)
    return [clean(part) for part in parts[1:]]


def clean(text):
    """Return paragraphs, one a line, blank lines between them."""
    text = re.sub(r"^ *(finis|the end|volume [ivx]+) *$", "", text, flags=re.IGNORECASE | re.MULTILINE)
    text = re.split(r"^ *\*NOTE:|^ *NOTE ON THE TEXT|^ *A NOTE ON THE TEXT", text, flags=re.MULTILINE)[0]
    text = re.sub(r"\[[^\]]*\]|_|\*", "", text)
    paragraphs = []
    for paragraph in re.split(r"\n\s*\n", text):
        paragraph = re.sub(r"\s*--+\s*", "—", " ".join(paragraph.split()))
        if paragraph:
            paragraphs.append(paragraph)
    return "\n\n".join(paragraphs)


def split(novel):
    """Hold out the chapters at one third and two thirds of a novel."""
    held = {len(novel) // 3, 2 * len(novel) // 3}
    return [c for i, c in enumerate(novel) if i not in held], [novel[i] for i in sorted(held)]


def write(path, texts):
    partial = path.with_suffix(".partial")
    partial.write_bytes(lzma.compress(f"\n{SEPARATOR}\n".join(texts).encode(), preset=9))
    partial.rename(path)


def main():
    train, heldout = [], []
    for name, lines in read_novels(Path(sys.argv[1])).items():
        kept, held = split(chapters(lines))
        print(f"{name:18} {len(kept) + len(held)} chapters, {sum(map(len, kept + held)):,} characters")
        train += kept
        heldout += held
    write(HERE / "austen_train.txt.xz", train)
    write(HERE / "austen_heldout.txt.xz", heldout)
    print(f"train {sum(map(len, train)):,} characters, held out {sum(map(len, heldout)):,}")


if __name__ == "__main__":
    main()
