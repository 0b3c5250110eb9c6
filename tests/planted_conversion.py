"""Faults of conversion for tests to plant: the shapes fit, nothing but the values tells."""

from fer_jax.conversion import names


def transposed_kernels(patch):
    """Height and width exchanged."""
    axes = names._axes

    def planted(ours, count, column):
        right = axes(ours, count, column)
        return (right[1], right[0], *right[2:]) if count == 4 else right

    patch.setattr(names, "_axes", planted)


def exchanged_rows(first, second):
    """Two variables of BatchNorm, such as 2 and 3, mean and variance."""

    def plant(patch):
        rows = list(names.NORMALIZATION)
        a, b = rows[first], rows[second]
        rows[first], rows[second] = (a[0], *b[1:]), (b[0], *a[1:])
        patch.setattr(names, "NORMALIZATION", tuple(rows))

    return plant


def exchanged_blocks(first, second):
    """Two blocks of one stage, as an off-by-one in their order does."""

    def plant(patch):
        original = names._block

        def planted(block, number, column):
            name = {first: second, second: first}.get(block.name, block.name)
            for ours, foreign in original(block, number, column):
                yield ours.replace(block.name, name), foreign

        patch.setattr(names, "_block", planted)

    return plant
