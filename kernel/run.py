#!/usr/bin/env python3
"""Builds and starts nrk: hands its arguments to `cargo xtask run`, which `--help` describes."""

import os
import sys

WORKSPACE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main():
    command = ["cargo", "run", "--manifest-path", os.path.join(WORKSPACE, "Cargo.toml"),
               "--package", "xtask", "--", "run"]
    try:
        os.execvp(command[0], command + sys.argv[1:])
    except FileNotFoundError:
        sys.exit("run.py: cargo is not installed (see https://rustup.rs)")


if __name__ == "__main__":
    main()
