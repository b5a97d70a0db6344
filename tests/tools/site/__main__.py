"""Builds the site (`nox -s docs`): the repository's pages, and a reference made from the docstrings.

It fails on a broken link or anchor, on a docstring that names an argument its function does not have, and on a public
name without a docstring. The site is in `build/site`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import griffe

ROOT = Path(__file__).parents[3]
PAGES = ROOT / "build" / "docs"
MODULES = [f"trooper_async{name}" for name in ("", ".models", ".errors", ".testing", ".durable")]


def undocumented(owner: griffe.Module | griffe.Class) -> Iterator[str]:
    """The public names of a module or class, and of its classes, that have no docstring."""
    explained = set(_named_in_docstring(owner))
    if isinstance(owner, griffe.Class):  # what a base class explains, its subclasses need not
        explained |= {name for base in owner.mro() for name in (*_named_in_docstring(base), *base.members)}
    for name, member in owner.members.items():
        if not member.is_public or member.is_module or member.is_special:
            continue
        found = member.final_target if isinstance(member, griffe.Alias) else member
        if name not in explained and not found.has_docstring:
            yield f"{owner.path}.{name}"
        if isinstance(found, griffe.Class):
            yield from undocumented(found)


def _named_in_docstring(owner: griffe.Object) -> Iterator[str]:
    for section in owner.docstring.parse("google", warnings=False) if owner.docstring else ():
        if section.kind in (griffe.DocstringSectionKind.attributes, griffe.DocstringSectionKind.parameters):
            yield from (item.name for item in section.value)


def shown(module: griffe.Module, homes: Mapping[str, str]) -> list[str]:
    """The names on a module's page. That of `trooper_async` begins with the client and leaves out models and errors."""
    if module.path in homes.values():
        return [name for name in module.members if homes.get(name) == module.path]
    names = [str(name) for name in module.exports or () if str(name) not in homes]
    return sorted(names, key=lambda name: name != "TrooperClient")


def stage(modules: Sequence[griffe.Module]) -> None:
    """Copy the repository's files, so that links between them work, and add a page of the reference for each module."""
    shutil.rmtree(PAGES, ignore_errors=True)
    listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(lambda name: (ROOT / name).is_file(), names):
        (PAGES / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, PAGES / name)
    (PAGES / "reference").mkdir()
    package = next(module for module in modules if module.path == "trooper_async")
    aliases = [one for one in package.members.values() if isinstance(one, griffe.Alias)]
    homes = {one.name: one.target_path.rpartition(".")[0] for one in aliases}
    homes = {name: home for name, home in homes.items() if home in MODULES}
    for module in modules:
        text = f"# {module.path}\n\n::: {module.path}\n    options:\n      members: {shown(module, homes)}\n"
        (PAGES / "reference" / f"{module.path}.md").write_text(text, encoding="utf-8")


def main() -> int:
    """Build the site; 1 if anything is wrong."""
    found = [griffe.load(name, search_paths=[ROOT]) for name in MODULES]
    modules = [module for module in found if isinstance(module, griffe.Module)]
    missing = sorted({name for module in modules for name in undocumented(module)})
    for name in missing:
        print(f"{name} has no docstring")
    stage(modules)
    config = Path(__file__).with_name("mkdocs.yml")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", str(config)]
    built = subprocess.run(command, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    return 1 if missing or built.returncode else 0


if __name__ == "__main__":
    sys.exit(main())
