"""Reading data sets, and turning raw rows into what a network takes and back."""

from gpubp.data.prepare import Prepared, decode, encode, prepare
from gpubp.data.readers import read
from gpubp.data.source import Data

__all__ = ["Data", "Prepared", "decode", "encode", "prepare", "read"]
