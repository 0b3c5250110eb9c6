"""On a process's path, this lets Matplotlib write a mark instead of drawing a picture."""

from matplotlib.figure import Figure

Figure.savefig = lambda figure, path, **_: path.write_bytes(b"not drawn")
