"""A loss of the output a = output(z): BP1 by the chain rule."""


@inlined
def value(z, y, s):
    return own_value(output(z), y, s)


@inlined
def delta(z, y, s):
    a = output(z)
    return own_delta(a, y, s) * slope(a if SLOPE_FROM_A else z)
