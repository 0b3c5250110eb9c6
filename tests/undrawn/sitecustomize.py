"""On a process's path, this lets Matplotlib write a mark instead of drawing a picture."""

import importlib.abc
import importlib.machinery
import sys


class Undrawn(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "matplotlib.figure":  # not imported before it is needed
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.Figure.savefig = lambda figure, path, **_: path.write_bytes(b"not drawn")

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Undrawn())
