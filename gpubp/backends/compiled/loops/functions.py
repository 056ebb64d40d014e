"""exp, expm1, log1p, tanh and erf without branches, so that loops around them become vector instructions.

Scalar functions of the C library are calls, which no compiler vectorizes. Before this text stand the type T,
Bits (integers of its size), what depends on its precision (MANTISSA, BIAS, ROUNDING, LN2_HIGH, LN2_LOW, the
bounds), and the polynomials ``*_series``. The method is that of every C library: reduction by powers of 2, and
a polynomial near 0. Source: Muller, "Elementary functions", 3rd edition, 2016, chapters 3 and 11.
"""


@inlined
def bits_of(x):
    return T(x).view(Bits)


@inlined
def from_bits(bits):
    return Bits(bits).view(T)


@inlined
def power_of_2(n):
    """2ⁿ for a whole number −BIAS < n <= BIAS + 1."""
    return from_bits(Bits((n + BIAS) << MANTISSA))


@inlined
def reduced(x):
    """(n, r) with x = n ln 2 + r and |r| <= ½ ln 2. Adding ROUNDING leaves n in the lowest bits."""
    shifted = x * T(1.4426950408889634) + ROUNDING
    n = shifted - ROUNDING
    return Bits(bits_of(shifted) - ROUNDING_BITS), (x - n * LN2_HIGH) - n * LN2_LOW


@inlined
def exp(x):
    n, r = reduced(select(x > EXP_HIGHEST, EXP_HIGHEST, select(x < EXP_LOWEST, EXP_LOWEST, x)))
    half = Bits(n >> 1)  # in two factors, as 2ⁿ itself may leave the range where the result does not
    return (T(1) + (r + r * r * exp_series(r))) * power_of_2(half) * power_of_2(Bits(n - half))


@inlined
def expm1(x):
    n, r = reduced(select(x > EXP_HIGHEST, EXP_HIGHEST, select(x < EXPM1_LOWEST, EXPM1_LOWEST, x)))
    scale = power_of_2(Bits(n - 1))
    return (scale * (r + r * r * exp_series(r)) + (scale - T(0.5))) * T(2)


@inlined
def log1p(x):
    u = T(1) + x
    lost = x - (u - T(1))
    bits = Bits(bits_of(u) - SQRT_HALF_BITS)
    f = from_bits(Bits((bits & MANTISSA_BITS) + SQRT_HALF_BITS)) - T(1)
    s = f / (T(2) + f)
    z = s * s
    half_square = T(0.5) * f * f
    rest = s * (half_square + z * log_series(z))
    k = T(Bits(bits >> MANTISSA))
    result = k * LN2_HIGH + (f - (half_square - (rest + (k * LN2_LOW + lost / u))))
    result = select(u > T(0), result, select(u == T(0), -T(np.inf), T(np.nan)))
    return select(x == T(np.inf), x, select(x != x, x, result))


@inlined
def tanh(x):
    e = expm1(select(x > TANH_HIGHEST, TANH_HIGHEST, x) * T(2))
    return e / (e + T(2))


@inlined
def erf(x):
    s = x * x
    inner = x + x * erf_series(s)
    size = fabs(x)
    t = select(size > ERF_HIGHEST, ERF_HIGHEST, size)
    outer = T(1) - exp(-(t * t)) * erfcx_series((t - ERF_MIDDLE) / (t + ERF_MIDDLE))
    return select(size < T(1), inner, select(x > T(0), outer, select(x < T(0), -outer, x)))


@inlined
def erfc(x):
    """1 - erf x, without a loss for large x."""
    size = fabs(x)
    t = select(size > ERFC_HIGHEST, ERFC_HIGHEST, size)
    tail = exp(-(size * size)) * erfc_series((t - ERFC_MIDDLE) / (t + ERFC_MIDDLE))
    return select(x < T(0), T(2) - tail, tail)
