"""Run the examples of a README: every fenced `bash` and `python` block, in a scratch folder.

Blocks of a language run one after the other, Python blocks in one session. Not run: blocks
marked otherwise (such as `text` or `console`), those after a comment line
``<!-- not run: reason -->``, and the lines ``make ...`` and ``pip install ...``, which CI has done.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DONE = ("make ", "pip install ", "python -m pip install ", "git clone ", "cd ")


def blocks(text: str, language: str) -> list[str]:
    """Find the runnable blocks of one language."""
    return [
        match[2]
        for match in FENCE.finditer(text)
        if match[1] == language and not text[: match.start()].rstrip().endswith("-->")
    ]


def shell_script(text: str) -> str:
    """Join the shell blocks, without what CI has done already."""
    lines = "".join(blocks(text, "bash")).splitlines()
    return "\n".join(line for line in lines if not line.startswith(DONE))


def run(command: list[str], script: str, folder: str) -> None:
    """Run a script and stop with its exit code if it fails."""
    sys.stdout.write(f"{script}\n")
    sys.stdout.flush()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "MPLBACKEND": "Agg"}
    done = subprocess.run(  # noqa: S603
        [*command, script], cwd=folder, env=environment, stdin=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        sys.exit(f"{Path(sys.argv[1]).name}: its {Path(command[0]).name} blocks failed.")


def main() -> None:
    """Run the blocks of the file named on the command line."""
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder:
        run(["bash", "-euo", "pipefail", "-c"], shell_script(text), folder)
        run(
            [sys.executable, "-W", "error::DeprecationWarning:__main__", "-c"],
            "\n".join(blocks(text, "python")),
            folder,
        )


if __name__ == "__main__":
    main()
