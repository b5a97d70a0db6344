"""Which small faults in the core no test notices: mutmut, on a sample of its mutants.

python -m tests.tools.mutants [--sample 300] [--seed 0] ['trooper_async._http.gate.*' …]

All of them would take many hours. A sample is every nth mutant, so each package and each long function has its share,
and each seed takes other ones. `mutants.md` lists those that change nothing: they do not count.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path

MUTMUT = str(Path(sys.executable).with_name("mutmut"))
FEW = "trooper_async._http.wire.*__reduce__*"
"""mutmut generates all mutants before it runs any, and then their names are known."""
UNDETECTED = (0, 33)
"""The exit codes of a mutant whose tests passed, and of one that no test runs."""
EQUIVALENT = Path(__file__).with_suffix(".md").read_text(encoding="utf-8")


def exit_codes() -> dict[str, int | None]:
    """The exit code of each mutant's tests, by its name; None if they have not run."""
    codes: dict[str, int | None] = {}
    for file in sorted(Path("mutants").rglob("*.meta")):
        codes |= json.loads(file.read_text(encoding="utf-8"))["exit_code_by_key"]
    return codes


def changes_nothing(name: str, diff: str) -> bool:
    """Whether `mutants.md` lists this change of this function, or the whole function."""
    function = re.sub(r"\.x[_ǁ]", ".", name.removeprefix("trooper_async.").rpartition("__mutmut_")[0]).replace("ǁ", ".")
    changed = re.findall(r"^([+-])(?!\+\+ |-- ) *(.*)$", diff, re.MULTILINE)
    line = next((text for sign, text in changed if sign == "+"), f"without {changed[0][1]}")
    return f"- `{function}`: `{line}`" in EQUIVALENT or f"- `{function}`: all." in EQUIVALENT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=300, help="how many mutants (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (%(default)s)")
    parser.add_argument("names", nargs="*", help="instead of a sample, all mutants of these names")
    options = parser.parse_args()
    subprocess.run([MUTMUT, "run", FEW], check=True)
    everything = list(exit_codes())
    step = max(1, len(everything) // options.sample)
    names = everything[options.seed % step :: step]
    if options.names:
        names = [one for one in everything if any(fnmatchcase(one, pattern) for pattern in options.names)]
    subprocess.run([MUTMUT, "run", *names], check=True)
    codes, gaps, equivalent = exit_codes(), 0, 0
    for name in names:
        if codes[name] in UNDETECTED:
            shown = subprocess.run([MUTMUT, "show", name], check=True, stdout=subprocess.PIPE, text=True).stdout
            if changes_nothing(name, shown):
                equivalent += 1
            else:
                gaps += 1
                print(shown)
    counted = len(names) - equivalent
    print(f"{len(names)} of {len(everything)} mutants, of which {equivalent} change nothing")
    print(f"{counted - gaps} of {counted} detected: {(counted - gaps) / counted:.1%}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
