"""What git knows about the code that runs."""

import subprocess


def git(*arguments: str) -> str | None:
    """Return what a git command prints here, or None if git is not installed or this is no repository."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
