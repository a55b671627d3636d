"""Add up the files of an installed package and of all that it requires.

    python benchmarks/installed_size.py [PACKAGE ...]

Run it where they are installed; what is not installed counts nothing.
"""

import re
import sys
from importlib import metadata


def sizes(name, found):
    """Add the sizes of a package and of its requirements to `found`, in bytes, by name."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found:
        return
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return
    paths = [file.locate() for file in package.files or ()]
    found[name] = sum(path.stat().st_size for path in paths if path.exists())
    for requirement in package.requires or ():
        if "extra ==" not in requirement:
            sizes(re.match(r"[\w.-]+", requirement)[0], found)


def main():
    """Print a line for each package."""
    for name in sys.argv[1:] or ["nprnn"]:
        found = {}
        sizes(name, found)
        others = len(found) - 1
        print(f"{name}: {sum(found.values()) / 2**20:.0f} MiB, with {others} packages it requires")


if __name__ == "__main__":
    main()
