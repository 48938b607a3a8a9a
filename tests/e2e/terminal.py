"""A real terminal, by tmux: what a person would see, and keys as a person presses them."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path


class Terminal:
    """One shell in a terminal of its own. Use it as a context manager."""

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        *,
        columns: int = 100,
        rows: int = 24,
        cwd: Path | None = None,
    ) -> None:
        self._socket = folder / "tmux"
        (folder / "tmux.conf").write_text("set -g history-limit 10000\nset -g status off\n")
        subprocess.run(
            [
                *("tmux", "-S", str(self._socket), "-f", str(folder / "tmux.conf")),
                *("new-session", "-d", "-x", str(columns), "-y", str(rows)),
                *("env", "PS1=$ ", "sh"),
            ],
            check=True,
            cwd=cwd or folder,
            env={"LANG": "C.UTF-8", **os.environ, "TERM": "xterm-256color", **environment},
        )

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        self._tmux("kill-server")

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=20,
        )
        return done.stdout

    def type(self, line: str) -> None:
        """Types it and presses Enter."""
        self._tmux("send-keys", "-l", line)
        self._tmux("send-keys", "Enter")

    def press(self, key: str) -> None:
        """Presses a key, such as C-c."""
        self._tmux("send-keys", key)

    def resize(self, columns: int, rows: int) -> None:
        """Changes the terminal's size."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self) -> list[str]:
        """The rows shown now, without the blank ones at the end."""
        return self._tmux("capture-pane", "-p").rstrip("\n").split("\n")

    def everything(self) -> list[str]:
        """The same with what has scrolled away; rows that the terminal broke are joined."""
        return self._tmux("capture-pane", "-p", "-J", "-S", "-").rstrip("\n").split("\n")

    def coloured(self) -> str:
        """The rows shown now with their colours, as escape sequences."""
        return self._tmux("capture-pane", "-p", "-e")

    def wait(
        self, what: str, done: Callable[[list[str]], bool] | None = None, timeout_s: float = 60.0
    ) -> list[str]:
        """The screen once it shows a row that matches `what` (a pattern), or `done` says so."""
        deadline = time.monotonic() + timeout_s
        while True:
            rows = self.screen()
            if done(rows) if done is not None else any(re.search(what, row) for row in rows):
                return rows
            if time.monotonic() > deadline:
                shown = "\n".join(rows)
                raise AssertionError(f"the terminal never showed {what!r}:\n{shown}")
            time.sleep(0.05)
