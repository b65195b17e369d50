"""python -m blocks2tokens.course.capstone FILE: judge an engine, and put it on the leaderboard.

    --start         write the starter file to FILE, where there is none yet
    --only NAME     judge this criterion alone; may be given several times
    --seed N        draw other random blocks
    --json          one JSON object instead of the table
    --no-board      leave the leaderboard as it is

The exit status is 0 if all criteria are met, 1 if not, 2 if there is nothing to judge.
"""

import argparse
import json
import sys
from pathlib import Path

from blocks2tokens import files
from blocks2tokens.course.capstone import board, criteria, judging, pieces


def main(arguments: list[str] | None = None) -> int:
    """Judge a file; return the exit status."""
    args = _parser().parse_args(arguments)
    try:
        if args.start:
            return _start(args.file)
        show = (lambda row: None) if args.json else _shown
        names = args.only or list(criteria.CRITERIA)
        report = judging.judge(args.file, args.seed, names, args.seconds, int(args.memory * 1e9), show)
        place = None if args.only or args.no_board else board.folder()
        kept = board.keep(report, place) if place else None
    except (OSError, ValueError) as error:
        print(f"capstone: {error}", file=sys.stderr)
        return 2
    _tell(args, report, place, kept)
    return 0 if report.met == len(report.rows) else 1


def _parser():
    text = __doc__.partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m blocks2tokens.course.capstone", description=text)
    parser.add_argument("file", metavar="FILE", type=Path, help="the engine, one Python file")
    parser.add_argument("--start", action="store_true", help="write the starter file to FILE")
    one = "judge this criterion alone; can be given several times"
    parser.add_argument("--only", metavar="NAME", action="append", choices=list(criteria.CRITERIA), help=one)
    parser.add_argument("--seed", metavar="N", type=_natural, default=0, help="of the random blocks")
    about = "of CPUs for each criterion (default: %(default)g)"
    parser.add_argument("--seconds", metavar="S", type=float, default=judging.SECONDS, help=about)
    about = "gigabytes of memory (default: %(default)g)"
    parser.add_argument("--memory", metavar="GB", type=float, default=judging.MEMORY / 1e9, help=about)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument("--no-board", action="store_true", help="leave the leaderboard as it is")
    return parser


def _natural(text):
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text}")
    return value


def _start(path):
    if path.exists():
        raise ValueError(f"{path} is there already: the starter file would replace it")
    files.write_text(path, pieces.STARTER.read_text(encoding="utf-8"))
    print(f"{path} runs already, by what the course lends it. Judge it: python -m {__package__} {path}")
    return 0


def _shown(row):
    print(f"{'✓' if row.met else '✗'} {row.criterion:12} {row.said}", flush=True)


def _tell(args, report, place, kept):
    if args.json:
        rows = [vars(row) for row in report.rows]
        found = {"file": str(report.path), "seed": report.seed, "lines": report.lines, "rows": rows}
        found |= {"whose": dict(report.whose), "entry": vars(kept) if kept else None}
        print(json.dumps(found, ensure_ascii=False))
        return
    print(report.summary())
    if place:
        print(f"\n{board.table(board.entries(place))}\n\nkept in {place.name}/{board.FILE}, {board.FOLDER}/")
    elif not args.only and not args.no_board:
        print("Not on a leaderboard: there is no work/ here. `make lab` makes it.")


if __name__ == "__main__":
    sys.exit(main())
