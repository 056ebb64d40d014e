"""Small products C = A B in tiles of registers: before this text stand T, WIDTH (bytes of a register) and LONGEST.

A tile is some rows and one or two registers of columns of C. Its sums stay in registers while the loop over the inner
dimension multiplies each element of a column of A with a row of B. Every element of C is one chain of fused
multiply-adds in the order of the inner dimension, so its bits depend on nothing but its row of A and its column of B.
At the edges of C rows and columns are taken twice rather than one by one: they come out alike.
"""

ROWS, COLUMNS, INNER, A, A_STRIDE, A_ROW, A_COLUMN, B, B_STRIDE, B_ROW, B_TRANSPOSED, C, C_STRIDE, LENGTH = range(14)
ITEM = np.dtype(T).itemsize
LANES = WIDTH // ITEM  # elements of a register
PANEL = 2 * WIDTH  # bytes of a row of the transposed columns that a tile needs
FIRST_LANE = [0] * LANES
WORD = ir.IntType(64)
NUMBER = ir.FloatType() if ITEM == 4 else ir.DoubleType()
REGISTER = ir.VectorType(NUMBER, LANES)
LANE = ir.IntType(32)


def word(value):
    return ir.Constant(WORD, value)


def load(builder, address, type_):
    return builder.load(builder.inttoptr(address, type_.as_pointer()), align=ITEM)


def store(builder, value, address):
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=ITEM)


def smaller(builder, x, y):
    return builder.select(builder.icmp_signed("<", x, y), x, y)


def lanes_of(builder, x, y, places):
    """A register of lanes of x and y: those of y are counted on from those of x."""
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(LANE, LANES), places))


def in_all_lanes(builder, number):
    undefined = ir.Constant(REGISTER, ir.Undefined)
    return lanes_of(builder, builder.insert_element(undefined, number, word(0)), undefined, FIRST_LANE)


def plus_product(builder, total, x, y):
    """total + x y in one instruction."""
    flags = ("contract",)
    return builder.fadd(total, builder.fmul(x, y, flags=flags), flags=flags)


def sums_over_inner(builder, inner, a_rows, a_column, b_registers, b_row):
    """Registers of C by rows: the loop over the inner dimension, from the addresses of its first elements on."""
    before = builder.block
    loop, after = builder.append_basic_block("inner"), builder.append_basic_block("sums")
    builder.branch(loop)
    builder.position_at_end(loop)
    a_offset, b_offset, left = (builder.phi(WORD) for _ in range(3))
    sums = [builder.phi(REGISTER) for _ in a_rows for _ in b_registers]
    row = [load(builder, builder.add(address, b_offset), REGISTER) for address in b_registers]
    column = [in_all_lanes(builder, load(builder, builder.add(address, a_offset), NUMBER)) for address in a_rows]
    products = [(x, y) for x in column for y in row]
    following = [plus_product(builder, total, x, y) for total, (x, y) in zip(sums, products, strict=True)]
    one_less = builder.sub(left, word(1))
    nothing = ir.Constant(REGISTER, [0.0] * LANES)
    turns = [(a_offset, word(0), builder.add(a_offset, a_column)), (b_offset, word(0), builder.add(b_offset, b_row))]
    turns.append((left, inner, one_less))
    turns += [(total, nothing, value) for total, value in zip(sums, following, strict=True)]
    for variable, first, next_ in turns:
        variable.add_incoming(first, before)
        variable.add_incoming(next_, loop)
    builder.cbranch(builder.icmp_signed(">", one_less, word(0)), loop, after)
    builder.position_at_end(after)
    return following


def tile(height, width, at_edge):
    """The intrinsic function for tiles of so many rows and registers; at an edge, with columns that are taken twice.

    There the last register begins at `b_last` and `c_last`. `last_row` is the last row that there is.
    """

    def write(context, builder, signature, arguments):
        a, a_row, a_column, last_row, b, b_row, b_last, c, c_row, c_last, inner = arguments
        rows = [smaller(builder, word(i), last_row) for i in range(height)]
        b_columns = c_columns = [word(WIDTH * j) for j in range(width)]
        if at_edge:
            b_columns = [smaller(builder, x, b_last) for x in b_columns]
            c_columns = [smaller(builder, x, c_last) for x in c_columns]
        a_rows = [builder.add(a, builder.mul(i, a_row)) for i in rows]
        b_registers = [builder.add(b, x) for x in b_columns]
        sums = iter(sums_over_inner(builder, inner, a_rows, a_column, b_registers, b_row))
        for i in rows:
            row = builder.add(c, builder.mul(i, c_row))
            for x in c_columns:
                store(builder, next(sums), builder.add(row, x))
        return context.get_dummy_value()

    @intrinsic
    def write_tile(context, a, a_row, a_column, last_row, b, b_row, b_last, c, c_row, c_last, inner):
        return types.void(*[types.intp] * 11), write

    return write_tile


full_tile, edge_tile, narrow_tile = tile(4, 2, False), tile(4, 2, True), tile(8, 1, True)


@intrinsic
def transpose_block(context, source, source_row, out, out_row):
    """out[i, j] = source[j, i] of as many rows as a register has lanes: halves change places, quarters, and so on."""

    def write(context, builder, signature, arguments):
        source, source_row, out, out_row = arguments
        rows = [load(builder, builder.add(source, builder.mul(source_row, word(i))), REGISTER) for i in range(LANES)]
        half = LANES // 2
        while half:
            for i in range(LANES):
                if not i & half:
                    x, y = rows[i], rows[i + half]
                    left = [j if not j & half else LANES + j - half for j in range(LANES)]
                    right = [j + half if not j & half else LANES + j for j in range(LANES)]
                    rows[i], rows[i + half] = lanes_of(builder, x, y, left), lanes_of(builder, x, y, right)
            half //= 2
        for i, row in enumerate(rows):
            store(builder, row, builder.add(out, builder.mul(out_row, word(i))))
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), write


@intrinsic
def copy_number(context, source, out):
    def write(context, builder, signature, arguments):
        store(builder, load(builder, arguments[0], NUMBER), arguments[1])
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), write


@intrinsic
def panel_on_stack(context):
    """Where the transposed columns of a tile may lie."""

    def write(context, builder, signature, arguments):
        with builder.goto_entry_block():
            panel = builder.alloca(ir.ArrayType(REGISTER, 2 * LONGEST))
        panel.align = WIDTH
        return builder.ptrtoint(panel, WORD)

    return types.intp(), write


@inlined
def transpose(rows, row_bytes, first, last, inner, panel):
    """panel[p, j] = rows[first + j, p] for two registers of columns; the last begins at `last`."""
    for register in range(2):
        source = rows + min(first + register * LANES, last) * row_bytes
        out = panel + register * WIDTH
        if inner >= LANES:
            for p in range(0, inner, LANES):
                at = min(p, inner - LANES)
                transpose_block(source + at * ITEM, row_bytes, out + at * PANEL, PANEL)
        else:
            for p in range(inner):
                for j in range(LANES):
                    copy_number(source + j * row_bytes + p * ITEM, out + p * PANEL + j * ITEM)


def product(arguments, k, step):
    """C (m, n) = A (m, inner) B (inner, n), n at least a register; A with any strides, B by rows or as rows of Bᵀ."""
    g = integers(arguments, LENGTH)
    m, n, inner, c_row = g[ROWS], g[COLUMNS], g[INNER], g[COLUMNS] * ITEM
    a_row, a_column = g[A_ROW], g[A_COLUMN]
    panel = panel_on_stack()
    for first in range(0, n, 2 * LANES):
        a, c = part(g, A, k), part(g, C, k) + first * ITEM
        c_last = (n - LANES - first) * ITEM
        b, b_row, b_last = part(g, B, k) + first * ITEM, g[B_ROW], c_last
        if g[B_TRANSPOSED]:
            transpose(part(g, B, k), g[B_ROW], first, n - LANES, inner, panel)
            b, b_row, b_last = panel, PANEL, WIDTH if c_last > 0 else 0
        if c_last >= WIDTH:
            for i in range(0, m, 4):
                full_tile(a + i * a_row, a_row, a_column, m - 1 - i, b, b_row, 0, c + i * c_row, c_row, 0, inner)
        elif c_last > 0:
            for i in range(0, m, 4):
                edge_tile(
                    a + i * a_row, a_row, a_column, m - 1 - i, b, b_row, b_last, c + i * c_row, c_row, c_last, inner
                )
        else:
            for i in range(0, m, 8):
                narrow_tile(
                    a + i * a_row, a_row, a_column, m - 1 - i, b, b_row, b_last, c + i * c_row, c_row, c_last, inner
                )
