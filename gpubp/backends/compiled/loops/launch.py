"""How loops are called: by their addresses, from one compiled loop over steps."""


@intrinsic
def call_loop(context, function, arguments, k, step):
    def to_call(context, builder, signature, values):
        integer, nothing = values[1].type, context.get_value_type(types.void)
        type_ = ir.FunctionType(nothing, [integer] * 3)
        builder.call(builder.inttoptr(values[0], type_.as_pointer()), values[1:])

    return types.void(types.intp, types.intp, types.intp, types.intp), to_call


@intrinsic
def call_ufunc_loop(context, function, operands, sizes, strides):
    def to_call(context, builder, signature, values):
        address, nothing = context.get_value_type(types.voidptr), context.get_value_type(types.void)
        type_ = ir.FunctionType(nothing, [address] * 4)
        pointers = [builder.inttoptr(value, address) for value in values[1:]]
        builder.call(builder.inttoptr(values[0], type_.as_pointer()), [*pointers, ir.Constant(address, None)])

    return types.void(types.intp, types.intp, types.intp, types.intp), to_call


def matmul(arguments, k, step):
    """NumPy's own loop behind np.matmul on network k: a table of operands, the sizes, the strides."""
    g = integers(arguments, 4)
    call_ufunc_loop(g[0], g[1] + 24 * k, g[2], g[3])


def run(functions, arguments, first, last, count):
    """Take `count` steps with each of the networks first … last - 1: all loops of a step in their order."""
    for k in range(first, last):
        for step in range(count):
            for i in range(functions.size):
                call_loop(functions[i], arguments[i], k, step)
