"""The console script `fer-jax COMMAND ...`: the same as `python -m fer_jax.COMMAND ...`."""

import runpy
import sys
from importlib.metadata import version

COMMANDS = {  # name -> module of fer_jax and what it does; imported only when asked for
    "recognise": ("recognise", "faces in photographs, folders, video or a camera -> expressions"),
    "train": ("main", "train, resume and report: --config=b2 --config.data.path=PATH"),
    "evaluate": ("evaluate", "score a run or a model file on a labelled split"),
    "convert": ("convert", "weights from Keras, timm and torchvision, and back"),
    "prepare": ("prepare", "any layout of a data set -> a few files"),
    "compare": ("compare", "models against each other by their saved answers"),
    "targets": ("targets", "FER+'s votes -> soft labels to train with"),
    "audit": ("audit", "copies, contradictions and unreadable images of a data set"),
    "web": ("web", "recognise as a page: --out=DIR writes a folder for any static host"),
    "serve": ("web", "that page for this machine's own browser"),
}


def main() -> None:
    """Run the command that the first argument names; 2 where it names none."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("--help", "-h", "help"):
        print("usage: fer-jax COMMAND [--flag=value ...]   (COMMAND --help shows its flags)\n")
        print("\n".join(f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()))
    elif name == "--version":
        print(f"fer_jax {version('fer_jax')}")
    elif name not in COMMANDS:
        print(f"error: no command {name!r}: one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    else:
        del sys.argv[1]
        runpy.run_module(f"fer_jax.{COMMANDS[name][0]}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
