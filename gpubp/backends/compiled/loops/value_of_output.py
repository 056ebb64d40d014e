"""A loss of the output a = output(z): BP1 by the chain rule."""


@inlined
def value(z, y, s, j):
    return own_value(output(z), y, s, j)


@inlined
def delta(z, y, s, j):
    a = output(z)
    return own_delta(a, y, s, j) * slope(a if SLOPE_FROM_A else z)
