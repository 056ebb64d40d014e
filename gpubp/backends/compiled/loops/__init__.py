"""The text of the CPU's loops, written against formulas that a generated module puts before them.

Nothing here is imported. `gpubp.backends.compiled.source` joins files of this folder with formulas from the
registries and with ``T``, the type of parameters. Loops here, formulas in the registries: M loops and N
formulas cost M + N pieces.

A loop is a function of the address of its arguments (a row of 8-byte integers: addresses, sizes, strides in
bytes), the network and the step, counted from the epoch's cursor. It works on one network, so that networks can
be spread over cores without any result depending on it.
"""
